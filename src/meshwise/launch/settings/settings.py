"""Settings by their names in a target's table, and how flags that contradict each other are refused."""

from __future__ import annotations

from typing import Any

from meshwise.errors import IllegalLayout, InputError, shorten

Settings = dict[str, Any]
Read = tuple[dict[str, Any], list[str]]  # fields of a job, notes


def contradiction(field: str, value: Any, why: str, legal: Any) -> IllegalLayout:
    shown = shorten(value) if isinstance(value, str) else value
    return IllegalLayout(f"{field}={shown}: {why}", field=field, value=value, legal=legal)


def replicas_left(world: int | None, rest: int, field: str) -> int:
    """Data-parallel degree: what the other degrees leave of the world."""
    if world is None:
        raise InputError(
            "the command does not say how many GPUs it runs on",
            field="gpus",
            legal="torchrun --nnodes … --nproc-per-node …, or `gpus=N`",
        )
    if world % rest:
        raise IllegalLayout(
            f"{field}: {world} GPUs are no multiple of the {rest} of one replica (the product of its degrees)",
            field=field,
            value=world,
            legal=f"degrees whose product divides {world}, or multiples of {rest} GPUs",
        )
    return world // rest


def yes(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes", "on")


def one_precision(said: list[str]) -> str | None:
    """The one precision that is said, in a configuration and by the trainer's flags."""
    first = said[0] if said else None
    for other in said:
        if other != first and {first, other} != {"bf16", "fp8"}:  # FP8 beside the 16 bits between
            raise contradiction(other, "true", f"contradicts {first}", "one of the two")
    return said[-1] if said else None
