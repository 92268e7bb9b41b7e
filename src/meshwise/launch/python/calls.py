"""Launches that a Python program makes: an engine's call, DeepSpeed's configuration."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.python.values import Values, unset_variable
from meshwise.launch.table import Target, every_target, target

# what a launcher gives its degrees to: (package, what starts such a program)
_LAUNCHED = {
    "transformers": "the command that starts it (torchrun, accelerate launch, deepspeed) with its files",
    "accelerate": "`accelerate launch` with its flags or its configuration file",
    "deepspeed": "the `deepspeed` command with its JSON, or the JSON itself",
    "trl": "the command that starts it (accelerate launch, deepspeed) with its files",
    "torch": "the torchrun command with the flags of its layout",
    "lightning": "the flags of a framework that is known here",
    "pytorch_lightning": "the flags of a framework that is known here",
    "lmdeploy": "the engine's command of vLLM, SGLang or TensorRT-LLM",
    "mii": "the engine's command of vLLM, SGLang or TensorRT-LLM",
}


class EngineCall(NamedTuple):
    """An engine that the program makes, ``program`` as it calls it; ``surely``: under no condition and not
    in a loop."""

    target: Target
    table: dict[str, Any]
    surely: bool
    program: str
    line: int


def engines(tree: ast.Module, values: Values, open_: set[int]) -> list[EngineCall]:
    """The engines that a program makes; one whose arguments are all elsewhere only where no other is."""
    found: list[EngineCall] = []
    known = {call: chosen for chosen in every_target() for call in chosen.calls}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = values.dotted(node.func)
            chosen = known.get(f"{name.partition('.')[0]}.{name.rpartition('.')[2]}")
            if chosen is not None:
                table = _table(node, chosen, values)
                found.append(EngineCall(chosen, table, id(node) not in open_, name, node.lineno))
            elif name.startswith("ray.") and name.endswith(".LLMConfig"):
                ray = ray_table(values.keywords(node))
                surely = id(node) not in open_
                found.append(EngineCall(target("vllm"), ray, surely, name, node.lineno))
    whole = [c for c in found if not any(key.startswith("$") for key in c.table)]
    return whole or found


def _table(node: ast.Call, chosen: Target, values: Values) -> dict[str, Any]:
    table = values.keywords(node)
    for i, value in enumerate(node.args[:1]):
        if isinstance(value, ast.Starred):
            table[unset_variable(value.value)] = None
        elif i == 0:
            table.setdefault(chosen.first_argument, values.of(value))
    return table


def ray_table(table: dict[str, Any]) -> dict[str, Any]:
    """An ``LLMConfig`` of Ray: vLLM's own arguments, the model beside them."""
    own = table.get("engine_kwargs") or {}
    loading = table.get("model_loading_config") or {}
    named = loading.get("model_source") or loading.get("model_id") if loading else None
    found = dict(own) if isinstance(own, dict) else {str(own): None}
    if named is not None:
        found.setdefault("model", named)
    return found


def deepspeed_config(tree: ast.Module, values: Values) -> Any:
    """What ``deepspeed.initialize`` or a trainer's arguments get as their configuration: a dict or a
    path; None where there is none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = values.dotted(node.func)
        keys: tuple[str, ...] = ()
        if name == "deepspeed.initialize":
            keys = ("config", "config_params")
        elif name.endswith("TrainingArguments"):
            keys = ("deepspeed",)
        table = values.keywords(node) if keys else {}
        found = next((table[k] for k in keys if table.get(k) is not None), None)
        if found is not None:
            return found
    return None


def no_launch(text: str, values: Values) -> InputError:
    """Why a program states no layout."""
    packages = [name.partition(".")[0] for name in values.imported.values()]
    known = next((p for p in _LAUNCHED if p in packages), None)
    legal = _LAUNCHED.get(known or "", "the command that starts it with its degrees")
    what = f"what starts this program of {known}" if known else "what this program starts"
    return InputError(
        f"command: no word of a layout was read: {what} is not in the text",
        field="command",
        value=shorten(text.strip()[:60]),
        legal=f"{legal}; or a call of vllm.LLM, sglang.Engine, tensorrt_llm.LLM with its degrees",
    )
