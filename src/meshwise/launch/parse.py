"""A launch command read into a job."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from meshwise.errors import InputError, MeshwiseError, quoted, shorten
from meshwise.launch import config_files, defaults, serving, training, yaml_text, zero, zero_file
from meshwise.launch.find import Launch, launches, script_of
from meshwise.launch.flags import DEGREES, Words, no_words, read_words
from meshwise.launch.job import Job
from meshwise.launch.serving import Read, Settings
from meshwise.launch.shell import Script, check_text, read_script
from meshwise.launch.table import Target, target, targets
from meshwise.launch.world import world_of


class Unpriced(NamedTuple):
    """A flag that changes ``changes`` (memory, time) and is not in the figures."""

    flag: str
    changes: str


class Parsed(NamedTuple):
    """What a command says: the job; flags that do not matter to a price; what is worth knowing; what is
    taken for granted where it says nothing; flags that matter and are not priced; the model's own sizes
    where the command gives them."""

    job: Job
    target: str
    ignored: tuple[str, ...]
    notes: tuple[str, ...]
    unpriced: tuple[Unpriced, ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    assumed: tuple[str, ...] = ()


class _Asked(NamedTuple):
    """What the caller gives beside the text."""

    target: str | None
    gpus: int | None
    model: str | None
    experts: bool | None


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
    asked = _Asked(target_name, gpus, model, experts)
    stripped = check_text(text).strip()
    if stripped.startswith("{"):
        return _job(target("deepspeed"), *zero_file.read(stripped, gpus), asked)
    if yaml_text.looks_like(stripped):
        commands = config_files.manifest(text)
        if commands is None:
            return _configuration(stripped, asked)
        text = commands
    else:
        tree = config_files.python_tree(text)
        if tree is not None:
            return _python(text, config_files.recipe_words(tree), asked)
    return _one_of([_way(script, text, asked) for script in read_script(text)], text)


class _Way(NamedTuple):
    """One way through a script: what it comes to."""

    conditions: tuple[str, ...]
    read: Parsed | None
    error: MeshwiseError | None


def _way(script: Script, text: str, asked: _Asked) -> _Way:
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
            f"COMMAND: which branch runs is not known ({said})",
            field="COMMAND",
            value=read[0].conditions[-1] if read[0].conditions else None,
            legal="the script with the condition's variables set before it",
        )
    return first


class NoLaunch(InputError):
    """A text in which nothing is started that is known."""


def _first(script: Script, text: str, asked: _Asked) -> Parsed:
    """The first launch of a script; others with another layout are named."""
    found = launches(script.commands, asked.target)
    if not found:
        raise _none(script, text)
    first = _read(found[0], script, text, asked)
    notes: list[str] = []
    for other in found[1:]:
        try:
            second = _read(other, script, text, asked)
        except MeshwiseError as error:
            notes.append(f"another command of the text is not read: {error.message}")
            continue
        if second.job != first.job:
            notes.append(
                f"the text starts another command with another layout ({second.job.words}): the "
                "first is priced"
            )
    return first._replace(notes=(*dict.fromkeys(notes), *first.notes))


def _none(script: Script, text: str) -> NoLaunch:
    wrapped = next((s for s in map(script_of, script.commands) if s is not None), None)
    wrapped = wrapped or next(iter(script.sourced), None)
    if wrapped is not None:
        return NoLaunch(
            f"COMMAND: what {shorten(wrapped)} starts is not in the text",
            field="COMMAND",
            value=wrapped,
            legal=f"the text of {shorten(wrapped)} with its variables set before it",
        )
    return NoLaunch(
        f"COMMAND: no launch command of a known target in {quoted(text.strip()[:60])}",
        field="COMMAND",
        value=text.strip()[:80],
        legal=", ".join(targets()),
    )


def _read(launch: Launch, script: Script, text: str, asked: _Asked) -> Parsed:
    chosen = launch.target
    world = world_of(launch, script, asked.gpus)
    if chosen.style == "json":
        table = zero_file.of_command(launch.after, script)
        fields, notes, ignored = zero_file.read(table, world)
        return _job(chosen, fields, notes, ignored, asked)
    words = read_words(launch.after, chosen)
    settings = _with_file(words, chosen, script, launch)
    if chosen.name == "megatron-lm":
        settings |= zero_file.stage_of(launch.after, script, settings)
    if chosen.name == "torchtitan":
        for file in (text, *script.files.values()):
            settings = config_files.titan_config(file, chosen) | settings
    _states_a_layout(settings, words, launch, world)
    return _from_settings(chosen, settings, words, asked, world)


def _with_file(words: Words, chosen: Target, script: Script, launch: Launch) -> Settings:
    """The settings of the file that a command names, under those of its own flags."""
    own = words.settings
    path = own.pop("config", None)
    if path is None and launch.before and launch.before[-1].endswith("run_train.sh"):
        path = script.variables.get("CONFIG_FILE")
    if chosen.name == "trtllm":
        own["yaml"] = config_files.beside(path, script)
        return own
    if path is None or (chosen.name == "torchtitan" and not path.endswith(".toml")):
        if path is not None:
            words.unread.append(path)
        return own
    option = chosen.flags["config"].spellings[0]
    text = config_files.opened(path, option, script.files)
    if chosen.name == "torchtitan":
        table = config_files.sections(text, option)
    else:
        table = yaml_text.mapping(text, option)
    return _of_table(table, chosen, words) | own


def _of_table(table: dict[str, Any], chosen: Target, words: Words) -> Settings:
    """A configuration file's keys, read as the flags that they are."""
    found: Settings = {}
    if chosen.name == "accelerate":
        found = zero.accelerate_kind(table)
        table = config_files.leaves(table)
        table.pop("fsdp_config", None)
        table = {k: v for k, v in table.items() if k != "distributed_type"}
    read = read_words(config_files.as_words(table), chosen)
    words.ignored.extend(read.ignored)
    words.unpriced.extend(read.unpriced)
    words.unknown.extend(read.unknown)
    return found | {k: v for k, v in read.settings.items() if v is not None}


