"""The targets' tables: what is said of each in words, its flags and what it cannot say, as data per
version; and the functions of its module."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from meshwise.errors import InputError, unknown_name
from meshwise.launch.settings.settings import Read, Settings
from meshwise.launch.targets import TARGETS_FOLDER, target_names

FLAG_KINDS = ("int", "flag", "text", "list", "share", "tokens")
# of what is not priced: "memory" is what saves some, so that the figure is an upper bound
CHANGES = (
    *("memory", "more memory", "room for requests", "time"),
    *("memory and time", "more memory and time", "memory or time"),
)


class Flag(NamedTuple):
    """One setting of a target: its spelling first, then the others that parse."""

    name: str
    spellings: tuple[str, ...]
    kind: str  # int, flag (present or not), text, list (of words), share (0 to 1), tokens (an int, 8k)


class Target(NamedTuple):
    """A target at a version, as its table has it."""

    name: str
    title: str
    version: str
    phase: str
    stack: str  # the stack that its commands are priced as
    flags: dict[str, Flag]
    price: dict[str, str]  # flag that changes time or memory and is not priced → which of them
    holds: dict[str, str]  # flag of the layout that is not followed → what it does
    environment: dict[str, str]  # variable that changes time or memory and is not priced → which
    cannot: dict[str, str]  # field of a job → why the target cannot say it
    aliases: tuple[str, ...] = ()
    style: str = "flags"  # flags, overrides (key=value) or json
    run: str = ""  # what starts it, where no module writes its command; {model} is the model
    # words that tell its commands: a program, with the word after it, a module or a script's name
    program: tuple[str, ...] = ()
    override: str = ""  # an expression that an override of its layout begins with
    images: tuple[str, ...] = ()  # containers whose image starts it
    image: str = ""  # of the container that is written
    keys: tuple[str, ...] = ()  # by which its configuration file is told, given itself
    file_keys: tuple[str, ...] = ()  # all keys of its file that are known here, beside its flags
    file: str = "yaml"  # what its ``config`` names: yaml, toml
    file_variable: str = ""  # of its own script, which names that file
    calls: tuple[str, ...] = ()  # of Python that start it, package and name
    first_argument: str = ""  # of these calls
    world: str = "launcher"  # what says how many GPUs it runs on: its launcher, or its own flags
    whole_nodes: bool = False  # its launcher takes all GPUs of a node where no number is said
    mpi: str = ""  # what an MPI task per GPU starts, over several nodes
    no_precision: str = ""  # what is priced where a command of training names none
    own_way: tuple[str, ...] = ()  # fields of a job in which it does not do as others do
    takes_value: frozenset[str] = frozenset()  # flags with a value, of no matter to the layout
    bare: frozenset[str] = frozenset()  # the same without a value
    dotted: bool = False  # its parser takes keys of a flag's JSON by dots
    abbreviates: bool = False  # its parser takes the beginning of a flag for the flag
    script_flags: bool = False  # what follows the script is the script's own
    wrappers: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()  # that its documentation lists; (): any, or nobody says

    def by_spelling(self) -> dict[str, Flag]:
        return {s: flag for flag in self.flags.values() for s in flag.spellings}


@functools.cache
def _aliases() -> dict[str, str]:
    """Other names → name."""
    return {alias: name for name in target_names() for alias in _load(name).aliases}


def target(name: str, version: str | None = None) -> Target:
    """A target by name; ``version`` must be the one that its table was checked against."""
    key = str(name).strip().lower().replace("_", "-")
    if key not in target_names():
        key = _aliases().get(key, key)
    if key not in target_names():
        raise unknown_name("target", str(name), target_names(), "export target", _aliases())
    found = _load(key)
    if version is not None and version != found.version:
        raise InputError(
            f"version: {found.title} was checked at {found.version} only",
            field="version",
            value=version,
            legal=found.version,
            nearest=found.version,
        )
    return found


def every_target() -> list[Target]:
    """All targets, in the order of their names."""
    return [_load(name) for name in target_names()]


@functools.cache
def _load(key: str) -> Target:
    import tomllib

    table: dict[str, Any] = tomllib.loads(
        (TARGETS_FOLDER / f"{key}.toml").read_text(encoding="utf-8")
    )
    flags = {}
    for setting, entry in table.pop("flags").items():
        kind = entry.get("kind", "int")
        assert kind in FLAG_KINDS, (key, setting)
        flags[setting] = Flag(setting, tuple(entry["flags"]), kind)
    sets = {name: frozenset(table.pop(name, ())) for name in ("takes_value", "bare")}
    price, holds, cannot = (table.pop(name, {}) for name in ("price", "holds", "cannot"))
    variables: dict[str, list[str]] = table.pop("environment", {})
    listed = table.pop("models", {})
    assert not listed or listed["source"], key
    assert price.keys() | variables.keys() <= set(CHANGES), (key, price.keys(), variables.keys())
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Target(
        name=key,
        flags=flags,
        takes_value=sets["takes_value"],
        bare=sets["bare"],
        price={k: v for v in CHANGES for k in price.get(v, ())},
        holds=holds,
        environment={k: v for v, names in variables.items() for k in names},
        cannot=cannot,
        model_types=tuple(listed.get("types", ())),
        **rest,
    )


# -- the functions of a target's module ----------------------------------------------------------------


@functools.cache
def _code(name: str) -> Any:
    """The module of a target; None where it has none."""
    module = name.replace("-", "_")
    if not (TARGETS_FOLDER / f"{module}.py").is_file():
        return None
    return importlib.import_module(f"meshwise.launch.targets.{module}")


def function_of(chosen: Target, name: str) -> Callable[..., Any] | None:
    """A function of a target's module by its name in the protocol; None where it has none."""
    return getattr(_code(chosen.name), name, None)


def read_settings(chosen: Target, settings: Settings, world: int | None) -> Read:
    """Fields of a job by a target's settings; a field each where its module does not say."""
    read = function_of(chosen, "read")
    if read is not None:
        found: Read = read(settings, world)
        return found
    from meshwise.launch.settings import plain

    return plain.fields_each(chosen, settings, world)
