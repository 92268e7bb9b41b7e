"""One row of a table → the same quantity predicted, or the reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.cost import collective as coll
from meshwise.cost.estimate import Estimate, estimate
from meshwise.evidence import hardware
from meshwise.evidence.tables import Row
from meshwise.search import serving
from meshwise.search.report import Report, model_flops, report
from meshwise.spec import grid
from meshwise.spec.config_file import load_model_file
from meshwise.spec.layout import place
from meshwise.spec.model import Model
from meshwise.spec.models import load_model
from meshwise.spec.stack import Stack, load_stack
from meshwise.spec.workload import RECOMPUTE, Formats, Training


class Unsupported(Exception):
    """A sound row that meshwise cannot predict; the text says why."""


class Prediction(NamedTuple):
    """A quantity [SI] as measured and predicted. ``source`` is the row's paper or repository."""

    id: str
    quantity: str
    measured: float
    predicted: float
    source: str
    assumed: tuple[str, ...]  # what the row does not say
    ideal_s: float | None = None  # training: the step's model FLOPs at the devices' peak
    pair: tuple[str, ...] = ()  # serving: what rows of one TP ladder have in common
    tp: int = 1


# Software names of tables → stack of the catalog, by how they begin.
STACKS = (
    ("megatron-2020", "megatron-2021"),
    ("megatron-2021", "megatron-2021"),
    ("megatron-2022", "megatron-2021"),
    ("flagscale", "megatron-2021"),
    ("nemo-megatron-2023", "megatron-2021"),
    ("paddle", "megatron-2021"),
    ("megatron", "megatron-core"),
    ("nemo", "megatron-core"),
    ("nanotron", "megatron-core"),
    ("internevo", "megatron-core"),
    ("torchtitan", "torchtitan-fsdp"),
    ("maxtext", "torchtitan-fsdp"),
    ("deepspeed", "deepspeed"),
    ("vllm", "vllm"),
    ("sglang", "sglang"),
    ("trtllm", "trtllm"),
    ("tensorrt", "trtllm"),
    ("fastertransformer", "fastertransformer"),
)


def stack_of(row: Row, column: str) -> Stack:
    """The stack that a row's software stands for."""
    name = row.text(column).lower()
    for begins, stack in STACKS:
        if name.startswith(begins):
            return load_stack(stack)
    raise Unsupported(f"software {name!r} is no stack of the catalog")


def model_of(row: Row, folder: Path) -> Model:
    """A model of the catalog, or ``models/NAME.json`` beside the table."""
    name = row.text("model")
    beside = folder / "models" / f"{name}.json"
    try:
        if name and beside.is_file():
            return load_model_file(str(beside), name=name)
        return load_model(name, f"line {row.line}: model")
    except OSError:
        raise row.wrong(
            "model", f"{name!r} is no model", "a preset, or a file in models/"
        ) from None


def source_of(row: Row) -> str:
    """The row's source for leaving one out: what stands before the slash of its id."""
    return row.text("id").split("/")[0]


# -- training -------------------------------------------------------------------------------------


def training_estimate(row: Row, folder: Path) -> tuple[Estimate, tuple[str, ...]]:
    """The row's step, priced; and what had to be assumed."""
    model = model_of(row, folder)
    devices, batch = row.count("devices"), row.count("global_batch")
    per_node = row.count("devices_per_node", 8)
    rate = (
        row.number("inter_node_gbytes_per_s", 0.0) if row.text("inter_node_gbytes_per_s") else 0.0
    )
    network = hardware.network_by_rate(rate, min(per_node, devices)) if rate else None
    cluster = hardware.cluster_of(row, devices, per_node, network)
    degrees = {k: row.count(k, 1) for k in ("tp", "pp", "vp", "dp", "cp", "ep")}
    product = degrees["tp"] * degrees["pp"] * degrees["dp"] * degrees["cp"]
    if product != devices:
        raise row.wrong("devices", f"tp·pp·dp·cp = {product}, not {devices}", f"{product}")
    assumed = []
    for column, value in (("micro_batch", "1"), ("recompute", "none"), ("vp", "1")):
        if not row.text(column):
            assumed.append(f"{column}={value}")
    recompute = row.text("recompute", "none")
    if recompute not in RECOMPUTE:
        raise row.wrong("recompute", f"{recompute!r} is not known", RECOMPUTE)
    stack = stack_of(row, "stack")
    attention = row.text("attention", stack.attention)
    software = row.text("stack")
    stack = msgspec.structs.replace(
        stack,
        attention="unfused" if attention == "unfused" else "flash",
        schedule=next((k for k in ("zb-1p", "zb-2p", "gpipe") if software.endswith(k)), "1f1b"),
    )
    shard = row.text("shard", "none")
    shard = "zero3" if shard in ("hsdp", "fsdp") else shard
    workload = Training(
        batch=batch,
        seq=row.count("seq"),
        recompute=recompute,
        # Megatron and NeMo accumulate and reduce gradients in fp32 by default.
        formats=Formats(dtype=row.text("dtype", "bf16"), gradients="fp32"),
    )
    layout = grid.Grid(
        **degrees,
        etp=row.count("etp", 1) if degrees["ep"] > 1 and row.text("etp") else None,
        micro_batch=row.count("micro_batch", 1),
        sequence_parallel=row.flag("sequence_parallel"),
        shard=shard,
    )
    grid.check(layout, model, cluster, workload)
    return estimate(model, cluster, workload, stack, grid.to_layouts(layout, workload)), tuple(
        assumed
    )


