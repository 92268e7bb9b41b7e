"""The text of a launch command, with what is given beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from meshwise.errors import InputError, MeshwiseError, shorten

if TYPE_CHECKING:
    from meshwise.launch.parsed import Parsed


class LaunchText(NamedTuple):
    """A launch command's text with what the caller gives beside it: ``which`` of its commands, values of
    variables, texts of files that it names, its own name."""

    text: str
    which: int | str | None = None
    values: Mapping[str, str] = MappingProxyType({})
    files: Mapping[str, str] = MappingProxyType({})
    name: str = ""

    def parse(
        self, target: str | None = None, gpus: int | None = None, experts: bool | None = None
    ) -> Parsed:
        """The job that the command starts."""
        from meshwise import launch

        return launch.parse(
            self.text,
            target,
            gpus=gpus,
            experts=experts,
            which=self.which,
            values=self.values,
            files=self.files,
            name=self.name,
        )


def texts_by_name(said: object, field: str) -> Mapping[str, str]:
    """A table of texts by name."""
    if said is None:
        return {}
    if not isinstance(said, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in said.items()
    ):
        raise InputError(
            f"{field}: not a table of texts by name",
            field=field,
            value=shorten(said),
            legal='a dictionary such as {"TP": "8"}',
        )
    return dict(said)


def check_values(
    values: Mapping[str, str], text: str, files: Mapping[str, str]
) -> Mapping[str, str]:
    """The values of variables by their plain names; raise for what is no name, or stands nowhere."""
    found = {}
    for said, value in values.items():
        name = str(said).strip().lstrip("$").strip("{}")
        if not re.fullmatch(r"[A-Za-z_]\w*|[0-9]{1,2}|@", name):
            raise InputError(
                f"values={shorten(str(said))}: no name of a variable",
                field="values",
                value=said,
                legal="NAME=VALUE, such as TP=8, 1=8 for the first argument, or @=… for all of them",
            )
        stands = rf"(?<!\w){name}(?!\w)"
        if name.isdigit():  # one of all
            stands += r"|\$\{?[@*]|\bshift\b"
        if not any(re.search(stands, t) for t in (text, *files.values())):
            raise InputError(
                f"values={name}: the text has no such variable",
                field="values",
                value=name,
                legal="names of variables in the text",
            )
        found[name] = str(value)
    return found


def in_file(error: MeshwiseError, text: str, name: str) -> MeshwiseError:
    """The error with the file that it is about; a line of one line says nothing."""
    error.file = error.file or name
    if not error.file and "\n" not in text.strip():
        error.line = None
    return error
