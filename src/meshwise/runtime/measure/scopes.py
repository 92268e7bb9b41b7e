"""Time of what lies between the products: norms, activation, attention's core, router, experts.

A function is timed forward by the host (or events), backward between two marks in the graph, which do
nothing but look at the clock. Only while the ledger is ``detailed``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meshwise.runtime.measure.ledger import Ledger

if TYPE_CHECKING:
    from meshwise.runtime.model.parallelize import Parallel

_ATTENTION = "meshwise"  # transformers' name for the timed attention function


class _Span:
    begin: Any = None


class _Enter(torch.autograd.Function):
    """Before a function: in backward, the function is done here."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, ledger: Ledger, name: str, span: _Span, *xs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.settings = (ledger, name, span)
        return tuple(x.view_as(x) for x in xs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ledger, name, span = ctx.settings
        if span.begin is not None:
            ledger.add(name, "dgrad", span.begin)
        return None, None, None, *grads


class _Leave(torch.autograd.Function):
    """After a function: in backward, it begins here."""

    @staticmethod
    def forward(ctx: Any, ledger: Ledger, span: _Span, y: Tensor) -> Tensor:  # type: ignore[override]
        ctx.settings = (ledger, span)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        ledger, span = ctx.settings
        span.begin = ledger.now()
        return None, None, grad


def timed_function(ledger: Ledger, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of tensors (and other arguments), its first result timed."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if not ledger.detailed:
            return function(*args, **kwargs)
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        span = _Span()
        if places and torch.is_grad_enabled():
            marked = list(args)
            entered = _Enter.apply(ledger, name, span, *(args[i] for i in places))
            for i, x in zip(places, entered, strict=True):
                marked[i] = x
            args = tuple(marked)
        begin = ledger.now()
        output = function(*args, **kwargs)
        ledger.add(name, "forward", begin)
        if not places or not torch.is_grad_enabled():
            return output
        if isinstance(output, tuple):
            return (_Leave.apply(ledger, span, output[0]), *output[1:])
        return _Leave.apply(ledger, span, output)

    return run


def install_scopes(state: Parallel) -> None:
    """Time what a layer consists of besides its products, under the names of ``explain``."""
    plan, ledger = state.plan, state.ledger
    for layer in state.layers:
        ffn: Any = layer.get_submodule(plan.ffn) if plan.ffn else layer
        part = "moe" if hasattr(ffn, "experts") else "mlp"
        norms = [n for n, m in layer.named_children() if "Norm" in type(m).__name__]
        for i, name in enumerate(norms):
            # in the order in which they run; half of them belong to each part
            where = "attention" if i < len(norms) // 2 else part
            _wrap(layer.get_submodule(name), ledger, f"layer.{where}.norm")
        for name, module in ffn.named_children():
            if name in ("act_fn", "act", "activation_fn"):
                _wrap(module, ledger, "layer.mlp.activation")
        if part == "moe":
            _wrap(ffn.gate, ledger, "layer.moe.router")
            _wrap(ffn.experts, ledger, "layer.moe.experts")
        attention: Any = layer.get_submodule(plan.attention)
        for name in ("q_norm", "k_norm"):
            if hasattr(attention, name):
                _wrap(getattr(attention, name), ledger, "layer.attention.qk_norm")
        _attention(attention, ledger)
    norm = getattr(state.base, plan.norm, None)
    if isinstance(norm, nn.Module):
        _wrap(norm, ledger, "head.norm")


def _wrap(module: nn.Module, ledger: Ledger, name: str) -> None:
    module.forward = timed_function(ledger, name, module.forward)  # type: ignore[method-assign]


def _attention(attention: Any, ledger: Ledger) -> None:
    """The module's own configuration names a function that times the one it named before."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inner = attention.config._attn_implementation
    if inner == "eager":
        return  # it is in the model's own file
    name = f"{_ATTENTION}_{inner}"
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _core(ALL_ATTENTION_FUNCTIONS[inner]))
    attention.config._attn_implementation = name
    attention.timed_core = ledger


def _core(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        core = timed_function(module.timed_core, "layer.attention.core", function)
        return core(module, query, key, value, *args, **kwargs)

    return run
