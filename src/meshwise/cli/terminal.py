"""What is said beside the answer, and in which colours: ``--quiet`` and ``--color``."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from meshwise.cli.values import WordType

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

COLORS = ("auto", "always", "never")


def _keep(ctx: click.Context, param: click.Parameter, value: object) -> None:
    """A value that every part of the command may ask for; the group's where the command has none."""
    if param.name == "color" and value is not None:
        from meshwise.strict_tables import one_of

        value = one_of(value, "--color", COLORS)
    if value:
        ctx.meta[f"meshwise.{param.name}"] = value


def quiet_option() -> click.Option:
    return click.Option(
        ["-q", "--quiet"],
        is_flag=True,
        expose_value=False,
        callback=_keep,
        help="No progress and no remarks on stderr.",
    )


def color_option() -> click.Option:
    return click.Option(
        ["--color"],
        type=WordType("WHEN", COLORS),
        expose_value=False,
        callback=_keep,
        help="auto (default: on a terminal, as NO_COLOR and FORCE_COLOR say), always or never.",
    )


def _asked(name: str) -> object:
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(f"meshwise.{name}")


def quiet() -> bool:
    return bool(_asked("quiet"))


def coloured(on_terminal: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a page on stdout has colours: as ``--color`` says, else NO_COLOR (https://no-color.org),
    else FORCE_COLOR (https://force-color.org), else as the terminal is."""
    asked = _asked("color") or "auto"
    if asked != "auto":
        return bool(asked == "always")
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return on_terminal and environment.get("TERM") != "dumb"


@contextlib.contextmanager
def colours() -> Iterator[None]:
    """The environment in which rich colours what it prints, wherever that goes."""
    before = {name: os.environ.get(name) for name in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    os.environ.pop("NO_COLOR", None)
    os.environ["FORCE_COLOR"] = "1"
    if before["TERM"] in (None, "", "dumb", "unknown"):
        os.environ["TERM"] = "xterm"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Bar:
    """A progress bar on a terminal's stderr, once what is counted takes longer than a second."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = time.monotonic()
        self.bar: ProgressBar[int] | None = None
        self.done = 0

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            if time.monotonic() - self.started < 1.0 or done >= total:
                return
            self.bar = click.progressbar(length=total, label=self.label, file=sys.stderr)
            self.bar.__enter__()
        self.bar.update(done - self.done)
        self.done = done
        if done >= total:
            self.bar.__exit__(None, None, None)


def progress(label: str) -> Bar | None:
    """A bar of so many of what is named; None without a terminal on stderr, and under ``--quiet``."""
    return Bar(label) if sys.stderr.isatty() and not quiet() else None
