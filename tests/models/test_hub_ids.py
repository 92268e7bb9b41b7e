"""The hub's ids of presets name the preset that they belong to."""

from __future__ import annotations

import json

from meshwise import catalog
from meshwise.models.names import hub_id, named_model


def test_every_id_is_its_presets() -> None:
    table = json.loads((catalog.ROOT / "hub_ids.json").read_text(encoding="utf-8"))
    assert set(table) <= set(catalog.names("models"))
    assert len(set(table.values())) == len(table)
    for preset, hub in table.items():
        found = named_model(hub)
        assert found is not None
        assert (found.preset, found.format) == (preset, None)
        assert hub_id(preset) == hub


def test_names_without_an_id() -> None:
    assert hub_id("gpt3-175b") is None
    assert hub_id("meta-llama/Llama-3.1-70B-Instruct") is None  # one already
    assert hub_id("qwen2.5-72b-awq") is None
    assert hub_id("") is None
