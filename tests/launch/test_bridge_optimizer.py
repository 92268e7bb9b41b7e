"""The optimizer in Megatron-Bridge's overrides, both ways."""

from __future__ import annotations

import pytest

from meshwise.launch import job_of, parse, write_launch


@pytest.mark.parametrize("name", ["sgd", "muon", "lion"])
@pytest.mark.parametrize("offloaded", [None, True])
def test_the_optimizer_is_said_and_read_back(name: str, offloaded: bool | None) -> None:
    job = job_of(
        *("", "train", {"tp": 2, "dp": 4, "shard": "zero1", "sequence_parallel": True}),
        optimizer=name,
        offload_optimizer=offloaded,
        micro_batch=1,
        global_batch=32,
        seq=1024,
        dtype="bf16",
    )
    written = write_launch(job, "megatron-bridge")
    assert "optimizer" not in written.untranslated
    back = parse(written.text, "megatron-bridge").job
    assert (back.optimizer, back.offload_optimizer) == (name, offloaded)
