"""Launches that are no shell text: a configuration file given itself, a program in Python."""

from __future__ import annotations

import ast
import json
import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch import other_software
from meshwise.launch.account import candidates
from meshwise.launch.account.origins import FlagWord, PlacedWords, key_lines, placed_error
from meshwise.launch.files import code_blocks, ray_serve, recipe_yaml, slurm_recipe, yaml_text
from meshwise.launch.files import configuration as config_files
from meshwise.launch.files import deepspeed_json as zero_file
from meshwise.launch.files.recipes import with_recipe
from meshwise.launch.find import Launch
from meshwise.launch.flags import LAYOUT_SETTINGS, ReadWords, no_words, read_words
from meshwise.launch.parsed import (
    Asked,
    NoLaunch,
    Parsed,
    from_settings,
    job_from,
    of_table,
    states_a_layout,
    with_copies,
)
from meshwise.launch.python import calls as python_calls
from meshwise.launch.python import configurations as python_text
from meshwise.launch.python.started import system_commands
from meshwise.launch.python.values import Values
from meshwise.launch.spelling.source_flags import source_flags, spellings
from meshwise.launch.table import Target, every_target, function_of, target


def configuration(text: str, asked: Asked) -> Parsed:
    """A configuration file given itself."""
    table = yaml_text.mapping(text, "command")
    recipe = recipe_yaml.recipe_overrides(table, asked.values)
    if recipe is not None and asked.target in (None, "megatron-bridge"):
        return _recipe(recipe, text, asked)
    charts = recipe_yaml.production_stack(table)
    if charts is not None:
        return _picked([_of_chart(chart, asked) for chart in charts], asked)
    roles = slurm_recipe.servers_by_role(table)
    if roles is not None:
        return _roles(roles, asked)
    chosen = _owner(table) if asked.target is None else target(asked.target)
    words = no_words()
    if chosen.style == "json":
        return job_from(chosen, *zero_file.job_fields(json.dumps(table), asked.gpus), asked)
    return of_mapping(table, chosen, asked, words)


def of_mapping(
    table: dict[str, Any], chosen: Target, asked: Asked, words: ReadWords, *, called: bool = False
) -> Parsed:
    """A target's settings by their names; ``called``: of an engine's call, whose defaults are known."""
    settings = of_table(table, chosen, words)
    if (
        chosen.phase == "serve"
        and "model" not in chosen.flags
        and isinstance(table.get("model"), str)
    ):
        settings["model"] = table["model"]
    states_a_layout(settings, words, Launch(chosen, [], [], called, {}), asked.gpus)
    return from_settings(chosen, settings, words, asked, asked.gpus)


def _owner(table: dict[str, Any]) -> Target:
    """The target most of whose own keys a file has; of an engine also most of the file's keys are."""
    keys = _keys(table)
    known = {chosen.name: len(keys & set(chosen.keys)) for chosen in every_target()}
    for chosen in every_target():
        if chosen.phase == "serve" and not _mostly_of(table, chosen):
            known[chosen.name] = 0
    most = max(known, key=lambda name: known[name])
    if known[most]:
        return target(most)
    other = other_software.of_keys(table)
    if other is not None:
        raise other_software.refusal(other)
    raise NoLaunch(
        "command: a configuration file, of which target is not known",
        field="target",
        value=", ".join(sorted(map(str, table))[:5]),
        legal="`target=trtllm`, vllm, accelerate or another",
    )


def _keys(table: dict[str, Any]) -> set[str]:
    """Keys, whatever section they stand in, and the sections' own."""
    inner = [_keys(value) for value in table.values() if isinstance(value, dict)]
    return set(map(str, table)).union(*inner)


def _mostly_of(table: dict[str, Any], chosen: Target) -> bool:
    """Whether at least half of a file's keys are an engine's: its flags, or those of its own file."""
    source, own = source_flags(chosen.name), chosen.by_spelling()
    names = [str(key) for key in table]
    is_known = [
        key in chosen.file_keys
        or any(s in own for s in spellings(f"--{key}"))
        or (source is not None and source.get(f"--{key}") is not None)
        for key in names
    ]
    return 2 * sum(is_known) >= len(names)


