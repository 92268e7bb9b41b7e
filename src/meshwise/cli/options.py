"""Options that several commands share, and what they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import click

from meshwise.axes import AXES
from meshwise.cli import switches, values
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from click.decorators import FC

    from meshwise.clusters.load import Cluster
    from meshwise.layouts.keywords import LayoutAxes, ServingDegrees, ServingPins, TrainingPins
    from meshwise.models.shapes import Model
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.workload import Workload


def stacked(*options: Callable[[FC], FC]) -> Callable[[FC], FC]:
    """Several click options as one decorator, shown in the order given."""

    def apply(function: FC) -> FC:
        for option in reversed(options):
            function = option(function)
        return function

    return apply


pcie_host_option = click.option(
    "--pcie-host",
    type=values.PCIE_HOST_TYPE,
    help="What is between PCIe cards: switch (PIX and PXB of nvidia-smi topo), root (PHB, NODE, SYS) or "
    "host-memory (no peer access), in place of the cluster's.",
)

# Numbers are taken as text and checked by the specs, so that every refusal names what is legal.
target_options = stacked(
    click.argument("model", metavar="MODEL", type=values.MODEL_TYPE, required=False),
    click.option(
        "--on", "cluster", type=values.CLUSTER_TYPE, help="Cluster: a preset or a TOML file."
    ),
    click.option(
        "--nodes", type=values.NUMBER_TYPE, help="Nodes of the cluster, in place of its own number."
    ),
    click.option(
        "--nics", type=values.NUMBER_TYPE, help="NICs per node, in place of the cluster's."
    ),
    pcie_host_option,
)


def axis_option(name: str, words: str | None = None) -> Callable[[FC], FC]:
    """A degree or count of a layout, also under the name that engines give it."""
    axis = AXES[name]
    default = None if axis.default is None else str(axis.default)
    return click.option(
        *axis_flags(name), name, default=default, type=values.NUMBER_TYPE, help=words or axis.about
    )


def axis_flags(name: str) -> list[str]:
    """How an axis is written: ours, then the engines' own."""
    engines = AXES[name].engines
    return [option_of(name), *([f"--{engines}"] if engines else [])]


tp_options = stacked(axis_option("tp"), axis_option("pp"))
dp_option = axis_option("dp")
ep_options = stacked(axis_option("ep"), axis_option("etp"))
gpus_option = click.option(
    "--gpus", type=values.NUMBER_TYPE, help="Check that the degrees multiply to this."
)
format_options = stacked(
    click.option(
        "--dtype",
        type=values.DTYPE_TYPE,
        help="Operands of the products: bf16, fp16, fp8, int8, tf32, fp32.",
    ),
    click.option(
        "--weight-dtype",
        type=values.WEIGHT_DTYPE_TYPE,
        help="Stored weights of linear layers: bf16, fp8, w8a8, int4, nvfp4, mxfp4, q4_k_m, …",
    ),
    click.option(
        "--kv-dtype",
        "--kv-cache-dtype",
        "kv_dtype",
        type=values.KV_DTYPE_TYPE,
        help="KV cache: bf16, fp8, int8, …",
    ),
    click.option(
        "--comm-dtype",
        type=values.COMM_DTYPE_TYPE,
        help="What TP collectives send: bf16, fp8, int8, fp32.",
    ),
)
skew_option = click.option(
    "--expert-skew",
    metavar="SIGMA",
    help="How unevenly tokens draw experts: sigma of a log-normal popularity; 0 is even, an upper bound "
    "of the experts that a batch reads (default: 1 in inference, 0 in training).",
)
image_option = click.option(
    "--image-tokens",
    type=values.NUMBER_TYPE,
    help="Inference: tokens that images (or sounds) add to a prompt; their encoder's time is not priced.",
)
workload_options = stacked(
    click.option(
        "--phase",
        default="train",
        show_default=True,
        type=values.PHASE_TYPE,
        help="train, prefill or decode.",
    ),
    click.option(
        "--batch",
        "--global-batch",
        "--global-batch-size",
        "batch",
        type=values.NUMBER_TYPE,
        help="Training: sequences per step. Inference: sequences in flight per replica.",
    ),
    click.option(
        "--seq",
        "--seq-len",
        "--isl",
        "seq",
        type=values.NUMBER_TYPE,
        help="Tokens per sequence or prompt.",
    ),
    click.option(
        "--context",
        type=values.NUMBER_TYPE,
        help="Decode: tokens that each sequence holds (default --seq).",
    ),
    click.option(
        "--micro-batch",
        "--micro-batch-size",
        "micro_batch",
        type=values.NUMBER_TYPE,
        help="Training: sequences per microbatch (default: scale, all of the batch; estimate and explain, 1).",
    ),
    click.option(
        "--recompute",
        type=values.RECOMPUTE_TYPE,
        help="Activation recomputation: none, selective, full.",
    ),
    format_options,
    click.option(
        "--grad-dtype",
        type=values.GRAD_DTYPE_TYPE,
        help="Of gradients, in place of the stack's: fp32, bf16 or fp16.",
    ),
    skew_option,
    image_option,
)
software_options = stacked(
    click.option(
        "--stack",
        type=values.STACK_TYPE,
        help="Software: megatron-core, vllm, …; see catalog stacks.",
    ),
    click.option("--ideal", is_flag=True, help="Peak FLOP/s and wire bandwidth, nothing else."),
    click.option(
        "--attention", type=values.ATTENTION_TYPE, help="flash or unfused, in place of the stack's."
    ),
    click.option(
        "--overlap", type=values.OVERLAP_TYPE, help="Of TP collectives: none, split or decomposed."
    ),
    click.option(
        "--sequence-parallel", is_flag=True, help="Norms on S/TP; reduce_scatter + all_gather."
    ),
    *switches.SWITCH_OPTIONS,
)


