"""DeepSpeed's JSON: given itself, named by a command, or written by the same script."""

from __future__ import annotations

import json
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch import other_software
from meshwise.launch.files import yaml_text
from meshwise.launch.files.configuration import opened
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import Script, option, whole_number
from meshwise.launch.spelling.misspelt import misspelt
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import Target, read_settings, target
from meshwise.strict_tables import count

CHECKPOINTING = "gradient_checkpointing"  # the trainer's flag, taken beside the table
_OPTIONS = ("--deepspeed_config", "--deepspeed-config", "--deepspeed")


def _table_of(text: str) -> dict[str, Any]:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        table = _other_text(text, error)
    if not isinstance(table, dict):
        raise InputError("command: no JSON object", field="command", legal="a DeepSpeed JSON")
    return table


def _other_text(text: str, error: Exception) -> dict[str, Any]:
    """JSON with comments, as YAML reads it; of other software its name is said."""
    try:
        table = yaml_text.mapping(text, "command")
    except InputError:
        table = {}
    other = other_software.of_keys(table)
    if other is not None:
        raise other_software.refusal(other)
    if table:
        return table
    raise InputError(
        f"command: no JSON: {shorten(str(error))}",
        field="command",
        value=text[:60],
        legal="a DeepSpeed JSON",
    ) from None


def _at(table: dict[str, Any], path: str) -> Any:
    """The value at a dotted path of nested sections; None where there is none."""
    value: Any = table
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _off(value: Any) -> bool:
    """Whether a switch or a section says nothing: absent, off, or of one rank."""
    if isinstance(value, dict):
        return not value or value.get("device") == "none" or value.get("enabled") is False
    return value in (None, False, 1, -1, "none")


def _unpriced(table: dict[str, Any]) -> list[str]:
    """What the table turns on that changes memory or time and is not priced."""
    found = []
    for path, what in target("deepspeed").price.items():
        if not _off(_at(table, path)):
            bound = ": memory is an upper bound" if what == "memory" else ""
            found.append(f"{path} is not priced and changes {what}{bound}")
    return found


def _as_now(table: dict[str, Any]) -> dict[str, Any]:
    """A table in the words of today's releases: ``zero_optimization`` was a switch, and offloading one of
    its own (runtime/zero/config.py, ``read_zero_config_deprecated`` and its deprecated fields)."""
    zero = table.get("zero_optimization")
    if isinstance(zero, bool):
        return {**table, "zero_optimization": {"stage": int(zero)}}
    if not isinstance(zero, dict):
        return table
    new = dict(zero)
    for old, section in (
        ("cpu_offload", "offload_optimizer"),
        ("cpu_offload_params", "offload_param"),
    ):
        if new.pop(old, None) is True:
            new.setdefault(section, {"device": "cpu"})
    return {**table, "zero_optimization": new}


def settings_of(table: dict[str, Any]) -> Settings:
    """What the table says; ``auto`` is left to the script that reads it."""
    chosen = target("deepspeed")
    table = _as_now(table)
    settings: Settings = {}
    for name, flag in chosen.flags.items():
        value = next((v for s in flag.spellings if (v := _at(table, s)) is not None), None)
        if value is None or value == "auto":
            continue
        if flag.kind == "int":
            value = count(value, flag.spellings[0], low=0 if name == "stage" else 1)
        settings[name] = value
    for path, why in chosen.holds.items():
        if not _off(_at(table, path)):
            raise InputError(
                f"{path}: DeepSpeed's key is not followed: {why}",
                field=path,
                value=shorten(str(_at(table, path))),
                legal="a configuration without it",
            )
    _foreign(table, chosen)
    return settings


def file_settings(text: str) -> Settings:
    """What a configuration's text says, by the names of DeepSpeed's table."""
    return settings_of(_table_of(text))


_SECTIONS = ("zero_optimization", "bf16", "fp16", "tensor_parallel")  # whose keys are checked too


def _foreign(table: dict[str, Any], chosen: Target) -> list[str]:
    """Keys that DeepSpeed does not have; raise for one that resembles a key of the layout."""
    source = source_flags("deepspeed")
    known: dict[str, Any] = {f.spellings[0].split(".")[0]: f for f in chosen.flags.values()}
    own = set(known) | {key.split(".")[0] for key in (*chosen.price, *chosen.holds, CHECKPOINTING)}
    found = []
    for key, value in table.items():
        if key not in own and (source is None or source.get(key) is None):
            misspelt(key, known, chosen, [])
            found.append(key)
        for inner in value if key in _SECTIONS and isinstance(value, dict) else ():
            name = f"{key}.{inner}"
            if source is not None and source.get(name) is None:
                misspelt(name, chosen.by_spelling(), chosen, [])
                found.append(name)
    return found


