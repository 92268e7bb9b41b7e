"""DeepSpeed's JSON: given itself, named by a command, or written by the same script."""

from __future__ import annotations

import json
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch import zero
from meshwise.launch.config_files import opened
from meshwise.launch.flags import misspelt
from meshwise.launch.serving import Settings
from meshwise.launch.shell import Script, number, option
from meshwise.launch.table import target
from meshwise.spec.reading import count

_OPTIONS = ("--deepspeed_config", "--deepspeed-config", "--deepspeed")


def table_of(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"COMMAND: no JSON: {shorten(str(error))}",
            field="COMMAND",
            value=text[:60],
            legal="a DeepSpeed JSON",
        ) from None
    if not isinstance(table, dict):
        raise InputError("COMMAND: no JSON object", field="COMMAND", legal="a DeepSpeed JSON")
    return table


def settings_of(table: dict[str, Any]) -> Settings:
    """What the table says; ``auto`` is left to the script that reads it."""
    chosen = target("deepspeed")
    settings: Settings = {}
    for name, flag in chosen.flags.items():
        value: Any = table
        for part in flag.spellings[0].split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or value == "auto":
            continue
        if flag.kind == "int":
            value = count(value, flag.spellings[0], low=0 if name == "stage" else 1)
        settings[name] = value
    known = {f.spellings[0].split(".")[0]: f for f in chosen.flags.values()}
    for key in table:
        if key not in known:
            misspelt(key, known, chosen, [])
    return settings


def read(text: str, world: int | None) -> tuple[dict[str, Any], list[str], list[str]]:
    """(fields of a job, notes, keys that do not matter)."""
    settings = settings_of(table_of(text))
    if not settings.keys() - {"bf16", "fp16"}:
        raise InputError(
            "COMMAND: no word of a layout of DeepSpeed was read",
            field="COMMAND",
            value=shorten(text.strip()[:60]),
            legal="a configuration with its zero_optimization and batch sizes",
        )
    fields, notes = zero.deepspeed_fields(settings, world)
    if "dtype" not in fields:
        notes.append("the configuration names no precision: the model's own is priced")
    if fields.get("micro_batch") is None:
        notes.append("train_micro_batch_size_per_gpu is not said: 1 is priced")
    return fields, notes, []


def config_path(words: list[str]) -> str | None:
    for name in _OPTIONS:
        for i, word in enumerate(words):
            key, equals, value = word.partition("=")
            if key == name and equals:
                return value
            if key == name and i + 1 < len(words) and not words[i + 1].startswith("-"):
                return words[i + 1]
    return None


def of_command(words: list[str], script: Script) -> str:
    """The JSON of a command of DeepSpeed, its ``auto`` sizes replaced by the trainer's flags."""
    path = config_path(words)
    if path is None:
        raise InputError(
            "COMMAND: no DeepSpeed configuration",
            field="COMMAND",
            legal="--deepspeed_config FILE, or the JSON itself",
        )
    table = table_of(opened(path, "--deepspeed_config", script.files))
    for key, name in (
        ("train_micro_batch_size_per_gpu", "per_device_train_batch_size"),
        ("gradient_accumulation_steps", "gradient_accumulation_steps"),
    ):
        said = number(option(words, name) or "")
        if said is not None and table.get(key, "auto") == "auto":
            table[key] = said
    for name in ("bf16", "fp16"):
        section = table.get(name)
        auto = not isinstance(section, dict) or section.get("enabled") == "auto"
        if auto and option([*words, ""], name) not in (None, "False", "false"):
            table[name] = {"enabled": True}
    return json.dumps(table)


def stage_of(words: list[str], script: Script, settings: Settings) -> Settings:
    """Megatron-DeepSpeed: ZeRO's stage and the precision come from the JSON or ``--zero-stage``."""
    if not any(w.startswith("--deepspeed") for w in words):
        return {}
    path = config_path(words)
    found: Settings = {}
    if path is not None:
        read = settings_of(table_of(opened(path, "--deepspeed_config", script.files)))
        micro = read.get("micro_batch")
        if micro is not None and settings.get("micro_batch", micro) != micro:
            raise InputError(
                f"train_micro_batch_size_per_gpu={micro}: the command says --micro-batch-size "
                f"{settings['micro_batch']}",
                field="train_micro_batch_size_per_gpu",
                value=micro,
                legal=str(settings["micro_batch"]),
            )
        found = {k: read[k] for k in ("stage", "bf16", "fp16", "micro_batch") if k in read}
    stage = number(option(words, "zero-stage") or "")
    if stage is not None:
        found.setdefault("stage", stage)
    return found
