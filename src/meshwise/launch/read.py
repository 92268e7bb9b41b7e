"""A launch command read into a job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.account import candidates, roles
from meshwise.launch.account.file_words import file_words
from meshwise.launch.account.launch_text import check_values, in_file
from meshwise.launch.account.launcher_values import (
    NUMBER_OF_GPUS,
    needs_world,
    unset_of_launcher,
)
from meshwise.launch.account.origins import Origin, PlacedWords
from meshwise.launch.account.questions import FILES, OpenValue, Unanswered, of_their_own
from meshwise.launch.files import code_blocks, templates, yaml_text
from meshwise.launch.files import configuration as config_files
from meshwise.launch.files import deepspeed_json as zero_file
from meshwise.launch.files import launches as files
from meshwise.launch.find import Launch, launches
from meshwise.launch.flags import ReadWords, read_words
from meshwise.launch.none_found import cut_short, never_reached, none_found
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
    with_file_words,
)
from meshwise.launch.python import configurations as python_text
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import (
    Script,
    check_text,
    option,
    read_script,
    unset_names,
)
from meshwise.launch.shell.runners.carried import IMAGE
from meshwise.launch.shell.values.memory import text_of
from meshwise.launch.table import Target, function_of, target
from meshwise.launch.targets import target_names
from meshwise.launch.trainers import commands as trainers
from meshwise.launch.wrappers import manifests, servers
from meshwise.launch.wrappers.starters import dockerfiles, makefiles, units
from meshwise.launch.wrappers.world import world_of

__all__ = ["NoLaunch", "Parsed", "Unpriced", "parse"]


def parse(
    text: str,
    target_name: str | None = None,
    *,
    gpus: int | None = None,
    model: str | None = None,
    experts: bool | None = None,
    which: str | int | None = None,
    values: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    name: str = "",
) -> Parsed:
    """The job that a launch command starts.

    The target is told by the command's own words unless given. ``gpus`` where the command does not say
    how many it runs on; ``experts``: whether the model has routed experts; ``which`` of several commands,
    by number or name; ``values`` of variables that the text does not set; ``files`` that it names, by
    name; ``name``: of the file that the text is. Raises :class:`~meshwise.errors.InputError` for a flag
    that looks like a misspelt one, a missing or wrong value, flags that contradict each other, words that
    may hold the layout and cannot be followed, several commands of which none is chosen, and a command
    that states no layout.
    """
    own = check_values(values or {}, text, files or {})
    asked = Asked(target_name, gpus, model, experts, which, own, files or {})
    try:
        return on_gpus(_parse(text, asked), gpus)
    except MeshwiseError as error:
        raise in_file(error, text, name) from None


_GROUP = re.compile(
    r"\{\s+(?:#[^\n]*\n\s*)*[^\s\"'}#]"
)  # of commands in a shell; JSON's keys are in quotes
_PART = "a part of a manifest: copies that the rest of it asks for are not counted"


def _parse(text: str, asked: Asked) -> Parsed:
    whole = check_text(text)
    if code_blocks.is_notebook(text):
        text = check_text(code_blocks.of_notebook(text) or "\n# no code")
    if code_blocks.is_page(text) and python_text.python_tree(text) is None:
        text = code_blocks.code(text) or _read_as_shell(text)
    own = _of_starter(text)
    if own is not None:
        return _one_of(_scripts(own, asked, own_lines=True), text, asked)
    if templates.is_template(text):
        text = templates.places_as_variables(text)
    if not text.lstrip().startswith("{") and python_text.python_tree(text) is None:
        text = templates.blanks_as_variables(text)
    stripped = text.strip()
    if stripped.startswith("{") and _GROUP.match(stripped) is None:
        chosen = target("deepspeed")
        zero = job_from(chosen, *zero_file.job_fields(stripped, asked.gpus), asked)
        table = yaml_text.mapping(stripped, "command")
        return with_file_words(zero, file_words(table, chosen, text))
    if yaml_text.looks_like(stripped):
        given, text = yaml_text.variables_before(text)
        stripped, given = text.strip(), given | dict(asked.values)
        served = files.ray(text, asked)
        if served is not None:
            return served
        commands = manifests.container_commands(text, given, asked.files)
        if commands is None:
            return files.configuration(stripped, asked)
        said = [f"export {k}={shlex.quote(v)}" for k, v in given.items()]
        commands = text_of([*said, commands])
        own_lines = text.count("\n") == whole.count("\n")
        found = _one_of(_scripts(commands, asked, own_lines=own_lines), text, asked)
        return found._replace(notes=(*found.notes, _PART)) if manifests.is_part(text) else found
    if files.looks_like_toml(stripped):
        return files.titan_toml(stripped, asked)
    tree = python_text.python_tree(text)
    if tree is not None:
        read = files.python(text, tree, asked)
        if isinstance(read, Parsed):
            return read
        found = _one_of(_scripts(read.text, asked, own_lines=False), text, asked)
        return found._replace(notes=(*found.notes, *read.notes))
    own_lines = text.count("\n") == whole.count("\n")
    return _one_of(_scripts(text, asked, own_lines=own_lines), text, asked)


def _of_starter(text: str) -> str | None:
    """The shell text of a file by which another program starts a command, its lines where they stand."""
    if units.is_unit(text):
        return units.unit_text(text)
    if dockerfiles.is_dockerfile(text):
        own = dockerfiles.dockerfile_text(text)
        if own is None:
            raise NoLaunch(
                "command: the Dockerfile has no CMD and no ENTRYPOINT: what its image starts is not in the text",
                field="command",
                value=text.strip()[:60],
                legal="the command that runs the image with its arguments",
            )
        return own
    return makefiles.makefile_text(text) if makefiles.is_makefile(text) else None


def _read_as_shell(page: str) -> str:
    """A text with fences that no block of starts anything, where a shell reads it: they are its own."""
    try:
        read_script(page)
    except InputError:
        raise NoLaunch(
            "command: no block of the page starts a known target",
            field="command",
            value=page.strip()[:80],
            legal=", ".join(target_names()),
        ) from None
    return page


def _scripts(text: str, asked: Asked, *, own_lines: bool) -> list[Script]:
    """Every way through a shell text; without ``own_lines`` of another text that says nothing of where
    its words stand."""
    found = read_script(text, given=asked.values, files=asked.files)
    if own_lines:
        return found
    return [s._replace(commands=[c._replace(lines=()) for c in s.commands]) for s in found]


def _one_of(scripts: list[Script], text: str, asked: Asked) -> Parsed:
    """What all ways through a script, and all its commands, agree on; else the one that is chosen."""
    ways: list[list[candidates.LaunchCandidate]] = []
    failed: list[MeshwiseError] = []
    notes: list[str] = []
    for script in scripts:
        try:
            found, said = _candidates(script, text, asked)
        except NoLaunch as error:
            failed.append(error)
            continue
        ways.append(found)
        notes += said
    if not ways:
        ends = [bool(s.ended) for s in scripts]  # a way that goes on says more than one that ends
        raise failed[ends.index(False) if False in ends else 0]
    every = candidates.merged(ways)
    one = candidates.chosen(every, asked.which)
    if one.error is not None:
        raise one.error
    read: Parsed = one.read
    notes += [_unlike_given(s, asked) for s in scripts[:1] if _unlike_given(s, asked)]
    return read._replace(
        notes=tuple(dict.fromkeys((*notes, *read.notes))), commands=max(len(every), 1)
    )


def _unlike_given(script: Script, asked: Asked) -> str:
    """That the text sets a variable itself, whatever the caller gives."""
    other = [n for n, v in asked.values.items() if script.variables.get(n, v) != v]
    return f"set by the text itself, whatever `values` says: {', '.join(other)}" if other else ""


def _candidates(
    script: Script, text: str, asked: Asked
) -> tuple[list[candidates.LaunchCandidate], list[str]]:
    """The launches of one way through a script, copies of a server as one; notes on what else it may
    start."""
    found = launches(script.commands, asked.target)
    if not found:
        raise none_found(script, text)
    broken = cut_short(script, found)
    read = [_candidate(launch, script, text, asked) for launch in found]
    for i, error in broken.items():
        read[i] = read[i]._replace(read=None, error=error)
    groups: list[list[int]] = []
    for i, one in enumerate(read):
        group = next((g for g in groups if read[g[0]].same(one)), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    kept, notes = [], []
    for group in groups:
        one = read[group[0]]
        sure = found[group[0]].by_structure or len(groups) == 1 or group[0] in broken
        if one.error is not None and one.read is None and not sure:
            notes.append(f"another command of the text is not read: {one.error.sentence}")
            continue
        if one.read is not None:
            try:
                copies = servers.server_copies(one.read, [found[i] for i in group], script)
                one = one._replace(read=copies)
            except MeshwiseError as error:
                one = one._replace(read=None, error=error)
        kept.append(one)
    later = never_reached(script, found)
    notes += [later] if later else []
    if not kept:
        kept, notes = [read[groups[0][0]]], notes[1:]
    return kept, notes


def _candidate(
    launch: Launch, script: Script, text: str, asked: Asked
) -> candidates.LaunchCandidate:
    """A launch, read; an engine of a disaggregated pair is read for its layout, and refused."""
    role = roles.engine_role(launch)
    read: Parsed | None = None
    error: MeshwiseError | None = None
    try:
        read = _read(launch if role is None else role.rest, script, text, asked)
        if role is not None:
            error = roles.refused_part(role, launch.target.title)
    except MeshwiseError as caught:
        error = caught
    plain = [w for w in launch.before if not w.startswith(("-", "$", IMAGE)) and "=" not in w]
    words = [w.rpartition("/")[2] for w in plain]
    program = " ".join(words[-2:]) if launch.target.phase == "serve" else (words or [""])[-1]
    served = option(launch.after, "served-model-name")
    own = (launch.variables.get(_NAME), launch.target.name, served)
    job_model = read.job.model if read is not None else None
    return candidates.LaunchCandidate(
        program=shorten(program or launch.target.title, 60),
        target=launch.target.name,
        line=next((n for n in launch.lines if n), 0),
        read=read,
        error=error,
        conditions=script.conditions,
        role="" if role is None else role.name,
        names=tuple(dict.fromkeys(n for n in (*own, job_model) if n)),
    )


_NAME = "MESHWISE_POD_NAME"  # of a container or a service, which a manifest's text sets


def _read(launch: Launch, script: Script, text: str, asked: Asked) -> Parsed:
    chosen = launch.target
    check = function_of(chosen, "check_command")
    if check is not None:
        check(launch)
    world, nodes = world_of(launch, script, asked.gpus)
    if chosen.style == "json":
        return trainers.read_deepspeed(launch, script, asked, world, nodes)
    questions: list[OpenValue] = []
    many = len(launch.before)
    own_words, lines, options = launch.after, launch.lines[many:], None
    if chosen.script_flags:
        own_words, lines, options = trainers.cut_at_script(launch)
    words = read_words(own_words, chosen, PlacedWords(launch.file, lines), questions)
    words.unpriced.extend(
        (f"{name}={shorten(launch.variables[name])}", what)
        for name, what in chosen.environment.items()
        if launch.variables.get(name)
    )
    settings = _with_file(words, chosen, script, launch, questions)
    if options is not None:
        settings = trainers.with_options(settings, words, options, questions)
    started = [q for q in unset_of_launcher(launch, world) if asked.gpus is None]
    questions = of_their_own(questions, launch.variables)
    if questions:
        if not started and world is None and needs_world(chosen, settings):
            started = [NUMBER_OF_GPUS]
        known = chosen.by_spelling()
        said = {known[q.used].name for q in questions if q.used in known} | settings.keys()
        raise Unanswered(
            [*started, *questions], chosen.phase, _named(settings, words, chosen), said
        )
    with_files = function_of(chosen, "with_files")
    if with_files is not None:
        settings = with_files(settings, text, launch, script, chosen)
    states_a_layout(settings, words, launch, world)
    try:
        read = from_settings(chosen, settings, words, asked, world)
    except InputError as error:
        if error.field == "gpus" and world is None and asked.gpus is None:
            named = _named(settings, words, chosen)
            raise Unanswered(started or [NUMBER_OF_GPUS], chosen.phase, named, settings) from None
        raise
    placed = zip(launch.before, launch.lines or [0] * many, strict=False)
    own = tuple(Origin(w, line, launch.file) for w, line in placed if w != IMAGE)
    aside = candidates.sizes_aside(read) if options is not None else []
    notes = [f"the script's own options are not known here: {', '.join(aside)}"] if aside else []
    return read._replace(
        launcher=own,
        nodes=read.nodes if nodes is None else nodes,
        notes=(*read.notes, *notes),
    )


def _named(settings: Settings, words: ReadWords, chosen: Target) -> str | None:
    """The model, or the variable that holds it; of training a word of its own says it."""
    said = settings.get("model")
    if not said and chosen.phase == "serve":
        said = next(iter((*words.positional, *words.unread)), None)
    return str(said) if said else ("" if chosen.script_flags else None)


def _with_file(
    words: ReadWords,
    chosen: Target,
    script: Script,
    launch: Launch,
    questions: list[OpenValue],
) -> Settings:
    """The settings of the file that a command names, under those of its own flags; where it is not here
    it is asked for."""
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
    option_name = chosen.flags["config"].spellings[0]
    said = next((f.origin for f in words.flags if f.setting == "config"), None)
    used = option_name if said is None else said.word.partition(" ")[0].partition("=")[0]
    line = 0 if said is None else said.line
    try:
        text = config_files.opened(path, used, script.files)
    except InputError as error:
        if unset_names(path):
            questions += [OpenValue(f"${n}", used, line=line) for n in unset_names(path)]
        elif Path(path).exists():
            raise
        else:
            questions.append(OpenValue(path, used, FILES, line, said=error.message))
        return own
    mapping = config_files.sections if chosen.file == "toml" else yaml_text.mapping
    return of_table(mapping(text, used), chosen, words, Path(path).name, text) | own
