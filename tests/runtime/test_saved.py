"""What a layer keeps for its backward is what the memory model says, and falls by as much under sequence
parallelism."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.runtime import saved, tiny

from meshwise import api
from meshwise.workloads.workload import Formats, Training

WIDE = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "attention_bias": False,
    "max_position_embeddings": 128,
}


def predicted(path: Path, tp: int, sequence_parallel: bool, layers: int) -> float:
    table = tiny.config("llama", **WIDE, num_hidden_layers=layers).to_dict()
    path.write_text(json.dumps(table | {"architectures": ["LlamaForCausalLM"]}))
    batch, seq = saved.SHAPE
    formats = Formats(dtype="fp32", gradients="fp32")
    work = Training(batch=batch, seq=seq, micro_batch=batch, formats=formats)
    found = api.estimate(
        str(path),
        "this-cpu",
        work,
        stack="meshwise",
        tp=tp,
        sequence_parallel=sequence_parallel,
    )
    bytes_: float = found.to_dict()["memory"]["activations_bytes"]
    return bytes_


@pytest.mark.parametrize(
    ("tp", "sequence_parallel"), [(1, False), (2, False), (2, True), (4, False), (4, True)]
)
def test_a_layer_keeps_what_was_predicted(
    crew: Any, tmp_path: Path, tp: int, sequence_parallel: bool
) -> None:
    two, four = (
        max(crew.run(saved.kept, WIDE, tp, sequence_parallel, layers)) for layers in (2, 4)
    )
    path = tmp_path / "config.json"
    want = [predicted(path, tp, sequence_parallel, layers) for layers in (4, 2)]
    assert (four - two) / (want[0] - want[1]) == pytest.approx(1.0, abs=0.06)
