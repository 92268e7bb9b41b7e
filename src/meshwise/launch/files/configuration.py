"""Configuration files that launch commands name or come in: YAML, TOML, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, shorten
from meshwise.launch.shell.commands import unset_names

MAX_BYTES = 1 << 20


def opened(path: str, field: str, files: dict[str, str]) -> str:
    """A file that a command names: written by the same text, or on the disk."""
    for name in (path, *(n for n in files if Path(n).name == Path(path).name)):
        if name in files:
            return files[name]
    what = "the file, or its text in a here-document of the same script"
    if unset_names(path):
        raise InputError(
            f"{field}: {shorten(path)} is not set in the text, and the file may hold the layout",
            field=field,
            value=path,
            legal=what,
        )
    if not Path(path).is_file():
        raise InputError(
            f"{field}: {shorten(path)} is not here, and it may hold the layout",
            field=field,
            value=path,
            legal=what,
        )
    from meshwise.files import read_text_file

    return read_text_file(path, field, "a configuration file", MAX_BYTES)


def as_words(table: dict[str, Any]) -> list[str]:
    """A mapping as flags: ``key: value`` is ``--key value``, sections joined by a dot."""
    words: list[str] = []
    for key, value in table.items():
        if isinstance(value, bool):
            words += [f"--{key}={str(value).lower()}"]
        elif isinstance(value, list | dict):
            words += [f"--{key}={json.dumps(value)}"]
        elif value is not None:
            words += [f"--{key}={value}"]
    return words


def leaves(table: dict[str, Any]) -> dict[str, Any]:
    """Values by their own key, whatever section they stand in."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= leaves(value) if isinstance(value, dict) else {key: value}
    return found


def sections(text: str, field: str) -> dict[str, Any]:
    """A TOML file with its sections joined by dots, as torchtitan's flags are."""
    import tomllib

    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(
            f"{field}: no TOML: {shorten(str(error))}", field=field, legal="a TOML file"
        ) from None
    return dotted(table)


def dotted(table: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            found |= dotted(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