def _states_a_layout(settings: Settings, words: Words, launch: Launch, world: int | None) -> None:
    """Raise for a command in which no word of a layout was read: degrees of 1 are nobody's choice. An
    engine's own command without any is its documented default, one GPU."""
    chosen = launch.target
    said = DEGREES & {k for k, v in settings.items() if v is not None and v is not False}
    said |= {"yaml"} if _degrees_of_yaml(settings) else set()
    if said or settings.get("processes", world) == 1:
        return
    read = not words.unread and not words.unknown
    if chosen.phase == "serve" and launch.by_structure and read:
        words.notes.append(
            f"the command names no degree: {chosen.title}'s default is one GPU "
            f"({chosen.flags['tp'].spellings[0]} 1)"
        )
        return
    raise _no_layout(chosen)


def _no_layout(chosen: Target) -> InputError:
    example = next(
        chosen.flags[n].spellings[0] for n in ("tp", "dp_shard", "stage") if n in chosen.flags
    )
    return InputError(
        f"COMMAND: no word of a layout of {chosen.title} was read",
        field="COMMAND",
        value=chosen.name,
        legal=f"the command with its degrees, such as {example} 1",
    )


def _degrees_of_yaml(settings: Settings) -> bool:
    return any(
        key.endswith("parallel_size") or key == "enable_attention_dp"
        for key in settings.get("yaml", {})
    )


def _configuration(text: str, asked: _Asked) -> Parsed:
    """A configuration file given itself."""
    table = yaml_text.mapping(text, "COMMAND")
    chosen = _owner(table) if asked.target is None else target(asked.target)
    words = no_words()
    if chosen.name == "trtllm":
        settings: Settings = {"yaml": table}
        keys = {"max_seq_len": "max_len", "max_batch_size": "max_seqs", "max_num_tokens": "chunk"}
        settings |= {keys[k]: v for k, v in table.items() if k in keys and isinstance(v, int)}
        if isinstance(table.get("model"), str):
            settings["model"] = table["model"]
    elif chosen.style == "json":
        return _job(chosen, *zero_file.read(json.dumps(table), asked.gpus), asked)
    else:
        settings = _of_table(table, chosen, words)
    _states_a_layout(settings, words, Launch(chosen, [], [], False), asked.gpus)
    return _from_settings(chosen, settings, words, asked, asked.gpus)


