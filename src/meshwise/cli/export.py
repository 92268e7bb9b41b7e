"""``meshwise export``: the launch command of a layout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import options, switches, values
from meshwise.cli.command import Command, Need
from meshwise.errors import InputError, shorten
from meshwise.launch.targets import target_names

if TYPE_CHECKING:
    from meshwise.launch.job import Job

MAX_FILE_BYTES = 200_000_000


@click.command(
    "export",
    cls=Command,
    needs=(
        Need("target", "vllm"),
        Need("model", "llama-3.1-70b", "required, or --from", lambda o: o["source"] is None),
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
@click.argument("target", metavar="TARGET", type=values.TARGET, required=False)
@click.argument("model", metavar="[MODEL]", type=values.MODEL, required=False)
@click.option("--on", "cluster", type=values.CLUSTER, help="Check the layout against this cluster.")
@click.option(
    "--from",
    "source",
    type=values.FILE,
    help="A row of `plan --json` or `estimate --json`; - for stdin.",
)
@click.option("--row", type=values.NUMBER, help="Which row of the plan (default 1, the best).")
@options.tp_degrees
@click.option("--vp", default="1", type=values.NUMBER, help="Virtual stages per pipeline rank.")
@options.dp_degree
@options.degree("cp", "context", "Context-parallel degree.")
@options.ep_degrees
@options.degree("dcp", "decode-context", "Decode context parallelism, over ranks of TP.")
@click.option("--micro-batch", "--micro-batch-size", "micro_batch", type=values.NUMBER)
@click.option(
    "--global-batch", "--batch", "--global-batch-size", "global_batch", type=values.NUMBER
)
@click.option(
    "--seq",
    "--seq-len",
    "seq",
    type=values.NUMBER,
    help="Tokens per sequence (training).",
)
@click.option(
    "--isl",
    type=values.NUMBER,
    help="Tokens of a prompt (serving).",
)
@click.option(
    "--osl",
    type=values.NUMBER,
    help="Tokens of an answer (serving).",
)
@click.option("--concurrency", type=values.NUMBER, help="Requests in flight over all replicas.")
@click.option("--recompute", type=values.RECOMPUTE, default="none", help="none, selective, full.")
@click.option("--shard", type=values.SHARD, default="none", help="none, zero1, zero2, zero3.")
@click.option("--sequence-parallel", is_flag=True)
@click.option("--overlap", type=values.OVERLAP, default="none", help="none or decomposed.")
@click.option(
    "--placement", metavar="ORDER", default="tp-cp-dp-pp", help="Of the axes on the ranks."
)
@click.option("--schedule", type=values.SCHEDULE, default="1f1b", help="1f1b, gpipe, zb-1p, zb-2p.")
@options.stacked(*switches.OPTIONS)
@click.option("--dtype", type=values.DTYPE, help="bf16, fp16 or fp8.")
@click.option(
    "--weight-dtype", type=values.WEIGHT_DTYPE, help="Serving: fp8, where it is narrower."
)
@click.option(
    "--kv-dtype", "--kv-cache-dtype", "kv_dtype", type=values.KV_DTYPE, help="Serving: fp8."
)
@click.option(
    "--gpus-per-node", type=values.NUMBER, help="GPUs of a node (default: the cluster's, else 8)."
)
@click.option("--wrapper", type=values.WRAPPER, help="torchrun, slurm, lws or kuberay.")
@click.option("--target-version", metavar="V", help="Refuse any other version of the flag table.")
@click.option("--json", "as_json", is_flag=True, help="The documented JSON contract.")
@click.option("-o", "--output", "path", type=values.FILE, help="Into FILE; - is stdout.")
def command(target: str, model: str | None, **o: Any) -> None:
    """The launch command of a layout for TARGET.

    The layout is given by its degrees, or taken from a plan (--from FILE). What the target has no flag
    for is listed in the command's own comments.
    """
    import msgspec

    from meshwise import commands
    from meshwise.launch.settings.switches import as_said
    from meshwise.launch.table import target as known_target

    chosen = known_target(target, o["target_version"])
    priced_as: list[str] = []
    if o["source"] is not None:
        job, priced_as = _from_file(model, o)
    else:
        job = _from_options(model, o, chosen.phase, chosen.name)
    if o["source"] is None and commands.needs_split(job, target):
        job = msgspec.structs.replace(job, sequence_parallel=True)  # nobody said that it is off
    job = as_said(job, chosen.name)
    result = commands.export(job, target, wrapper=_wrapper(o), version=o["target_version"])
    result.remarks = priced_as
    text = json.dumps(result.to_dict(), indent=1) if o["as_json"] else str(result)
    options.deliver(text, o["path"])


def _wrapper(o: dict[str, Any]) -> str | None:
    from meshwise.launch.write import WRAPPERS
    from meshwise.strict_tables import one_of

    return one_of(o["wrapper"], "--wrapper", WRAPPERS) if o["wrapper"] is not None else None


def _number(o: dict[str, Any], name: str) -> int | None:
    from meshwise.strict_tables import count

    return count(o[name], "--" + name.replace("_", "-")) if o[name] is not None else None


def _more(o: dict[str, Any], phase: str) -> dict[str, Any]:
    """What a job has beside its layout."""
    found: dict[str, Any] = {name: o[name] for name in ("dtype", "weight_dtype", "kv_dtype")}
    if phase == "train":
        found |= {name: _number(o, name) for name in ("global_batch", "seq")}
        found |= switches.read(o, "")
        for name in ("isl", "osl", "concurrency", "weight_dtype", "kv_dtype"):
            if o[name] is not None:
                option = "--" + name.replace("_", "-")
                raise InputError(
                    f"{option}={shorten(o[name])} has no meaning in training",
                    field=option,
                    value=o[name],
                    legal=f"leave {option} out",
                )
        return found
    for name in switches.NAMES:
        if o[name] is not None:
            raise switches.refused(name, o[name], "has no meaning in serving")
    isl, osl = _number(o, "isl"), _number(o, "osl")
    found["max_len"] = isl + osl if isl is not None and osl is not None else None
    found["concurrency"] = _number(o, "concurrency")
    return found


def _from_options(model: str | None, o: dict[str, Any], phase: str, target: str) -> Job:
    from meshwise import launch
    from meshwise.strict_tables import count

    if model is None:
        raise InputError("MODEL: missing", field="MODEL", legal="a model's name, or --from FILE")
    layout: dict[str, Any] = {
        name: count(o[name], f"--{name}") for name in ("tp", "pp", "vp", "dp", "cp", "ep", "dcp")
    }
    if o["etp"] is not None:
        layout["etp"] = count(o["etp"], "--etp")
    layout["micro_batch"] = _number(o, "micro_batch")
    for name in ("recompute", "shard", "sequence_parallel", "overlap", "placement", "schedule"):
        layout[name] = o[name]
    _known(model, o)
    node = _checked(model, o, phase, layout, target)
    if o["gpus_per_node"] is not None:
        node = count(o["gpus_per_node"], "--gpus-per-node")
    return launch.job_of(model, phase, layout, gpus_per_node=node, **_more(o, phase))


def _known(model: str, o: dict[str, Any]) -> None:
    """Refuse switches of what a model that is known does not have."""
    from meshwise import api
    from meshwise.commands import known_model

    known = known_model(model)
    if known is not None and any(o[name] is not None for name in switches.NAMES):
        switches.check(o, api.model(known))


def _checked(
    model: str, o: dict[str, Any], phase: str, layout: dict[str, Any], target: str
) -> int | None:
    """GPUs of the cluster's node, the layout checked against it and the model."""
    if o["cluster"] is None:
        return None
    from meshwise import api
    from meshwise.clusters.load import grown, load_cluster
    from meshwise.launch.table import target as known_target
    from meshwise.layouts.check import check, settled
    from meshwise.layouts.layout import Layout
    from meshwise.stacks.load import load_stack

    spec = api.model(model)
    asked = {k: layout[k] for k in ("tp", "pp", "vp", "dp", "cp", "ep", "dcp")}
    if layout.get("etp") is not None:
        asked["etp"] = layout["etp"]
    work: Any = api.Decode(batch=1, context=_number(o, "isl") or 1024)
    if phase == "train":
        micro = layout["micro_batch"] or 1
        batch = _number(o, "global_batch") or layout["dp"] * layout["pp"] * micro
        work = api.Training(batch=batch, seq=_number(o, "seq") or 4096)
        asked |= {"micro_batch": micro, "sequence_parallel": layout["sequence_parallel"] or None}
        asked["shard"] = layout["shard"]
    stack = load_stack(known_target(target).stack)
    cell = settled(Layout(**asked), spec, stack, phase)
    where = grown(load_cluster(o["cluster"]), cell.devices)
    if o["schedule"] is not None:
        stack = api.stack(stack.name, schedule=o["schedule"])
    check(cell, spec, where, work, stack)
    return where.node_devices


