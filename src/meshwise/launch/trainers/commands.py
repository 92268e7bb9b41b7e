"""Commands whose script takes the trainer's options: DeepSpeed's with its JSON, and accelerate's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from meshwise.errors import InputError
from meshwise.launch.account.file_words import file_words
from meshwise.launch.account.launcher_values import NUMBER_OF_GPUS, unset_of_launcher
from meshwise.launch.account.origins import PlacedWords
from meshwise.launch.account.questions import FILES, OpenValue, Unanswered
from meshwise.launch.files import deepspeed_json as zero_file
from meshwise.launch.files.configuration import opened
from meshwise.launch.find import Launch, script_end
from meshwise.launch.flags import ReadWords
from meshwise.launch.parsed import Asked, Parsed, Unpriced, job_from, with_file_words
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import Script, unset_names
from meshwise.launch.trainers.options import (
    ScriptOptions,
    check_own_degrees,
    fsdp_settings,
    script_options,
)

_OPTION = "--deepspeed_config"


class TrainerCommand(NamedTuple):
    """A command cut where its script begins: the launcher's own words, and what the script's say."""

    words: list[str]
    lines: tuple[int, ...]
    options: ScriptOptions


def cut_at_script(launch: Launch) -> TrainerCommand:
    """A launcher's command; without a script in sight all its words are looked through."""
    words, lines = launch.after, launch.lines[len(launch.before) :]
    at = script_end(words)
    behind = words[at:]
    check_own_degrees(behind if at else [])
    name = words[at - 1] if at else ""
    options = script_options(behind, PlacedWords("", lines[at:]), name)
    if not at:
        return TrainerCommand(words, lines, options)
    said = options.settings.pop("fsdp_options", None)
    if said is not None:
        more, left = fsdp_settings(said)
        options.settings.update(more)
        options.unpriced.extend(left)
    return TrainerCommand(words[:at], lines[:at], options)


def with_options(
    settings: Settings, words: ReadWords, options: ScriptOptions, questions: list[OpenValue]
) -> Settings:
    """A launcher's settings under those of its script, which decides where both say one."""
    words.flags.extend(options.flags)
    words.unpriced.extend(options.unpriced)
    words.ignored.extend(options.others)
    questions.extend(options.questions)
    return settings | options.settings


def read_deepspeed(
    launch: Launch, script: Script, asked: Asked, world: int | None, nodes: int | None
) -> Parsed:
    """A command of DeepSpeed's launcher, or of another whose script names its JSON."""
    words, chosen = launch.after, launch.target
    check_own_degrees(words)
    many = len(launch.before)
    name = launch.before[-1] if launch.before else ""
    options = script_options(words, PlacedWords("", launch.lines[many:]), name)
    path = zero_file.config_path(words)
    if path is None:
        raise InputError(
            "command: no DeepSpeed configuration is named: the script makes its own, which may hold the "
            "layout",
            field="command",
            legal="--deepspeed_config FILE, or the JSON itself",
        )
    questions, text = list(options.questions), ""
    try:
        text = opened(path, _OPTION, script.files)
    except InputError as error:
        questions += _of_file(path, error)
    started = unset_of_launcher(launch, world)
    if world is None and asked.gpus is None and not started:
        started = [NUMBER_OF_GPUS]
    started = [] if asked.gpus is not None else started
    if questions:
        known = set(options.settings) | _batch_known(options)
        raise Unanswered(
            [*started, *questions], chosen.phase, options.settings.get("model", ""), known
        )
    said = {f.setting: f.origin.word.partition(" ")[0].partition("=")[0] for f in options.flags}
    table = zero_file.command_table(text, options.settings, said)
    try:
        fields, notes, ignored = zero_file.job_fields(json.dumps(table), world)
    except InputError as error:
        if error.field == "gpus" and started:
            known = set(options.settings) | _batch_known(options)
            named = options.settings.get("model", "")
            raise Unanswered(started, chosen.phase, named, known) from None
        raise
    if "seq" in options.settings:
        fields["seq"] = options.settings["seq"]
    read = job_from(chosen, fields, notes, ignored, asked, asked.model or _model(options))
    origins = [
        (setting, origin)
        for setting, origin in file_words(table, chosen, text, Path(path).name)
        if _TRAINERS.get(setting, setting) not in said
    ]
    read = with_file_words(read, origins)
    return read._replace(
        nodes=nodes,
        flags=(*read.flags, *options.flags),
        unpriced=tuple(Unpriced(*u) for u in dict.fromkeys(options.unpriced)),
        ignored=tuple(options.others),
    )


# settings of DeepSpeed's table that an option of the trainer's by another name fills in
_TRAINERS = {"bf16": "trainer_bf16", "fp16": "trainer_fp16"}


def _model(options: ScriptOptions) -> str:
    return str(options.settings.get("model") or "")


def _batch_known(options: ScriptOptions) -> set[str]:
    """The global batch, where it follows from the options once the GPUs are known."""
    asked = {q.used.lstrip("-").replace("-", "_") for q in options.questions}
    sizes = {"per_device_train_batch_size"} & asked or "micro_batch" in options.settings
    return {"global_batch"} if sizes else set()


def _of_file(path: str, error: InputError) -> list[OpenValue]:
    """What is asked for in the place of a file that cannot be opened."""
    if unset_names(path):
        return [OpenValue(f"${n}", _OPTION) for n in dict.fromkeys(unset_names(path))]
    if Path(path).exists():
        raise error
    return [OpenValue(path, _OPTION, FILES, said=error.message)]
