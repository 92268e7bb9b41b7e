"""``meshwise export``: the launch command of a layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from meshwise.cli import export_source, options, output, switches, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import InputError
from meshwise.launch.targets import target_names

if TYPE_CHECKING:
    from meshwise.launch.job import Job
    from meshwise.models.shapes import Model
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.workload import Workload

_DEGREES = ("tp", "pp", "vp", "dp", "cp", "ep", "dcp")


@click.command(
    "export",
    cls=CliCommand,
    needs=(
        Need("target", "vllm"),
        Need("model", "llama-3.1-70b", "required, or --from", lambda o: not o.has("source")),
    ),
    about={
        "target": f"{', '.join(target_names())}.",
        "model": "A preset, or a model as hubs name it.",
    },
    examples=(
        "meshwise export vllm llama-3.1-70b --tp 8 --isl 2k --osl 256 --concurrency 64",
        "meshwise export megatron-lm gpt3-175b --tp 8 --pp 8 --micro-batch 1 --global-batch 64 --seq 2k",
    ),
)
@click.argument("target", metavar="TARGET", type=values.TARGET_TYPE, required=False)
@click.argument("model", metavar="[MODEL]", type=values.MODEL_TYPE, required=False)
@click.option(
    "--on", "cluster", type=values.CLUSTER_TYPE, help="Check the layout against this cluster."
)
@click.option(
    "--from",
    "source",
    type=values.FILE_TYPE,
    help="A row of `plan --json` or `estimate --json`, or a launch command in a file or in quotes; - for stdin.",
)
@click.option("--row", type=values.NUMBER_TYPE, help="Which row of the plan (default 1, the best).")
@options.tp_options
@options.axis_option("vp")
@options.dp_option
@options.axis_option("cp")
@options.ep_options
@options.axis_option("dcp", "Decode context parallelism, over ranks of TP.")
@options.axis_option("micro_batch")
@click.option(
    "--global-batch", "--batch", "--global-batch-size", "global_batch", type=values.NUMBER_TYPE
)
@click.option(
    "--seq",
    "--seq-len",
    "seq",
    type=values.NUMBER_TYPE,
    help="Tokens per sequence (training).",
)
@click.option(
    "--isl",
    type=values.NUMBER_TYPE,
    help="Tokens of a prompt (serving).",
)
@click.option(
    "--osl",
    type=values.NUMBER_TYPE,
    help="Tokens of an answer (serving).",
)
@click.option(
    "--concurrency", type=values.NUMBER_TYPE, help="Requests in flight over all replicas."
)
@click.option(
    "--recompute", type=values.RECOMPUTE_TYPE, default="none", help="none, selective, full."
)
@click.option("--shard", type=values.SHARD_TYPE, default="none", help="none, zero1, zero2, zero3.")
@click.option("--sequence-parallel", is_flag=True)
@click.option("--overlap", type=values.OVERLAP_TYPE, default="none", help="none or decomposed.")
@click.option(
    "--placement", metavar="ORDER", default="tp-cp-dp-pp", help="Of the axes on the ranks."
)
@click.option(
    "--schedule", type=values.SCHEDULE_TYPE, default="1f1b", help="1f1b, gpipe, zb-1p, zb-2p."
)
@options.stacked(*switches.SWITCH_OPTIONS)
@click.option("--dtype", type=values.DTYPE_TYPE, help="bf16, fp16 or fp8.")
@click.option(
    "--weight-dtype", type=values.WEIGHT_DTYPE_TYPE, help="Serving: fp8, where it is narrower."
)
@click.option(
    "--kv-dtype", "--kv-cache-dtype", "kv_dtype", type=values.KV_DTYPE_TYPE, help="Serving: fp8."
)
@click.option(
    "--gpus-per-node",
    type=values.NUMBER_TYPE,
    help="GPUs of a node (default: the cluster's, else 8).",
)
@click.option("--wrapper", type=values.WRAPPER_TYPE, help="torchrun, slurm, lws or kuberay.")
@click.option("--target-version", metavar="V", help="Refuse any other version of the flag table.")
@click.option("--json", "as_json", is_flag=True, help="The documented JSON contract.")
@click.option("-o", "--output", "path", type=values.FILE_TYPE, help="Into FILE; - is stdout.")
def command(target: str, model: str | None, **said: object) -> None:
    """The launch command of a layout for TARGET.

    The layout is given by its degrees, or taken from a plan (--from FILE). What the target has no flag
    for is listed in the command's own comments.
    """
    import msgspec

    from meshwise import commands
    from meshwise.launch.settings.switches import as_said
    from meshwise.launch.table import target as known_target

    o = Given(said)
    chosen = known_target(target, o.text("target_version"))
    # the layout: of a plan's row, or as it is given
    priced_as: list[str] = []
    read_from = None
    if o.has("source"):
        job, priced_as, read_from = export_source.job_of_file(model, o)
    else:
        job = _from_options(model, o, chosen.phase, chosen.name)
        if commands.job_needs_split(job, target):
            job = msgspec.structs.replace(job, sequence_parallel=True)  # nobody said that it is off
    # its command
    job = as_said(job, chosen.name)
    result = commands.export(
        job,
        target,
        wrapper=_wrapper(o),
        version=o.text("target_version"),
        read_from=read_from,
    )
    result.remarks = priced_as
    text = json.dumps(result.to_dict(), indent=1) if o.flag("as_json") else str(result)
    output.deliver(text, o.text("path"))


def _wrapper(o: Given) -> str | None:
    from meshwise.launch.write import WRAPPERS
    from meshwise.strict_tables import one_of

    return one_of(o["wrapper"], "--wrapper", WRAPPERS) if o.has("wrapper") else None


def _from_options(model: str | None, o: Given, phase: str, target: str) -> Job:
    from meshwise import launch

    if model is None:
        raise InputError("MODEL: missing", field="MODEL", legal="a model's name, or --from FILE")
    layout: dict[str, object] = {name: o.count(name) for name in _DEGREES}
    if o.has("etp"):
        layout["etp"] = o.count("etp")
    layout["micro_batch"] = o.number("micro_batch")
    for name in ("recompute", "shard", "sequence_parallel", "overlap", "placement", "schedule"):
        layout[name] = o[name]
    _check_known(model, o)
    node = _check_on_cluster(model, o, phase, layout, target)
    if o.has("gpus_per_node"):
        node = o.count("gpus_per_node")
    more = export_source.more_of_job(o, phase)
    return launch.job_of(model, phase, layout, gpus_per_node=node, **more)


def _check_known(model: str, o: Given) -> None:
    """Refuse switches of what a model that is known does not have."""
    from meshwise import api
    from meshwise.commands import known_model

    known = known_model(model)
    if known is not None and any(o.has(name) for name in switches.SWITCH_NAMES):
        switches.check_switch_options(o, api.model(known))


def _check_on_cluster(
    model: str, o: Given, phase: str, layout: Mapping[str, object], target: str
) -> int | None:
    """GPUs of the cluster's node, the layout checked against it and the model."""
    cluster = o.text("cluster")
    if cluster is None:
        _check_degree(model, layout, target)
        return None
    from meshwise import api
    from meshwise.clusters.load import grown, load_cluster
    from meshwise.launch.table import target as known_target
    from meshwise.layouts.check import check, settled
    from meshwise.layouts.layout import asked as read_layout
    from meshwise.stacks.load import load_stack

    spec = api.model(model)
    # the layout and a load of it
    asked = {k: layout[k] for k in _DEGREES}
    if layout.get("etp") is not None:
        asked["etp"] = layout["etp"]
    work: Workload
    if phase == "train":
        micro = o.number("micro_batch") or 1
        batch = o.number("global_batch") or o.count("dp") * o.count("pp") * micro
        work = api.Training(batch=batch, seq=o.number("seq") or 4096)
        asked |= {"micro_batch": micro, "sequence_parallel": layout["sequence_parallel"] or None}
        asked["shard"] = layout["shard"]
    else:
        work = api.Decode(batch=1, context=o.number("isl") or 1024)
    # checked as the target's software runs it, on as many nodes as it takes
    stack = load_stack(known_target(target).stack)
    _check_method(spec, stack)
    cell = settled(read_layout(asked, tuple(asked)), spec, stack, phase)
    where = grown(load_cluster(cluster), cell.devices)
    if o.has("schedule"):
        stack = api.stack(stack.name, schedule=o["schedule"])
    check(cell, spec, where, work, stack)
    return where.node_devices


def _check_degree(model: str, layout: Mapping[str, object], target: str) -> None:
    """Refuse a TP degree that a known model does not admit: that takes no cluster to see."""
    from meshwise.launch.table import target as known_target
    from meshwise.layouts.tp_degrees import require_tp
    from meshwise.models.load import load_model
    from meshwise.models.names import named_model
    from meshwise.stacks.load import load_stack
    from meshwise.strict_tables import count

    if named_model(model) is None:
        return
    etp = layout.get("etp")
    stack, spec = load_stack(known_target(target).stack), load_model(model)
    _check_method(spec, stack)
    degree = count(layout["tp"], "tp")
    require_tp(spec, degree, stack, None if etp is None else count(etp, "etp"))


def _check_method(spec: Model, stack: Stack) -> None:
    """Refuse a command for a checkpoint that the target's software does not load."""
    from meshwise.layouts.tp_degrees import unread_method

    unread = unread_method(spec, stack)
    if unread:
        raise InputError(
            f"model: {unread}",
            field="model",
            value=spec.name,
            legal="a checkpoint of another method, or another target",
        )
