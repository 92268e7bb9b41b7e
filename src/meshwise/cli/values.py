"""What an option's value may be, as click types: whole numbers as people write them, and names that the
shell completes. Nothing is refused here: the specs check values, and name what is legal.

Completion loads no command's work: the words stand here, and the tests hold them to their sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from meshwise.axes import RECOMPUTE_MODES, SHARD_STAGES

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    _Type = click.ParamType[object, object]
else:  # generic since click 8.4 only
    _Type = click.ParamType

NUMBERS_HELP = (
    "Numbers: 131072, 131,072, 131_072 or 128k (k is 1,024 and M 1,024 x 1,024, in either case). "
    "Lists: 1,2,4, or 1-8: all legal values from 1 to 8."
)
SINGLE_NUMBERS_HELP = NUMBERS_HELP.partition(" Lists")[0]


class CountType(_Type):
    """A whole number, or a list of them: ``4k`` and ``4,096`` become digits, other text stays."""

    def __init__(self, name: str, several: bool = False) -> None:
        self.name, self.several = name, several

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        from meshwise.strict_tables import as_digits

        return value if self.several else as_digits(str(value))


class WordType(_Type):
    """A name out of a list, of which the shell completes the last one typed."""

    def __init__(
        self,
        name: str,
        words: Callable[[click.Context], Iterable[str]] | tuple[str, ...],
        *,
        files: bool = False,
        several: bool = False,
    ) -> None:
        self.name, self.files, self.several = name, files, several
        self.words = words

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Words that begin as what is typed does; file names where it looks like a path, or where no
        word does and a file may be named."""
        from click.shell_completion import CompletionItem

        before, comma, begun = incomplete.rpartition(",") if self.several else ("", "", incomplete)
        words = self.words(ctx) if callable(self.words) else self.words
        found = [
            CompletionItem(before + comma + word)
            for word in words
            if word.startswith(begun.lower()) and word not in before.split(",")
        ]
        if self.files and (not found or begun.startswith((".", "/", "~"))):
            return [CompletionItem(incomplete, type="file")]
        return found


def _catalog(kind: str) -> Callable[[click.Context], Iterable[str]]:
    def names(_: click.Context) -> Iterable[str]:
        from meshwise import catalog

        return catalog.names(kind)

    return names


def _entries(ctx: click.Context) -> Iterable[str]:
    """Names of the kind that stands before: ``meshwise catalog device …``."""
    from meshwise import catalog

    kind = str(ctx.params.get("kind") or "")
    plural = kind if kind in CATALOG_KINDS else kind + "s"
    return catalog.names(plural) if plural in CATALOG_KINDS else ()


def _targets(_: click.Context) -> Iterable[str]:
    from meshwise.launch.targets import target_names

    return target_names()


def _formats(what: str) -> Callable[[click.Context], Iterable[str]]:
    def names(_: click.Context) -> Iterable[str]:
        from meshwise import dtypes

        found: tuple[str, ...] = getattr(dtypes, what)
        return found

    return names


CATALOG_KINDS = ("models", "devices", "fabrics", "clusters", "stacks")
COLLECTIVE_OPS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send_recv",
    "broadcast",
    "reduce",
    "scatter",
    "gather",
)
PCIE_HOST_WORDS = ("switch", "root", "host-memory")
NUMBER_TYPE = CountType("N")
DEGREES_TYPE = CountType("N,…", several=True)
MODEL_TYPE = WordType("MODEL", _catalog("models"), files=True)
CLUSTER_TYPE = WordType("CLUSTER", _catalog("clusters"), files=True)
STACK_TYPE = WordType("STACK", _catalog("stacks"), files=True)
PHASE_TYPE = WordType("PHASE", ("train", "prefill", "decode"))
TARGET_TYPE = WordType("TARGET", _targets)
PCIE_HOST_TYPE = WordType("HOST", PCIE_HOST_WORDS)
OP_TYPE = WordType("OP", COLLECTIVE_OPS)
KIND_TYPE = WordType("KIND", CATALOG_KINDS)
ENTRY_TYPE = WordType("NAME", _entries)
FILE_TYPE = WordType("FILE", (), files=True)
DTYPE_TYPE = WordType("D", _formats("COMPUTE"))
WEIGHT_DTYPE_TYPE = WordType("D", _formats("STATED_WEIGHT"))
KV_DTYPE_TYPE = WordType("D", _formats("KV_CACHE"))
COMM_DTYPE_TYPE = WordType("D", _formats("COMM"))
GRAD_DTYPE_TYPE = WordType("D", _formats("GRADIENT"))
MOMENTS_DTYPE_TYPE = WordType("D", ("fp32", "bf16", "fp16", "fp8"))
OPTIMIZER_TYPE = WordType("NAME", ("adam", "muon", "lion", "sgd", "adafactor"))
RECOMPUTE_TYPE = WordType("MODE", RECOMPUTE_MODES)
RECOMPUTES_TYPE = WordType("MODE,…", RECOMPUTE_MODES, several=True)
SHARD_TYPE = WordType("STAGE", SHARD_STAGES)
SHARDS_TYPE = WordType("STAGE,…", SHARD_STAGES, several=True)
SCHEDULE_TYPE = WordType("KIND", ("1f1b", "gpipe", "zb-1p", "zb-2p"))
ATTENTION_TYPE = WordType("KIND", ("flash", "unfused"))
OVERLAP_TYPE = WordType("HOW", ("none", "split", "decomposed"))
DISPATCHER_TYPE = WordType("NAME", ("alltoall", "deepep", "hybridep", "allgather"))
FREE_TYPE = WordType("WHAT,…", ("dtype", "comm-dtype"), several=True)
MODULES_TYPE = WordType(
    "NAME,…",
    ("core_attn", "layernorm", "moe_act", "shared_experts", "mla_up_proj", "mlp", "moe"),
    several=True,
)
PUBLISHED_TYPE = WordType("[KIND]", ("training", "layers", "serving", "collectives"))
WRAPPER_TYPE = WordType("WHAT", ("torchrun", "slurm", "lws", "kuberay"))
