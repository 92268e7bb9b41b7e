"""A slice of a stored tensor, read without the rest, a few megabytes at a time."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import torch
from torch import Tensor

from meshwise.errors import InputError, shorten

BLOCK = 4 << 20  # bytes read at once
SMALL = 32 << 10  # runs shorter than this are read with what lies between them


_staging: Tensor | None = None


class StoredTensor(NamedTuple):
    """A tensor in a file: where its data begins."""

    file: str
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_slice(stored: StoredTensor, dim: int, start: int, stop: int, into: Tensor) -> None:
    """``tensor[…, start:stop, …]`` along ``dim`` into a tensor of that shape, whatever its type and
    device: all of a contiguous one, or a range of one along ``dim``. Raises :class:`InputError` where
    the file ends early."""
    shape = stored.shape or (1,)
    outer, whole, inner = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    if stop <= start or not outer * inner:
        return
    size = stored.dtype.itemsize
    target = into.view(outer, stop - start, inner)
    handle = os.open(stored.file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if outer > 1 and (stop - start) * inner * size < SMALL:
            many = max(BLOCK // (whole * inner * size), 1)
            for row in range(0, outer, many):
                n = min(many, outer - row)
                place = stored.offset + row * whole * inner * size
                block = _read(handle, stored, place, n * whole * inner)
                target[row : row + n].copy_(block.view(n, whole, inner)[:, start:stop])
            return
        for row in range(outer):
            for at in range(start, stop, max(BLOCK // (inner * size), 1)):
                n = min(max(BLOCK // (inner * size), 1), stop - at)
                place = stored.offset + (row * whole + at) * inner * size
                flat = target[row, at - start : at - start + n].view(-1)
                for k in range(0, n * inner, BLOCK // size):  # one row may be longer than a block
                    part = min(BLOCK // size, n * inner - k)
                    flat[k : k + part].copy_(_read(handle, stored, place + k * size, part))
    finally:
        os.close(handle)


def _read(handle: int, stored: StoredTensor, offset: int, count: int) -> Tensor:
    """``count`` elements from a byte offset, in memory that the next call writes again: blocks that come
    and go between parameters would leave holes in the heap."""
    global _staging
    size = count * stored.dtype.itemsize
    if _staging is None or _staging.numel() < size:
        _staging = torch.empty(max(size, BLOCK), dtype=torch.uint8)
    values = _staging[:size].view(stored.dtype)
    view = memoryview(_staging[:size].numpy().data)
    done = 0
    while done < len(view):
        got = os.preadv(handle, [view[done:]], offset + done)
        if got == 0:
            raise InputError(
                f"checkpoint: {shorten(stored.file)} ends while it is read",
                field="checkpoint",
                value=stored.file,
            )
        done += got
    return values
