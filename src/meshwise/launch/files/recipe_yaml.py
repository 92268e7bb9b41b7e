"""Configurations in YAML that say a layout in sections of their own: recipes of Megatron-Bridge and NeMo,
values of vLLM's production stack."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.files import configuration as config_files
from meshwise.launch.files import yaml_text
from meshwise.launch.settings.nemo_model import nemo_model
from meshwise.launch.settings.settings import Settings

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


class RecipeTable(NamedTuple):
    """Overrides of a recipe, each with the key of the file that says it; GPUs; what it says of the model."""

    overrides: dict[str, Any]
    own_keys: dict[str, str]
    gpus: int | None
    model: Settings


def recipe_overrides(table: dict[str, Any], given: Mapping[str, str]) -> RecipeTable | None:
    """A recipe's settings, with ``given`` values of what the file names; None where it is of no recipe."""
    plain = config_files.dotted(table)
    own = {_SECTION.sub("model.", k): k for k in plain}
    if not any(re.fullmatch(r"model\.\w+_model_parallel_size", key) for key in own):
        return None
    dotted = {key: _followed(k, plain, given) for key, k in own.items()}
    frozen = next((k for k, v in dotted.items() if _FROZEN.search(k) and v is True), None)
    if frozen is not None:
        raise InputError(
            f"{frozen}: weights that are not trained are not priced",
            field=frozen,
            value="true",
            legal="a run that trains all weights",
        )
    found = {_MOVED.get(key, key): value for key, value in dotted.items() if value is not None}
    own_keys = {_MOVED.get(key, key): own[key] for key, v in dotted.items() if v is not None}
    if "mixed_precision" in found:
        found["mixed_precision"] = _precision(str(found["mixed_precision"]))
    found |= _of_first_release(dotted, found)
    _without_recomputation(found)
    nodes = dotted.get("trainer.num_nodes", dotted.get("cluster.num_nodes"))
    each = dotted.get("trainer.devices", dotted.get("cluster.gpus_per_node"))
    gpus: int | None = None
    if isinstance(nodes, int) and isinstance(each, int) and nodes * each > 0:
        gpus = nodes * each
    return RecipeTable(found, own_keys, gpus, nemo_model(dotted))


def _without_recomputation(found: dict[str, Any]) -> None:
    """Leave out how layers are recomputed where none are: it is the granularity that says whether any
    are, and blocks of no layers are none."""
    names = [f"model.recompute_{name}" for name in ("granularity", "method", "num_layers")]
    granularity, method, layers = (found.get(name) for name in names)
    none = granularity is None or str(granularity).lower() in ("none", "null")
    if none or (granularity == "full" and method == "block" and layers == 0):
        for name in names:
            found.pop(name, None)


_EXPRESSION = re.compile(r"\$\{([^${}]*)\}")  # that holds no other
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "multiply": lambda a, b: a * b,
    "divide_ceil": lambda a, b: -(-a // b),
    "divide_floor": lambda a, b: a // b,
}


def _followed(key: str, values: dict[str, Any], given: Mapping[str, str], depth: int = 0) -> Any:
    """A value, with those of the keys that it names (``${model.seq_length}``, ``${.seq_length}``) and what
    NeMo calculates of them (``${multiply:4, ${.hidden_size}}``); as it stands where one is not here."""
    value = values[key]
    if not isinstance(value, str) or depth > 8:
        return value
    for _ in range(8):
        found = _EXPRESSION.search(value)
        if found is None:
            return value
        one = _expression(found[1], key, values, given, depth)
        if one is None:
            return values[key]
        if found[0] == value:
            return one
        value = value[: found.start()] + str(one) + value[found.end() :]
    return values[key]


def _expression(
    text: str, key: str, values: dict[str, Any], given: Mapping[str, str], depth: int
) -> Any:
    """What an expression of a configuration is; None where that does not follow from the file."""
    name, colon, words = text.partition(":")
    if colon:
        numbers = [int(w) for w in words.split(",") if re.fullmatch(r"\s*\d{1,12}\s*", w)]
        known = name in _ARITHMETIC and len(numbers) == words.count(",") + 1 == 2 and numbers[1]
        return _ARITHMETIC[name](*numbers) if known else None
    dots = len(name) - len(name.lstrip("."))
    sections = key.split(".")[:-dots] if dots else []
    other = ".".join([*sections, name[dots:]])
    # a part of a larger configuration is named with the place that it has there
    root, _, rest = other.partition(".")
    if other not in values and rest in values and not any(k.split(".")[0] == root for k in values):
        other = rest
    if other in values:
        return _followed(other, values, given, depth + 1)
    return yaml_text.typed(given[other]) if other in given else None


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
