"""Every row of the reference note (C1-C38): the note's figure under its assumptions, and the right one.

The rows are computed by ``examples/the_note.py``; here stands what each must come to. Figures of
the note are matched within its own rounding, closed forms exactly.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "the_note.py"


@cache
def note() -> ModuleType:
    spec = importlib.util.spec_from_file_location("the_note", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["the_note"] = module
    spec.loader.exec_module(module)
    return module


@cache
def row(name: str):  # type: ignore[no-untyped-def]
    return note().ROWS[name]()


EXACT = 1e-12
# (row, "note" or "right", key, expected, relative tolerance)
FIGURES = [
    ("C1", "right", "count", 2, EXACT),
    ("C2", "right", "count", 2, EXACT),
    ("C2", "right", "at_column_parallel_inputs", 2, EXACT),
    ("C3", "right", "none", 4, EXACT),
    ("C3", "right", "selective", 4, EXACT),
    ("C3", "right", "full", 6, EXACT),
    ("C3", "right", "full_early_stop", 5, EXACT),
    ("C4", "right", "bytes", 1_610_612_736, EXACT),
    ("C5", "right", "forward_bytes", 3_221_225_472, EXACT),
    ("C5", "right", "backward_bytes", 3_221_225_472, EXACT),
    ("C5", "right", "total_bytes", 6_442_450_944, EXACT),
    ("C6", "right", "bytes", 2 * 7 / 8 * 1_610_612_736, EXACT),
    ("C7", "right", "steps", 14, 1e-6),
    ("C8", "note", "time_ms", 4.67, 0.001),
    ("C8", "right", "ideal_ms", 9.40, 0.001),
    ("C8", "right", "at_235_gb_per_s_ms", 12.0, 0.002),
    ("C9", "note", "time_ms", 112, 0.001),
    ("C10", "note", "n2_ms", 2.67, 0.002),
    ("C10", "note", "n4_ms", 4.00, 0.001),
    ("C10", "note", "n8_ms", 4.67, 0.001),
    ("C10", "note", "n16_ms", 5.00, 0.001),
    ("C10", "right", "n8_ms", 9.40, 0.001),
    ("C11", "right", "nvlink3", 300, EXACT),
    ("C11", "right", "nvlink4", 450, EXACT),
    ("C11", "right", "pcie4", 31.5, 0.02),
    ("C11", "right", "ib_hdr", 25, EXACT),
    ("C11", "right", "ethernet_100", 12.5, EXACT),
    ("C12", "right", "nvlink3", 16, 0.01),
    ("C12", "right", "nvlink4_h100", 29, 0.01),
    ("C12", "right", "nvlink4_h100_at_60_percent", 23, 0.02),
    ("C13", "note", "compute_ms", 97.8, 0.001),
    ("C13", "note", "comm_ms", 9.34, 0.007),
    ("C13", "note", "share", 8.5, 0.04),
    ("C13", "right", "forward_share", 16, 0.01),
    ("C13", "right", "training_share", 11.4, 0.005),
    ("C13", "right", "flops_forward", 24 * 32 * 2048 * 12288**2 + 4 * 32 * 2048**2 * 12288, EXACT),
    ("C14", "note", "efficiency_tp2", 95, 0.005),
    ("C14", "note", "efficiency_tp4", 93, 0.006),
    ("C14", "note", "efficiency_tp8", 91, 0.006),
    ("C14", "right", "share_tp2", 1.9, 0.01),
    ("C14", "right", "share_tp4", 5.5, 0.01),
    ("C14", "right", "share_tp8", 11.9, 0.002),
    ("C15", "note", "one_nic_across_ms", 64.4, 0.001),
    ("C15", "note", "one_nic_hierarchical_ms", 64.4 + 9.4, 0.001),
    ("C15", "note", "one_nic_ring_ms", 121, 0.003),
    ("C15", "right", "ring_ms", 15.1, 0.001),
    ("C15", "right", "hierarchical_ms", 17.4, 0.004),
    ("C15", "right", "ring_bytes_leaving_node", 1.875, EXACT),
    ("C15", "right", "hierarchical_bytes_leaving_node", 1.0, EXACT),
    ("C16", "note", "speedup", 1.78, 0.002),
    ("C16", "note", "efficiency", 11, 0.02),
    ("C16", "right", "tp8_ms", 117, 0.005),
    ("C16", "right", "tp16_ms", 79, 0.005),
    ("C16", "right", "speedup_8_to_16", 1.47, 0.005),
    ("C16", "right", "efficiency_tp8", 84, 0.005),
    ("C16", "right", "efficiency_tp16", 62, 0.006),
    ("C17", "right", "ratio", 12, EXACT),
    ("C19", "right", "gpus_of_third", 128, EXACT),
    ("C19", "right", "third_refused_on_64", 1, EXACT),
    ("C21", "right", "flops", 24 * 32 * 2048 * 12288**2 + 4 * 32 * 2048**2 * 12288, EXACT),
    ("C22", "right", "time_ms", 18.79, 0.001),
    ("C23", "note", "ccr", 1.4e7, 0.02),
    ("C23", "right", "ccr_tp2", 36, 0.02),
    ("C23", "right", "ccr_tp4", 12, 0.02),
    ("C23", "right", "ccr_tp8", 5.2, 0.005),
    ("C23", "right", "ccr_tp16", 2.4, 0.02),
    ("C23", "right", "training_over_forward", 1.5, 1e-9),
    ("C23", "right", "full_recompute_over_forward", 4 / 3, 1e-9),
    ("C24", "right", "limit", 8, EXACT),
    ("C24", "right", "marginal_4_to_8", 0.91, 0.005),
    ("C24", "right", "marginal_8_to_16", 0.74, 0.006),
    ("C24", "right", "all_nvlink_forward_comm_share_tp16", 29, 0.01),
    ("C24", "right", "all_nvlink_training_comm_share_tp16", 22, 0.03),
    ("C27", "right", "ratio", 0.5, EXACT),
    ("C28", "right", "forward_wire_ratio", 1.0, 1e-9),
    ("C28", "right", "training_all_reduce_equivalents", 5, EXACT),
    ("C28", "right", "training_all_reduces_without", 4, EXACT),
    ("C29", "right", "published_hfu", 45, 0.005),
    ("C29", "right", "published_mfu", 33.7, 0.002),
    ("C36", "right", "state_gb_at_tp8", 350, 0.01),
    ("C36", "right", "fits", 0, EXACT),
    ("C38", "right", "kv_cache_tp16_over_tp8", 1.0, EXACT),
    ("C38", "right", "most_without_copies", 8, EXACT),
]


@pytest.mark.parametrize(("name", "side", "key", "expected", "rel"), FIGURES)
def test_figure(name: str, side: str, key: str, expected: float, rel: float) -> None:
    found = getattr(row(name), side)[key]
    assert found == pytest.approx(expected, rel=rel, abs=EXACT)


def test_every_row_is_computed() -> None:
    assert list(note().ROWS) == [f"C{i}" for i in range(1, 39)]
    for name in note().ROWS:
        assert row(name).right, name


def test_c15_range_holds_the_one_nic_times() -> None:
    found = row("C15").note
    assert 50 <= found["one_nic_across_ms"] <= 80
    assert 50 <= found["one_nic_hierarchical_ms"] <= 80


def test_c16_one_nic_makes_sixteen_slower_than_eight() -> None:
    assert row("C16").right["one_nic_tp16_over_tp8"] > 1


def test_c18_to_c20_and_c33_rank_layouts() -> None:
    assert row("C20").right["tp8_pp8_step_s"] < row("C20").right["tp32_pp2_step_s"]
    c33 = row("C33").right
    assert c33["tp8_pp8_step_s"] < c33["tp16_pp4_step_s"]
    assert all(v > 0 for v in row("C18").right.values())


def test_c25_a_rack_scale_domain_moves_the_boundary() -> None:
    c25 = row("C25").right
    assert c25["fastest_8_gpu_nodes"] == 8
    assert c25["fastest_nvl72"] > 8
    assert c25["gain"] > 1


def test_c26_nothing_hides_without_overlap_and_most_does_with_it() -> None:
    c26 = row("C26").right
    assert c26["hidden_none"] == 0
    assert 50 < c26["hidden_decomposed"] < 100
    assert 50 < c26["hidden_split"] < 100


def test_c28_saves_memory() -> None:
    assert row("C28").right["memory_ratio"] < 1


def test_c29_prediction_beside_the_published_row() -> None:
    """140 TFLOP/s per GPU published; one of the many runs that ``jitter`` is fitted to."""
    assert row("C29").right["predicted_tflops"] == pytest.approx(140, rel=0.10)


def test_c30_bigger_models_scale_better() -> None:
    found = row("C30").right
    inside = [v for k, v in found.items() if "in_node" in k]
    across = [v for k, v in found.items() if "across" in k]
    assert inside == sorted(inside)
    assert across == sorted(across)
    assert all(a < i for a, i in zip(across, inside, strict=True))


def test_c31_latency_wants_the_whole_node() -> None:
    assert row("C31").right["fastest"] == 8


def test_c32_pcie_and_small_models_lose() -> None:
    c32 = row("C32").right
    assert c32["pcie_tp4"] < c32["nvlink_tp4"]
    assert c32["small_model_nvlink_tp4"] < c32["nvlink_tp4"]


def test_c34_every_axis_has_its_row() -> None:
    assert set(row("C34").right) == {
        f"{a}_wire_bytes" for a in ("tp", "ep", "dp", "expert_dp", "pp")
    }


def test_c35_flows_share_the_nic() -> None:
    c35 = row("C35").right
    assert c35["flows_per_nic"] == 1
    assert c35["flows_per_nic_one_nic"] == 8
    assert c35["dp_time_ratio"] == pytest.approx(8, rel=0.05)


def test_c37_decode_is_not_the_rings_regime() -> None:
    assert row("C37").right["payload_kib"] == 512
    assert "two_shot" in row("C37").why or "one_shot" in row("C37").why


def test_a_layers_figures_add_up() -> None:
    """C5, C13: compute + exposed = forward + backward; bytes on the wire are the ring's."""
    for tp, p in note().training(note().dgx()).items():
        lay = p.layer
        assert lay.compute_s + lay.exposed_comm_s == pytest.approx(lay.forward_s + lay.backward_s)
        assert lay.comm_s == pytest.approx(lay.forward_comm_s + lay.backward_comm_s)
        payload = lay.forward_payload_bytes + lay.backward_payload_bytes
        assert sum(lay.wire_bytes) == pytest.approx(2 * (tp - 1) / tp * payload)
        assert (lay.ccr is None) == (tp == 1)
