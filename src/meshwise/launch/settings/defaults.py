"""What a target does where its command does not say it: precision and gradients; the model's sizes that
Megatron-LM's flags give."""

from __future__ import annotations

from typing import Any

from meshwise.launch.settings import stages
from meshwise.launch.settings.settings import Settings
from meshwise.launch.table import Target, function_of

_SIZES = ("layers", "hidden", "heads", "kv_heads", "ffn", "experts_total")
Fields = dict[str, Any]


def where_not_said(chosen: Target, s: Settings, fields: Fields) -> tuple[Fields, list[str]]:
    """(fields of the job that the target's defaults add, sentences about them)."""
    defaults = function_of(chosen, "defaults")
    found: tuple[Fields, list[str]] = ({}, []) if defaults is None else defaults(s, fields)
    if chosen.phase == "train" and chosen.no_precision and fields.get("dtype") is None:
        found[1].append(f"the command names no precision: {chosen.no_precision}")
    return found


def model_sizes(s: Settings) -> dict[str, int]:
    """Sizes of the model, and how its layers are split (a switch is 1)."""
    numbers = (*_SIZES, "first_layers", "last_layers")
    found = {name: s[name] for name in numbers if isinstance(s.get(name), int)}
    if found.get("experts_total") == 1:  # as Megatron-DeepSpeed writes a dense model
        del found["experts_total"]
    switches = {name: str(s.get(name)).lower() == "true" for name in stages.SPLITS[:2]}
    switches["stage_layout"] = str(s.get("stage_layout")).lower() not in ("none", "null")
    return found | {name: 1 for name, on in switches.items() if on}
