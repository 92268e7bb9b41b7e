"""The rule of thumb: TP the GPUs of a node (the largest degree in it), PP over nodes with the fewest
stages that fit, DP the rest; neither context parallelism nor sharding beyond the optimizer's, experts
within TP. Its other switches are the best for it."""

from __future__ import annotations

import numpy as np

from meshwise.arrays import Array

PLAIN_SHARDS = (0, 1)  # stages of sharding: none, the optimizer's


def fills_node(
    tp: Array, cp: Array, ep: Array, placement: Array, node_devices: int, legal: Array = True
) -> Array:
    """Which of the ``legal`` layouts have the largest TP degree that divides a node, and nothing beside it."""
    inside = legal & (cp == 1) & (placement == 0) & (ep <= tp) & (node_devices % tp == 0)
    if not np.any(inside):
        return inside
    return inside & (tp == tp[inside].max())


def fewest_stages(pp: Array, fits: Array) -> Array:
    """Which have as few pipeline stages as any that fits."""
    if not np.any(fits):
        return np.zeros_like(np.asarray(fits), dtype=bool)
    return np.asarray(pp == pp[fits].min())
