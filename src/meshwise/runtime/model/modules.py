"""The modules that stand in for a transformer's linear layers and embedding, each with its rank's share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.measure.scopes import timed_function
from meshwise.runtime.products import functions as f
from meshwise.runtime.products import sequence
from meshwise.runtime.products.decomposed import Place


class Bundle:
    """Column-parallel products of one input: computed together when the first of them is called, so
    that their input gradients are summed once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.members: list[ColumnLinear] = []
        self._shards: dict[int, tuple[Tensor, Tensor]] = {}  # by what stands in for their whole
        self._ready: dict[int, tuple[Tensor, list[Tensor | None]]] = {}

    def standing_in(self, x: Tensor) -> Tensor:
        """For a module that looks at its input's shape and passes it on: a tensor without content in
        the shape of the whole, known here as the shard ``x``."""
        whole = x.new_zeros(()).expand(self.place.whole(x))
        self._shards[id(whole)] = whole, x
        return whole

    def output(self, x: Tensor, index: int) -> Tensor:
        key = id(x)
        kept = self._ready.get(key)
        outputs: list[Tensor | None]
        if kept is None or kept[0] is not x or kept[1][index] is None:
            outputs = list(self._compute(x))
            self._ready[key] = (x, outputs)
        else:
            outputs = kept[1]
        found = outputs[index]
        assert found is not None
        outputs[index] = None
        if all(o is None for o in outputs):
            del self._ready[key]
        return found

    def _compute(self, x: Tensor) -> tuple[Tensor, ...]:
        place, wait = self.place, None
        group = place.group
        if not group.sequence:
            place = place._replace(dim=None)
        if id(x) in self._shards:
            x = self._shards.pop(id(x))[1]
        elif group.baton is not None and place.dim is None and torch.is_grad_enabled():
            wait = f.Wait()
            x = f.Await.apply(wait, x)
            f.skip_numbers(f.APART)
        parameters = [p for m in self.members for p in (m.weight, m.bias)]
        result: tuple[Tensor, ...] = f.ColumnProduct.apply(place, wait, *_autocast(x, *parameters))
        return result


def _autocast(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """As autocast would give them to a linear layer: it does not see into our own functions."""
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or x.dtype == torch.float64:
        return x, *parameters
    to = torch.get_autocast_dtype(kind)
    return tuple(t.to(to) if t is not None else None for t in (x, *parameters))


class ColumnLinear(nn.Module):
    """A linear layer's share of the output features; ``weight`` (M, K), transposed (K, M)."""

    bias: nn.Parameter | None

    def __init__(self, bundle: Bundle, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self._index = len(bundle.members)
        bundle.members.append(self)
        self._bundle = [bundle]  # not a submodule

    def forward(self, x: Tensor) -> Tensor:
        return self._bundle[0].output(x, self._index)


class RowLinear(nn.Module):
    """A linear layer's share of the input features; the ranks' outputs are summed, then the bias added."""

    bias: nn.Parameter | None

    def __init__(self, place: Place, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self._place = place

    def forward(self, x: Tensor) -> Tensor:
        place = self._place if self._place.group.sequence else self._place._replace(dim=None)
        y: Tensor = f.RowProduct.apply(place, *_autocast(x, self.weight, self.bias))
        return y


class VocabularyEmbedding(nn.Module):
    """This rank's rows of the table: words of other ranks give zeros, the sum is the embedding.

    Under sequence parallelism the sum is this rank's positions alone, in the shape of all, as the
    model's own code derives positions and masks from it.
    """

    def __init__(
        self, group: TPGroup, weight: nn.Parameter, start: int, padding: int | None, scale: Any
    ) -> None:
        super().__init__()
        self.weight = weight
        self._group, self._start, self._scale = group, start, scale
        self.padding_idx = padding
        if scale is not None:
            self.register_buffer("embed_scale", scale, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        group = self._group
        lookup = timed_function(group.ledger, "embedding.lookup", self._lookup)
        words = lookup(self.weight, ids)
        if group.size > 1 and group.sequence:
            shard = sequence.Scatter.apply(group, "embedding", 1, words)
            words = sequence.Padded.apply(group, shard)
        elif group.size > 1:
            words = f.Reduce.apply(group, "embedding", words)
        if self._scale is not None:
            words = words * self.embed_scale.to(words.dtype)
        result: Tensor = words
        return result

    def _lookup(self, weight: Tensor, ids: Tensor) -> Tensor:
        rows = weight.shape[0]
        local = ids - self._start
        mine = (local >= 0) & (local < rows)
        padding = self.padding_idx
        if padding is not None:
            padding -= self._start
            padding = padding if 0 <= padding < rows else None
        words = F.embedding(local.clamp(0, rows - 1), weight, padding)
        # the padding row's gradient stays zero, and the clamped words' must
        return words.masked_fill(~mine.unsqueeze(-1), 0.0)
