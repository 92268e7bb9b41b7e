"""How a rank's parameter is taken from the whole one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """``spans`` (start, stop) along ``dim`` of a tensor of shape ``whole``, one after the other; ``size``
    is the local size along ``dim``, and what the spans leave of it is zeros (a padded vocabulary).

    Several ranks may hold the same span (KV heads that they share).
    """

    dim: int
    spans: tuple[tuple[int, int], ...]
    size: int
    whole: tuple[int, ...]

    @classmethod
    def everything(cls, whole: tuple[int, ...]) -> Cut:
        """Every rank holds all of it."""
        length = whole[0] if whole else 1
        return cls(0, ((0, length),), length, tuple(whole))

    @property
    def complete(self) -> bool:
        """Whether the rank holds all of it."""
        return not self.whole or self.spans == ((0, self.whole[self.dim]),)


def shape(cut: Cut) -> tuple[int, ...]:
    """Of the local tensor."""
    if not cut.whole:
        return ()
    return (*cut.whole[: cut.dim], cut.size, *cut.whole[cut.dim + 1 :])


def apply(cut: Cut, tensor: Tensor) -> Tensor:
    """The local part of a whole tensor, a copy; also of one on the meta device.

    Raises ValueError where the tensor has not the shape that the cut is of.
    """
    if tuple(tensor.shape) != cut.whole:
        raise ValueError(f"a cut of {cut.whole} applied to {tuple(tensor.shape)}")
    if cut.complete and (not cut.whole or cut.size == cut.whole[cut.dim]):
        return tensor.clone(memory_format=torch.contiguous_format)
    local = tensor.new_zeros(shape(cut))
    begin = 0
    for start, stop in cut.spans:
        local.narrow(cut.dim, begin, stop - start).copy_(
            tensor.narrow(cut.dim, start, stop - start)
        )
        begin += stop - start
    return local


def put(cut: Cut, local: Tensor, into: Tensor) -> None:
    """Write a local tensor where it belongs in the whole one."""
    if not cut.whole:
        into.copy_(local)
        return
    begin = 0
    for start, stop in cut.spans:
        into.narrow(cut.dim, start, stop - start).copy_(local.narrow(cut.dim, begin, stop - start))
        begin += stop - start
