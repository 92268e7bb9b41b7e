"""What is hung on a model's modules so that hidden states are whole or shards where each expects them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.measure import scopes
from meshwise.runtime.model.loss import GatherLogits, causal_loss
from meshwise.runtime.model.modules import Bundle
from meshwise.runtime.products import functions as f
from meshwise.runtime.products import sequence, split

if TYPE_CHECKING:
    from meshwise.runtime.model.parallelize import Parallel


def install_hooks(state: Parallel) -> None:
    """All of them, and the loss over a split vocabulary."""
    model, group, plan = state.model, state.group, state.plan
    layers = state.layers
    first = state.cuts[f"{plan.base}.{plan.embedding}.weight"].spans[0]
    valid = first[1] - first[0]
    model.loss_function = causal_loss(group, first[0], valid)  # type: ignore[assignment]

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if state._inside:
            return
        given = kwargs.get("input_ids", args[0] if args else None)
        state.begin(given if given is not None else kwargs.get("inputs_embeds"), kwargs)

    def after(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if state._local_logits:
            return output
        state.restore()  # after an error too
        logits = getattr(output, "logits", None)
        if logits is not None and group.size > 1 and kwargs.get("labels") is None:
            output.logits = GatherLogits.apply(group, logits, state.vocabulary)
        elif logits is not None and logits.shape[-1] > valid and group.size == 1:
            output.logits = logits[..., : state.vocabulary]
        return output

    scopes.install_scopes(state)
    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True, always_call=True)
    if group.size == 1:
        return
    split.install_split(state.base, plan, group)
    layers[0].register_forward_pre_hook(own(group), with_kwargs=True)
    if plan.views_whole:
        _widen_last(state)
    for layer in layers:
        attention: Any = layer.get_submodule(plan.attention)
        inputs: Any = attention.get_submodule(plan.inputs[0].path)
        attention.register_forward_pre_hook(_in_shape(group, inputs._bundle[0]), with_kwargs=True)
        ffn: Any = layer.get_submodule(plan.ffn) if plan.ffn else layer
        if hasattr(ffn, "experts"):
            _around_experts(ffn, group)


def _first(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[[Tensor], Tensor]
) -> Any:
    """The hidden states, given by position or name, changed."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


def own(group: TPGroup) -> Any:
    """A hook that takes this rank's shard of what is in the shape of the whole."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not group.sequence:
            return None
        return _first(args, kwargs, lambda x: sequence.Own.apply(group, x))

    return hook


def _in_shape(group: TPGroup, bundle: Bundle) -> Any:
    """A hook that gives attention, which looks at its input's shape, the shape of the whole."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return _first(args, kwargs, bundle.standing_in) if group.sequence else None

    return hook


def _widen_last(state: Parallel) -> None:
    """Around the last norm of a model that views its result in the input's shape."""
    group = state.group

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> Any:
        return (sequence.Own.apply(group, args[0]),) if group.sequence else None

    state.base.get_submodule(state.plan.norm).register_forward_hook(widened(group))
    state.model.get_submodule("lm_head").register_forward_pre_hook(narrow)


def widened(group: TPGroup) -> Any:
    """A hook that puts a shard into the shape of the whole."""

    def hook(_: nn.Module, args: Any, output: Tensor) -> Any:
        return sequence.Padded.apply(group, output) if group.sequence else None

    return hook


def _around_experts(block: nn.Module, group: TPGroup) -> None:
    """A block whose router and experts read one input: everything inside has a part of its gradient."""
    inner = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not group.sequence:
            name = "layer.moe.experts.gate_up"
            args, kwargs = _first(args, kwargs, lambda x: f.Copy.apply(group, name, x))
            return _last(inner(*args, **kwargs), lambda y: f.Reduce.apply(group, "layer.moe", y))
        again = sequence.Again()
        gather = functools.partial(sequence.Gather.apply, group, "layer.moe", 0, again)
        args, kwargs = _first(args, kwargs, gather)
        with again:
            output = inner(*args, **kwargs)
        return _last(output, lambda y: sequence.Scatter.apply(group, "layer.moe", 0, y))

    block.forward = forward  # type: ignore[method-assign]


def _last(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The hidden states of a result, changed."""
    if isinstance(output, tuple):
        return (change(output[0]), *output[1:])
    return change(output)
