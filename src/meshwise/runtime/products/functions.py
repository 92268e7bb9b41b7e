"""Products and collectives with their gradients: the autograd functions of tensor parallelism.

Column-parallel products keep the input whole and split the output; row-parallel ones split the input
and sum the output (Shoeybi et al. 2019, arXiv 1909.08053, section 3). Shapes: tokens T, features in K
and out M of this rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.products.decomposed import (
    Place,
    gathered_and_multiplied,
    multiplied_and_reduced,
    multiplied_and_scattered,
)


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _same(x: Tensor) -> Tensor:
    return x


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, out: Tensor | None = None
) -> Tensor:
    """x·Wᵀ + b, (T, M), of a weight (M, K), or of a ``transposed`` one (GPT-2's Conv1D, (K, M)) x·W + b."""
    factor = weight if transposed else weight.t()
    if bias is None:
        return torch.mm(x, factor, out=out)
    return torch.addmm(bias, x, factor, out=out)


def _weight_gradient(g: Tensor, x: Tensor, transposed: bool) -> Tensor:
    """Of y = x·Wᵀ: gᵀ·x, (M, K); of a ``transposed`` weight: xᵀ·g, (K, M)."""
    return x.t() @ g if transposed else g.t() @ x


class ColumnProduct(torch.autograd.Function):
    """x (…, K) → one output (…, M_i) per weight; the input gradients of all are summed over the ranks
    together, once.

    Where ``place.dim`` is given, x is this rank's shard along it (sequence parallelism) and is gathered
    here, and again in backward rather than kept. ``wait``: where backward leaves its sum running.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, place: Place, wait: Wait | None, x: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor, ...]:
        ledger, transposed = place.group.ledger, place.transposed
        weights = [w for w in parameters[0::2] if w is not None]
        pairs = list(zip(weights, parameters[1::2], strict=True))
        ctx.save_for_backward(x, *weights)
        ctx.settings = place, wait
        whole = place.whole(x)
        if place.dim is None:
            rows = _rows(x)
            with ledger.scope(place.name, "forward"):
                outputs = [_product(rows, w, b, transposed) for w, b in pairs]
        else:
            tokens = math.prod(whole[:-1])
            widths = [w.shape[1 if transposed else 0] for w in weights]
            outputs = [x.new_empty((tokens, m)) for m in widths]

            def multiply(rows: Tensor, at: slice) -> None:
                with ledger.scope(place.name, "forward"):
                    for y, (w, b) in zip(outputs, pairs, strict=True):
                        _product(rows, w, b, transposed, out=y[at])

            gathered_and_multiplied(place, x, "input", "forward", multiply)
        return tuple(y.view(*whole[:-1], y.shape[-1]) for y in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, *weights = ctx.saved_tensors
        place, wait = ctx.settings
        group, transposed = place.group, place.transposed
        whole = place.whole(x)
        gs = [_rows(g) if g is not None else None for g in grads]
        again: Callable[[], Tensor] = partial(_same, x)
        if place.dim is not None and any(ctx.needs_input_grad[3:]):
            again = group.begin_all_gather(x, place.dim, f"{place.region}.input_again", "wgrad")
            if group.options.overlap in ("none", "decomposed"):  # pieces need the slots
                again = partial(_same, again())
        summed: Callable[[], Tensor] | None = None
        if ctx.needs_input_grad[2]:
            factors = [w.t() if transposed else w for w in weights]
            pairs = [(g, w) for g, w in zip(gs, factors, strict=True) if g is not None]
            summed = _input_gradient(place, whole, pairs)
        dx: Any = None
        if summed is not None and wait is not None:
            # the other half of the batch goes first
            wait.summed, dx = summed, x.new_zeros(()).expand(x.shape)
        elif summed is not None and group.options.overlap == "none":
            dx = summed()
        found: list[Tensor | None] = []
        rows = _rows(again())
        with group.ledger.scope(place.name, "wgrad"):
            for i, g in enumerate(gs):
                w_needed, b_needed = ctx.needs_input_grad[3 + 2 * i : 5 + 2 * i]
                found += [
                    _weight_gradient(g, rows, transposed) if w_needed and g is not None else None,
                    g.sum(0) if b_needed and g is not None else None,
                ]
        if summed is not None and dx is None:
            dx = summed()
        return None, None, dx.view(x.shape) if dx is not None else None, *found


def _input_gradient(
    place: Place, shape: tuple[int, ...], pairs: list[tuple[Tensor, Tensor]]
) -> Callable[[], Tensor]:
    """Σ g·W of gradients (T, M_i) and weights (M_i, K), of hidden states of ``shape``, whole; its sum over
    the ranks is begun. Returns what waits for it."""
    group, name = place.group, place.name
    like = pairs[0][0]

    def multiply(columns: slice, out: Tensor) -> None:
        with group.ledger.scope(name, "dgrad"):
            for i, (g, w) in enumerate(pairs):
                if i == 0:
                    torch.mm(g, w[:, columns], out=out)
                else:
                    out.addmm_(g, w[:, columns])

    every = slice(0, shape[-1])
    if place.dim is not None:
        return multiplied_and_scattered(place, shape, like, "input_grad", "dgrad", multiply)
    size = (like.shape[0], shape[-1])
    if group.size == 1:
        dx = like.new_empty(size)
        multiply(every, dx)
        return partial(_same, dx)
    pending = group.reduction(size, like, f"{name}.input_grad", "dgrad")
    multiply(every, pending.tensor)
    pending.start()
    return pending.result


class RowProduct(torch.autograd.Function):
    """x (…, K), this rank's features → (…, M) summed over the ranks, or this rank's shard of it along
    ``place.dim``. The bias is added once, after the sum."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, place: Place, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        group = place.group
        factor = weight if place.transposed else weight.t()
        rows = _rows(x)
        shape = (*x.shape[:-1], factor.shape[1])

        def multiply(some: Tensor, columns: slice, out: Tensor) -> None:
            with group.ledger.scope(place.name, "forward"):
                torch.mm(some, factor[:, columns], out=out)

        every = slice(0, shape[-1])
        if place.dim is not None:
            out = multiplied_and_scattered(
                place, shape, x, "output", "forward", partial(multiply, rows)
            )()
        elif group.size == 1:
            out = x.new_empty(shape)
            multiply(rows, every, _rows(out))
        else:
            out = multiplied_and_reduced(
                place, rows, shape[-1], lambda some, to: multiply(some, every, to)
            ).view(shape)
        if bias is not None:
            out.add_(bias)
        ctx.save_for_backward(x, weight)
        ctx.settings = place, bias is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        place, biased = ctx.settings
        ledger = place.group.ledger
        factor = weight.t() if place.transposed else weight
        bias_grad = _rows(grad).sum(0) if biased and ctx.needs_input_grad[3] else None
        rows = _rows(x)
        dx = grad.new_empty(rows.shape) if ctx.needs_input_grad[1] else None

        def multiply(some: Tensor, at: slice) -> None:
            if dx is not None:
                with ledger.scope(place.name, "dgrad"):
                    torch.mm(some, factor, out=dx[at])

        if place.dim is not None:
            g = gathered_and_multiplied(place, grad, "output_grad", "dgrad", multiply)
        else:
            g = _rows(grad)
            multiply(g, slice(None))
        dw = None
        if ctx.needs_input_grad[2]:
            with ledger.scope(place.name, "wgrad"):
                dw = _weight_gradient(g, rows, place.transposed)
        return None, dx.view(x.shape) if dx is not None else None, dw, bias_grad


class Copy(torch.autograd.Function):
    """Megatron's f: as it is; the gradient is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, name: str, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = (group, name)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group, name = ctx.settings
        return None, None, _summed(group, grad, f"{name}.input_grad", "dgrad")


class Reduce(torch.autograd.Function):
    """Megatron's g: summed over the ranks; the gradient as it is."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, region: str, x: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(group, x, f"{region}.output", "forward")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, grad


def _summed(group: TPGroup, x: Tensor, name: str, phase: str) -> Tensor:
    pending = group.reduction(tuple(x.shape), x, name, phase)
    pending.tensor.copy_(x)
    pending.start()
    return pending.result()


class Shared(torch.autograd.Function):
    """Parameters that all ranks hold and each has a part of the gradient of: as they are; their
    gradients are summed over ``group`` in one buffer, when the last of them is there."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, name: str, *parameters: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.settings = (group, name)
        ctx.shapes = [p.shape for p in parameters]
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        group, name = ctx.settings
        flat = torch.cat([g.reshape(-1) for g in grads])
        group.all_reduce(flat, name, "grad_reduce")
        parts = flat.split([g.numel() for g in grads])
        return None, None, *(p.view(s) for p, s in zip(parts, ctx.shapes, strict=True))


# Backward runs, of what is ready, the operation that was numbered last. Of a batch in two halves the
# first half is numbered BEHIND ahead of the second, and a wait APART before the product that it waits
# for, so that both halves' products of a block come before the first wait, and the second wait after
# the first half's next block (of at most BEHIND operations).
BEHIND, APART = 160, 224


def skip_numbers(count: int) -> None:
    """Let ``count`` numbers of operations of this thread pass."""
    x = torch.zeros((), requires_grad=True)
    for _ in range(count):
        x.view_as(x)


class Wait:
    """Where a reduction that backward left running is waited for."""

    def __init__(self) -> None:
        self.summed: Callable[[], Tensor] | None = None


class Await(torch.autograd.Function):
    """As it is; in backward, waits for the reduction of what comes through."""

    @staticmethod
    def forward(ctx: Any, wait: Wait, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.wait = wait
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        summed, ctx.wait.summed = ctx.wait.summed, None
        return None, grad if summed is None else summed().view(grad.shape)
