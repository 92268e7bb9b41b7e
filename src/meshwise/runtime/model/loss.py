"""Cross-entropy over a vocabulary that is split over the ranks: the full logits are never put together
(Shoeybi et al. 2019, arXiv 1909.08053, section 3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from meshwise.runtime.collectives.group import TPGroup


class VocabularyCrossEntropy(torch.autograd.Function):
    """Loss (T,) of local logits (T, V/N) whose first column is word ``start``; three all-reduces of one
    value per token: maximum, target's logit, sum of exponentials. Columns from ``valid`` on are padding.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        group: TPGroup,
        logits: Tensor,
        targets: Tensor,
        start: int,
        valid: int,
        ignore: int,
    ) -> Tensor:
        begin = group.ledger.now()
        x = logits.double() if logits.dtype == torch.float64 else logits.float()
        if x is logits:
            x = x.clone()
        x[:, valid:] = -torch.inf
        top = x.amax(dim=1)
        group.ledger.add("head.loss", "forward", begin)
        if group.size > 1:
            group.all_reduce(top, "head.loss", "forward", op=dist.ReduceOp.MAX)
        begin = group.ledger.now()
        x.sub_(top.unsqueeze(1))
        local = targets - start
        mine = (local >= 0) & (local < valid)
        local = local.clamp(0, x.shape[1] - 1)
        hit = x.gather(1, local.unsqueeze(1)).squeeze(1).masked_fill(~mine, 0.0)
        x.exp_()
        total = x.sum(dim=1)
        group.ledger.add("head.loss", "forward", begin)
        if group.size > 1:
            group.all_reduce(hit, "head.loss", "forward")
            group.all_reduce(total, "head.loss", "forward")
        begin = group.ledger.now()
        counted = targets != ignore
        loss = (total.log() - hit).masked_fill(~counted, 0.0)
        x.div_(total.unsqueeze(1))
        ctx.save_for_backward(x, local, mine & counted, counted)
        ctx.dtype, ctx.group = logits.dtype, group
        group.ledger.add("head.loss", "forward", begin)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        probabilities, local, mine, counted = ctx.saved_tensors
        begin = ctx.group.ledger.now()
        grad = grad.masked_fill(~counted, 0.0)
        dx = probabilities * grad.unsqueeze(1)
        dx.scatter_add_(1, local.unsqueeze(1), -(grad * mine).unsqueeze(1))
        dx = dx.to(ctx.dtype)
        ctx.group.ledger.add("head.loss", "dgrad", begin)
        return None, dx, None, None, None, None


def causal_loss(group: TPGroup, start: int, valid: int) -> Any:
    """A loss function as transformers calls it, over this rank's logits (B, S, V/N)."""

    def loss(
        logits: Tensor,
        labels: Tensor | None,
        vocab_size: int | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        if shift_labels is None:
            assert labels is not None
            shift_labels = F.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets = shift_labels.reshape(-1).to(logits.device)
        tokens: Tensor = VocabularyCrossEntropy.apply(
            group, logits.reshape(-1, logits.shape[-1]), targets, start, valid, ignore_index
        )
        if num_items_in_batch is not None:
            return tokens.sum() / num_items_in_batch
        return tokens.sum() / (targets != ignore_index).sum()

    return loss


class GatherLogits(torch.autograd.Function):
    """(…, V/N) → (…, V) on every rank; the gradient is this rank's columns."""

    @staticmethod
    def forward(ctx: Any, group: TPGroup, logits: Tensor, vocabulary: int) -> Tensor:  # type: ignore[override]
        ctx.settings = (group, logits.shape[-1])
        rows = logits.reshape(-1, logits.shape[-1])
        every = group.all_gather(rows, 0, "head.logits", "forward", exact=True)
        whole = every.view(group.size, rows.shape[0], -1).transpose(0, 1)
        return whole.reshape(*logits.shape[:-1], -1)[..., :vocabulary]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        group, width = ctx.settings
        padded = F.pad(grad, (0, group.size * width - grad.shape[-1]))
        return None, padded[..., group.rank * width : (group.rank + 1) * width], None
