"""A launch command read into a job."""

from __future__ import annotations

import re
from typing import NamedTuple

from meshwise.errors import InputError, MeshwiseError, quoted, shorten
from meshwise.launch import other_software
from meshwise.launch.files import configuration as config_files
from meshwise.launch.files import deepspeed_json as zero_file
from meshwise.launch.files import launches as files
from meshwise.launch.files import yaml_text
from meshwise.launch.find import Launch, launches, script_of
from meshwise.launch.flags import ReadWords, read_words
from meshwise.launch.parsed import (
    Asked,
    NoLaunch,
    Parsed,
    Unpriced,
    from_settings,
    job_from,
    of_table,
    on_gpus,
    states_a_layout,
)
from meshwise.launch.python import configurations as python_text
from meshwise.launch.settings.settings import Settings
from meshwise.launch.settings.source_flags import source_flags
from meshwise.launch.shell.commands import Script, check_text, read_script
from meshwise.launch.table import Target, function_of, target
from meshwise.launch.targets import target_names
from meshwise.launch.wrappers import manifests, servers
from meshwise.launch.wrappers.world import world_of

__all__ = ["NoLaunch", "Parsed", "Unpriced", "parse"]


def parse(
    text: str,
    target_name: str | None = None,
    *,
    gpus: int | None = None,
    model: str | None = None,
    experts: bool | None = None,
) -> Parsed:
    """The job that a launch command starts.

    The target is told by the command's own words unless given. ``gpus`` where the command does not say
    how many it runs on; ``experts``: whether the model has routed experts. Raises
    :class:`~meshwise.errors.InputError` for a flag that looks like a misspelt one, a missing or wrong
    value, flags that contradict each other, words that may hold the layout and cannot be followed, and
    a command that states no layout.
    """
    return on_gpus(_parse(text, Asked(target_name, gpus, model, experts)), gpus)


_GROUP = re.compile(
    r"\{\s+(?:#[^\n]*\n\s*)*[^\s\"'}#]"
)  # of commands in a shell; JSON's keys are in quotes
_PART = "a part of a manifest: copies that the rest of it asks for are not counted"


def _parse(text: str, asked: Asked) -> Parsed:
    stripped = shell = check_text(text).strip()
    if stripped.startswith("{") and _GROUP.match(stripped) is None:
        return job_from(target("deepspeed"), *zero_file.job_fields(stripped, asked.gpus), asked)
    if yaml_text.looks_like(stripped):
        served = files.ray(text, asked)
        if served is not None:
            return served
        commands = manifests.container_commands(text)
        if commands is None:
            return files.configuration(stripped, asked)
        found = _one_of([_way(script, text, asked) for script in read_script(commands)], text)
        return found._replace(notes=(*found.notes, _PART)) if manifests.is_part(text) else found
    if files.looks_like_toml(stripped):
        return files.titan_toml(stripped, asked)
    tree = python_text.python_tree(text)
    read = files.python(text, tree, asked) if tree is not None else text
    if isinstance(read, Parsed):
        return read
    shell = read
    return _one_of([_way(script, text, asked) for script in read_script(shell)], text)


class _Way(NamedTuple):
    """One way through a script: what it comes to."""

    conditions: tuple[str, ...]
    read: Parsed | None
    error: MeshwiseError | None


def _way(script: Script, text: str, asked: Asked) -> _Way:
    try:
        return _Way(script.conditions, _first(script, text, asked), None)
    except MeshwiseError as error:
        return _Way(script.conditions, None, error)


def _one_of(ways: list[_Way], text: str) -> Parsed:
    """What all ways through a script agree on."""
    read = [w for w in ways if w.read is not None]
    failed = [w.error for w in ways if w.error is not None]
    hard = [e for e in failed if not isinstance(e, NoLaunch)]
    if hard:
        raise hard[0]
    if not read:
        raise failed[0]
    first = read[0].read
    assert first is not None
    others = [w for w in read[1:] if w.read is not None and w.read.job != first.job]
    if others:
        said = "; ".join(
            f"{shorten(w.conditions[-1] if w.conditions else 'always', 60)}: {w.read.job.words}"
            for w in [read[0], *others[:3]]
            if w.read is not None
        )
        raise InputError(
            f"command: which branch runs is not known ({said})",
            field="command",
            value=read[0].conditions[-1] if read[0].conditions else None,
            legal="the script with the condition's variables set before it",
        )
    return first


def _first(script: Script, text: str, asked: Asked) -> Parsed:
    """The first launch of a script; others with another layout are named, copies of a server counted."""
    found = launches(script.commands, asked.target)
    if not found:
        raise _none(script, text)
    _goes_on(script, found[0].target)
    first = _read(found[0], script, text, asked)
    notes: list[str] = []
    alike = [found[0]]
    for other in found[1:]:
        try:
            second = _read(other, script, text, asked)
        except MeshwiseError as error:
            notes.append(f"another command of the text is not read: {error.sentence}")
            continue
        if second.job == first.job:
            alike.append(other)
        else:
            notes.append(
                f"the text starts another command with another layout ({second.job.words}): the "
                "first is priced"
            )
    read = servers.server_copies(first, alike, script)
    return read._replace(notes=(*dict.fromkeys(notes), *read.notes))


