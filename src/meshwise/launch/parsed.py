"""What is read of a launch: the job, and what is worth knowing of how it was read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from meshwise.errors import InputError
from meshwise.launch.account.file_words import file_words
from meshwise.launch.account.launch_warning import LaunchWarning
from meshwise.launch.account.origins import FlagWord, Origin, PlacedWords, key_lines
from meshwise.launch.files import configuration as config_files
from meshwise.launch.find import Launch
from meshwise.launch.flags import LAYOUT_SETTINGS, ReadWords, flag_kind, read_words
from meshwise.launch.job import Job
from meshwise.launch.settings import defaults
from meshwise.launch.settings.settings import Settings
from meshwise.launch.table import Target, function_of, read_settings


class Unpriced(NamedTuple):
    """A flag that changes ``changes`` (memory, time) and is not in the figures."""

    flag: str
    changes: str


class Parsed(NamedTuple):
    """What a command says: the job; flags that do not matter to a price; what is worth knowing; what is
    taken for granted where it says nothing; flags that matter and are not priced; the model's own sizes
    where the command gives them; ``nodes`` that the GPUs are on, where the command says it; its ``flags``
    as they stand."""

    job: Job
    target: str
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    unpriced: tuple[Unpriced, ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    assumed: tuple[str, ...] = ()
    nodes: int | None = None
    flags: tuple[FlagWord, ...] = ()
    launcher: tuple[Origin, ...] = ()  # the words that say on how many GPUs it runs
    commands: int = 1  # that the text starts
    warnings: tuple[LaunchWarning, ...] = ()  # that the target would give, or gives too late
    shape: tuple[tuple[str, object], ...] = ()  # what its flags say of the model
    unplaced: tuple[
        str, ...
    ] = ()  # settings that no one word gives: a file, a recipe, a program does
    # what the caller gives otherwise than the command: field, value
    instead: tuple[tuple[str, int], ...] = ()


class Asked(NamedTuple):
    """What the caller gives beside the text: ``which`` of its commands, ``values`` of its variables,
    ``files`` that it names."""

    target: str | None
    gpus: int | None
    model: str | None
    experts: bool | None
    which: str | int | None = None
    values: Mapping[str, str] = MappingProxyType({})
    files: Mapping[str, str] = MappingProxyType({})


def _holds_a_model(word: str) -> bool:
    """Whether a variable that stands for itself is called as one that holds a model, not its options."""
    called = re.search(r"MODEL|CKPT|CHECKPOINT", word, re.IGNORECASE)
    return called is not None and not re.search(r"ARG|OPT|FLAG|EXTRA", word, re.IGNORECASE)


class NoLaunch(InputError):
    """A text in which nothing is started that is known."""


def states_a_layout(
    settings: Settings, words: ReadWords, launch: Launch, world: int | None
) -> None:
    """Raise for a command in which no word of a layout was read: degrees of 1 are nobody's choice. An
    engine's own command without any is its documented default, one GPU."""
    chosen = launch.target
    said = LAYOUT_SETTINGS & {k for k, v in settings.items() if v is not None and v is not False}
    said |= {"yaml"} if _degrees_of_yaml(settings) else set()
    if said or settings.get("processes", world) == 1:
        return
    read = not words.unread and not words.unknown
    if chosen.phase == "serve" and launch.by_structure and read:
        words.notes.append(
            f"the command names no degree: the default of {chosen.title} {chosen.version} is one GPU "
            f"({chosen.flags['tp'].spellings[0]} 1)"
        )
        return
    raise no_layout(chosen)


def no_layout(chosen: Target) -> InputError:
    example = next(
        chosen.flags[n].spellings[0] for n in ("tp", "dp_shard", "stage") if n in chosen.flags
    )
    return InputError(
        f"command: this command states no layout: no word of a layout of {chosen.title} was read",
        field="command",
        value=chosen.name,
        legal=f"the command with its degrees, such as {example} 1",
    )


def _degrees_of_yaml(settings: Settings) -> bool:
    return any(
        key.endswith("parallel_size") or key == "enable_attention_dp"
        for key in settings.get("yaml", {})
    )


