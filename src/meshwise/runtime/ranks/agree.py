"""Ranks that must hold the same values say so through the store, before any collective could hang."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from meshwise.errors import InputError, shorten
from meshwise.runtime.ranks import watch

_calls: Counter[str] = Counter()
_GRACE_S = 10.0  # for the verdict of a leader that has waited in vain itself


def agree(
    name: str,
    value: Any,
    timeout_s: float = 120.0,
    members: Sequence[int] | None = None,
    store: Any = None,
) -> None:
    """All of ``members`` (global ranks; None: all) hold the same JSON ``value``.

    Raises :class:`InputError` on every member, naming the first key that differs, both values and
    their ranks; PeerLost where a member does not come within ``timeout_s``.
    """
    ranks = list(members) if members is not None else list(range(dist.get_world_size()))
    if len(ranks) < 2:
        return
    store = store if store is not None else dist.distributed_c10d._get_default_store()
    scope = f"agree/{name}/{ranks[0]}-{ranks[-1]}x{len(ranks)}"
    _calls[scope] += 1
    key, before = f"{scope}/{_calls[scope]}", f"{scope}/{_calls[scope] - 1}"
    me = dist.get_rank()
    with watch.waiting(f"agreement on {name}"):
        if me == ranks[0]:
            verdict = _judged(store, key, ranks, value, timeout_s)
            store.delete_key(f"{before}/verdict")
            store.set(f"{key}/verdict", json.dumps(verdict))
        else:
            store.set(f"{key}/{me}", json.dumps(value))
            said = _got(store, f"{key}/verdict", timeout_s + _GRACE_S)
            absent = {"absent": ranks[0]}
            verdict = json.loads(said) if said is not None else absent
    if verdict is None:
        return
    if "absent" in verdict:
        raise watch.PeerLost(
            f"rank {verdict['absent']} did not come to the agreement on {name} in {timeout_s:.0f} s"
        )
    raise InputError(verdict["text"], field=verdict["field"], value=verdict["value"])


def _judged(
    store: Any, key: str, ranks: list[int], value: Any, timeout_s: float
) -> dict[str, Any] | None:
    own = json.loads(json.dumps(value))
    for rank in ranks[1:]:
        said = _got(store, f"{key}/{rank}", timeout_s)
        if said is None:
            return {"absent": rank}
        store.delete_key(f"{key}/{rank}")
        other = json.loads(said)
        if other != own:
            field, theirs, ours = _difference(other, own)
            text = (
                f"ranks differ in {field}: rank {rank} has {shorten(theirs)}, rank {ranks[0]} has "
                f"{shorten(ours)}"
            )
            return {"text": text, "field": field, "value": theirs}
    return None


def _difference(a: Any, b: Any, path: str = "value") -> tuple[str, Any, Any]:
    """(path, one value, the other) of the first difference."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            if a.get(key) != b.get(key):
                inner = key if path == "value" else f"{path}.{key}"
                return _difference(a.get(key), b.get(key), inner)
    return path, a, b


def _got(store: Any, key: str, timeout_s: float) -> bytes | None:
    end = time.monotonic() + timeout_s
    try:
        store.wait([key], timedelta(seconds=timeout_s))
    except dist.DistStoreError:
        return None
    except RuntimeError:  # what a FileStore raises, by which nothing but the time tells a time-out
        if time.monotonic() < end:
            raise
        return None
    found: bytes = store.get(key)
    return found
