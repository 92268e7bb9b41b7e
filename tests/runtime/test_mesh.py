"""TP with DP and PP on four ranks follows the loss curve of one process."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime import training

SP = {"sequence_parallel": True}


@pytest.mark.parametrize(
    ("family", "degrees", "switches", "settings", "changes"),
    [
        ("llama", (2, 2, 1), {}, {}, {}),
        ("llama", (2, 2, 1), SP, {"microbatches": 2}, {}),
        ("llama", (2, 2, 1), {}, {"shard": "zero3"}, {}),
        ("llama", (2, 2, 1), SP, {"shard": "zero3", "microbatches": 2}, {}),
        ("qwen3_moe", (2, 2, 1), SP, {}, {}),
        ("llama", (2, 1, 2), {}, {"microbatches": 4}, {}),
        ("llama", (2, 1, 2), SP, {"microbatches": 4}, {}),
        ("llama", (2, 1, 2), {}, {"microbatches": 2, "schedule": "gpipe"}, {}),
        ("gpt2", (2, 1, 2), SP, {"microbatches": 2}, {}),
        ("opt", (2, 1, 2), {}, {"microbatches": 2}, {}),
        ("gemma2", (2, 1, 2), {}, {"microbatches": 2}, {}),
        ("qwen3_moe", (2, 1, 2), {}, {"microbatches": 2}, {}),
        ("llama", (1, 2, 2), {}, {"microbatches": 2}, {}),
        ("llama", (1, 1, 4), {}, {"microbatches": 4}, {"num_hidden_layers": 4}),
        ("llama", (1, 4, 1), {}, {}, {}),
    ],
)
def test_loss_curve(
    crew: Any,
    family: str,
    degrees: tuple[int, int, int],
    switches: dict[str, Any],
    settings: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    want = training.alone(family, **changes)
    assert want[-1] != want[0]  # it learns
    found = crew.run(training.together, family, degrees, switches, settings, changes)
    curves = [losses for losses, _ in found if losses[0] is not None]
    assert len(curves) == 4 // degrees[2]  # the ranks of the last stage
    for losses in curves:
        assert losses == pytest.approx(want, rel=1e-6)
