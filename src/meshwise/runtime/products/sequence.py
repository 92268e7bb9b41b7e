"""Hidden states split by sequence: gathered, scattered, and shards in the shape of the whole
(Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from meshwise.runtime.collectives.group import TPGroup


class Again:
    """What operations would save of a gathered tensor is gathered again in backward instead, so that
    only the shard is kept. A context in which those operations run."""

    def __init__(self) -> None:
        self.whole: Tensor | None = None
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def of(self, group: TPGroup, region: str, dim: int, shard: Tensor, full: Tensor) -> None:
        self._gather = lambda: group.all_gather(shard, dim, f"{region}.input_again", "wgrad")
        self._storage = full.untyped_storage().data_ptr()  # not the tensor: it must not be kept

    def _pack(self, x: Tensor) -> Any:
        if x.untyped_storage().data_ptr() != self._storage:
            return x
        return x.shape, x.stride(), x.storage_offset()

    def _unpack(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        if self.whole is None:
            self.whole = self._gather()
        return self.whole.as_strided(*kept)

    def __enter__(self) -> None:
        self._hooks.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


class Gather(torch.autograd.Function):
    """This rank's shard along ``dim`` → the whole; its gradient is the ranks' sum, this rank's shard."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, region: str, dim: int, again: Again, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = (group, region, dim, again)
        full = group.all_gather(x, dim, f"{region}.input", "forward")
        again.of(group, region, dim, x, full)
        return full

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group, region, dim, again = ctx.settings
        again.whole = None
        dx = group.reduce_scatter(grad, dim, f"{region}.input_grad", "dgrad")
        return None, None, None, None, dx


class Scatter(torch.autograd.Function):
    """The ranks' sum, this rank's shard along ``dim``; its gradient is gathered."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, region: str, dim: int, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = (group, region, dim)
        return group.reduce_scatter(x, dim, f"{region}.output", "forward")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group, region, dim = ctx.settings
        return None, None, None, group.all_gather(grad, dim, f"{region}.output_grad", "dgrad")


class Own(torch.autograd.Function):
    """This rank's shard of the second dimension of a tensor that is filled there alone, and back: a
    hidden state in the shape that a module expects, without communication."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = group
        s = x.shape[1] // group.size
        return x[:, group.rank * s : (group.rank + 1) * s].contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, _padded(ctx.settings, grad)


class Padded(torch.autograd.Function):
    """The inverse of :class:`Own`: (b, s, h) → (b, N·s, h), zeros but for this rank's shard."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = group
        return _padded(group, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group = ctx.settings
        s = grad.shape[1] // group.size
        return None, grad[:, group.rank * s : (group.rank + 1) * s].contiguous()


def _padded(group: TPGroup, x: Tensor) -> Tensor:
    s = x.shape[1]
    whole = x.new_zeros((x.shape[0], s * group.size, *x.shape[2:]))
    whole[:, group.rank * s : (group.rank + 1) * s] = x
    return whole