def job_fields(text: str, world: int | None) -> tuple[dict[str, Any], list[str], list[str]]:
    """(fields of a job, notes, keys that do not matter)."""
    table = _table_of(text)
    settings = settings_of(table)
    if not settings.keys() - {"bf16", "fp16"}:
        raise InputError(
            "command: no word of a layout of DeepSpeed was read",
            field="command",
            value=shorten(text.strip()[:60]),
            legal="a configuration with its zero_optimization and batch sizes",
        )
    fields, notes = read_settings(target("deepspeed"), settings, world)
    foreign = _foreign(_as_now(table), target("deepspeed"))
    if foreign:
        source = source_flags("deepspeed")
        release = source.release if source is not None else "DeepSpeed"
        notes.append(f"no keys of {release}, left aside: {', '.join(map(shorten, foreign))}")
    if "dtype" not in fields:
        notes.append("the configuration names no precision: the model's own is priced")
    if table.get(CHECKPOINTING):
        fields["recompute"] = "full"
    return fields, notes + _unpriced(_as_now(table)), []


def config_path(words: list[str]) -> str | None:
    for name in _OPTIONS:
        for i, word in enumerate(words):
            key, equals, value = word.partition("=")
            if key == name and equals:
                return value
            if key == name and i + 1 < len(words) and not words[i + 1].startswith("-"):
                return words[i + 1]
    return None


def command_table(text: str, said: Settings, words: dict[str, str]) -> dict[str, Any]:
    """The table of a command of DeepSpeed, its ``auto`` filled in by what the trainer's options say;
    ``words``: of each setting of these."""
    table = _table_of(text)
    for key, setting in (
        ("train_micro_batch_size_per_gpu", "micro_batch"),
        ("gradient_accumulation_steps", "accumulation"),
    ):
        number = said.get(setting)
        if number is not None and table.get(key, "auto") not in ("auto", number):
            raise _mismatch(key, table[key], words[setting], number)
        if number is not None:
            table[key] = number
        elif table.get(key) == "auto" and said.get("micro_batch") and setting == "accumulation":
            table[key] = 1  # transformers' own, whose option stands beside it
    if said.get("gradient_checkpointing"):
        table[CHECKPOINTING] = True
    for name in ("bf16", "fp16"):
        if not said.get(f"trainer_{name}"):
            continue
        section = table.get(name)
        stated = section.get("enabled", "auto") if isinstance(section, dict) else "auto"
        if stated is False:
            raise _mismatch(f"{name}.enabled", "false", words[f"trainer_{name}"], "True")
        table[name] = {"enabled": True}
    return table


def unpriced_of(text: str) -> list[tuple[str, str]]:
    """(key, what it changes) of what a configuration's text turns on that is not priced."""
    table = _as_now(_table_of(text))
    return [(k, what) for k, what in target("deepspeed").price.items() if not _off(_at(table, k))]


def _mismatch(key: str, value: object, flag: str, said: object) -> InputError:
    """The trainer refuses a configuration that its own flags contradict (``HfTrainerDeepSpeedConfig``)."""
    return InputError(
        f"{flag}={shorten(said)}: the DeepSpeed configuration says {key}: {shorten(value)}",
        field=flag,
        value=said,
        legal=f'{shorten(value)}, or "auto" in the configuration',
    )


_BESIDE = ("stage", "bf16", "fp16", "micro_batch", "optimizer", "offload_optimizer")


def stage_of(words: list[str], script: Script, settings: Settings) -> Settings:
    """Megatron-DeepSpeed: ZeRO's stage and the precision come from the JSON or ``--zero-stage``."""
    if not any(w.startswith("--deepspeed") for w in words):
        return {}
    path = config_path(words)
    found: Settings = {}
    if path is not None:
        read = settings_of(_table_of(opened(path, "--deepspeed_config", script.files)))
        micro = read.get("micro_batch")
        if micro is not None and settings.get("micro_batch", micro) != micro:
            raise InputError(
                f"train_micro_batch_size_per_gpu={micro}: the command says --micro-batch-size "
                f"{settings['micro_batch']}",
                field="train_micro_batch_size_per_gpu",
                value=micro,
                legal=str(settings["micro_batch"]),
            )
        found = {k: read[k] for k in _BESIDE if k in read}
    stage = whole_number(option(words, "zero-stage") or "")
    if stage is not None:
        found.setdefault("stage", stage)
    return found