def looks_like_toml(text: str) -> bool:
    """Whether a text begins as a TOML file does: with a section, after comments."""
    first = next((x for x in text.splitlines() if x.strip() and not x.strip().startswith("#")), "")
    return re.fullmatch(r"\s*\[[\w.-]+\]\s*(#.*)?", first) is not None


def titan_toml(text: str, asked: Asked) -> Parsed:
    """torchtitan's configuration file given itself."""
    chosen, words = _same(target("torchtitan"), asked, text), no_words()
    settings = of_table(config_files.sections(text, "command"), chosen, words)
    states_a_layout(settings, words, Launch(chosen, [], [], False, {}), asked.gpus)
    return from_settings(chosen, settings, words, asked, asked.gpus)


def _recipe(recipe: recipe_yaml.RecipeTable, text: str, asked: Asked) -> Parsed:
    """A configuration of Megatron-Bridge or NeMo: its keys are a recipe's overrides."""
    chosen = target("megatron-bridge")
    known = chosen.by_spelling()
    said = {k: v for k, v in recipe.overrides.items() if k in known}
    own = [recipe.own_keys.get(k, k) for k in said]
    lines = key_lines(text, own)
    for key, value in zip(own, said.values(), strict=True):
        named = re.search(r"\$\{[^}]*[.:][^}]*\}", str(value))
        if named is not None:  # no variable's name, so that no value can be given for it
            raise InputError(
                f"{key}: {shorten(named[0])} is not in the file",
                field=key,
                value=named[0],
                legal="the value in its place",
            )
    words = read_words([f"{k}={v}" for k, v in said.items()], chosen, PlacedWords("", lines))
    places = {f"{k}={v}": key for (k, v), key in zip(said.items(), own, strict=True)}
    words.flags[:] = [_as_written(flag, places) for flag in words.flags]
    words.ignored.extend(f"{k}={v}" for k, v in recipe.overrides.items() if k not in known)
    gpus = asked.gpus or recipe.gpus
    states_a_layout(words.settings, words, Launch(chosen, [], [], False, {}), gpus)
    settings = recipe.model | words.settings | {"writes_model": bool(recipe.model)}
    return from_settings(chosen, settings, words, asked, gpus)


def _as_written(flag: FlagWord, places: dict[str, str]) -> FlagWord:
    """A setting by the key of the file that says it."""
    word = flag.origin.word
    key, value = places.get(word, ""), word.partition("=")[2]
    return flag._replace(origin=flag.origin._replace(word=f"{key}: {value}")) if key else flag


def _of_chart(chart: recipe_yaml.Chart, asked: Asked) -> candidates.LaunchCandidate:
    read: Parsed | None = None
    failed: MeshwiseError | None = None
    try:
        read = _chart(chart, asked)
        read = read._replace(notes=(*read.notes, *chart.notes))
    except MeshwiseError as error:
        failed = error
    names = tuple(dict.fromkeys(n for n in (chart.name, chart.model) if n))
    return candidates.LaunchCandidate("vllm serve", "vllm", 0, read, failed, names=names)


def _chart(chart: recipe_yaml.Chart, asked: Asked) -> Parsed:
    """Servers of vLLM's production stack."""
    words = no_words()
    chosen = _same(target("vllm"), asked, chart.model)
    more = read_words(chart.words, chosen).settings
    settings = of_table(chart.table, chosen, words) | more
    states_a_layout(settings, words, Launch(chosen, [], [], True, {}), asked.gpus)
    read = from_settings(chosen, settings | {"model": chart.model}, words, asked, asked.gpus)
    if chart.gpus is not None and read.job.gpus > chart.gpus:
        raise InputError(
            f"command: {read.job.words} takes {read.job.gpus} GPUs: requestGPU is {chart.gpus}",
            field="requestGPU",
            value=chart.gpus,
            legal=str(read.job.gpus),
            nearest=read.job.gpus,
        )
    return with_copies(read, chart.replicas) if chart.replicas > 1 else read


