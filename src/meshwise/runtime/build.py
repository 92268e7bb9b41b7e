"""A model's share for a rank, made without any rank holding the whole: random, or from a checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from meshwise.errors import InputError, closest, shorten
from meshwise.runtime import cuts as cutting
from meshwise.runtime import plans
from meshwise.runtime.checkpoint import Checkpoint
from meshwise.runtime.options import Options
from meshwise.runtime.parallel import parallelize
from meshwise.runtime.peers import Peers
from meshwise.runtime.weights import load, materialise_buffers, replace

DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
ALIKE_UP_TO = (
    200_000_000  # parameters: weights are the same whatever the degrees, drawn whole and cut
)
STD = 0.02  # of random weights, as in GPT-2


def dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        near = closest(name, DTYPES)
        raise InputError(
            f"--dtype={name}: the runtime does not compute in it",
            field="--dtype",
            value=name,
            legal=list(DTYPES),
            nearest=near[0] if near else None,
        )
    return DTYPES[name]


def config(table: Mapping[str, Any]) -> Any:
    """The transformers configuration of a ``config.json``; whatever transformers refuses is one line."""
    from transformers import CONFIG_MAPPING

    kind = str(table.get("model_type", ""))
    plans.family(kind)
    plain = {k: v for k, v in table.items() if k not in ("quantization_config", "torch_dtype")}
    try:
        return CONFIG_MAPPING[kind].from_dict({**plain, "dtype": None})
    except Exception as error:  # its validators raise many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"MODEL: transformers refuses the config.json: {shorten(first, 160)}",
            field="MODEL",
            legal="a config.json of its family",
        ) from None


def build(
    model_config: Any,
    peers: Peers | None,
    options: Options,
    *,
    kind: torch.dtype,
    device: torch.device,
    checkpoint: str | None = None,
    attention: str | None = None,
    seed: int = 0,
    timeout_s: float = 120.0,
) -> nn.Module:
    """The tensor-parallel form of a causal LM with this rank's share of the weights.

    Random weights are normal with a standard deviation of 0.02 (norms 1, biases 0), drawn from
    ``seed`` and the parameter's name.
    """
    from transformers import AutoModelForCausalLM

    settings = {"attn_implementation": attention} if attention else {}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=kind, **settings)
    source = None
    if checkpoint is not None:
        source = Checkpoint(checkpoint)
        source.check(*expected(model))
    total = sum(p.numel() for p in model.parameters())
    whole = {n: tuple(p.shape) for n, p in model.named_parameters()}
    parallelize(model, peers, options, timeout_s=timeout_s)
    state: Any = model.tensor_parallel
    state.ledger.cuda = device.type == "cuda"
    if source is not None:
        load(model, state.cuts, source, kind, device)
        return model
    rank = state.group.rank
    for name, parameter in list(model.named_parameters()):
        cut = state.cuts[name]
        replicated = cut.spans == ((0, whole[name][cut.dim]),)
        generator = torch.Generator(device).manual_seed(
            zlib.crc32(f"{seed} {name}".encode())
            + (0 if replicated or total <= ALIKE_UP_TO else rank + 1)
        )
        if total <= ALIKE_UP_TO:
            values = _random(name, whole[name], kind, device, generator)
            local = cutting.apply(cut, values)
        else:
            local = _random(name, tuple(parameter.shape), kind, device, generator)
        replace(model, parameter, nn.Parameter(local))
    materialise_buffers(model, device)
    return model


def expected(model: nn.Module) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """(name → shape of every parameter, further names of those that are tied)."""
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    every = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return shapes, every - set(shapes)


def _random(
    name: str,
    shape: tuple[int, ...],
    kind: torch.dtype,
    device: torch.device,
    generator: torch.Generator,
) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=kind, device=device)
    if len(shape) == 1:  # a norm; Gemma's is centred at 0
        return torch.ones(shape, dtype=kind, device=device)
    values = torch.empty(shape, dtype=kind, device=device)
    return values.normal_(0.0, STD, generator=generator)
