"""Which command lines tools/golden.py runs; gathered from where they stand already.

Those of the pages (``docs/generate.py`` and ``tests/test_commands.py`` find them), those of
``tests/matrix/lines.py`` over every kind of architecture, and the refusals of
``tests/cli/test_bad_input.py``.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = Path("tests/data/configs")
AS_TEXT = {"--json", "--csv", "--parquet", "--toml", "--help", "-h", "--version", "-o", "--output"}
PAGES = 2  # of text, of each command: the first so many of its lines in the documentation
SLOW = ("training", "serving")  # tables whose page is not made beside their JSON
Words = tuple[str, ...]


class Unusable(Exception):
    """Nothing can be compared: exit code 2."""


class Line(NamedTuple):
    """A command's arguments; ``<`` and a file at the end are its input."""

    words: Words
    in_order: bool  # after the one before it, whose files it may read

    @property
    def label(self) -> str:
        text = " ".join(w if w == "<" else shlex.quote(w) for w in self.words)
        text = text.replace("\n", "\\n")
        return text if len(text) <= 300 else f"{text[:280]}… ({len(text)} characters)"

    @property
    def written(self) -> str | None:
        return self.words[self.words.index("-o") + 1] if "-o" in self.words[:-1] else None


class Gathered(NamedTuple):
    lines: list[Line]
    files: dict[str, str]  # what the commands read beside INPUTS
    left_out: list[tuple[str, str]]  # line, reason


def gather() -> Gathered:
    """Every command line once, in the order in which they run."""
    sys.path[:0] = [
        str(ROOT / p) for p in (".", "src", "docs", "tests", "tests/matrix", "tests/cli")
    ]
    lines = importlib.import_module("lines")
    documented, left_out = _documented()
    bad = importlib.import_module("test_bad_input")
    files = {f"bad-{i}.toml": f[0].replace(f[1], f[2], 1) for i, f in enumerate(bad.FILES)}
    with contextlib.chdir(ROOT):
        kinds = list(lines.of_kinds(CONFIGS))
    in_json = _with_json()
    ordered = [*documented, *lines.of_launches(), *lines.of_plans()]
    rest = [*kinds, *lines.of_catalog(), *lines.of_illegal(), *(tuple(c[0]) for c in bad.CASES)]
    rest += [("scale", "gpt2", "--seq", "64", "--on", name) for name in files]
    found = [Line(in_json(words), True) for words in ordered]
    found += [Line(words, False) for words in _pages(documented)]
    found += [Line(in_json(words), False) for words in rest]
    found += [Line(tuple(case[0]), False) for case in bad.CASES]  # their one line of text too
    unique: dict[Words, Line] = {}
    for line in found:
        unique.setdefault(line.words, line)
    return Gathered(list(unique.values()), files, list(dict.fromkeys(left_out)))


def _documented() -> tuple[list[Words], list[tuple[str, str]]]:
    """Commands of the pages' blocks and text, without what they are piped into; and those not run."""
    generate = importlib.import_module("generate")
    in_text = importlib.import_module("test_commands")
    kept: list[Words] = []
    left_out = []

    def runs(line: str) -> bool:
        reason = next((r for start, r in in_text.NOT_RUN.items() if line.startswith(start)), None)
        if reason is None and line.startswith(("python ", "cat ", "echo ")):
            reason = "no command of meshwise"
        if reason is not None:
            left_out.append((line, reason))
        return reason is None

    for line in generate.console_lines():
        if runs(line):
            kept.append(tuple(generate.programs(line)[0][1:]))
    for line in in_text.inline():
        if runs(line):
            kept.append(tuple(in_text.complete(line)))
    return kept, left_out


def _pages(documented: list[Words]) -> Iterator[Words]:
    """Those that are also run for their text."""
    seen: dict[str, int] = {}
    for words in documented:
        if not (AS_TEXT | set(SLOW)) & set(words):
            seen[words[0]] = seen.get(words[0], 0) + 1
            if seen[words[0]] <= PAGES:
                yield words


def _with_json() -> Callable[[Words], Words]:
    """Adds ``--json`` to a command that has it and is not asked for another form."""
    import click

    from meshwise.cli import COMMANDS, cli

    found = {name: cli.get_command(click.Context(cli), name) for name in COMMANDS}
    known = {n for n, c in found.items() if c and any("--json" in p.opts for p in c.params)}

    def added(words: Words) -> Words:
        if words[0] in known and not AS_TEXT & set(words):
            return (words[0], "--json", *words[1:])
        return words

    return added


def chosen(lines: list[Line], only: str | None) -> list[Line]:
    """Those that a pattern finds, and those whose files they read."""
    if only is None:
        return lines
    found = [line for line in lines if re.search(only, line.label)]
    if not found:
        raise Unusable(f"--only {only!r}: no command line has it; see --list")
    read = {word for line in found for word in line.words}
    return [line for line in lines if line in found or line.written in read]
