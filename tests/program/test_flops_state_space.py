"""Second derivation of the FLOPs of state-space and convolution families: torch's counter over transformers.

All products but the scan's are equal. A scan in chunks makes the products of ours, and passes states on
by one product over all pairs of chunks, where kernels pass them on one by one: by hand here. Short
convolutions are passes over memory in our program, and a product in torch's count.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from meshwise.errors import UnsupportedModel
from meshwise.layouts.layout import Layouts
from meshwise.models.families.config import model_from_config
from meshwise.models.shapes import Model
from meshwise.program.step import program
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Training

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

_PATH = Path(__file__).parents[1] / "models" / "test_state_space.py"
_SPEC = importlib.util.spec_from_file_location("small_state_space", _PATH)
assert _SPEC is not None and _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
SMALL: dict[str, dict[str, Any]] = _MODULE.SMALL
BATCH, SEQ = 2, 48
EAGER = Stack(name="eager", attention="unfused")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def ours(model: Model, kinds: tuple[str, ...], phase: str, recompute: int = 0) -> float:
    """FLOPs of our program's operations of some kinds in a phase, on one device."""
    layout = Layouts(tp=np.int64(1), micro_batch=np.int64(BATCH), recompute=np.int64(recompute))
    built = program(model, EAGER, Training(batch=BATCH, seq=SEQ), layout)
    counts = (*model.kind_counts(), 1, 1)
    return sum(
        float(op.count * op.flops) * times
        for ops, times in zip((*built.layers, built.embedding, built.head), counts, strict=True)
        for op in ops
        if op.kind in kinds and op.phase == phase
    )


def theirs(model_type: str) -> tuple[int, int]:
    """(all that torch counts in a forward pass, of it in convolutions)."""
    table = {**SMALL[model_type], "use_mamba_kernels": False}
    config = CONFIG_MAPPING[model_type](**table)
    build: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    model = build(
        config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    ).eval()
    ids = torch.randint(3, 100, (BATCH, SEQ))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False)
    by_op = counter.get_flop_counts()["Global"]
    return counter.get_total_flops(), by_op.get(torch.ops.aten.convolution, 0)


def convolved(model: Model) -> int:
    """FLOPs of short convolutions over a sequence and its padding before it and behind it."""
    total = 0
    for block, layers in zip(model.blocks, model.kind_counts(), strict=True):
        if block.recurrent is not None:
            r = block.recurrent
            channels = sum(c.size for c in r.channels)
            total += layers * BATCH * channels * 2 * r.kernel * (SEQ + r.kernel - 1)
    return total


def between_chunks(model: Model) -> int:
    """FLOPs of Mamba 2's states on their way from chunk to chunk, as transformers multiplies them; for
    Mamba 1 the read-out of each step, which is all that is a product there."""
    total = 0
    for block, layers in zip(model.blocks, model.kind_counts(), strict=True):
        r = block.recurrent
        if r is None or r.rule != "mamba2":
            continue
        chunks = -(-SEQ // (r.chunk or 256)) + 1
        total += layers * BATCH * 2 * chunks**2 * r.inner * r.key_dim
    return total


@pytest.mark.parametrize("model_type", SMALL)
def test_forward(model_type: str) -> None:
    model = model_from_config({"model_type": model_type, **SMALL[model_type]}, name=model_type)
    # a block computes what it computes, whoever else has its weights
    each = [msgspec.structs.replace(block, shared=False) for block in model.blocks]
    model = msgspec.structs.replace(model, blocks=tuple(each))
    total, in_convolutions = theirs(model_type)
    assert in_convolutions == convolved(model)
    rest = total - in_convolutions
    rules = {b.recurrent.rule for b in model.blocks if b.recurrent is not None}
    products = ours(model, ("gemm", "attention"), "forward")
    if rules == {"mamba"}:
        read_out = sum(
            layers * BATCH * SEQ * 2 * b.recurrent.inner * b.recurrent.key_dim
            for b, layers in zip(model.blocks, model.kind_counts(), strict=True)
            if b.recurrent is not None
        )
        assert products + read_out == rest
        assert (
            ours(model, ("recurrence",), "forward") == 3.5 * read_out
        )  # 7 where 2 are of a product
        return
    scan = ours(model, ("recurrence",), "forward")
    assert products + scan + between_chunks(model) == rest


@pytest.mark.parametrize("model_type", SMALL)
def test_backward_and_recompute(model_type: str) -> None:
    """Two gradients of each product; of a scan two and half its states once more; all of it again where
    everything is recomputed."""
    model = model_from_config({"model_type": model_type, **SMALL[model_type]}, name=model_type)
    if any(block.shared for block in model.blocks):
        with pytest.raises(UnsupportedModel, match="share their weights"):
            ours(model, ("gemm",), "dgrad")
        return
    products, scan = (
        ours(model, kinds, "forward") for kinds in (("gemm", "attention"), ("recurrence",))
    )
    back = ours(model, ("gemm", "attention"), "dgrad") + ours(model, ("gemm", "attention"), "wgrad")
    assert back == 2 * products
    assert ours(model, ("recurrence",), "dgrad") == 2.5 * scan
    assert ours(model, ("recurrence",), "recompute", recompute=2) == scan