def _from_file(model: str | None, o: dict[str, Any]) -> tuple[Job, list[str]]:
    """A job from a row of a plan, or from an estimate; and what its figures were priced as."""
    from meshwise import launch
    from meshwise.strict_tables import count

    record = _record(o["source"])
    rows = record.get("layouts")
    if rows is None and isinstance(record.get("layout"), dict):
        rows = [record["layout"]]
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
        raise InputError(
            f"--from: {shorten(o['source'])} has no layouts",
            field="--from",
            value=o["source"],
            legal="what `meshwise plan --json` or `meshwise estimate --json` prints",
        )
    row = count(o["row"], "--row", high=len(rows)) if o["row"] is not None else 1
    work = record.get("workload") or {}
    mine = "train" if work.get("phase", "train") == "train" else "serve"
    more = _priced(record, rows[row - 1], mine)
    given = {k: v for k, v in _more(o, mine).items() if v is not None}
    more["gpus_per_node"] = _number(o, "gpus_per_node") or _node(record)
    name = model or record.get("model") or ""
    job = launch.job_of(str(name), mine, rows[row - 1] | more | given)
    return job, _priced_as(record, str(work.get("phase", "train")))


def _priced_as(record: dict[str, Any], phase: str) -> list[str]:
    """That a plan's stack is one that does not run its phase."""
    from meshwise.stacks.load import is_known, load_stack
    from meshwise.stacks.stack import not_made_for

    name = str((record.get("stack") or {}).get("name", ""))
    return not_made_for(load_stack(name), phase) if is_known(name) else []


