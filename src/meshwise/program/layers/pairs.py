"""Pairs of queries and keys that attention multiplies, exactly counted, per head and sequence."""

from __future__ import annotations

from meshwise.models.layers.attention import Attention


def attended_pairs(queries: int, keys: int, window: int | None, causal: bool) -> float:
    """Query-key pairs of one head and sequence, exactly counted.

    ``queries`` are the last of ``keys`` positions. Causal: each query sees itself and what is
    before it, at most ``window`` keys. Not causal: all keys, at most ``window`` each.
    """
    if not causal:
        return float(queries) * min(keys, window or keys)
    limit = min(window or keys, keys)
    first = keys - queries + 1  # keys that the first query sees
    growing = max(0, min(limit, keys) - first)  # queries whose view still grows
    growing = min(growing, queries)
    total = growing * first + growing * (growing - 1) / 2
    return total + (queries - growing) * float(min(limit, keys))


def seen_pairs(a: Attention, queries: int, keys: int, causal: bool) -> float:
    """Query-key pairs of one head and sequence: a window's, those chosen, and compressed entries."""
    chosen = a.indexer.top_k if a.indexer is not None else None
    if a.compress is None:
        limits = [n for n in (a.window, chosen) if n is not None]
        return attended_pairs(queries, keys, min(limits, default=None), causal)
    near = attended_pairs(queries, keys, a.window, causal)
    return near + entry_pairs(queries, keys, a.compress, chosen, causal)


def entry_pairs(queries: int, keys: int, compress: int, chosen: int | None, causal: bool) -> float:
    """Pairs of queries and compressed entries, exactly counted: one stands for ``compress`` positions, and
    is seen from the last of them on; of all that a query could see at most ``chosen``.

    ``queries`` are the last of ``keys`` positions. Not causal: all entries, at most ``chosen`` each.
    """
    limit = keys // compress if chosen is None else chosen
    if not causal:
        return float(queries) * min(keys // compress, limit)

    def until(position: int) -> float:
        """Of the queries at positions 1 to ``position``: as many entries as whole steps before each."""
        steps, more = divmod(position, compress)
        growing = min(max(steps - 1, 0), limit)
        sums = growing * (growing + 1) / 2 + float(max(steps - 1 - limit, 0)) * limit
        return compress * sums + (more + 1.0) * min(steps, limit)

    return until(keys) - until(keys - queries)
