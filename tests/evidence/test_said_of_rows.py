"""What a row says of its hardware, its layout and its software is read, said or refused; never passed over."""

from __future__ import annotations

import pytest
from rows_of_tables import DATA_PARALLEL, TRAINING, outcome

from meshwise.evidence.score.result import Result

COLLECTIVE = {
    "id": "c/1",
    "op": "all_reduce",
    "device": "h100-80gb-sxm",
    "ranks": "16",
    "bytes": "1073741824",
    "time_us": "9000",
    "inter_node": "InfiniBand NDR 8x400 Gb/s per node",
    "library": "nccl",
}
CARDS = {
    **DATA_PARALLEL,
    "model": "llama-2-7b",
    "device": "rtx-4090",
    "devices": "4",
    "devices_per_node": "4",
    "sequence_parallel": "",
    "tp": "1",
    "dp": "4",
    "shard": "zero3",
    "intra_node": "",
    "stack": "deepspeed",
    "step_s": "30",
}


def of(cells: dict[str, str]) -> Result:
    (found,) = outcome(cells)
    return found


def assumed(cells: dict[str, str]) -> dict[str, str]:
    return {a.field: a.value for a in of(cells).assumed}


@pytest.mark.parametrize("said", [{"nodes": "2"}, {"devices_per_node": "8"}])
def test_nodes_or_devices_per_node_are_enough(said: dict[str, str]) -> None:
    both = of(COLLECTIVE | {"nodes": "2", "devices_per_node": "8"})
    assert of(COLLECTIVE | said).predicted == both.predicted


@pytest.mark.parametrize(
    ("said", "column"),
    [
        ({"nodes": "3"}, "nodes"),
        ({"nodes": "4", "devices_per_node": "8"}, "ranks"),
        ({"ranks": "1"}, "ranks"),
    ],
)
def test_hardware_that_contradicts_itself_is_refused(said: dict[str, str], column: str) -> None:
    found = of(COLLECTIVE | said)
    assert (found.status, f"column {column}" in found.reason) == ("invalid", True)


def test_a_card_without_peer_access_has_none_in_any_host() -> None:
    plain = of(CARDS).predicted
    assert of(CARDS | {"intra_node": "pcie4"}).predicted == plain
    # but where the row says so itself, of a device and of a node alike
    switch = of(CARDS | {"pcie_host": "switch"}).predicted
    assert switch is not None and plain is not None and switch < plain
    assert of(CARDS | {"device": "rtx-4090-4x", "pcie_host": "switch"}).predicted == switch


def test_a_host_of_cards_on_a_device_without_them_is_refused() -> None:
    found = of(DATA_PARALLEL | {"pcie_host": "switch"})
    assert (found.status, "no level" in found.reason) == ("invalid", True)


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ({"dispatcher": "deepep"}, "dispatcher"),
        ({"recompute": "selective", "recompute_modules": "moe_act"}, "moe_act"),
        ({"recompute": "selective", "recompute_modules": "mla_up_proj"}, "mla_up_proj"),
    ],
)
def test_parts_that_a_dense_model_does_not_have_are_refused(
    said: dict[str, str], part: str
) -> None:
    found = of(DATA_PARALLEL | {"stack": "megatron-core"} | said)
    assert (found.status, part in found.reason, "has no" in found.reason) == ("invalid", True, True)


@pytest.mark.parametrize(
    "said",
    [{"vp": "5", "pp": "8"}, {"vp": "2", "schedule": "gpipe"}],  # 96 layers in 40 chunks; never interleaved
)  # fmt: skip
def test_a_layout_that_breaks_a_rule_is_priced_and_said(said: dict[str, str]) -> None:
    assert "layout" in assumed(TRAINING | said)
    assert "layout" not in assumed(TRAINING | {"vp": "2"})


def test_software_that_a_command_takes_otherwise_is_said() -> None:
    row = DATA_PARALLEL | {"stack": "torchtitan-2025"}
    assert assumed(row)["software"] == "torchtitan-eager"
    assert "software" not in assumed(row | {"stack": "torchtitan-2025-compile"})


def test_a_layer_quicker_than_its_products_is_suspect() -> None:
    row = {
        "id": "l/1",
        "model": "llama-3-70b",
        "device": "h100-80gb-sxm",
        "devices": "8",
        "tp": "8",
        "micro_batch": "1",
        "seq": "8192",
        "dtype": "bf16",
        "stack": "megatron-core",
        "forward_ms": "6",
    }
    assert of(row).status == "ok"
    assert of(row | {"forward_ms": "1.8"}).status == "suspect"  # 1.9 ms at the datasheet's peak
