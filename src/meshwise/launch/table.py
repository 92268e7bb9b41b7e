"""The targets' tables: flags, their spellings and what a target cannot say, as data per version."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Any, NamedTuple

from meshwise.errors import InputError, unknown_name

KINDS = ("int", "flag", "text", "list", "share", "tokens")
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
    """A target at a version."""

    name: str
    title: str
    version: str
    phase: str
    style: str  # flags, overrides (key=value) or json
    program: tuple[str, ...]  # words by which a command is recognised
    flags: dict[str, Flag]
    takes_value: frozenset[
        str
    ]  # flags that are known, have a value and do not matter to the layout
    bare: frozenset[str]  # the same without a value
    price: dict[str, str]  # flag that changes time or memory and is not priced → which of them
    holds: dict[str, str]  # flag of the layout that is not followed → what it does
    cannot: dict[str, str]  # field of a job → why the target cannot say it
    wrappers: tuple[str, ...]

    def by_spelling(self) -> dict[str, Flag]:
        return {s: flag for flag in self.flags.values() for s in flag.spellings}


_ALIASES = {
    "tensorrt-llm": "trtllm",
    "trt-llm": "trtllm",
    "megatron": "megatron-lm",
    "megatron-core": "megatron-lm",
    "bridge": "megatron-bridge",
    "nemo": "megatron-bridge",
    "titan": "torchtitan",
    "hf-accelerate": "accelerate",
}


@functools.cache
def targets() -> tuple[str, ...]:
    """Names of all targets."""
    folder = importlib.resources.files("meshwise.launch") / "targets"
    found = [f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")]
    return tuple(sorted(found))


def target(name: str, version: str | None = None) -> Target:
    """A target by name; ``version`` must be the one that its table was checked against."""
    key = str(name).strip().lower().replace("_", "-")
    key = _ALIASES.get(key, key)
    if key not in targets():
        raise unknown_name("target", str(name), targets(), "export target", _ALIASES)
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


@functools.cache
def _load(key: str) -> Target:
    import tomllib

    folder = importlib.resources.files("meshwise.launch") / "targets"
    table: dict[str, Any] = tomllib.loads((folder / f"{key}.toml").read_text(encoding="utf-8"))
    flags = {}
    for setting, entry in table["flags"].items():
        kind = entry.get("kind", "int")
        assert kind in KINDS, (key, setting)
        flags[setting] = Flag(setting, tuple(entry["flags"]), kind)
    return Target(
        name=key,
        title=table["title"],
        version=table["version"],
        phase=table["phase"],
        style=table.get("style", "flags"),
        program=tuple(table["program"]),
        flags=flags,
        takes_value=frozenset(table.get("takes_value", ())),
        bare=frozenset(table.get("bare", ())),
        price={k: v for v in CHANGES for k in table.get("price", {}).get(v, ())},
        holds=table.get("holds", {}),
        cannot=table.get("cannot", {}),
        wrappers=tuple(table.get("wrappers", ())),
    )
