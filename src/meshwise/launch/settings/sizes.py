"""Sizes of a model that a target's flags give, held against the model that is priced."""

from __future__ import annotations

from meshwise.errors import InputError
from meshwise.launch.table import Target
from meshwise.models.shapes import Model


def sizes_of(model: Model) -> dict[str, set[int]]:
    """The values that each flag may have; none where the model has no such part."""
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    return {
        "layers": {model.layers},
        "hidden": {model.hidden},
        "heads": {a.heads for a in attentions},
        "kv_heads": {a.kv_heads for a in attentions if not a.mla},
        "experts_total": {b.moe.experts for b in model.blocks if b.moe is not None},
    }


def check_sizes(said: dict[str, int], model: Model, chosen: Target) -> None:
    """Raise :class:`InputError` where a flag of the target contradicts the model."""
    mine = sizes_of(model)
    wrong = {
        name: value
        for name, value in said.items()
        if name in mine and value not in mine[name] and (mine[name] or name == "experts_total")
    }
    if not wrong:
        return
    spelt = {name: chosen.flags[name].spellings[0] for name in wrong}
    shown = ", ".join(f"{spelt[name]} {value}" for name, value in wrong.items())
    right = ", ".join(
        f"{spelt[name]} {' or '.join(map(str, sorted(mine[name]))) or 'left out'}" for name in wrong
    )
    raise InputError(
        f"model={model.name}: the command trains another model: {shown}",
        field="model",
        value=model.name,
        legal=f"the model of the command, or {right}",
    )
