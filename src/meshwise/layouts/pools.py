"""Layouts of two pools, prefill and decode on GPUs of their own."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.layouts.layout import Layout
from meshwise.strict_tables import count


class PoolLayouts(NamedTuple):
    """Instances of two layouts: ``prefill`` computes prompts, ``decode`` answers."""

    prefill: Layout
    decode: Layout
    prefill_instances: int = 1
    decode_instances: int = 1

    @property
    def devices(self) -> int:
        """GPUs of all instances."""
        first = self.prefill_instances * self.prefill.devices
        return first + self.decode_instances * self.decode.devices


def pool_layouts(
    decode: Layout, prefill: Layout | None, prefill_instances: object, decode_instances: object
) -> PoolLayouts:
    """The pools; :class:`InputError` for several instances where one layout does both."""
    for name, value in (
        ("prefill_instances", prefill_instances),
        ("decode_instances", decode_instances),
    ):
        if prefill is None and count(value, name) > 1:
            raise InputError(
                f"{name}={value} has no meaning without `prefill`, the layout that computes prompts",
                field=name,
                value=value,
                legal="1, or `prefill` beside it, for example `prefill={'tp': 1}`; replicas are `dp`",
            )
    return PoolLayouts(
        *(decode if prefill is None else prefill, decode),
        *(
            count(prefill_instances, "prefill_instances"),
            count(decode_instances, "decode_instances"),
        ),
    )
