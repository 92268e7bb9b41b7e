"""How the command line spells the fields that errors, remarks and pages name: ``tp`` is ``--tp`` here.

Domain code names a field by its Python keyword (:mod:`meshwise.errors` has the marked form of sentences).
The options of the command that runs say how it is written. A layout, and what remarks advise, is written
alike in all commands: in one that reads it from elsewhere (``import``) too. Any other field stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar, cast

import click

from meshwise.axes import AXES
from meshwise.cli import switches
from meshwise.cli.given import option_of
from meshwise.errors import MARK, MeshwiseError

# Python's keyword → the parameter of a command, where the two differ
_PARAMETER = {
    "weights": "weight_dtype",
    "kv_cache": "kv_dtype",
    "comm": "comm_dtype",
    "gradients": "grad_dtype",
    "eager": "enforce_eager",
    "ttft_s": "ttft",
    "tpot_s": "tpot",
    "request_s": "e2e",
    "at_concurrency": "concurrency",
    "timeout_s": "timeout",
    "price_per_device_hour": "price",
    "version": "target_version",
    "kind": "published",
}
# what a sentence calls by this name whichever option or argument it came from
_ALWAYS = {"command": "COMMAND", "table": "TABLE"}
_ALIKE = {*(axis.said for axis in AXES.values()), *switches.SWITCH_NAMES, "expert_skew", "weights"}
_HEAD = re.compile(r"([a-z][a-z0-9_]*)(?=$|:? )")  # of a field: ``sweep``, ``sweep: values``
_ARGUMENT = re.compile(r"([a-z][a-z0-9_]*)(?:=([^,]*))?")
Said = TypeVar("Said")
_WORD = re.compile(r"\w")


class Spelling:
    """The spelling of one command's fields."""

    def __init__(self, params: Sequence[click.Parameter]) -> None:
        self._params = params

    def field(self, name: str) -> str | None:
        """``--global-batch`` of ``global_batch``, ``SIZE`` of ``size``; None: none of the command's."""
        param = self._param(name)
        if name in _ALWAYS or param is None:
            return _ALWAYS.get(name)
        if isinstance(param, click.Argument):
            return (param.metavar or name.upper()).strip("[]")
        dashed = option_of(name)
        return dashed if dashed in param.opts else param.opts[0]

    def _param(self, name: str) -> click.Parameter | None:
        own = _find(name, self._params)
        if own is None and name in _ALIKE:
            from meshwise.cli.plan import command  # which has them all

            own = _find(name, command.params)
        return own

    def said(self, text: str) -> str:
        """A sentence with what it marks spelt; the mark of what is no option stays, but before its value."""
        return MARK.sub(self._mark, text) if "`" in text else text

    def _mark(self, found: re.Match[str]) -> str:
        words: list[str] = []
        for name, value in _ARGUMENT.findall(found[1]):
            option = self.field(name)
            if option is None:  # the lead of an error that is quoted stands as that error has it
                lead = found.string.startswith(("=", ":"), found.end())
                return found[1] if lead else found[0]
            words += self._argument(name, option, value)
        return " ".join(words)

    def _argument(self, name: str, option: str, value: str) -> list[str]:
        """``tp=2`` as ``--tp 2``, ``weak=True`` as ``--weak``, ``overlap_experts=False`` as its opposite."""
        param = self._param(name)
        off = param.secondary_opts if isinstance(param, click.Option) else []
        if value in ("", "True") or (value == "False" and off):
            return [off[0] if value == "False" else option]
        if name.endswith("_s") and value.replace(".", "", 1).isdigit():
            seconds = float(value)
            return [option, f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1e3:g}ms"]
        return [option, value.strip("\"'")]

    def error(self, error: MeshwiseError) -> None:
        """Spell an error's field, and what its sentences mark; what is about no option stays as it is."""
        head = _HEAD.match(error.field)
        option = self.field(head[1]) if head is not None else None
        if head is not None and option is not None:
            rest = error.message.removeprefix(error.field)
            if rest != error.message and not _WORD.match(rest):
                error.message = option + error.field[head.end() :] + rest
            error.field = option + error.field[head.end() :]
        error.message = self.said(error.message)
        error.legal = self.whole(error.legal)
        error.nearest = self.whole(error.nearest)

    def whole(self, value: Said) -> Said:
        """A record, a page or a list of sentences, each text in it as :meth:`said`."""
        found: object = value
        if isinstance(value, str):
            found = self.said(value)
        elif isinstance(value, dict):
            found = {key: self.whole(item) for key, item in value.items()}
        elif isinstance(value, list):
            found = [self.whole(item) for item in value]
        elif isinstance(value, tuple):
            items = (self.whole(item) for item in value)
            found = value._make(items) if hasattr(value, "_make") else tuple(items)
        return cast(Said, found)


def command_spelling() -> Spelling:
    """The spelling of the command that runs."""
    return Spelling(click.get_current_context().command.params)


def _find(name: str, params: Sequence[click.Parameter]) -> click.Parameter | None:
    """The parameter of a keyword, by its name, else by one of its spellings."""
    for key in (name, _PARAMETER.get(name, name)):
        for param in params:
            if param.name == key:
                return param
    return next((p for p in params if option_of(name) in p.opts), None)