def _node(record: dict[str, Any]) -> int | None:
    levels = (record.get("cluster") or {}).get("levels") or []
    node = 1
    for level in levels:
        if level.get("kind") == "network":
            break
        node *= int(level.get("ranks", 1))
    return node if levels else None


def _priced(record: dict[str, Any], row: dict[str, Any], phase: str) -> dict[str, Any]:
    """What was priced beside the degrees: the load, the formats, the stack's own switches."""
    work, stack = record.get("workload") or {}, record.get("stack") or {}
    formats = record.get("formats") or {}
    found: dict[str, Any] = {
        "comm_dtype": row.get("comm_dtype") or work.get("comm_dtype"),
        "attention": stack.get("attention"),
    }
    if phase == "train":
        found |= {"global_batch": work.get("batch"), "seq": work.get("seq")}
        found["dtype"] = row.get("dtype") or work.get("dtype") or formats.get("dtype")
        gradient = {4.0: "fp32", 2.0: "bf16"}.get(float(formats.get("gradient") or 0.0))
        found["grad_dtype"] = work.get("gradients_dtype") or gradient
        found |= {name: stack.get(name) for name in switches.NAMES}
        named = tuple(stack.get("recompute_modules") or ())
        found["recompute_modules"] = named if row.get("recompute") == "selective" else None
        found["overlap_experts"] = bool(stack.get("overlap_experts")) and _pairs(row, named)
        if int(row.get("pp", 1)) > 1:
            found["schedule"] = stack.get("schedule")
        if int(row.get("tp", 1)) == 1:
            found["overlap"] = "none"
        return found
    found |= {k: work.get(k) for k in ("dtype", "chunk")}
    found |= {"weight_dtype": work.get("weights_dtype"), "kv_dtype": work.get("kv_cache_dtype")}
    if work.get("draft_tokens"):
        found |= {"draft_tokens": work["draft_tokens"], "draft_cost": str(work.get("draft_cost"))}
    isl, osl = work.get("isl"), work.get("osl")
    found["max_len"] = isl + osl if isinstance(isl, int) and isinstance(osl, int) else None
    found["max_len"] = work.get("max_model_len") or found["max_len"] or work.get("context")
    found["memory_share"] = work.get("gpu_memory_utilization")
    found["concurrency"] = row.get("concurrency") or work.get("concurrency")
    if found["concurrency"] is None and isinstance(work.get("batch"), int):
        found["concurrency"] = work["batch"] * int(row.get("dp", 1))  # of each replica
    found |= {"overlap": "none", "placement": None, "recompute": "none"}
    return {k: v for k, v in found.items() if v is not None} | {"placement": "tp-cp-dp-pp"}


def _pairs(row: dict[str, Any], modules: tuple[str, ...]) -> bool:
    """Whether the layout can run the exchange of tokens beside another microbatch's compute."""
    import numpy as np

    from meshwise.axes import RECOMPUTE_CODE
    from meshwise.layouts.layout import Layouts
    from meshwise.layouts.rules.case import exchange_pairs

    degrees = {name: np.int64(row.get(name) or 1) for name in ("tp", "pp", "vp", "ep")}
    mode = np.int64(RECOMPUTE_CODE.get(str(row.get("recompute")), 0))
    return bool(exchange_pairs(Layouts(**degrees, recompute=mode), modules))


def _record(path: str) -> dict[str, Any]:
    from meshwise.files import read_text_file

    if path == "-":
        text = sys.stdin.read(MAX_FILE_BYTES)
    else:
        text = read_text_file(str(Path(path)), "--from", "a JSON file", MAX_FILE_BYTES)
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"--from: {shorten(path)} is no JSON: {error}",
            field="--from",
            value=path,
            legal="what `meshwise plan --json` or `meshwise estimate --json` prints",
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            f"--from: {shorten(path)} is no JSON object",
            field="--from",
            value=path,
            legal="an object",
        )
    return record
