"""What a configuration that was followed says of layout, batch and precision, as a target's own settings."""

from __future__ import annotations

import itertools
from typing import Any

from meshwise.launch.python.built import Built, Open
from meshwise.launch.table import Target

# what frameworks say in another place than the override that means the same
_MOVED = {
    "trainer.strategy": "model",
    "trainer.strategy.ddp": "ddp",
    "data": "train",
    "optim.config": "optimizer",
    "trainer": "",
}
_SAME = {
    "train.seq_length": "model.seq_length",
    "dataset.seq_length": "model.seq_length",
    "dataset.sequence_length": "model.seq_length",
    "plugins": "mixed_precision",
}
_FORMATS = ("fp4", "fp8")  # of a mixed-precision object, the narrowest first
_OFF = ("none", "false", "")


def recipe_settings(made: Built, chosen: Target) -> tuple[dict[str, Any], str]:
    """(settings by the names of the target's table, the name of the model); open values too."""
    leaves = _leaves(made)
    known = {s.removeprefix("--"): flag for s, flag in chosen.by_spelling().items()}
    found: dict[str, Any] = {}
    for key, value in leaves.items():
        name = _moved(key)
        flag = known.get(_SAME.get(name, name))
        if flag is None or (name != key and flag.name in found):
            continue
        shown = _precision(value) if flag.name == "precision" else _plain(value, flag.name)
        if shown is not None and str(found.get(flag.name)) != "true":  # of two places that say it
            found[flag.name] = shown
    found |= _of_types(leaves)
    optimizer = leaves.get("optimizer")
    if isinstance(optimizer, Built) and optimizer.kind.startswith("distributed_fused_adam"):
        found["distributed_optimizer"] = "true"  # which turns it on in both places (config.py)
    adapters = leaves.get("peft")
    if isinstance(adapters, Built | Open):
        named = adapters.kind.rpartition(".")[2] if isinstance(adapters, Built) else "peft"
        found["adapters"] = named
    if str(found.get("precise", "false")) == "false":  # the formats are of no matter then
        found = {k: v for k, v in found.items() if k not in ("precise", "moment", "second_moment")}
    return {k: v for k, v in found.items() if v not in _OFF or k in _SAID}, _model(made)


_SAID = (
    "sequence_parallel",
    "distributed_optimizer",
    "grad_fp32",
    "grouped_gemm",
)  # whose "false" is not what holds without it


def _leaves(made: Built, before: str = "", depth: int = 0) -> dict[str, Any]:
    """Fields by their dotted names, those within others too."""
    found: dict[str, Any] = {}
    for key, value in made.fields.items():
        found[f"{before}{key}"] = value
        if isinstance(value, Built) and depth < 8:
            found |= _leaves(value, f"{before}{key}.", depth + 1)
    return found


def _moved(key: str) -> str:
    section, _, name = key.rpartition(".")
    return f"{_MOVED[section]}.{name}".lstrip(".") if section in _MOVED else key


def _plain(value: Any, setting: str) -> Any:
    """A value as a command writes it; None where it says nothing, or builds something else."""
    if isinstance(value, Built):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        if setting == "stage_layout":
            return _stages(value)
        simple = all(isinstance(v, str | int) for v in value)
        return ",".join(map(str, value)) if simple else Open(setting)
    return value


_PARTS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}


def _stages(value: list[Any]) -> Any:
    """A list of stages as Megatron writes a layout: ``Et*3|(t*4|)*14mL``."""
    stages = [v if isinstance(v, list) else [v] for v in value]
    if any(not isinstance(part, str) or part not in _PARTS for part in itertools.chain(*stages)):
        return Open("stages")
    words = []
    for stage in stages:
        runs = [(p, len([*run])) for p, run in itertools.groupby(stage)]
        words.append("".join(_PARTS[p] + (f"*{n}" if n > 1 else "") for p, n in runs))
    shown = []
    for word, run in itertools.groupby(words):
        many = len([*run])
        shown.append(f"({word}|)*{many}" if many > 1 else f"{word}|")
    return "".join(shown).removesuffix("|") if not shown[-1].startswith("(") else "|".join(words)


def _precision(value: Any) -> Any:
    """The name of a mixed-precision object: of its fields, or as it is written."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Built):
        return value
    fields = value.fields
    if not fields:
        return value.kind
    wide = "fp16" if fields.get("fp16") or fields.get("precision") == "16-mixed" else "bf16"
    narrow = next((f for f in _FORMATS if fields.get(f)), None)
    if narrow is None:
        return f"{wide}_mixed"
    recipe = str(fields.get(f"{narrow}_recipe") or narrow)
    return f"{wide}_with_{recipe if narrow[-3:] in recipe else f'{narrow}_{recipe}'}_mixed"


# torchtitan says some switches by the class of what it makes
_CHECKPOINTING = {"FullAC.Config": "full", "SelectiveAC.Config": "selective"}


def _of_types(leaves: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    policy = leaves.get("activation_checkpoint")
    if isinstance(policy, Built) and policy.kind in _CHECKPOINTING:
        found["checkpointing"] = _CHECKPOINTING[policy.kind]
    spec = leaves.get("model_spec")
    said = leaves.get("model_converters")
    if isinstance(spec, Built):
        said = spec.given.get("converters", spec.fields.get("converters", said))
    if isinstance(said, list):
        kinds = [c.kind.removesuffix(".Config") for c in said if isinstance(c, Built)]
        found["converters"] = ",".join(_CONVERTERS.get(k, k) for k in kinds)
    return found


# converters as classes, by their names on a command line
_CONVERTERS = {
    "Float8LinearConverter": "quantize.linear.float8",
    "MXFP8LinearConverter": "quantize.linear.mx",
    "MXLinearConverter": "quantize.linear.mx",
    "NVFP4LinearConverter": "quantize.linear.nvfp4",
    "Float8GroupedMMConverter": "quantize.grouped_mm.float8",
    "Float8GroupedExpertsConverter": "quantize.grouped_mm.float8",
    "MXFP8GroupedMMConverter": "quantize.grouped_mm.mx",
    "MXFP8GroupedExpertsConverter": "quantize.grouped_mm.mx",
}


def _model(made: Built) -> str:
    """The name by which a recipe takes its model: a hub id, a flavour, a configuration's class."""
    model = made.fields.get("model", made.fields.get("model_spec"))
    if not isinstance(model, Built):
        return ""
    if "flavor" in model.fields:
        return ":".join(str(model.fields.get(k)) for k in ("name", "flavor"))
    words = [w for w in model.words if isinstance(w, str)]
    if words:
        return words[0]
    for each in (model.fields.get("config"), *model.words):
        if isinstance(each, Built):
            named = [w.text for w in each.words if isinstance(w, Open)]
            return named[0] if named and each.kind.endswith("Config") else each.kind
    return model.kind