def _roles(found: slurm_recipe.SlurmRecipe, asked: Asked) -> Parsed:
    """Servers of one role; raise for prompts and answers on GPUs of their own, with both layouts."""
    chosen = _same(target(found.engine), asked, found.engine)
    read = []
    for role in found.roles:
        words = no_words()
        one = of_mapping(role.table | {"model": found.model}, chosen, asked, words, called=True)
        if role.gpus is not None and one.job.gpus * role.workers > role.gpus:
            raise InputError(
                f"command: {one.job.words} · {role.workers} {role.name} workers takes "
                f"{one.job.gpus * role.workers} GPUs: the recipe gives {role.gpus}",
                field=f"{role.name} workers",
                value=role.workers,
                legal=f"a layout of {role.gpus // role.workers} GPUs",
            )
        read.append(one)
    if len(read) > 1:
        said = "; ".join(
            f"{r.name}: {r.workers} of {p.job.words}"
            for r, p in zip(found.roles, read, strict=True)
        )
        raise InputError(
            f"command: prompts and answers are on GPUs of their own, with a layout each ({said})",
            field="command",
            value=", ".join(r.name for r in found.roles),
            legal="one of the roles alone",
        )
    many, nodes = found.roles[0].workers, found.roles[0].nodes
    whole = with_copies(read[0], many) if many > 1 else read[0]
    return whole if nodes is None else whole._replace(nodes=nodes)


def ray(text: str, asked: Asked) -> Parsed | None:
    """The engine of Ray Serve's configuration, of several the caller's choice; None where the YAML is
    none."""
    engines = ray_serve.deployed(text)
    if engines is None:
        return None
    chosen = _same(target("vllm"), asked, text)
    found = []
    for engine in engines:
        one = _candidate(chosen, engine.table, asked, "an engine of Ray Serve", engine.line)
        if one.read is not None:
            read: Parsed = one.read
            if engine.scaled:
                note = "replicas follow the load: one is priced"
                read = read._replace(notes=(*read.notes, note))
            read = with_copies(read, engine.replicas) if engine.replicas > 1 else read
            one = one._replace(read=read)
        found.append(one._replace(names=tuple(dict.fromkeys((*engine.names, *one.names)))))
    return _picked(found, asked)


def _candidate(
    chosen: Target, table: dict[str, Any], asked: Asked, program: str, line: int
) -> candidates.LaunchCandidate:
    """An engine by the names of its settings, read, or why it is not."""
    read: Parsed | None = None
    failed: MeshwiseError | None = None
    try:
        unset = next((key for key in table if key.startswith("$")), None)
        if unset is not None:
            raise InputError(
                f"command: {shorten(unset)} is not in the text, and may hold the layout",
                field="command",
                value=unset,
                legal=f"the arguments of {chosen.title} written out",
            )
        read = of_mapping(table, chosen, asked, no_words(), called=True)
    except MeshwiseError as error:
        failed = placed_error(error, line)
    named = table.get("model") or (read.job.model if read is not None else "")
    names = (str(named),) if named else ()
    return candidates.LaunchCandidate(program, chosen.name, line, read, failed, names=names)


def _picked(found: list[candidates.LaunchCandidate], asked: Asked) -> Parsed:
    every = candidates.merged([[one] for one in found])
    every = [
        next(o for o in found if o.same(one))._replace(conditions=one.conditions) for one in every
    ]
    one = candidates.chosen(every, asked.which)
    if one.error is not None:
        raise one.error
    read: Parsed = one.read
    return read._replace(commands=len(every))


# -- Python -------------------------------------------------------------------------------------------


class ProgramText(NamedTuple):
    """The shell text of what a program gives to the system, and what it takes for granted."""

    text: str
    notes: tuple[str, ...]