def of_table(
    table: dict[str, Any], chosen: Target, words: ReadWords, file: str = "", text: str = ""
) -> Settings:
    """A configuration file's keys, read as the flags that they are; ``file``: its name and ``text``."""
    found: Settings = {}
    split = function_of(chosen, "split")
    if split is not None:
        found, table = split(table)
        words.flags[:0] = _words_of(file_words(found.get("yaml", {}), chosen, text, file))
    own = config_files.as_words(table)
    keys = [w.partition("=")[0].lstrip("-") for w in own]
    read = read_words(own, chosen, PlacedWords(file, key_lines(text, keys) if text else ()))
    words.ignored.extend(read.ignored)
    words.unpriced.extend(read.unpriced)
    words.unknown.extend(read.unknown)
    words.flags[:0] = read.flags  # a command's own flags come last, as they decide
    return found | {k: v for k, v in read.settings.items() if v is not None}


def _words_of(found: Sequence[tuple[str, Origin]]) -> list[FlagWord]:
    return [FlagWord(origin, flag_kind(setting), setting) for setting, origin in found]


def with_file_words(read: Parsed, found: Sequence[tuple[str, Origin]]) -> Parsed:
    """What is read of a file, with the keys that say it."""
    return read._replace(flags=(*_words_of(found), *read.flags))


def from_settings(
    chosen: Target, settings: Settings, words: ReadWords, asked: Asked, world: int | None
) -> Parsed:
    placed = {f.setting for f in words.flags}
    unplaced = tuple(k for k, v in settings.items() if v is not None and k not in placed)
    settings["experts"] = asked.experts
    world = settings.pop("gpus", None) or world
    named = asked.model or settings.get("model") or ""
    if not named and chosen.phase == "serve":
        named = next(iter((*words.positional, *filter(_holds_a_model, words.unread))), "")
    fields, notes = read_settings(chosen, settings, world)
    extra, said = defaults.where_not_said(chosen, settings, fields)
    unpriced_settings = function_of(chosen, "unpriced")
    if unpriced_settings is not None:
        left, other = unpriced_settings(settings)
        words.unpriced.extend(left)
        words.ignored.extend(other)
    unpriced = [Unpriced(*u) for u in words.unpriced]
    unpriced += [Unpriced(u, "time or memory, which is not known") for u in words.unknown]
    said += [f"{w} is not in the text: what it holds is not in the answer" for w in words.unread]
    notes = [*words.notes, *notes]
    shape = function_of(chosen, "shape")
    parsed = job_from(chosen, fields | extra, notes, words.ignored, asked, named)
    return parsed._replace(
        unpriced=tuple(dict.fromkeys(unpriced)),
        sizes=tuple(defaults.model_sizes(settings).items()),
        assumed=tuple(said),
        nodes=settings.get("nodes", settings.get("machines")),
        flags=tuple(words.flags),
        unplaced=unplaced,
        shape=() if shape is None else tuple(shape(settings).items()),
    )


def job_from(
    chosen: Target,
    fields: dict[str, Any],
    notes: list[str],
    ignored: list[str],
    asked: Asked,
    named: str | None = None,
) -> Parsed:
    known = {k: v for k, v in fields.items() if v is not None}
    job = Job(model=named or asked.model or "", phase=chosen.phase, **known)
    return Parsed(job, chosen.name, tuple(ignored), tuple(dict.fromkeys(notes)))


def on_gpus(read: Parsed, gpus: int | None) -> Parsed:
    """Servers on as many GPUs as the caller has: copies of the command's where it uses fewer."""
    own = read.job.gpus
    if gpus is None or read.job.phase != "serve" or gpus == own:
        return read
    if gpus % own:
        raise InputError(
            f"gpus={gpus}: the command uses {own} GPUs",
            field="gpus",
            value=gpus,
            legal=f"{own}, or a multiple: that many servers",
            nearest=own,
        )
    return with_copies(read, gpus // own)


def with_copies(read: Parsed, many: int) -> Parsed:
    """``many`` servers alike: replicas of attention, unless experts join the replicas of each."""
    job = read.job
    note = f"{many} servers of {job.gpus} GPUs each"
    if job.spans_replicas:
        return read._replace(notes=(*read.notes, f"{note}: one is priced"))
    flight = None if job.concurrency is None else job.concurrency * many
    whole = msgspec.structs.replace(job, dp=job.dp * many, concurrency=flight)
    nodes = read.nodes * many if read.nodes is not None and read.nodes > 1 else None
    return read._replace(job=whole, notes=(*read.notes, note), nodes=nodes)
