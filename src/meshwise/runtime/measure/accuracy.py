"""What narrow communication changes, measured on the model itself."""

from __future__ import annotations

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.runtime.model.parallelize import Parallel


def narrow_error(state: Parallel, ids: Tensor, *, training: bool) -> dict[str, float]:
    """Norm of the difference to exact communication over the norm, of the logits and (training) of all
    gradients, over the ranks of the TP group. ``ids`` (B, S)."""
    group, model = state.group, state.model
    options = group.options
    found: list[list[Tensor]] = []
    for own in (msgspec.structs.replace(options, comm_dtype=None), options):
        group.options = own
        with torch.set_grad_enabled(training):
            output = model(ids, labels=ids if training else None, use_cache=False)
        values = [output.logits.detach().float()]
        if training:
            output.loss.backward()
            values += [p.grad.detach().clone() for p in model.parameters() if p.grad is not None]
            model.zero_grad()
        found.append(values)
    squares = torch.zeros(4, dtype=torch.float64, device=ids.device)
    for i, (exact, sent) in enumerate(zip(*found, strict=True)):
        at = 0 if i == 0 else 2
        squares[at] += (sent.double() - exact.double()).square().sum()
        squares[at + 1] += exact.double().square().sum()
    if group.size > 1:
        dist.all_reduce(squares, group=group.peers.group)
    logits, gradients = (squares[0::2] / squares[1::2]).sqrt().tolist()
    return {"logits": logits, **({"gradients": gradients} if training else {})}