_STARTERS = ("srun", "mpirun", "mpiexec")


def _rest_of_launch(words: list[str], chosen: Target) -> str | None:
    """The first flag of the target in a command that starts nothing: ``srun … --seq-length 2048``."""
    if words[0].rpartition("/")[2] not in _STARTERS:
        return None
    known, source = chosen.by_spelling(), source_flags(chosen.name)
    flags = [w for w in words if w in known or (source is not None and source.get(w) is not None)]
    started = any(w.endswith((".py", ".sh")) or w in ("-m", "-c") for w in words)
    return flags[0] if len(flags) > 1 and not started and len(flags[0]) > 3 else None


def _goes_on(script: Script, chosen: Target) -> None:
    """Raise for a line of flags that no command has: the line before it does not go on."""
    for command in script.commands:
        word = command.words[0]
        if not launches([command], None):
            word = _rest_of_launch(command.words, chosen) or word
        if (
            word.startswith("--")
            and len(word) > 3
            and manifests.pod_request(command.variables) is None
        ):
            raise InputError(
                f"command: a line begins with {shorten(word)}: the line before it does not end with a "
                "backslash",
                field="command",
                value=word,
                legal="the command in one line, or \\ at the end of each that goes on",
            )


def _none(script: Script, text: str) -> NoLaunch:
    wrapped = next((s for c in script.commands if (s := script_of(c.words)) is not None), None)
    wrapped = wrapped or next(iter(script.sourced), None)
    other = next((o for c in script.commands if (o := other_software.of_words(c.words))), None)
    if other is not None:
        return other_software.refusal(other)
    own = next((s for c in script.commands if (s := _own_script(c.words)) is not None), None)
    if own is not None:
        return NoLaunch(
            f"command: {shorten(own)} is a script of its own: none of its words says a layout of a known "
            "target",
            field="command",
            value=own,
            legal="the flags or the file of a known target: " + ", ".join(target_names()),
        )
    if wrapped is not None:
        return NoLaunch(
            f"command: what {shorten(wrapped)} starts is not in the text",
            field="command",
            value=wrapped,
            legal=f"the text of {shorten(wrapped)} with its variables set before it",
        )
    return NoLaunch(
        f"command: no launch command of a known target in {quoted(text.strip()[:60])}",
        field="command",
        value=text.strip()[:80],
        legal=", ".join(target_names()),
    )


_LAUNCHERS = ("torchrun", "hyperpodrun", "torch.distributed.run", "torch.distributed.launch")


def _own_script(words: list[str]) -> str | None:
    """The script that a launcher of processes starts."""
    at = next((i for i, w in enumerate(words) if w.rpartition("/")[2] in _LAUNCHERS), None)
    rest = words[at + 1 :] if at is not None else []
    return next((w for w in rest if w.endswith(".py")), None)


def _read(launch: Launch, script: Script, text: str, asked: Asked) -> Parsed:
    chosen = launch.target
    check = function_of(chosen, "check_command")
    if check is not None:
        check(launch)
    world, nodes = world_of(launch, script, asked.gpus)
    if chosen.style == "json":
        table = zero_file.command_json(launch.after, script)
        fields, notes, ignored = zero_file.job_fields(table, world)
        return job_from(chosen, fields, notes, ignored, asked)._replace(nodes=nodes)
    words = read_words(launch.after, chosen)
    settings = _with_file(words, chosen, script, launch)
    with_files = function_of(chosen, "with_files")
    if with_files is not None:
        settings = with_files(settings, text, launch, script, chosen)
    states_a_layout(settings, words, launch, world)
    read = from_settings(chosen, settings, words, asked, world)
    return read if nodes is None else read._replace(nodes=nodes)


def _with_file(words: ReadWords, chosen: Target, script: Script, launch: Launch) -> Settings:
    """The settings of the file that a command names, under those of its own flags."""
    own = words.settings
    path = own.pop("config", None)
    if (
        path is None
        and chosen.file_variable
        and launch.before
        and launch.before[-1].endswith(".sh")
    ):
        path = script.variables.get(chosen.file_variable)
    if path is None:
        return own
    if chosen.file == "toml" and not path.endswith(".toml"):
        return own | {"config": path}  # the name of a function
    option = chosen.flags["config"].spellings[0]
    text = config_files.opened(path, option, script.files)
    mapping = config_files.sections if chosen.file == "toml" else yaml_text.mapping
    return of_table(mapping(text, option), chosen, words) | own
