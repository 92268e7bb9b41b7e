"""``--color`` and ``--quiet``: the same page with colours or without, and nothing on stderr."""

from __future__ import annotations

import io

import pytest
from running import refusal, run
from terminals import STYLE, on_terminal

from meshwise.cli import main, terminal

ARGV = ("model", "gpt2")
SETTINGS = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("option", "environment", "coloured"),
    [
        ((), {}, False),
        (("--color", "auto"), {}, False),
        (("--color", "always"), {}, True),
        (("--color=always",), {"NO_COLOR": "1", "TERM": "dumb"}, True),
        (("--color", "never"), {"FORCE_COLOR": "1"}, False),
        ((), {"FORCE_COLOR": "1"}, True),
        ((), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ((), {"FORCE_COLOR": ""}, False),
    ],
)
def test_into_a_pipe(monkeypatch, option, environment, coloured) -> None:
    plain = run(*ARGV).out
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = run(*ARGV, *option)
    assert ("\x1b[" in ran.out) == coloured
    assert [line.rstrip() for line in STYLE.sub("", ran.out).splitlines()] == plain.splitlines()


def test_before_the_command_too(tmp_path) -> None:
    assert "\x1b[" in run("--color", "always", *ARGV).out
    assert "\x1b[" not in run("--color", "always", *ARGV, "--color", "never").out
    file = tmp_path / "page.txt"  # a file is no terminal, and JSON no page
    run(*ARGV, "--color", "always", "-o", str(file))
    assert "\x1b" not in file.read_text()
    assert "\x1b" not in run(*ARGV, "--json", "--color", "always").out
    assert run(*ARGV, "--color", "always").out and "\x1b" not in run(*ARGV).out


def test_another_word_is_refused() -> None:
    error = refusal(*ARGV, "--color", "allways")
    assert (error["field"], error["nearest"]) == ("--color", "always")
    assert error["legal"] == list(terminal.COLORS)


@pytest.mark.parametrize("asked", [(), ("-q",), ("--quiet",)])
def test_quiet_shows_no_progress(monkeypatch, asked) -> None:
    made = []

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Bar:
        def __init__(self, label: str) -> None:
            made.append(self)

        def __call__(self, done: int, total: int) -> None:
            pass

    monkeypatch.setattr(terminal, "Bar", Bar)
    monkeypatch.setattr(terminal.sys, "stderr", Terminal())
    argv = ("plan", "gpt2", "--on", "dgx-a100", "--gpus", "8", "--seq", "1k", "--batch", "64")
    assert main([*argv, *asked, "--json", "-o", "/dev/null"]) == 0
    assert bool(made) != bool(asked)


def test_on_a_terminal() -> None:
    plain = run(*ARGV, "--color", "never").out
    assert on_terminal(500, *ARGV, "--color", "never").out == plain