def python(text: str, tree: ast.Module, asked: Asked) -> Parsed | ProgramText:
    """What a program starts: the shell text of its commands, or an engine, a recipe of Megatron-Bridge
    by its assignments, a configuration of torchtitan or DeepSpeed."""
    values = Values(tree, asked.values)
    shell = system_commands(tree, values)
    calls = python_calls.engines(tree, values, python_text.conditional(tree))
    if shell is not None and (not calls or code_blocks.starts(shell)):
        return ProgramText(shell, _own_defaults(values))
    if calls:
        read = _engine(calls, asked)
        return read._replace(notes=(*read.notes, *_own_defaults(values)))
    config = python_calls.deepspeed_config(tree, values)
    if config is not None:
        return _deepspeed(config, asked)
    for name in ("torchtitan", "megatron-bridge"):
        written = python_text.one_config(python_text.written_configs(tree, target(name)), None)
        if written is not None:
            return _written(written, _same(target(name), asked, text), asked)
    chosen = _same(target("megatron-bridge"), asked, text)
    assigned = python_text.recipe_words(tree, values)
    known = chosen.by_spelling()
    own = [w for w in assigned if w.partition("=")[0] in known]
    words = read_words(own, chosen)
    base = python_text.called_recipe(tree, values)
    settings = words.settings if base is None else with_recipe(words.settings, base, chosen)
    if not LAYOUT_SETTINGS & settings.keys():
        raise python_calls.no_launch(text, values)
    words.ignored.extend(w for w in assigned if w not in own and w.startswith("model."))
    world = asked.gpus or python_text.recipe_gpus(tree, values)
    states_a_layout(settings, words, Launch(chosen, [], [], False, {}), world)
    return from_settings(chosen, settings, words, asked, world)


def _written(config: python_text.WrittenConfig, chosen: Target, asked: Asked) -> Parsed:
    """A configuration that a function of the text makes, over the recipe that it starts from."""
    words, settings = no_words(), config.settings
    if config.of and chosen.name == "megatron-bridge":
        settings = with_recipe(settings, config.of, chosen)
    words.notes.extend(f"{name}: its value is not in the text" for name in config.open)
    if config.model:
        settings.setdefault("model", config.model)
    named = function_of(chosen, "model_named")
    if named is not None:
        settings = named(settings)
    states_a_layout(settings, words, Launch(chosen, [], [], False, {}), asked.gpus)
    return from_settings(chosen, settings, words, asked, asked.gpus)


def _same(chosen: Target, asked: Asked, text: str) -> Target:
    """The target that the program is of; raise where the caller names another."""
    if asked.target is not None and target(asked.target).name != chosen.name:
        raise InputError(
            f"command: {chosen.title}'s is not read as {target(asked.target).title}'s",
            field="target",
            value=asked.target,
            legal=chosen.name,
        )
    return chosen


def _engine(calls: list[python_calls.EngineCall], asked: Asked) -> Parsed:
    """The engine of a program, of several the caller's choice; where each may be left out, one of the
    branches."""
    found = []
    for call in calls:
        chosen = _same(call.target, asked, call.target.name)
        one = _candidate(chosen, call.table, asked, call.program, call.line)
        found.append(one._replace(conditions=() if call.surely else ("a branch of the program",)))
    return _picked(found, asked)


def _own_defaults(values: Values) -> tuple[str, ...]:
    """Options of the program itself that it gives a value where its command line does not."""
    said = [f"{name} {shorten(value)}" for name, value in values.taken.items()]
    if not said:
        return ()
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return (f"the program's own defaults: {', '.join(said[:_SHOWN])}{more}",)


_SHOWN = 10


def _deepspeed(config: Any, asked: Asked) -> Parsed:
    text = config if isinstance(config, str) else json.dumps(config)
    if not text.startswith("{"):
        text = config_files.opened(text, "deepspeed", {})
    return job_from(target("deepspeed"), *zero_file.job_fields(text, asked.gpus), asked)
