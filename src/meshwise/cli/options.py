"""Options that several commands share, and how their results are written."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from meshwise.cli import defaults, switches, terminal, values
from meshwise.errors import InputError, clean, shorten

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page
    from meshwise.clusters.load import Cluster
    from meshwise.models.shapes import Model
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.workload import Workload

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def stacked(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options as one decorator, shown in the order given."""

    def apply(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


# Numbers are taken as text and checked by the specs, so that every refusal names what is legal.
target = stacked(
    click.argument("model", metavar="MODEL", type=values.MODEL, required=False),
    click.option("--on", "cluster", type=values.CLUSTER, help="Cluster: a preset or a TOML file."),
    click.option(
        "--nodes", type=values.NUMBER, help="Nodes of the cluster, in place of its own number."
    ),
    click.option("--nics", type=values.NUMBER, help="NICs per node, in place of the cluster's."),
)


def degree(name: str, long: str, words: str) -> Callable[[F], F]:
    """A parallel degree, 1 unless given, also under the name that engines give it."""
    return click.option(
        f"--{name}", f"--{long}-parallel-size", name, default="1", type=values.NUMBER, help=words
    )


tp_degrees = stacked(
    degree("tp", "tensor", "Tensor-parallel degree."),
    degree("pp", "pipeline", "Pipeline stages."),
)
dp_degree = degree("dp", "data", "Data-parallel replicas.")
ep_degrees = stacked(
    degree("ep", "expert", "Expert-parallel degree."),
    click.option("--etp", type=values.NUMBER, help="Expert-tensor degree (default: tp / ep)."),
)
gpus = click.option("--gpus", type=values.NUMBER, help="Check that the degrees multiply to this.")
formats = stacked(
    click.option(
        "--dtype",
        type=values.DTYPE,
        help="Operands of the products: bf16, fp16, fp8, int8, tf32, fp32.",
    ),
    click.option(
        "--weight-dtype",
        type=values.WEIGHT_DTYPE,
        help="Stored weights: fp16, bf16, fp8, int8, int4, …",
    ),
    click.option(
        "--kv-dtype",
        "--kv-cache-dtype",
        "kv_dtype",
        type=values.KV_DTYPE,
        help="KV cache: bf16, fp8, int8, …",
    ),
    click.option(
        "--comm-dtype",
        type=values.COMM_DTYPE,
        help="What TP collectives send: bf16, fp8, int8, fp32.",
    ),
)
expert_skew = click.option(
    "--expert-skew",
    metavar="SIGMA",
    help="How unevenly tokens draw experts: sigma of a log-normal popularity; 0 is even, an upper bound "
    "of the experts that a batch reads (default: 1 in inference, 0 in training).",
)
workload = stacked(
    click.option(
        "--phase",
        default="train",
        show_default=True,
        type=values.PHASE,
        help="train, prefill or decode.",
    ),
    click.option(
        "--batch",
        "--global-batch",
        "--global-batch-size",
        "batch",
        type=values.NUMBER,
        help="Training: sequences per step. Inference: sequences in flight per replica.",
    ),
    click.option(
        "--seq",
        "--seq-len",
        "--isl",
        "seq",
        type=values.NUMBER,
        help="Tokens per sequence or prompt.",
    ),
    click.option(
        "--context",
        type=values.NUMBER,
        help="Decode: tokens that each sequence holds (default --seq).",
    ),
    click.option(
        "--micro-batch",
        "--micro-batch-size",
        "micro_batch",
        type=values.NUMBER,
        help="Training: sequences per microbatch (default: scale, all of the batch; estimate and explain, 1).",
    ),
    click.option(
        "--recompute",
        type=values.RECOMPUTE,
        help="Activation recomputation: none, selective, full.",
    ),
    formats,
    click.option(
        "--grad-dtype",
        type=values.GRAD_DTYPE,
        help="Of gradients, in place of the stack's: fp32, bf16 or fp16.",
    ),
    expert_skew,
)
software = stacked(
    click.option(
        "--stack", type=values.STACK, help="Software: megatron-core, vllm, …; see catalog stacks."
    ),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION, help="flash or unfused, in place of the stack's."
    ),
    click.option(
        "--overlap", type=values.OVERLAP, help="Of TP collectives: none, split or decomposed."
    ),
    click.option(
        "--sequence-parallel", is_flag=True, help="Norms on S/TP; reduce_scatter + all_gather."
    ),
    *switches.OPTIONS,
)
output = stacked(
    click.option("--json", "as_json", is_flag=True, help="The documented JSON contract on stdout."),
    click.option("--csv", "as_csv", is_flag=True, help="Rows as CSV on stdout."),
    click.option(
        "--parquet",
        "as_parquet",
        is_flag=True,
        help="Rows as Parquet, into -o FILE ([parquet] extra).",
    ),
    click.option("--brief", is_flag=True, help="The answer in one line."),
    click.option("--detail", is_flag=True, help="Every table."),
    click.option("--wide", is_flag=True, help="All columns, however narrow the terminal."),
    click.option("-o", "--output", "path", type=values.FILE, help="Into FILE; - is stdout."),
)


