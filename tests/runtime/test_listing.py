"""Every collective of a training step, counted, is the list that ``explain`` prints: names, kinds, groups,
bytes, phases and calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.deep import deep_but
from tests.runtime import exact, tiny
from tests.runtime.listing import listed

from meshwise.runtime.options import Options

SWITCHES: list[dict[str, Any]] = [
    {},
    {"sequence_parallel": True},
    {"overlap": "split"},
    {"overlap": "decomposed", "sequence_parallel": True},
    {"comm_dtype": "int8"},
    {"comm_dtype": "e4m3", "sequence_parallel": True},
    {"comm_dtype": "bf16", "overlap": "decomposed"},
]


@pytest.mark.parametrize("family", deep_but(("gpt2", "llama", "mixtral"), tiny.CONFIGS))
def test_the_ledger_is_the_list(crew: Any, tmp_path: Path, family: str) -> None:
    table = tiny.config(family).to_dict() | {"architectures": ["CausalLM"], "dtype": "float32"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(table))
    for number, switches in enumerate(SWITCHES):
        for tp in (2, 4) if number < 2 else ((2, 4)[number % 2],):
            want = listed(str(path), Options(**switches), tp=tp)
            for found in crew.run(exact.compare, family, tp, switches, "float32", {}):
                assert dict(found["calls"]) == want, (tp, switches)
