"""What the overrides of a Megatron-Bridge recipe mean: Megatron-LM's model by other names."""

from __future__ import annotations

import re
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.command_text import Written, flag_lines, torchrun
from meshwise.launch.files.recipes import find_recipe, recipe_names, with_recipe
from meshwise.launch.find import Launch
from meshwise.launch.job import Job
from meshwise.launch.settings import stages, switches
from meshwise.launch.settings.settings import Read, Settings, yes
from meshwise.launch.shell.commands import Script
from meshwise.launch.table import Target
from meshwise.launch.targets import megatron_lm


def _settings(job: Job) -> Settings:
    """The same model as Megatron-LM's, as overrides of a recipe."""
    s = megatron_lm.degree_settings(job) | megatron_lm.recomputation_settings(job)
    s["sequence_parallel"] = str(job.sequence_parallel).lower()
    if job.shard == "zero1":
        s["distributed_optimizer"] = "true"
    elif job.shard == "none":
        s["distributed_optimizer"] = "false"
    if job.overlap == "decomposed" and job.sequence_parallel:
        s["tp_overlap"] = "true"
    if job.dtype in _MIXED:
        s["precision"] = _MIXED[job.dtype]
    if job.dtype in _MIXED or job.grad_dtype is not None:
        s["grad_fp32"] = str(job.grad_dtype in (None, "fp32")).lower()
    own = switches.switch_settings(job) | megatron_lm.optimizer_settings(job)
    s |= {k: str(v).lower() if v is True else v for k, v in own.items()}
    s = {k: v for k, v in s.items() if k not in _OF_A_RECIPE}
    return s | {k: v for k, v in megatron_lm.batch_settings(job).items() if v is not None}


# torch's own objects in a recipe: no override says them
_OF_A_RECIPE = ("precise", "moment", "second_moment")
# names of Megatron-Bridge's mixed-precision recipes (training/mixed_precision.py)
_MIXED = {
    "bf16": "bf16_mixed",
    "fp16": "fp16_mixed",
    "fp8": "bf16_with_fp8_delayed_scaling_mixed",
}


# what a mixed-precision recipe's name says of the products, the narrowest first
_NARROW = (("nvfp4", "nvfp4"), ("mxfp8", "mxfp8"), ("fp8_mx", "mxfp8"), ("fp8", "fp8"))


def read(s: Settings, world: int | None) -> Read:
    _check_adapters(s)
    flags, said = switches.of_a_recipe(s)
    mixed = str(s.get("precision", "")).lower()
    narrow = next((dtype for word, dtype in _NARROW if word in mixed), None)
    if narrow is not None:
        flags["fp8"] = mixed
    elif "bf16" in mixed or "fp16" in mixed:
        flags["bf16" if "bf16" in mixed else "fp16"] = True
    told = (
        "fsdp",
        "sequence_parallel",
        "distributed_optimizer",
        "tp_overlap",
        "overlap_experts",
        "precise",
        *stages.SPLITS[:2],
    )
    for name in told:
        flags[name] = yes(s.get(name, "false"))
    for name in ("vp", "etp", *stages.SPLITS[2:]):
        if str(flags.get(name)).lower() in ("none", "null"):
            flags.pop(name, None)
    if str(flags.get("granularity")).lower() in ("none", "null"):
        # it is the granularity that says whether layers are recomputed, not how (transformer_config.py)
        for name in ("granularity", "recompute_method", "recompute_layers"):
            flags.pop(name, None)
    found, notes = megatron_lm.read(flags, world)
    notes = [*s.get("recipe_notes", ()), *said, *notes]
    if narrow is not None:
        found["dtype"] = narrow
    if s.get("optimizer") is not None:
        found |= megatron_lm.optimizer_fields(str(s["optimizer"]), notes)
    if yes(s.get("offload_optimizer", "false")):
        found["offload_optimizer"] = True
    if s.get("grad_fp32") is not None:
        found["grad_dtype"] = "fp32" if yes(s["grad_fp32"]) else "bf16"
    return found, notes


