"""On whose kernels the versions of an engine run experts in FP8 with a scale per block."""

from __future__ import annotations

import numpy as np
import pytest

import meshwise as mw
from meshwise.cost.kernels.asked import over_held
from meshwise.program.operations import Kernel, Operands, gemm

FP8 = Operands("fp8_block", 1.0, 1.0, 2.0)


def experts_s(engine: str, batch: int, tp: int, on: str = "hgx-h200") -> float:
    """Seconds of the experts' products of a layer's decode."""
    from meshwise.layouts.layout import Layout, arrays
    from meshwise.simulate.iteration import Engine, shared_kinds_s

    model, cluster = mw.model("qwen3-235b-a22b-fp8"), mw.cluster(on)
    engine_ = Engine(model, cluster, mw.stack(engine), arrays(Layout(tp=tp)), mw.Formats())
    return float(shared_kinds_s(engine_.decode(np.int64(batch), 1000))[0])


def test_deep_gemm_reads_every_expert_of_the_rank_whatever_the_tokens_choose() -> None:
    """vLLM 0.12 on Hopper; its Triton kernels read the chosen ones alone."""
    deep = [experts_s("vllm@0.12", batch, 2) for batch in (2, 64)]
    triton = [experts_s("vllm@0.18", batch, 2) for batch in (2, 64)]
    assert deep[0] == pytest.approx(deep[1], rel=0.1)
    assert triton[1] > 3 * triton[0]
    assert deep[0] > 4 * triton[0]


def test_deep_gemm_is_for_experts_split_over_fewer_ranks_than_eight() -> None:
    """0.12 and later; 0.11.2 has no such rule, 0.11.0 narrow rows on Triton."""
    assert experts_s("vllm@0.12", 4, 8) == experts_s("vllm@0.18", 4, 8)
    assert experts_s("vllm@0.11.2", 4, 8) > experts_s("vllm@0.18", 4, 8)
    assert experts_s("vllm@0.11.0", 4, 4) == experts_s("vllm@0.18", 4, 4)


def test_cutlass_of_two_releases_is_tensorrt_llms_on_hopper_alone() -> None:
    own, cutlass, lent = (experts_s(e, 4, 4) for e in ("vllm@0.17", "vllm@0.16", "trtllm"))
    assert cutlass == lent
    assert cutlass > own
    assert experts_s("vllm@0.16", 4, 4, "hgx-b200") == experts_s("vllm@0.17", 4, 4, "hgx-b200")


def test_blocks_of_every_expert_are_as_many_rows_and_more_bytes() -> None:
    op = gemm("moe.experts.up", 2.0, 1536, 4096, FP8, batch=10.0)
    op = op._replace(kernel=Kernel.EXPERTS, held=128)
    spread = over_held(op)
    assert spread.m * spread.batch == op.m * op.batch
    assert spread.batch == 128
    assert spread.hbm_bytes - op.hbm_bytes == 118 * 1536 * 4096
