"""Split models compute what whole ones do: logits, loss, every gradient, an SGD step, greedy tokens."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime import exact, tiny
from tests.runtime.covering import pairwise

LIMITS = {"float32": 1e-5, "float64": 1e-10}
EXACT = pairwise(
    {
        "sequence_parallel": [False, True],
        "overlap": ["none", "wgrad", "split", "decomposed"],
        "algorithm": ["backend", "ring", "hierarchical", "shared_memory"],
        "chunks": [2, 3],
    }
)


def held(crew: Any, cases: list[tuple[Any, ...]]) -> None:
    """Every case on every rank, its errors below the limit of its type."""
    wrong = []
    for family, tp, switches, dtype in cases:
        for rank, found in enumerate(crew.run(exact.compare, family, tp, switches, dtype, {})):
            errors = {k: found[k] for k in ("logits", "loss", "gradients", "weights")}
            if max(errors.values()) > LIMITS[dtype] or not found["tokens"]:
                wrong.append((family, tp, switches, dtype, rank, found))
    assert not wrong


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_every_degree_in_fp64(crew: Any, family: str) -> None:
    held(crew, [(family, tp, {}, "float64") for tp in (1, 2, 4)])


@pytest.mark.parametrize("family", tiny.CONFIGS)
def test_pairs_of_options_in_fp32(crew: Any, family: str) -> None:
    """All combinations over two families that follow each other; each alternates the degrees."""
    start = list(tiny.CONFIGS).index(family) % 2
    held(crew, [(family, (2, 4)[i // 2 % 2], o, "float32") for i, o in enumerate(EXACT[start::2])])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize("overlap", ["split", "decomposed"])
def test_overlap_and_sequence_parallelism_in_fp64(crew: Any, family: str, overlap: str) -> None:
    switches = {"sequence_parallel": True, "overlap": overlap}
    held(crew, [(family, tp, switches, "float64") for tp in (2, 4)])