def required(value: str | None, option: str, example: str) -> str:
    """The option's value, or one line that asks for it."""
    if value is None:
        raise InputError(
            f"{option}: missing", field=option, legal=f"for example {option} {example}"
        )
    return value


def read_cluster(
    name: str | None, nodes: str | None, nics: str | None, pcie_host: str | None
) -> Cluster:
    """The cluster of ``--on``, with the nodes, NICs and PCIe host that are given."""
    from meshwise.clusters.load import load_cluster
    from meshwise.clusters.pcie_hosts import with_pcie_host
    from meshwise.strict_tables import count

    found = load_cluster(
        required(name, "--on", "dgx-a100"),
        nodes=count(nodes, "--nodes", high=100_000) if nodes is not None else None,
        nics=count(nics, "--nics", high=4096) if nics is not None else None,
    )
    return found if pcie_host is None else with_pcie_host(found, pcie_host, "--pcie-host")


def read_workload(o: Given) -> Workload:
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

    # formats, and what has no meaning in this phase
    phase = one_of(o["phase"], "--phase", WORKLOAD_PHASES)
    formats = Formats(
        dtype=o.text("dtype"),
        weights=o.text("weight_dtype"),
        kv_cache=o.text("kv_dtype"),
        comm=o.text("comm_dtype"),
        gradients=o.text("grad_dtype"),
    )
    misplaced: tuple[str, ...] = {
        "train": ("context", "kv_dtype", "weight_dtype", "image_tokens"),
        "prefill": ("context", "micro_batch", "recompute", "grad_dtype"),
        # a step over the cache has kernels of its own
        "decode": ("micro_batch", "recompute", "grad_dtype", "attention"),
    }[phase]
    misplaced += switches.MISPLACED[phase]
    for name in (*misplaced, *(("schedule",) if phase != "train" else ())):
        if o.has(name):
            option = option_of(name)
            raise InputError(
                f"{option}={shorten(o[name])} has no meaning in phase {phase}",
                field=option,
                value=o[name],
                legal=f"leave {option} out, or another --phase",
            )
    # sizes
    batch = o.number("batch", high=MAX_BATCH) or 1
    if phase == "decode":
        given = o.text("context") if o.has("context") else o.text("seq")
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
        images = image_tokens(o, context)
        return Decode(
            batch=batch,
            context=context + images,
            image_tokens=images,
            formats=formats,
            expert_skew=expert_skew(o),
        )
    seq = count(required(o.text("seq"), "--seq", "2048"), "--seq", high=MAX_SEQ)
    if phase == "prefill":
        images = image_tokens(o, seq)
        return Prefill(
            batch=batch,
            seq=seq + images,
            image_tokens=images,
            formats=formats,
            expert_skew=expert_skew(o),
        )
    return Training(
        batch=batch,
        seq=seq,
        micro_batch=o.number("micro_batch", high=MAX_BATCH),
        recompute=o.text("recompute") or "none",
        formats=formats,
        expert_skew=expert_skew(o) or 0.0,
    )


def image_tokens(o: Given, others: int) -> int:
    """Tokens that images add to the ``others`` of a prompt; 0 where none are said."""
    from meshwise.workloads.workload import MAX_SEQ

    if not o.has("image_tokens"):
        return 0
    return o.count("image_tokens", low=0, high=max(MAX_SEQ - others, 0))


def expert_skew(o: Given) -> float | None:
    """How unevenly tokens draw experts; None: as the phase has it."""
    from meshwise.strict_tables import fraction
    from meshwise.workloads.workload import MAX_SKEW

    if not o.has("expert_skew"):
        return None
    return fraction(o["expert_skew"], "--expert-skew", low=0.0, high=MAX_SKEW)


def layout_axes(axes: Mapping[str, object]) -> LayoutAxes:
    """Axes by name as :func:`meshwise.estimate` takes them, which checks every value."""
    return cast("LayoutAxes", axes)


def serving_degrees(axes: Mapping[str, object]) -> ServingDegrees:
    """Degrees by name as :func:`meshwise.serve` takes them, which checks every value."""
    return cast("ServingDegrees", axes)


def training_pins(axes: Mapping[str, object]) -> TrainingPins:
    """Pinned axes by name as :func:`meshwise.plan` takes them, which checks every value."""
    return cast("TrainingPins", axes)


def serving_pins(axes: Mapping[str, object]) -> ServingPins:
    """The same of a deployment."""
    return cast("ServingPins", axes)


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


def stack_name(o: Given, default: str) -> str:
    """The stack that ``--stack`` or ``--ideal`` names."""
    if o.flag("ideal") and o["stack"] not in (None, "ideal"):
        raise InputError(
            f"--ideal contradicts --stack {shorten(o['stack'])}",
            field="--ideal",
            value=o["stack"],
            legal="--ideal alone, or --stack ideal",
        )
    name = o.text("stack")
    return "ideal" if o.flag("ideal") else default if name is None else name


def phase_stack(o: Given, phase: str) -> Stack:
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
    found = {key: o[key] for key in given if o.has(key)}
    return stack(name, **found, **switches.read_switches(o, name))


price_option = click.option("--price", metavar="USD", help="Dollars per GPU and hour.")


def price(o: Given) -> float | None:
    """Dollars per GPU and hour."""
    from meshwise.strict_tables import fraction

    return fraction(o["price"], "--price", low=0.0, high=1e6) if o.has("price") else None
