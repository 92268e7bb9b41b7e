"""A batch cut in two, so that one half's collectives run under the other half's compute.

Each half goes through the layers in a thread of its own, and only one of the two runs at any time: it
hands over when it would wait for a collective (the schedule of Domino, arXiv 2409.15241). Backward
alternates block by block, by the numbers that autograd gives to the operations of each thread.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.model.families import SplitFamily
from meshwise.runtime.products.functions import BEHIND, skip_numbers


class Baton:
    """Who runs. ``pass_on`` returns when it is the caller's turn again."""

    def __init__(self) -> None:
        self._turns = [threading.Semaphore(0), threading.Semaphore(0)]
        self._done = [False, False]
        self._own = threading.local()

    def enter(self, half: int) -> None:
        self._own.half = half
        self._turns[half].acquire()

    def start(self) -> None:
        self._turns[0].release()

    def pass_on(self) -> None:
        half = getattr(self._own, "half", None)
        if half is None or self._done[1 - half]:
            return  # backward, or alone
        self._turns[1 - half].release()
        self._turns[half].acquire()

    def leave(self) -> None:
        half = self._own.half
        self._done[half] = True
        self._turns[1 - half].release()


def install_split(base: nn.Module, plan: SplitFamily, group: TPGroup) -> None:
    """Let the base model's forward run in two halves where the options say so and it can."""
    if group.options.overlap != "split":
        return
    whole = base.forward
    embedding: Any = base.get_submodule(plan.embedding)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if args:
            kwargs = {"input_ids": args[0], **kwargs}
        ids = kwargs.pop("input_ids", None)
        embeds = kwargs.pop("inputs_embeds", None)
        given = ids if ids is not None else embeds
        cached = kwargs.get("use_cache") or any(
            kwargs.get(k) is not None for k in ("cache", "past_key_values")
        )
        if given is None or given.shape[0] < 2 or cached or len(args) > 1:
            if ids is not None:
                kwargs["input_ids"] = ids
            if embeds is not None:
                kwargs["inputs_embeds"] = embeds
            return whole(*args[1:], **kwargs)
        hidden = embeds if embeds is not None else embedding(ids)
        return _in_halves(whole, group, hidden, kwargs)

    base.forward = forward  # type: ignore[method-assign]


def _in_halves(whole: Any, group: TPGroup, hidden: Tensor, kwargs: dict[str, Any]) -> Any:
    batch = hidden.shape[0]
    cut = -(-batch // 2)
    parts: list[Any] = [None, None]
    errors: list[BaseException | None] = [None, None]
    baton = Baton()
    grad = torch.is_grad_enabled()
    kind = hidden.device.type
    cast = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def half(i: int, rows: slice) -> None:
        baton.enter(i)
        try:
            own = {k: _rows(v, rows, batch) for k, v in kwargs.items()}
            # modes belong to a thread
            with torch.set_grad_enabled(grad), torch.autocast(kind, *cast):
                if i == 0 and grad:
                    skip_numbers(BEHIND)
                parts[i] = whole(inputs_embeds=hidden[rows], **own)
        except BaseException as error:
            errors[i] = error
        finally:
            baton.leave()

    threads = [
        threading.Thread(target=half, args=(i, rows), daemon=True)
        for i, rows in enumerate((slice(0, cut), slice(cut, batch)))
    ]
    group.baton = baton
    for thread in threads:
        thread.start()
    baton.start()
    for thread in threads:
        thread.join()
    group.baton = None
    for error in errors:
        if error is not None:
            raise error
    first, second = parts
    first.last_hidden_state = torch.cat([first.last_hidden_state, second.last_hidden_state])
    return first


def _rows(value: Any, rows: slice, batch: int) -> Any:
    """A half of what has the batch as its first dimension."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch:
        return value[rows]
    if isinstance(value, dict):
        return {k: _rows(v, rows, batch) for k, v in value.items()}
    return value
