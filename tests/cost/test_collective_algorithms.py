"""The registry of collective algorithms: constants, candidates and names are its own."""

from __future__ import annotations

import numpy as np
import pytest

from meshwise import catalog
from meshwise.clusters.load import load_cluster
from meshwise.cost.collectives.algorithms import COLLECTIVE_ALGORITHMS, OPS
from meshwise.cost.collectives.collective import candidates
from meshwise.cost.collectives.fits import constants
from meshwise.layouts.placement import place
from meshwise.stacks.load import load_stack


@pytest.mark.parametrize("name", catalog.names("collectives"))
def test_every_table_of_constants_is_a_registered_algorithms(name: str) -> None:
    table = catalog.load("collectives", name, "collectives")[1]
    for library, ops in table.items():
        if not isinstance(ops, dict) or library in ("hop_s", "spread"):  # of networks
            continue
        for key, entry in ops.items():
            if not isinstance(entry, dict):
                continue
            if key in COLLECTIVE_ALGORITHMS:  # of all operations that it runs
                assert library == "nccl"
                continue
            assert key in OPS, f"{name}: [{library}.{key}]"
            for algorithm in entry:
                if algorithm not in ("fit", "fallback"):
                    assert key in COLLECTIVE_ALGORITHMS[algorithm].operations, algorithm


@pytest.mark.parametrize("stack", ["ideal", "megatron-core", "vllm"])
@pytest.mark.parametrize("op", OPS)
def test_every_operation_has_an_algorithm_and_candidates_bear_their_names(
    op: str, stack: str
) -> None:
    cluster = load_cluster("hgx-h100")
    group = place("tp", np.int64(8), np.int64(1), np.int64(0), cluster)
    found = candidates(op, np.float64(1e6), group, cluster, load_stack(stack))
    names = [c.algorithm.partition("/")[0] for c in found]
    assert names
    assert all(op in COLLECTIVE_ALGORITHMS[name].operations for name in names)
    order = [list(COLLECTIVE_ALGORITHMS).index(name) for name in names]
    assert order == sorted(order)


def test_the_ideal_stack_has_the_bandwidth_optimal_ones_only() -> None:
    level = load_cluster("dgx-a100").levels[0]
    ideal = {name for name, a in COLLECTIVE_ALGORITHMS.items() if a.ideal}
    assert set(constants(level, "all_reduce", "nccl", True).algorithms) == ideal


def test_a_line_names_registered_algorithms_and_says_where_its_fit_begins() -> None:
    for line in COLLECTIVE_ALGORITHMS.values():
        assert line.like is None or line.like in COLLECTIVE_ALGORITHMS
        assert line.kernel_of in (None, "nccl", "engine")
        assert (line.kernel_of is None) == (line.start is None)
