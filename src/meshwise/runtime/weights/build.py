"""A model's share for a rank, made without any rank holding the whole: random, or from a checkpoint."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from meshwise.errors import InputError, quoted, shorten
from meshwise.models.load import load_config
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.model import cuts as cutting
from meshwise.runtime.model import families as plans
from meshwise.runtime.model.parallelize import parallelize
from meshwise.runtime.options import Options
from meshwise.runtime.weights.checkpoint import Checkpoint
from meshwise.runtime.weights.materialise import load_shares, materialise_buffers, replace
from meshwise.strict_tables import one_of

_DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
MAX_DRAWN_WHOLE = 200_000_000  # parameters: drawn whole and cut, so that degrees change nothing
_STORED = {str(kind).removeprefix("torch."): kind for kind in _DTYPES.values()}
STD = 0.02  # of random weights, as in GPT-2


def dtype(name: str) -> torch.dtype:
    """Raises :class:`InputError` for a type that the runtime does not compute in."""
    return _DTYPES[one_of(name, "dtype", _DTYPES)]


def config(table: Mapping[str, Any]) -> Any:
    """The transformers configuration of a ``config.json``; whatever transformers refuses is one line."""
    from transformers import CONFIG_MAPPING

    kind = str(table.get("model_type", ""))
    plans.split_family(kind)
    plain = {k: v for k, v in table.items() if k not in ("quantization_config", "torch_dtype")}
    try:
        return CONFIG_MAPPING[kind].from_dict({**plain, "dtype": None})
    except Exception as error:  # its validators raise many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"model: transformers refuses the config.json: {shorten(first, 160)}",
            field="model",
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
    seed: int = 0,
    timeout_s: float = 120.0,
) -> nn.Module:
    """The tensor-parallel form of a causal LM with this rank's share of the weights.

    Random weights are normal with a standard deviation of 0.02 (norms 1, or 0 where the family adds 1
    itself; biases 0), drawn from ``seed`` and the parameter's name.
    """
    from transformers import AutoModelForCausalLM

    # shapes alone
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=kind)
    # a checkpoint that does not fit is refused before anything is cut
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
        load_shares(model, state.cuts, source, kind, device)
        return model
    # random weights, parameter by parameter
    rank, norm = state.group.rank, 0.0 if state.plan.centred_norms else 1.0
    for name, parameter in list(model.named_parameters()):
        cut = state.cuts[name]
        replicated = cut.spans == ((0, whole[name][cut.dim]),)
        generator = torch.Generator(device).manual_seed(
            zlib.crc32(f"{seed} {name}".encode())
            + (0 if replicated or total <= MAX_DRAWN_WHOLE else rank + 1)
        )
        if total <= MAX_DRAWN_WHOLE:
            values = _random(name, whole[name], kind, device, generator, norm)
            local = cutting.apply(cut, values)
        else:
            local = _random(name, tuple(parameter.shape), kind, device, generator, norm)
        replace(model, parameter, nn.Parameter(local))
    materialise_buffers(model, device)
    return model


def load_model(
    folder: str,
    group: Peers | Any = None,
    options: Options | None = None,
    *,
    dtype: str | None = None,
    device: torch.device | None = None,
    timeout_s: float = 120.0,
) -> nn.Module:
    """A checkpoint folder (``config.json`` and safetensors) as its tensor-parallel form; each rank of
    ``group`` (as for :func:`~meshwise.runtime.model.parallelize.parallelize`) reads its slices alone.

    ``dtype``: fp32, fp64, bf16 or fp16; None: that of the ``config.json``. ``device``: None is the
    current CUDA device under nccl, else the CPU. Raises :class:`~meshwise.errors.InputError` for what
    :func:`~meshwise.runtime.model.parallelize.parallelize` refuses, and for missing, extra, truncated or
    wrongly shaped tensors.
    """
    _, table = load_config(folder)
    asked = config(table)
    stored = str(table.get("dtype") or table.get("torch_dtype") or "float32")
    kind = _DTYPES[one_of(dtype, "dtype", _DTYPES)] if dtype is not None else _STORED.get(stored)
    if kind is None:
        raise InputError(
            f"dtype: {quoted(stored)} of the config.json is not computed in",
            field="dtype",
            value=stored,
            legal=list(_DTYPES),
        )
    peers = group if isinstance(group, Peers) else Peers.of(group)
    if device is None:
        cuda = dist.is_initialized() and dist.get_backend() == "nccl"
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return build(
        asked,
        peers,
        options or Options(),
        kind=kind,
        device=device,
        checkpoint=folder,
        timeout_s=timeout_s,
    )


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
    norm: float,
) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=kind, device=device)
    if len(shape) == 1:
        return torch.full(shape, norm, dtype=kind, device=device)
    values = torch.empty(shape, dtype=kind, device=device)
    return values.normal_(0.0, STD, generator=generator)