def training(row: Row, folder: Path) -> list[Prediction]:
    """Step time (from whichever figure the row gives) and memory."""
    e, assumed = training_estimate(row, folder)
    name, source = row.text("id"), source_of(row)
    if row.text("fits") == "false":
        return [Prediction(name, "fits", 0.0, float(e.fits), source, assumed)]
    found = []
    step = measured_step_s(row, e)
    if step is not None:
        peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
        ideal = model_flops(e) / float(e.layout.devices) / peak
        found.append(
            Prediction(name, "step_s", step, float(e.step_s), source, assumed, ideal_s=ideal)
        )
    if row.text("memory_gib"):
        memory = row.number("memory_gib") * 2.0**30
        found.append(
            Prediction(name, "memory_bytes", memory, float(e.memory_bytes), source, assumed)
        )
    return found


def measured_step_s(row: Row, e: Estimate) -> float | None:
    """Seconds of the measured step, from the most direct figure that the row gives."""
    devices, tokens = row.count("devices"), row.count("global_batch") * row.count("seq")
    if row.text("step_s"):
        return row.number("step_s")
    if row.text("tokens_per_s_per_device"):
        return tokens / devices / row.number("tokens_per_s_per_device")
    full: Report = report(e)
    peak = e.pricer.compute.peak(e.program.ctx.widths.dtype)
    hardware_flops = row.text("flops_convention").startswith("hardware")
    flops = (full.hfu if hardware_flops else full.mfu) * full.step_s * peak
    if row.text("tflops_per_device"):
        return flops / (row.number("tflops_per_device") * 1e12)
    if row.text("mfu"):
        return flops / (row.number("mfu") * e.pricer.compute.peak("bf16"))
    return None


# -- serving ------------------------------------------------------------------------------------------


def serve(row: Row, folder: Path) -> list[Prediction]:
    """TPOT under a fixed concurrency, or a static batch's whole latency."""
    model = model_of(row, folder)
    devices = row.count("devices")
    tp, pp, dp = row.count("tp", 1), row.count("pp", 1), row.count("dp", 1)
    if tp * pp * dp != devices:
        raise row.wrong("devices", f"tp·pp·dp = {tp * pp * dp}, not {devices}", f"{tp * pp * dp}")
    cluster = hardware.cluster_of(row, devices, row.count("devices_per_node", 8), None)
    stack = stack_of(row, "engine")
    dtype = row.text("dtype", "bf16")
    narrow = dtype if dtype in ("fp8", "int8") else None
    weights = dtype if dtype in ("int4", "nvfp4", "mxfp4") else None
    formats = Formats(dtype=narrow, weights=weights, kv_cache=row.text("kv_dtype") or None)
    layouts = serving.layout(tp, pp, row.count("ep", 1))
    lengths = {"isl": row.count("isl"), "osl": row.count("osl")}
    name, source = row.text("id"), source_of(row)
    if row.text("fits") == "false":
        raise Unsupported("the row says that it does not fit")
    if row.text("total_latency_ms"):
        total = serving.static_batch_s(
            model,
            cluster,
            stack,
            layouts,
            **lengths,
            batch=row.count("concurrency", 1),
            formats=formats,
        )
        measured = row.number("total_latency_ms") * 1e-3
        return [Prediction(name, "total_latency_s", measured, total, source, ())]
    if not row.text("concurrency"):
        raise Unsupported("the row does not state its concurrency")
    if not row.text("tpot_ms"):
        return []
    tpot = serving.continuous_tpot_s(
        model,
        cluster,
        stack,
        layouts,
        **lengths,
        concurrency=-(-row.count("concurrency") // dp),
        formats=formats,
    )
    measured = row.number("tpot_ms") * 1e-3
    columns = ("model", "engine", "engine_version", "dtype", "isl", "osl", "concurrency", "dp")
    alike = tuple(row.text(c) for c in columns)
    return [Prediction(name, "tpot_s", measured, tpot, source, (), pair=alike, tp=tp)]


# -- collectives ---------------------------------------------------------------------------------------

_OPS = {
    "alltoall": "all_to_all",
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
}
_KERNELS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm",
    "nccl": "megatron-core",
    "rccl": "megatron-core",
}


def collective(row: Row, folder: Path) -> list[Prediction]:
    """Time of one collective."""
    del folder
    op = _OPS.get(row.text("op"), row.text("op"))
    if op not in coll.OPS:
        raise Unsupported(f"{op} is not priced")
    ranks = row.count("ranks")
    nodes = row.count("nodes", 1)
    per_node = row.count("devices_per_node", ranks)
    if per_node * nodes != ranks:
        raise row.wrong(
            "ranks",
            f"nodes · devices_per_node = {nodes * per_node}, not {ranks}",
            f"{nodes * per_node}",
        )
    library = row.text("library", "nccl").lower()
    stack = next((s for k, s in _KERNELS.items() if library.startswith(k)), None)
    if stack is None:
        raise Unsupported(f"library {library!r} has no constants")
    if "eager" in row.text("note").lower():
        raise Unsupported("launched outside a graph: host time, not the kernel's")
    network = None
    if nodes > 1:
        network = hardware.network_by_words(row)
        if network is None:
            raise Unsupported("the row does not state its network's rate")
    cluster = hardware.cluster_of(row, ranks, per_node, network)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    priced = coll.price(op, np.float64(row.number("bytes")), group, cluster, load_stack(stack))
    measured = row.number("time_us") * 1e-6
    return [
        Prediction(row.text("id"), "time_s", measured, float(priced.seconds), source_of(row), ())
    ]


PREDICT = {"training": training, "serving": serve, "collectives": collective}


def predict(kind: str, row: Row, folder: Path) -> list[Prediction]:
    """All that a row measures and meshwise predicts. Raises :class:`Unsupported` or MeshwiseError."""
    found = PREDICT[kind](row, folder)
    if not found:
        raise Unsupported("the row measures nothing that is predicted")
    return found
