"""TP with DP and PP on four ranks follows the loss curve of one process."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.runtime import tiny, training
from tests.runtime.listing import Key, listed

from meshwise.runtime.options import Options

SP = {"sequence_parallel": True}
EVEN = {"vocab_size": 64}  # FSDP pads rows that it cannot divide


@pytest.mark.parametrize(
    ("family", "degrees", "switches", "settings", "changes"),
    [
        ("llama", (2, 2, 1), {}, {}, {}),
        ("llama", (2, 2, 1), SP, {"microbatches": 2}, {}),
        ("llama", (2, 2, 1), {}, {"shard": "zero3"}, EVEN),
        ("llama", (2, 2, 1), SP, {"shard": "zero3", "microbatches": 2}, EVEN),
        ("qwen3_moe", (2, 2, 1), SP, {"shard": "zero3"}, EVEN),
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
    tmp_path: Path,
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
    path = tmp_path / "config.json"
    table = tiny.config(family, **changes).to_dict()
    path.write_text(json.dumps(table | {"architectures": ["CausalLM"], "dtype": "float32"}))
    tp, dp, pp = degrees
    want_calls = listed(
        str(path),
        Options(**switches),
        batch=training.BATCH,
        micro_batch=training.BATCH // dp // settings.get("microbatches", 1),
        shard=settings.get("shard", "none"),
        tp=tp,
        dp=dp,
        pp=pp,
    )
    calls = [dict(ledger) for _, ledger in found]
    first, last = calls[0], calls[-1]  # of the first and the last stage
    # listed are the layers and the head of the last stage, and the update where it takes longest
    longest = first if family == "gpt2" and pp > 1 else last  # has the learned positions
    update = {k: n for k, n in longest.items() if k[-1] == "grad_reduce"}
    performed = {k: n for k, n in last.items() if k[-1] != "grad_reduce"} | update
    assert within(performed, {"tp"}) == within(want_calls, {"tp"})
    outer = {"dp_cp", "expert_dp"}
    assert sent(performed, outer) == sent(want_calls, outer)
    if pp == 2:  # each stage sends one of the two; of more, those between send both
        assert within(first, {"pp"}) | within(last, {"pp"}) == within(want_calls, {"pp"})


def within(calls: dict[Key, int], groups: set[str]) -> dict[Key, int]:
    return {key: n for key, n in calls.items() if key[2] in groups}


def sent(calls: dict[Key, int], groups: set[str]) -> dict[tuple[str, ...], int]:
    """Bytes by name, kind, group and phase: torch cuts them into units of its own."""
    found: Counter[tuple[str, ...]] = Counter()
    for (name, kind, group, payload, phase), n in within(calls, groups).items():
        found[name, kind, group, phase] += n * payload
    return dict(found)
