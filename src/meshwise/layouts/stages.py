"""Where a pipeline cuts the layers, and which layers it must not part."""

from __future__ import annotations

import itertools

from meshwise.models.shapes import Model


def stage_bounds(layers: int, pp: int) -> tuple[int, ...]:
    """Index of each stage's first layer, and the end: ``pp`` + 1 numbers.

    Even where pp divides the layers. Else, where it divides them with the loss, or with embedding
    and loss counted as a layer each, the ends take a layer's place (Megatron-LM's
    account-for-embedding / account-for-loss splits; the zero-bubble paper's models). Else as even as
    it goes.
    """
    for before, after in ((0, 0), (0, 1), (1, 1)):
        slots = layers + before + after
        if slots % pp == 0 and pp > 1:
            size = slots // pp
            return tuple(min(max(size * stage - before, 0), layers) for stage in range(pp + 1))
    return tuple(layers * stage // pp for stage in range(pp + 1))


def source_layers(model: Model) -> list[int]:
    """For each layer the earlier one whose keys and values it uses; itself where it makes its own. They are
    those of the last layer of the same window and width."""
    found: list[int] = []
    made: dict[tuple[int | None, int], int] = {}
    for index, kind in enumerate(model.pattern):
        a = model.blocks[kind].attention
        source = index
        if a is not None and a.shared_kv:
            source = made.get((a.window, a.head_dim), index)
        elif a is not None:
            made[a.window, a.head_dim] = index
        found.append(source)
    return found


def parts_sharers(sources: list[int], parts: int) -> bool:
    """Whether ``parts`` chunks of the layers part one from the layer whose keys and values it uses."""
    return any(
        sources[index] < start
        for start, end in itertools.pairwise(stage_bounds(len(sources), parts))
        for index in range(start, end)
    )
