"""A model on the meta device gets its tensors: parameters by slice from a checkpoint, buffers by the
rule of their module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from meshwise.errors import InputError
from meshwise.runtime.model.cuts import Cut
from meshwise.runtime.weights.checkpoint import Checkpoint


def load_shares(
    model: nn.Module,
    cuts: Mapping[str, Cut],
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Read this rank's share of every parameter; tied ones stay tied."""
    for name, parameter in list(model.named_parameters()):
        local = checkpoint.read(name, cuts[name], dtype, device)
        replace(model, parameter, nn.Parameter(local, requires_grad=parameter.requires_grad))
    materialise_buffers(model, device)


def replace(model: nn.Module, old: nn.Parameter, new: nn.Parameter) -> None:
    """Under every name that the parameter has."""
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[leaf] = new


def materialise_buffers(model: nn.Module, device: torch.device) -> None:
    """Buffers that no checkpoint has: what rotary embeddings derive from their configuration; others,
    already computed, go to the device. Raises :class:`InputError` for one that has no rule."""
    for path, module in model.named_modules():
        own: dict[str, Any] = module._buffers
        if any(b is not None and b.is_meta for b in own.values()):
            if not hasattr(module, "inv_freq"):
                raise InputError(
                    f"model: no rule for the buffers of {path} ({type(module).__name__})",
                    field="model",
                )
            fresh = type(module)(module.config)
            own = {**own, **fresh._buffers}
        for name, buffer in own.items():
            module._buffers[name] = buffer.to(device) if buffer is not None else None
