"""Every operation names the format of what it moves: a collective's payload is a number of values
that depends on shapes alone, times the bytes of the format beside it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest

import meshwise as mw
from meshwise import dtypes
from meshwise.axes import SHARD_CODE
from meshwise.layouts.layout import Layouts
from meshwise.program.operations import COLLECTIVES, Op
from meshwise.program.step import program
from meshwise.stacks.stack import Stack

STACKS = (
    Stack(name="fused"),
    Stack(name="plain", attention="unfused", scatter_gather=True, accumulation_bytes=10.0),
)
MODELS = (
    *("llama-3.1-8b", "llama-3.2-1b", "falcon-7b"),
    *("mixtral-8x7b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b"),
)
FORMATS = (
    mw.Formats(dtype="bf16"),
    mw.Formats(dtype="bf16", gradients="fp32"),
    mw.Formats(dtype="bf16", comm="fp8"),
    mw.Formats(dtype="bf16", comm="fp32", kv_cache="fp8"),
    mw.Formats(dtype="fp16", comm="int8"),
    mw.Formats(dtype="fp32"),
    mw.Formats(dtype="tf32", gradients="bf16"),
    mw.Formats(dtype="fp8"),
)
GRIDS = (
    *({"tp": 2, "dp": 2, "pp": 2, "shard": shard} for shard in SHARD_CODE.values()),
    {"tp": 4, "cp": 2, "dp": 2, "sequence_parallel": True, "recompute": 2},
    {"tp": 2, "dp": 4, "ep": 2, "etp": 4, "recompute": 1},
    {"tp": 16, "dcp": 8},
)


def work(phase: str, formats: mw.Formats) -> mw.Workload:
    if phase == "train":
        return mw.Training(batch=8, seq=64, micro_batch=1, formats=formats)
    if phase == "prefill":
        return mw.Prefill(batch=2, seq=64, formats=formats)
    return mw.Decode(batch=4, context=64, formats=formats)


model_of = functools.cache(mw.model)  # a file of formats takes a while to read


def operations(model: str, stack: Stack, load: mw.Workload, grid: dict[str, int]) -> list[Op]:
    layout = Layouts(**{name: np.int64(value) for name, value in grid.items()})
    p = program(model_of(model), stack, load, layout)
    parts = (*p.layers, p.embedding, p.head, p.transfer, *p.update)
    return [op for part in parts for op in part]


def cases() -> Iterator[tuple[Stack, dict[str, int]]]:
    return ((stack, grid) for stack in STACKS for grid in GRIDS)


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
@pytest.mark.parametrize("model", MODELS)
def test_payloads_are_elements_times_the_bytes_of_the_format_shown(model: str, phase: str) -> None:
    for stack, grid in cases():
        found = [operations(model, stack, work(phase, f), grid) for f in FORMATS]
        for alike in zip(*found, strict=True):
            assert len({op.name for op in alike}) == 1
            if alike[0].kind not in COLLECTIVES:
                continue
            elements = [float(op.payload_bytes) / dtypes.ELEMENT_BYTES[op.dtype] for op in alike]
            assert elements == pytest.approx([elements[0]] * len(elements)), (alike[0], grid)


@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_each_kind_of_payload_names_its_own_format(phase: str) -> None:
    formats = mw.Formats(dtype="fp16", comm="fp8", gradients="fp32", kv_cache="int8")
    own = {"gradients": "fp32", "weights": "fp16", "pipeline": "fp16"}
    named = {"head.loss": "fp32", "attention.dcp_lse": "fp32", "optimizer.adam": "fp32"}
    named["attention.cache_write"] = "int8"
    for model in ("llama-3.1-8b", "mixtral-8x7b"):
        for stack, grid in cases():
            for op in operations(model, stack, work(phase, formats), grid):
                of_tp = op.axis == "tp" and op.kind in COLLECTIVES
                wide = "fp16" if op.name == "head.logits" or not of_tp else "fp8"
                expected = named.get(op.name, own.get(op.name.split(".")[0], wide))
                assert op.dtype == expected, op


@pytest.mark.parametrize("model", MODELS)
def test_sizes_that_no_option_changes(model: str) -> None:
    """One fp32 value per token in the loss, and per head and partial result in decode."""
    loss = [
        op
        for op in operations(model, STACKS[0], work("train", FORMATS[0]), GRIDS[0])
        if op.name == "head.loss" and op.kind in COLLECTIVES
    ]
    assert [(op.dtype, float(op.payload_bytes)) for op in loss] == [("fp32", 64 * 4.0)]
    heads = mw.model(model).blocks[-1].attention
    assert heads is not None
    found = operations(model, STACKS[0], work("decode", FORMATS[0]), GRIDS[-1])
    for op in found:
        if op.name == "attention.dcp_lse":
            values = 4 * -(-heads.heads // 16) * 8 * 8
            assert (op.dtype, float(op.payload_bytes)) == ("fp32", values * 4.0)
