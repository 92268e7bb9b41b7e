"""A tensor-parallel model cut into pipeline stages for ``torch.distributed.pipelining``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from meshwise.errors import InputError
from meshwise.runtime.model.hooks import own, widened
from meshwise.runtime.model.parallelize import Parallel
from meshwise.runtime.products import sequence


class Nothing(nn.Module):
    """Positions on a stage that gets hidden states which have them already."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return torch.zeros(1)


def bounds(layers: int, stages: int) -> list[tuple[int, int]]:
    """(first, after last) layer of each stage; the earlier ones have the remainder."""
    if not 1 <= stages <= layers:
        raise InputError(
            f"pp={stages}: {layers} layers make 1 to {layers} stages",
            field="pp",
            value=stages,
            legal=f"1 to {layers}",
            nearest=min(max(stages, 1), layers),
        )
    each, more = divmod(layers, stages)
    ends = [each * (i + 1) + min(i + 1, more) for i in range(stages)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


class Stage(nn.Module):
    """Layers of one stage with the ends that it has: ids (B, S) or hidden states (B, s, H) in, hidden
    states or this rank's logits (B, S, V/N) out; s is S, or S/N under sequence parallelism."""

    def __init__(self, model: nn.Module, index: int, stages: int) -> None:
        super().__init__()
        state: Parallel = model.tensor_parallel  # type: ignore[assignment]
        plan, base = state.plan, state.base
        self.first, self.last = index == 0, index == stages - 1
        self._state = [state]
        self.model = model
        layers: Any = base.get_submodule(plan.layers)
        begin, end = bounds(len(layers), stages)[index]
        mine = nn.ModuleList(list(layers)[begin:end])
        if begin and state.group.size > 1:
            mine[0].register_forward_pre_hook(own(state.group), with_kwargs=True)
        base.set_submodule(plan.layers, mine)
        config = copy.copy(model.config)
        config.num_hidden_layers = end - begin  # type: ignore[union-attr]
        kinds = getattr(config, "layer_types", None)
        if kinds is not None:
            config.layer_types = list(kinds)[begin:end]  # type: ignore[union-attr]
        base.config = config
        if not self.first:
            _without_embedding(base, plan.embedding)
        if not self.last:
            _without_head(model, base, plan.norm)
            if plan.views_whole and state.group.size > 1:
                base.get_submodule(plan.norm).register_forward_hook(widened(state.group))

    def forward(self, x: Tensor) -> Tensor:
        state = self._state[0]
        group = state.group
        kwargs: dict[str, Any] = {"use_cache": False}
        if self.first:
            kwargs["input_ids"] = x
        else:
            if group.options.sequence_parallel and group.size > 1:
                x = sequence.Padded.apply(group, x)
            kwargs["inputs_embeds"] = x
        with state.passing(x, local_logits=True):
            if self.last:
                logits: Tensor = self.model(**kwargs).logits
                return logits
            hidden: Tensor = state.base(**kwargs).last_hidden_state
            if state.plan.views_whole and group.sequence:
                hidden = sequence.Own.apply(group, hidden)
            return hidden


def _without_embedding(base: Any, embedding: str) -> None:
    """A later stage: neither words nor positions, dropout of the embedding or projection."""
    base.set_submodule(embedding, Nothing())
    for name, neutral in (
        ("wpe", Nothing()),
        ("embed_positions", Nothing()),
        ("drop", nn.Identity()),
    ):
        if hasattr(base, name):
            setattr(base, name, neutral)
    if hasattr(base, "project_in"):
        base.project_in = None


def _without_head(model: nn.Module, base: Any, norm: str) -> None:
    """An earlier stage: no last norm and no logits."""
    if getattr(base, "project_out", None) is not None:
        base.project_out = None
    if isinstance(getattr(base, norm, None), nn.Module):
        # what comes after the last layer is the next stage's; OPT tells by None whether it has one
        setattr(base, norm, None if hasattr(base, "project_out") else nn.Identity())
    model.set_submodule("lm_head", Nothing())