def required(value: str | None, option: str, example: str) -> str:
    """The option's value, or one line that asks for it."""
    if value is None:
        raise InputError(
            f"{option}: missing", field=option, legal=f"for example {option} {example}"
        )
    return value


def read_cluster(name: str | None, nodes: str | None, nics: str | None) -> Cluster:
    from meshwise.clusters.load import load_cluster
    from meshwise.strict_tables import count

    return load_cluster(
        required(name, "--on", "dgx-a100"),
        nodes=count(nodes, "--nodes", high=100_000) if nodes is not None else None,
        nics=count(nics, "--nics", high=4096) if nics is not None else None,
    )


def read_workload(o: dict[str, Any]) -> Workload:
    """The workload that the options describe; options of another phase are refused, not ignored."""
    from meshwise.strict_tables import count, one_of
    from meshwise.workloads.workload import (
        MAX_BATCH,
        MAX_SEQ,
        WORKLOAD_PHASES,
        Decode,
        Formats,
        Prefill,
        Training,
    )

    phase = one_of(o["phase"], "--phase", WORKLOAD_PHASES)
    formats = Formats(
        dtype=o["dtype"],
        weights=o["weight_dtype"],
        kv_cache=o["kv_dtype"],
        comm=o["comm_dtype"],
        gradients=o["grad_dtype"],
    )
    misplaced: tuple[str, ...] = {
        "train": ("context", "kv_dtype", "weight_dtype"),
        "prefill": ("context", "micro_batch", "recompute", "grad_dtype"),
        # a step over the cache has kernels of its own
        "decode": ("micro_batch", "recompute", "grad_dtype", "attention"),
    }[phase]
    misplaced += switches.MISPLACED[phase]
    for name in (*misplaced, *(("schedule",) if phase != "train" else ())):
        if o.get(name) is not None:
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option}={shorten(o[name])} has no meaning in phase {phase}",
                field=option,
                value=o[name],
                legal=f"leave {option} out, or another --phase",
            )
    batch = count(o["batch"] if o["batch"] is not None else 1, "--batch", high=MAX_BATCH)
    if phase == "decode":
        given = o["context"] if o["context"] is not None else o["seq"]
        if o["seq"] not in (None, given):
            raise InputError(
                f"--seq={shorten(o['seq'])} contradicts --context={shorten(given)}: a decode step "
                "reads the context only",
                field="--seq",
                value=o["seq"],
                legal="--context alone",
                nearest=given,
            )
        context = count(required(given, "--context", "4096"), "--context", high=MAX_SEQ)
        return Decode(batch=batch, context=context, formats=formats, **skew(o))
    seq = count(required(o["seq"], "--seq", "2048"), "--seq", high=MAX_SEQ)
    if phase == "prefill":
        return Prefill(batch=batch, seq=seq, formats=formats, **skew(o))
    micro = o["micro_batch"]
    return Training(
        batch=batch,
        seq=seq,
        micro_batch=count(micro, "--micro-batch", high=MAX_BATCH) if micro is not None else None,
        recompute=o["recompute"] if o["recompute"] is not None else "none",
        formats=formats,
        **skew(o),
    )


def skew(o: dict[str, Any]) -> dict[str, Any]:
    """``--expert-skew`` as a field of a workload, where it is given."""
    return {} if o["expert_skew"] is None else {"expert_skew": o["expert_skew"]}


def tp_degree(value: str, model: Model, cluster: Cluster, stack: Stack) -> int:
    """A degree of ``--tp``; what is no whole number is refused with the degrees of this model."""
    from meshwise.layouts.tp_degrees import legal_tp
    from meshwise.strict_tables import count

    try:
        return count(value, "--tp")
    except InputError as error:
        legal = [tp for tp in legal_tp(model, stack) if tp <= cluster.devices]
        wanted = error.nearest or 1
        error.legal, error.nearest = legal, min(legal, key=lambda tp: abs(tp - wanted))
        raise


