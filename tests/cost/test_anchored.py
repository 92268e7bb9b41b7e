"""Two factors from measured sizes of one's own: they find a known system, and know what they leave open."""

from __future__ import annotations

import numpy as np
import pytest

from meshwise.clusters.load import load_cluster
from meshwise.cost.collectives.anchors import factors as anchored
from meshwise.cost.collectives.collective import cheapest, fabric_of
from meshwise.cost.collectives.fabric import Fabric
from meshwise.layouts.placement import place
from meshwise.stacks.load import load_stack

SIZES = np.array([8 << 10, 1 << 20, 32 << 20, 1 << 30], dtype=float)
REST = np.array([256.0, 65536.0, 4e6, 2e8, 8e9])
WHERE = [("hgx-h100", 8), ("hgx-h100", 16), ("l40s-8x", 8), ("rtx-4090-4x", 4), ("oci-mi300x", 16)]


def fabric(name: str, ranks: int, op: str = "all_reduce") -> Fabric:
    cluster = load_cluster(name)
    group = place("tp", np.int64(ranks), np.int64(1), np.int64(0), cluster)
    return fabric_of(op, group, cluster, load_stack("nccl"))


@pytest.mark.parametrize("name, ranks", WHERE)
@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "all_to_all", "scatter"])
@pytest.mark.parametrize("latency, bandwidth", [(1.0, 1.0), (2.5, 0.8), (0.6, 1.3)])
def test_a_system_is_found_again(
    name: str, ranks: int, op: str, latency: float, bandwidth: float
) -> None:
    f = fabric(name, ranks, op)
    truth = anchored.price_on(op, SIZES, f)(latency, bandwidth)
    found = anchored.fit_factors(anchored.price_on(op, SIZES, f), truth)
    rest = anchored.price_on(op, REST, f)
    off = rest(found.latency, found.bandwidth) / rest(latency, bandwidth) - 1
    assert np.max(np.abs(off)) < 0.1  # the priors pull a little
    plain = np.abs(rest(1.0, 1.0) / rest(latency, bandwidth) - 1)
    assert (latency, bandwidth) == (1.0, 1.0) or np.median(np.abs(off)) < np.median(plain)


def test_no_factor_is_the_model() -> None:
    cluster = load_cluster("hgx-h100")
    group = place("tp", np.int64(16), np.int64(1), np.int64(0), cluster)
    price = anchored.price_on("all_reduce", SIZES, fabric("hgx-h100", 16))
    plain = cheapest("all_reduce", SIZES, group, cluster, load_stack("nccl")).seconds
    assert price(1.0, 1.0) == pytest.approx(plain)


@pytest.mark.parametrize("name, ranks", WHERE)
def test_factors_do_what_they_are_called(name: str, ranks: int) -> None:
    price = anchored.price_on("all_reduce", np.array([8.0, 32e9]), fabric(name, ranks))
    small, large = price(2.0, 1.0) / price(1.0, 1.0)
    assert small == pytest.approx(2.0, rel=0.02)
    assert large < 1.05
    small, large = price(1.0, 2.0) / price(1.0, 1.0)
    assert small > 0.98
    assert large == pytest.approx(0.5, rel=0.05)


def test_what_is_not_measured_stays_open() -> None:
    f = fabric("hgx-h100", 16)
    price = anchored.price_on("all_reduce", SIZES[:1], f)
    few = anchored.fit_factors(price, 3.0 * price(1.0, 1.0))
    assert few.latency > 2.0
    assert few.bandwidth == pytest.approx(1.0, abs=0.05)  # nothing told
    both = anchored.price_on("all_reduce", np.array([8192.0, 8e9]), f)
    small, large = anchored.anchored_sd(both, few, across=True)
    assert small < large
    assert large > 0.9 * np.hypot(anchored.BANDWIDTH_SD, anchored.FORM_SD_ACROSS)
    four = anchored.price_on("all_reduce", SIZES, f)
    known = anchored.fit_factors(four, four(3.0, 1.0))
    assert np.all(anchored.anchored_sd(both, known, across=True) <= [small, large])


def test_one_hiccup_is_not_the_system() -> None:
    f = fabric("hgx-h100", 16)
    sizes = np.array([1e3, 8e3, 64e3, 1e6, 8e6, 64e6, 1e9])
    price = anchored.price_on("all_reduce", sizes, f)
    measured = price(1.5, 0.9)
    measured[2] *= 10.0
    found = anchored.fit_factors(price, measured)
    assert found.latency == pytest.approx(1.5, rel=0.1)
    assert found.bandwidth == pytest.approx(0.9, rel=0.05)
