"""State and activations in the host's memory: what leaves the device, and what a step waits for it."""

from __future__ import annotations

import pytest

import meshwise as mw
from meshwise.clusters.load import device
from meshwise.cost.offload import HOST_ADAM_S, LINK_SHARE, host_link_bytes_per_s

WORK = mw.Training(batch=8, seq=4096, recompute="none")
LAYOUT = {"dp": 8, "shard": "zero3"}


def step(**switches: object):  # type: ignore[no-untyped-def]
    software = mw.stack("deepspeed", **switches)
    return mw.estimate("llama-3.1-8b", "hgx-h200", WORK, stack=software, **LAYOUT)  # type: ignore[arg-type]


def test_an_optimizer_on_the_host_leaves_the_device_and_takes_its_hosts_time() -> None:
    plain, away = step(), step(offload_optimizer=True)
    parts = away.memory
    assert parts["optimizer_bytes"] == parts["gradients_bytes"] == 0.0
    assert parts["weights_bytes"] == plain.memory["weights_bytes"]
    weights = plain.memory["weights_bytes"] / 2  # of a rank
    link = host_link_bytes_per_s(device("h200"))
    waits = weights * (8 * HOST_ADAM_S + (2 + 2) / link)
    here = plain.compute_s - away.compute_s  # the pass that is not made
    assert here > 0
    assert away.host_s - plain.host_s == pytest.approx(waits, rel=0.05)


def test_activations_on_the_host_show_only_where_the_link_is_slower_than_the_passes() -> None:
    plain, some, every = step(), step(offload_layers=4), step(offload_layers=1 << 20)
    kept = [e.memory["activations_bytes"] for e in (plain, some, every)]
    assert kept[0] > kept[1] > kept[2]
    assert some.step_s == pytest.approx(plain.step_s, rel=0.01)
    assert every.step_s >= some.step_s
    layers = kept[0] * 4 / 32
    assert kept[0] - kept[1] == pytest.approx(layers, rel=0.6)  # less two layers on their way


def test_full_recomputation_of_some_layers_lies_between_none_and_all() -> None:
    def found(layers: int, mode: str = "full"):  # type: ignore[no-untyped-def]
        work = mw.Training(batch=8, seq=4096, recompute=mode)
        software = mw.stack("megatron-core", recompute_layers=layers)
        return mw.estimate("llama-3.1-8b", "hgx-h200", work, stack=software, dp=8)

    none, half, whole = found(1, "none"), found(16), found(1 << 20)
    assert none.step_s < half.step_s < whole.step_s
    assert half.step_s == pytest.approx((none.step_s + whole.step_s) / 2, rel=0.02)
    assert none.memory_bytes > half.memory_bytes > whole.memory_bytes
    assert found(32).step_s == whole.step_s


@pytest.mark.parametrize(
    ("kind", "per_weight"),
    [("adam", 12), ("muon", 8), ("lion", 8), ("sgd", 8), ("adafactor", 4)],
)
def test_what_an_optimizer_keeps_per_weight(kind: str, per_weight: int) -> None:
    own, adam = (step(optimizer=k).memory["optimizer_bytes"] for k in (kind, "adam"))
    assert own / adam == pytest.approx(per_weight / 12)
    without = step(optimizer=kind, master_weights=False).memory["optimizer_bytes"]
    assert without == pytest.approx(own * (per_weight - 4) / per_weight)


def test_links_are_those_of_the_generation_or_of_the_superchip() -> None:
    assert host_link_bytes_per_s(device("a100-80gb-sxm")) == pytest.approx(LINK_SHARE * 31.5e9)
    assert host_link_bytes_per_s(device("h100-80gb-sxm")) == pytest.approx(LINK_SHARE * 63e9)
    assert host_link_bytes_per_s(device("gb200")) == pytest.approx(LINK_SHARE * 225e9)


def test_cuda_graphs_take_the_host_out_of_small_steps() -> None:
    def small(**switches: object) -> float:
        software = mw.stack("megatron-core", **switches)
        work = mw.Training(batch=1, seq=128)
        return mw.estimate("gpt2", "hgx-h100", work, stack=software).step_s

    assert small(cuda_graphs=True) < 0.7 * small()


def test_what_tools_show_is_more_than_what_is_allocated() -> None:
    e = step()
    assert e.memory_bytes < e.reserved_bytes < e.device_bytes
    served = mw.estimate("gpt2", "hgx-h100", mw.Decode(batch=1, context=512))
    assert served.reserved_bytes == served.device_bytes == served.memory_bytes
