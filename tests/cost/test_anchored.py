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
    found = anchored.fit_factors(anchored.price_on(op, SIZES, f), truth, ranks > 8)
    rest = anchored.price_on(op, REST, f)
    off = anchored.anchored_s(rest, found) / rest(latency, bandwidth) - 1
    # the priors pull, and far from the measured sizes some of a factor may have been the form's error
    assert np.max(np.abs(off)) < 0.2
    assert np.median(np.abs(off)) < 0.1
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
    few = anchored.fit_factors(price, 3.0 * price(1.0, 1.0), across=True)
    assert few.latency > 2.0
    assert few.bandwidth == pytest.approx(1.0, abs=0.05)  # nothing told
    both = anchored.price_on("all_reduce", np.array([8192.0, 8e9]), f)
    small, large = anchored.anchored_sd(both, few)
    assert small < large
    assert large > 0.9 * np.hypot(anchored.BANDWIDTH_SD, anchored.FORM_SD_ACROSS)
    four = anchored.price_on("all_reduce", SIZES, f)
    known = anchored.fit_factors(four, four(3.0, 1.0), across=True)
    assert np.all(anchored.anchored_sd(both, known) <= [1.001 * small, large])


@pytest.mark.parametrize("across", [True, False])
def test_a_measured_size_is_answered_as_measured_and_its_neighbours_are_near(across: bool) -> None:
    """What no two factors can say (a slow middle) is taken over, and fades with the distance."""
    f = fabric("hgx-h100", 16 if across else 8)
    four = anchored.price_on("all_reduce", SIZES, f)
    slow = np.array([1.0, 1.0, 1.3, 1.0])
    found = anchored.fit_factors(four, four(1.2, 0.9) * slow, across)
    assert anchored.anchored_s(four, found) == pytest.approx(four(1.2, 0.9) * slow, rel=0.06)
    beside = anchored.price_on("all_reduce", SIZES[2] * np.array([1.0, 2.0, 4.0, 2.0**30]), f)
    at, near, further, far = anchored.left_over(beside.payload, found)
    assert at > near > further > 1.0
    assert far == pytest.approx(1.0, abs=0.01)
    assert np.all(np.diff(anchored.anchored_sd(beside, found)[:3]) > 0.0)


def test_the_interval_is_narrowest_at_the_measured_sizes() -> None:
    f = fabric("hgx-h100", 16)
    four = anchored.price_on("all_reduce", SIZES, f)
    found = anchored.fit_factors(four, four(1.2, 0.9), across=True)
    between = anchored.price_on("all_reduce", np.sqrt(SIZES[1:] * SIZES[:-1]), f)
    assert np.all(anchored.anchored_sd(four, found)[:3] < anchored.anchored_sd(between, found))
    assert np.all(anchored.anchored_sd(four, found)[1:] < anchored.anchored_sd(between, found))


@pytest.mark.parametrize("which", range(7))
def test_one_hiccup_is_not_the_system(which: int) -> None:
    f = fabric("hgx-h100", 16)
    sizes = np.array([1e3, 8e3, 64e3, 1e6, 8e6, 64e6, 1e9])
    price = anchored.price_on("all_reduce", sizes, f)
    measured = price(1.5, 0.9).copy()
    measured[which] *= 10.0
    found = anchored.fit_factors(price, measured, across=True)
    others = np.arange(len(sizes)) != which
    off = anchored.anchored_s(price, found)[others] / price(1.5, 0.9)[others] - 1.0
    assert np.max(np.abs(off)) < 0.1
