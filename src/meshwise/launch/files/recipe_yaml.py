"""Configurations in YAML that say a layout in sections of their own: recipes of Megatron-Bridge and NeMo,
values of vLLM's production stack."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.files import configuration as config_files

# what NeMo says inside its model's section, and Megatron-Bridge beside it
_MOVED = {
    "model.micro_batch_size": "train.micro_batch_size",
    "model.global_batch_size": "train.global_batch_size",
    "model.encoder_seq_length": "model.seq_length",
    "model.data.seq_length": "model.seq_length",
    "dataset.sequence_length": "model.seq_length",
    "trainer.precision": "mixed_precision",
    "model.activations_checkpoint_granularity": "model.recompute_granularity",
    "model.activations_checkpoint_method": "model.recompute_method",
    "model.activations_checkpoint_num_layers": "model.recompute_num_layers",
    "model.ub_tp_comm_overlap": "comm_overlap.tp_comm_overlap",
}
_SECTION = re.compile(r"^(?:trainer\.strategy|policy\.megatron_cfg|megatron|strategy)\.")
_FROZEN = re.compile(r"(^|\.)freeze_(language_model|llm|lm)$")
# NeMo 1's optimizers that shard their state over data parallelism
_SHARDED = ("distributed_fused_adam", "mcore_distributed_optim")


def recipe_overrides(table: dict[str, Any]) -> tuple[dict[str, Any], int | None] | None:
    """(overrides of a recipe, GPUs); None where the file is of no such recipe."""
    plain = config_files.dotted(table)
    dotted = {_SECTION.sub("model.", k): _followed(k, plain) for k in plain}
    if not any(re.fullmatch(r"model\.\w+_model_parallel_size", key) for key in dotted):
        return None
    frozen = next((k for k, v in dotted.items() if _FROZEN.search(k) and v is True), None)
    if frozen is not None:
        raise InputError(
            f"{frozen}: weights that are not trained are not priced",
            field=frozen,
            value="true",
            legal="a run that trains all weights",
        )
    found = {_MOVED.get(key, key): value for key, value in dotted.items() if value is not None}
    if "mixed_precision" in found:
        found["mixed_precision"] = _precision(str(found["mixed_precision"]))
    found |= _of_first_release(dotted, found)
    nodes = dotted.get("trainer.num_nodes", dotted.get("cluster.num_nodes"))
    each = dotted.get("trainer.devices", dotted.get("cluster.gpus_per_node"))
    if not isinstance(nodes, int) or not isinstance(each, int) or nodes * each <= 0:
        return found, None
    return found, nodes * each


_NAMED = re.compile(r"\$\{(\.?)([\w.]+)\}")


def _followed(key: str, values: dict[str, Any], depth: int = 0) -> Any:
    """A value, that of another key where it names one: ``${model.seq_length}``, ``${.seq_length}``."""
    value = values[key]
    named = _NAMED.fullmatch(value) if isinstance(value, str) else None
    if named is None or depth > 8:
        return value
    other = f"{key.rpartition('.')[0]}.{named[2]}" if named[1] else named[2]
    return _followed(other, values, depth + 1) if other in values else value


def _of_first_release(dotted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What NeMo 1 says by switches of its model and its optimizer."""
    more: dict[str, Any] = {}
    if dotted.get("model.fp8") is True:
        more["mixed_precision"] = f"{found.get('mixed_precision', 'bf16')}_with_fp8_mixed"
    if str(dotted.get("model.optim.name")) in _SHARDED:
        more["ddp.use_distributed_optimizer"] = True
    narrow = str(dotted.get("model.optim.grad_sync_dtype") or "")
    if narrow:
        more["ddp.grad_reduce_in_fp32"] = narrow in ("fp32", "float32", "32")
    return more


def _precision(said: str) -> str:
    """``bf16``, ``bf16-mixed`` and ``16`` of a trainer as the recipe's words."""
    short = {"16": "fp16_mixed", "16-mixed": "fp16_mixed"}
    return short.get(said, said.replace("-", "_"))


class Chart(NamedTuple):
    """A server of vLLM's production stack: settings by names, further flags, its GPUs, copies."""

    model: str
    table: dict[str, Any]
    words: list[str]
    gpus: int | None
    replicas: int
    name: str
    notes: tuple[str, ...]


def production_stack(values: dict[str, Any]) -> list[Chart] | None:
    """The models of a chart's values (``servingEngineSpec.modelSpec``)."""
    engine = values.get("servingEngineSpec")
    models = engine.get("modelSpec") if isinstance(engine, dict) else None
    if not isinstance(models, list) or not models or not all(isinstance(m, dict) for m in models):
        return None
    return [_of_model(m) for m in models if m.get("enabled") is not False] or None


def _of_model(first: dict[str, Any]) -> Chart:
    own = first.get("vllmConfig")
    table = {_spelt(k): v for k, v in own.items()} if isinstance(own, dict) else {}
    words = table.pop("extra-args", None)
    asked = first.get("requestGPU")
    if asked is not None and not isinstance(asked, int):
        raise InputError(
            f"requestGPU: {shorten(asked)}: servers on a part of a GPU each are not priced",
            field="requestGPU",
            value=asked,
            legal="a whole number of GPUs for each server",
        )
    return Chart(
        model=str(first.get("modelURL", "")),
        table=table,
        words=[str(w) for w in words] if isinstance(words, list) else [],
        gpus=asked,
        replicas=first["replicaCount"] if isinstance(first.get("replicaCount"), int) else 1,
        name=str(first.get("name", "")),
        notes=tuple(
            f"{key} stands beside vllmConfig, where the chart does not read it"
            for key in first
            if key == "extraArgs" or (key.endswith("ParallelSize") and key not in (own or {}))
        ),
    )


def _spelt(name: str) -> str:
    """``tensorParallelSize`` as the flag that it is."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda m: "-" + m.group(1).lower(), name)
