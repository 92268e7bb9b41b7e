"""Options that switch what a training stack does, in place of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import values
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.models.shapes import Model

DISPATCHER_OPTION = click.option(
    "--dispatcher",
    type=values.DISPATCHER_TYPE,
    help="Of tokens to experts: alltoall, deepep or hybridep (once per node), allgather (to all ranks).",
)
SWITCH_OPTIONS = (
    click.option(
        "--loss-chunks",
        type=values.NUMBER_TYPE,
        help="Training: head and loss on N parts of a microbatch's tokens, one at a time.",
    ),
    DISPATCHER_OPTION,
    click.option(
        "--overlap-experts/--no-overlap-experts",
        default=None,
        help="Training: their exchange beside another microbatch's compute.",
    ),
    click.option(
        "--moments-dtype",
        type=values.MOMENTS_DTYPE_TYPE,
        help="Training: of Adam's moments, fp32, bf16, fp16 or fp8.",
    ),
    click.option(
        "--recompute-modules",
        type=values.MODULES_TYPE,
        help="Training: what selective recomputation does again: core_attn, layernorm, moe_act, moe, …",
    ),
    click.option(
        "--optimizer",
        type=values.OPTIMIZER_TYPE,
        help="Training: adam, muon, lion, sgd or adafactor, by the state that it keeps.",
    ),
    click.option(
        "--master-weights/--no-master-weights",
        default=None,
        help="Training: fp32 copies of 16-bit weights in the optimizer.",
    ),
    click.option(
        "--offload-optimizer/--no-offload-optimizer",
        default=None,
        help="Training: the optimizer's state in the host's memory, its work on the host's cores.",
    ),
    click.option(
        "--offload-layers",
        type=values.NUMBER_TYPE,
        help="Training: N layers of a stage keep their activations in the host's memory.",
    ),
    click.option(
        "--recompute-layers",
        type=values.NUMBER_TYPE,
        help="Training: full recomputation of N layers of a stage, not of all.",
    ),
    click.option(
        "--cuda-graphs/--no-cuda-graphs",
        default=None,
        help="Training: CUDA graphs start a microbatch's kernels, the host none.",
    ),
)
# spec.stack.STATED
SWITCH_NAMES = (
    "loss_chunks",
    "dispatcher",
    "overlap_experts",
    "moments_dtype",
    "recompute_modules",
    *("optimizer", "master_weights", "offload_optimizer", "offload_layers", "recompute_layers"),
    "cuda_graphs",
)
_EXCHANGE = ("dispatcher", "overlap_experts")
# of training alone
TRAINING_SWITCHES = tuple(name for name in SWITCH_NAMES if name != "dispatcher")
# what a phase does without
MISPLACED: dict[str, tuple[str, ...]] = {
    "train": (),
    "prefill": TRAINING_SWITCHES,
    "decode": TRAINING_SWITCHES,
}


def read_switches(o: Given, name: str) -> dict[str, object]:
    """The switches that the options set in the stack ``name``."""
    from meshwise.stacks.load import load_stack
    from meshwise.stacks.switches import switch_named, words_of
    from meshwise.strict_tables import one_of

    found = {key: o[key] for key in SWITCH_NAMES if o.has(key)}
    for key in ("loss_chunks", "offload_layers", "recompute_layers"):
        bounds = switch_named(key).range
        assert bounds is not None
        if key in found:
            found[key] = o.count(key, low=int(bounds.low), high=int(bounds.high))
    for key in ("dispatcher", "moments_dtype", "optimizer"):
        if key in found:
            one_of(found[key], option_of(key), words_of(key))
    named = o.text("recompute_modules")
    if named is not None:
        if name and load_stack(name).memory.selective_recompute != "attention":
            raise refused_switch("recompute_modules", named, f"{name} chooses operations")
        found["recompute_modules"] = read_modules(named)
    for key in _EXCHANGE:
        if name == "ideal" and key in found:
            raise refused_switch(key, found[key], "contradicts ideal rates, which know none")
    return found


def read_modules(text: str) -> tuple[str, ...]:
    """Parts of a layer with commas between them."""
    from meshwise.stacks.words import MODULES
    from meshwise.strict_tables import one_of

    parts = [part.strip() for part in text.split(",")]
    return tuple(one_of(part, "--recompute-modules", MODULES) for part in dict.fromkeys(parts))


def check_switch_options(o: Given, model: Model) -> None:
    """Refuse what is said of experts that a model does not have, and modules that nothing redoes."""
    mode, named = o.text("recompute"), o.text("recompute_modules")
    planned = "free" in o and mode is None  # a plan looks at all modes
    if named is not None and mode in (None, "none", "full") and not planned:
        raise refused_switch("recompute_modules", named, "only --recompute selective has modules")
    if o.has("recompute_layers") and mode != "full" and not planned:
        why = "only --recompute full is of so many layers"
        raise refused_switch("recompute_layers", o["recompute_layers"], why)
    if named is not None:
        _has(read_modules(named), named, model)
    check_experts(o, model)


def check_experts(o: Given, model: Model) -> None:
    """Refuse what is said of experts that a model does not have."""
    if any(block.moe is not None for block in model.blocks):
        return
    for key in _EXCHANGE:
        if o.has(key):
            raise refused_switch(key, o[key], f"{model.name} has no experts")


def _has(parts: tuple[str, ...], said: str, model: Model) -> None:
    """Refuse modules that no layer of the model has."""
    from meshwise.models.parameters import missing_parts  # completion reads this module, not models

    missing = missing_parts(model)
    for part in parts:
        if missing.get(part):
            raise refused_switch(
                "recompute_modules", said, f"{part}: {model.name} has {missing[part]}"
            )


def refused_switch(key: str, value: object, why: str) -> InputError:
    """That a switch does not go with what else is asked."""
    option = option_of(key)
    return InputError(
        f"{option}={shorten(value)}: {why}", field=option, value=value, legal=f"leave {option} out"
    )