def stack_name(o: dict[str, Any], default: str) -> str:
    """The stack that ``--stack`` or ``--ideal`` names."""
    if o["ideal"] and o["stack"] not in (None, "ideal"):
        raise InputError(
            f"--ideal contradicts --stack {shorten(o['stack'])}",
            field="--ideal",
            value=o["stack"],
            legal="--ideal alone, or --stack ideal",
        )
    if o["ideal"]:
        return "ideal"
    name: str = default if o["stack"] is None else o["stack"]
    return name


def read_stack(o: dict[str, Any], phase: str) -> Stack:
    """The stack with the switches that the options set."""
    from meshwise.api import stack
    from meshwise.stacks.stack import DEFAULT

    name = stack_name(o, DEFAULT[phase])
    if name == "ideal":
        for option, alike in (("overlap", "none"), ("attention", "unfused")):
            if o[option] not in (None, alike):
                raise InputError(
                    f"--{option}={shorten(o[option])} contradicts ideal rates, which know {alike} only",
                    field=f"--{option}",
                    value=o[option],
                    legal=f"--{option} {alike}, or another --stack",
                    nearest=alike,
                )
    given = ("attention", "overlap", "schedule")
    found = {key: o[key] for key in given if o.get(key) is not None}
    return stack(name, **found, **switches.read(o, name))


def write(
    o: dict[str, Any], record: Callable[[], dict[str, Any]], page: Callable[[], Page], rows: str
) -> None:
    """JSON, CSV or Parquet (of the records under ``rows``), rich on a terminal, else plain text; on
    stdout, or into the file of ``-o``."""
    record, page = _spelt(record), _spelt(page)
    asked = [name for name in ("json", "csv", "parquet") if o[f"as_{name}"]]
    asked += [name for name in ("brief", "detail") if o[name]]
    if len(asked) > 1:
        listed = " and ".join(f"--{name}" for name in asked)
        raise InputError(
            f"{listed}: choose one",
            field=f"--{asked[1]}",
            legal=" or ".join(f"--{a}" for a in asked),
        )
    if asked == ["parquet"]:
        from meshwise.answers.attributes import flat
        from meshwise.files import write_parquet

        required(o["path"], "-o", "rows.parquet")
        write_parquet(o["path"], [flat(row) for row in record()[rows]])
    elif asked == ["json"]:
        import json

        deliver(json.dumps(defaults.said(record()), allow_nan=False, indent=1), o["path"])
    elif asked == ["csv"]:
        from meshwise.answers.attributes import flat
        from meshwise.answers.text.tables import csv_text

        deliver(csv_text([flat(row) for row in record()[rows]]), o["path"])
    else:
        from meshwise.cli import next_step

        context = click.get_current_context()
        further = "" if o["brief"] else next_step.after(context, record)
        _show(defaults.said_on(page())._replace(further=further), o, "".join(asked))


def _spelt(made: Callable[[], T]) -> Callable[[], T]:
    """What ``made`` makes, the fields that its sentences name as the command writes them."""
    from meshwise.cli import spelling

    return lambda: spelling.here().whole(made())


def _show(page: Page, o: dict[str, Any], much: str) -> None:
    """A page: within the terminal's columns where it goes to one, whole elsewhere; ``much`` of it."""
    path: str | None = o["path"]
    from meshwise.answers.text import tables

    on_terminal = path in (None, "-") and sys.stdout.isatty()
    width = _columns() if on_terminal and not o["wide"] else None
    if path in (None, "-") and terminal.coloured(on_terminal):
        with terminal.colours():
            tables.rich_print(page, width, much)
    else:
        deliver(tables.plain(page, width, much), path)


def _columns() -> int:
    """Columns of the terminal: what COLUMNS says, else what it says itself, else 80."""
    said = os.environ.get("COLUMNS", "")
    try:
        own = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        own = 0
    return (int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0) or own or 80


def deliver(text: str, path: str | None) -> None:
    """A text and a line end into the file of ``-o``, or on stdout; either way without what would steer
    a terminal. JSON has no such characters: it escapes them."""
    if path in (None, "-"):
        emit(text)
    else:
        from meshwise.files import write_text

        write_text(str(path), clean(text) + "\n")


def emit(text: str) -> None:
    """A text and a line end on stdout, with ``?`` for what its encoding (``LANG=C``) cannot say."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(clean(text).encode(encoding, "replace").decode(encoding) + "\n")
