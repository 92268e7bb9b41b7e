"""Products and collectives with their gradients: the autograd functions of tensor parallelism.

Column-parallel products keep the input whole and split the output; row-parallel ones split the input
and sum the output (Shoeybi et al. 2019, arXiv 1909.08053, section 3). Shapes: tokens T, features in K
and out M of this rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from meshwise.runtime.group import Group, Reduction

RANKS = -1  # a first dimension of the ranks' shards, in their order
AHEAD = 2  # pieces that are sent while another is computed


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _weight_gradient(g: Tensor, x: Tensor, transposed: bool) -> Tensor:
    """Of y = x·Wᵀ: gᵀ·x, (M, K); of a ``transposed`` weight (GPT-2's Conv1D): xᵀ·g, (K, M)."""
    return x.t() @ g if transposed else g.t() @ x


class Column(torch.autograd.Function):
    """x (…, K) → one output (…, M_i) per weight; the input gradients of all are summed over the ranks
    together, once.

    ``dim``: None, x is whole; 0 or 1, x is this rank's shard along it (sequence parallelism) and is
    gathered here, and again in backward rather than kept. ``full`` is the gathered x where a module
    gathered it before.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        group: Group,
        name: str,
        region: str,
        dim: int | None,
        transposed: bool,
        wait: Any,
        full: Tensor | None,
        x: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, ...]:
        weights, biases = parameters[0::2], parameters[1::2]
        if dim is not None and full is None:
            full = group.all_gather(x, dim, f"{region}.input", "forward")
        whole = x if full is None else full
        with group.ledger.scope(name, "forward"):
            outputs = tuple(
                _product(whole, w, b, transposed)
                for w, b in zip(weights, biases, strict=True)
                if w is not None
            )
        ctx.save_for_backward(x, *(w for w in weights))
        ctx.settings = (group, name, region, dim, transposed, wait)
        ctx.biased = tuple(b is not None for b in biases)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        x, *weights = ctx.saved_tensors
        group, name, region, dim, transposed, wait = ctx.settings
        gs = [_rows(g) if g is not None else None for g in grads]
        present = [(g, w) for g, w in zip(gs, weights, strict=True) if g is not None]
        whole, again = x, x
        if dim is not None and ctx.needs_input_grad[8:].count(True):
            again = group.all_gather(x, dim, f"{region}.input_again", "wgrad")
        shape = list(x.shape)
        if dim is not None:
            shape[dim] *= group.size
        k = shape[-1]
        dx: Any = None
        pending: Reduction | None = None
        room: Tensor | None = None
        if ctx.needs_input_grad[7]:
            tokens = present[0][0].shape[0]
            if group.size == 1 or dim is not None:
                room = group.room(tuple(shape), present[0][0]) if dim is not None else None
                dx = _rows(room) if room is not None else present[0][0].new_empty((tokens, k))
            else:
                pending = group.reduction((tokens, k), present[0][0], f"{name}.input_grad", "dgrad")
                dx = pending.tensor
            with group.ledger.scope(name, "dgrad"):
                for i, (g, w) in enumerate(present):
                    factor = w.t() if transposed else w
                    if i == 0:
                        torch.mm(g, factor, out=dx)
                    else:
                        dx.addmm_(g, factor)
            if pending is not None:
                pending.start()
            elif dim is not None:
                partial = room if room is not None else dx.view(shape)
                dx = group.reduce_scatter(partial, dim, f"{region}.input_grad", "dgrad")
        late = pending is not None and wait is None and group.options.overlap == "none"
        if late and pending is not None:
            dx = pending.result()
        found: list[Any] = []
        with group.ledger.scope(name, "wgrad"):
            rows = _rows(again)
            for i, own in enumerate(gs):
                w_needed = ctx.needs_input_grad[8 + 2 * i]
                b_needed = ctx.needs_input_grad[9 + 2 * i]
                found += [
                    _weight_gradient(own, rows, transposed)
                    if w_needed and own is not None
                    else None,
                    own.sum(0) if b_needed and own is not None else None,
                ]
        if pending is not None and not late:
            if wait is not None:
                wait.pending = pending  # the other half of the batch goes first
                dx = pending.tensor
            else:
                dx = pending.result()
        if dx is not None:
            dx = dx.view(whole.shape)
        return (None,) * 7 + (dx, *found)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return F.linear(x, weight.t() if transposed else weight, bias)


class Row(torch.autograd.Function):
    """x (…, K), this rank's features → (…, M) summed over the ranks, or this rank's shard of it along
    ``dim``. The bias is added once, after the sum."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        group: Group,
        name: str,
        region: str,
        dim: int | None,
        transposed: bool,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        factor = weight if transposed else weight.t()
        m = factor.shape[1]
        shape = (*x.shape[:-1], m)
        if dim is not None:
            partial = group.room(shape, x)
            if partial is None and dim == 1:
                # rank by rank, so that the shards of the result lie one after the other
                b, s, k = x.shape
                n = group.size
                x = x.reshape(b, n, s // n, k).transpose(0, 1).reshape(n * b, s // n, k)
                shape, dim = (n * b, s // n, m), RANKS
            partial = x.new_empty(shape) if partial is None else partial
            with group.ledger.scope(name, "forward"):
                torch.mm(_rows(x), factor, out=_rows(partial))
            along = 0 if dim == RANKS else dim
            out = group.reduce_scatter(partial, along, f"{region}.output", "forward")
        elif group.size == 1:
            with group.ledger.scope(name, "forward"):
                out = torch.mm(_rows(x), factor).view(shape)
        else:
            out = _reduced_product(group, name, region, _rows(x), factor).view(shape)
        if bias is not None:
            out.add_(bias)
        ctx.save_for_backward(x, weight)
        ctx.settings = (group, name, region, dim, transposed, bias is not None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        group, name, region, dim, transposed, biased = ctx.settings
        bias_grad = _rows(grad).sum(0) if biased and ctx.needs_input_grad[7] else None
        if dim is not None:
            along = 0 if dim == RANKS else dim
            grad = group.all_gather(grad, along, f"{region}.output_grad", "dgrad")
        g = _rows(grad)
        dx = dw = None
        if ctx.needs_input_grad[5]:
            with group.ledger.scope(name, "dgrad"):
                dx = torch.mm(g, weight.t() if transposed else weight).view(x.shape)
            if dim == RANKS:
                n = group.size
                nb, s, k = dx.shape
                dx = dx.view(n, nb // n, s, k).transpose(0, 1).reshape(nb // n, n * s, k)
        if ctx.needs_input_grad[6]:
            with group.ledger.scope(name, "wgrad"):
                dw = _weight_gradient(g, _rows(x), transposed)
        return None, None, None, None, None, dx, dw, bias_grad


def _reduced_product(group: Group, name: str, region: str, x: Tensor, factor: Tensor) -> Tensor:
    """x·factor summed over the ranks; decomposed, each piece is sent under the next one's product."""
    t, m = x.shape[0], factor.shape[1]
    pieces = min(group.options.chunks, t) if group.options.overlap == "decomposed" else 1
    if pieces == 1:
        pending = group.reduction((t, m), x, f"{region}.output", "forward")
        with group.ledger.scope(name, "forward"):
            torch.mm(x, factor, out=pending.tensor)
        pending.start()
        return pending.result()
    whole = group._sent(_like(x, t, m))
    running: list[Reduction] = []
    done: list[Tensor] = []
    for i, piece in enumerate(x.tensor_split(pieces)):
        part = group.reduction(
            (piece.shape[0], m),
            x,
            f"{region}.output",
            "forward",
            whole=whole if i == 0 else 0,
        )
        with group.ledger.scope(name, "forward"):
            torch.mm(piece, factor, out=part.tensor)
        part.start()
        running.append(part)
        if len(running) == AHEAD:  # as many as shared memory has slots for
            done.append(running.pop(0).result())
    return torch.cat([*done, *(part.result() for part in running)])


def _like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape)


class Copy(torch.autograd.Function):
    """Megatron's f: as it is; the gradient is summed over the ranks."""

    @staticmethod
    def forward(ctx: Any, group: Group, name: str, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = (group, name)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group, name = ctx.settings
        return None, None, _summed(group, grad, f"{name}.input_grad", "dgrad")


class Reduce(torch.autograd.Function):
    """Megatron's g: summed over the ranks; the gradient as it is."""

    @staticmethod
    def forward(ctx: Any, group: Group, region: str, x: Tensor) -> Tensor:  # type: ignore[override]
        return _summed(group, x, f"{region}.output", "forward")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, grad


def _summed(group: Group, x: Tensor, name: str, phase: str) -> Tensor:
    pending = group.reduction(tuple(x.shape), x, name, phase)
    pending.tensor.copy_(x)
    pending.start()
    return pending.result()


class Shared(torch.autograd.Function):
    """Parameters that all ranks hold and each has a part of the gradient of: as they are; their
    gradients are summed over ``group`` in one buffer, when the last of them is there."""

    @staticmethod
    def forward(ctx: Any, group: Group, name: str, *parameters: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
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
        self.pending: Reduction | None = None


class Await(torch.autograd.Function):
    """As it is; in backward, waits for the reduction of what comes through."""

    @staticmethod
    def forward(ctx: Any, wait: Wait, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.wait = wait
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        pending, ctx.wait.pending = ctx.wait.pending, None
        if pending is None:
            return None, grad
        return None, pending.result().view(grad.shape)