def defaults(s: Settings, fields: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Its mixed-precision recipes reduce gradients in fp32 (training/mixed_precision.py,
    ``grad_reduce_in_fp32``)."""
    named = s.get("precision") is not None
    if named and fields.get("grad_dtype") is None and fields.get("dtype") in ("bf16", "fp8"):
        return {"grad_dtype": "fp32"}, []
    return {}, []


def shape(s: Settings) -> Settings:
    """What a configuration that writes out its model says of it; an override alone changes a recipe's."""
    return megatron_lm.shape(s) if s.get("writes_model") else {}


_FULL = ("none", "null", "false", "")


def _check_adapters(s: Settings) -> None:
    """Raise for a run that trains low-rank adapters and not the weights."""
    named = s.get("adapters") if str(s.get("adapters")).lower() not in _FULL else None
    task = str(s.get("task") or "").lower()
    if named is None and task not in _ADAPTED:
        return
    raise InputError(
        f"{shorten(str(named or task))}: low-rank adapters are not priced: their gradients and optimizer "
        "are those of a few weights",
        field="adapters" if named is not None else "task",
        value=str(named or task),
        legal="a run that trains all weights",
    )


_ADAPTED = ("lora", "dora", "peft")
_OWN_RECIPES = ("run_recipe.py", "run_script.py", "launch_with_nemo_run.py")
_PRECISIONS = {"fp8_cs": "fp8cs", "fp8_mx": "fp8mx", "fp8_ds": "fp8ds", "fp8_sc": "fp8sc"}


def claims(before: list[str], after: list[str], says: set[str]) -> int:
    """The scripts that run a recipe by its name."""
    script = before[-1].rpartition("/")[2]
    names = ("--recipe", "--model_recipe_name", "-mr", "--model")
    named = any(w.partition("=")[0] in names for w in after)
    return 4 * int(script in _OWN_RECIPES and named)


def with_files(s: Settings, text: str, launch: Launch, script: Script, chosen: Target) -> Settings:
    """The recipe that the command names, under the command's own settings. A script that is none of the
    target's has a recipe of its own."""
    name = _recipe_name(s, chosen)
    if name is None and launch.by_structure and launch.before:
        name = launch.before[-1].rpartition("/")[2]
    if s.get("task") is None and name is not None:
        s = s | {"task": _task_of(name)}
    _check_adapters(s)  # before what the recipe sets: it is refused whatever that is
    left = {k: v for k, v in s.items() if k not in ("recipe", "family", "stem", "gpu", "variant")}
    return with_recipe(left, name, chosen) if name is not None else left


_TASK_WORDS = {
    "pretrain": ("pretrain",),
    "sft": ("sft", "finetune"),
    "dora": ("dora",),
    "lora": ("peft", "lora"),
}


def _task_of(recipe: str) -> str | None:
    """What a recipe's name says that it trains (scripts/training/recipe_metadata.py,
    ``infer_recipe_mode``)."""
    parts = recipe.lower().split("_")
    return next((t for t, words in _TASK_WORDS.items() if any(w in parts for w in words)), None)


def _recipe_name(s: Settings, chosen: Target) -> str | None:
    """The name of the function that makes the recipe: said, or of the parts that scripts put together
    (scripts/performance/utils/utils.py, ``_recipe_function_name``; scripts/training/run_recipe.py)."""
    task = str(s.get("task") or "pretrain").lower()
    if s.get("recipe"):
        name = str(s["recipe"]).partition("(")[0]
        kind = "finetune" if task in ("finetune", "sft") else "pretrain"
        own = f"{name}:{kind}_recipe"
        return own if find_recipe(own, chosen) is not None else name
    if s.get("stem"):
        return f"{s['stem']}_{'peft' if task in _ADAPTED else task}_config"
    if not s.get("family"):
        return None
    said = str(s.get("precision") or "bf16").lower()
    narrow = _PRECISIONS.get(said, said.replace("_", ""))
    variant = str(s.get("variant") or "v1").lower()
    tail = "" if variant in ("v1", "v2") else f"_{variant}"
    gpu = str(s.get("gpu") or "gpu").lower()
    exact = f"{s['family']}_{task}_{s.get('gpus')}gpu_{gpu}_{narrow}{tail}_config"
    if find_recipe(exact, chosen) is not None:
        return exact
    # the one that it is scaled from, where there is one alone
    head, rest = re.escape(f"{s['family']}_{task}_"), re.escape(f"{gpu}_{narrow}{tail}_config")
    pattern = re.compile(rf"{head}\d+gpu_{rest}")
    alike = [name for name in recipe_names(chosen) if pattern.fullmatch(name)]
    return alike[0] if len(alike) == 1 else exact


def write(job: Job, chosen: Target) -> Written:
    return flag_lines(torchrun(job, "$RECIPE"), _settings(job), chosen), {}