def _owner(table: dict[str, Any]) -> Target:
    keys = set(config_files.leaves(table)) | set(table)
    if "distributed_type" in keys or {"num_processes", "num_machines"} & keys:
        return target("accelerate")
    if {"zero_optimization", "train_micro_batch_size_per_gpu"} & keys:
        return target("deepspeed")
    if any("-" in k for k in keys) and "tensor-parallel-size" in keys:
        return target("vllm")
    raise NoLaunch(
        "COMMAND: a configuration file, of which target is not known",
        field="--target",
        value=", ".join(sorted(map(str, table))[:5]),
        legal="--target trtllm, vllm, accelerate or another",
    )


def _python(text: str, assigned: list[str], asked: _Asked) -> Parsed:
    """A recipe of Megatron-Bridge by its assignments, or a configuration of torchtitan."""
    titan = "ParallelismConfig" in text
    chosen = target(asked.target or ("torchtitan" if titan else "megatron-bridge"))
    if chosen.name == "torchtitan":
        words = no_words()
        settings = config_files.titan_config(text, chosen)
    elif chosen.name == "megatron-bridge":
        known = chosen.by_spelling()
        own = [w for w in assigned if w.partition("=")[0] in known]
        words = read_words(own, chosen)
        settings = words.settings
        words.ignored.extend(w for w in assigned if w not in own and w.startswith("model."))
    else:
        raise InputError(
            f"COMMAND: Python is not read as {chosen.title}'s",
            field="COMMAND",
            value=text.strip()[:60],
            legal="the command that starts it",
        )
    _states_a_layout(settings, words, Launch(chosen, [], [], False), asked.gpus)
    return _from_settings(chosen, settings, words, asked, asked.gpus)


READERS: dict[str, Callable[[Settings, int | None], Read]] = {
    "vllm": lambda s, _: serving.vllm_fields(s),
    "sglang": lambda s, _: serving.sglang_fields(s),
    "trtllm": lambda s, _: serving.trtllm_fields(s),
    "megatron-lm": training.megatron_fields,
    "megatron-bridge": training.bridge_fields,
    "torchtitan": training.titan_fields,
    "deepspeed": zero.deepspeed_fields,
    "accelerate": zero.accelerate_fields,
}


def _from_settings(
    chosen: Target, settings: Settings, words: Words, asked: _Asked, world: int | None
) -> Parsed:
    settings["experts"] = asked.experts
    world = settings.pop("gpus", None) or world
    named = asked.model or settings.get("model") or ""
    if not named and words.positional and chosen.phase == "serve":
        named = words.positional[0]
    fields, notes = READERS[chosen.name](settings, world)
    extra, said = defaults.formats(chosen, settings, fields)
    unpriced = [Unpriced(*u) for u in words.unpriced]
    unpriced += [Unpriced(u, "time or memory, which is not known") for u in words.unknown]
    said += [f"{w} is not in the text: what it holds is not in the answer" for w in words.unread]
    notes = [*words.notes, *notes]
    parsed = _job(chosen, fields | extra, notes, words.ignored, asked, named)
    return parsed._replace(
        unpriced=tuple(dict.fromkeys(unpriced)),
        sizes=tuple(defaults.sizes(settings).items()),
        assumed=tuple(said),
    )


def _job(
    chosen: Target,
    fields: dict[str, Any],
    notes: list[str],
    ignored: list[str],
    asked: _Asked,
    named: str | None = None,
) -> Parsed:
    known = {k: v for k, v in fields.items() if v is not None}
    job = Job(model=named or asked.model or "", phase=chosen.phase, **known)
    gpus = asked.gpus
    if gpus is not None and chosen.phase == "serve" and gpus != job.gpus:
        if gpus % job.gpus:
            raise InputError(
                f"--gpus={gpus}: the command uses {job.gpus} GPUs",
                field="--gpus",
                value=gpus,
                legal=f"{job.gpus}, or a multiple: that many servers",
                nearest=job.gpus,
            )
        notes = [*notes, f"{gpus // job.gpus} servers of {job.gpus} GPUs each"]
    return Parsed(job, chosen.name, tuple(ignored), tuple(dict.fromkeys(notes)))
