"""Defaults from a file: ``meshwise.toml`` here or above, else the user's ``config.toml``.

The command line wins. What came from a file is said in the answer, and where it is wrong the file and
its key are named. ``MESHWISE_CONFIG`` names another file; empty: none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwise.errors import InputError, MeshwiseError, shorten

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page

DEFAULTS_FILE = "meshwise.toml"
DEFAULT_KEYS = ("on", "stack")
_PARAMETER = {"on": "cluster", "stack": "stack"}
_OTHERS = ("import", "export")  # the software is that of the command that is read or written
MOST_BYTES = 1 << 20


def find_defaults() -> Path | None:
    """The file whose defaults hold here, if there is one."""
    named = os.environ.get("MESHWISE_CONFIG")
    if named is not None:
        return Path(named).expanduser() if named else None
    return _of_the_project() or _of_the_user()


def _home() -> Path | None:
    home = os.environ.get("HOME")
    return Path(home) if home and Path(home).is_absolute() else None


def _of_the_project() -> Path | None:
    """The file here, or in a folder above up to the root of the repository or the home folder; outside
    of both nothing above counts, which may be anybody's (/tmp)."""
    try:
        here = Path.cwd()
    except OSError:  # the folder is gone
        return None
    folders = [here, *here.parents]
    tops = [i for i, f in enumerate(folders) if f == _home() or (f / ".git").exists()]
    within = folders[: tops[0] + 1] if tops else folders[:1]
    return next((f / DEFAULTS_FILE for f in within if (f / DEFAULTS_FILE).is_file()), None)


def _of_the_user() -> Path | None:
    said = os.environ.get("XDG_CONFIG_HOME")
    home = _home()
    folder = Path(said) if said else home / ".config" if home else None
    path = folder / "meshwise" / "config.toml" if folder else None
    return path if path is not None and path.is_file() else None


def path_words(path: Path) -> str:
    """A path as a message names it: from here where it is below or above, from the home folder where it
    is in that."""
    with contextlib.suppress(OSError, ValueError):
        here, folder = Path.cwd(), path.resolve().parent
        if folder.is_relative_to(here) or here.is_relative_to(folder):
            return os.path.relpath(path.resolve(), here)
    home = _home()
    if home is not None and path.is_relative_to(home):
        return f"~/{path.relative_to(home)}"
    return str(path)


def read_defaults(path: Path) -> dict[str, str]:
    """The defaults of a file, checked but for what they name; a path is from the file's folder."""
    from meshwise import catalog
    from meshwise.files import read_text_file
    from meshwise.strict_tables import check_keys

    where = path_words(path)
    table = catalog.toml(read_text_file(where, where, "a TOML file", MOST_BYTES), where)
    check_keys(table, DEFAULT_KEYS, where)
    for key, value in table.items():
        if not isinstance(value, str) or not value.strip():
            raise InputError(
                f"{where}: {key} = {shorten(value)} is no name",
                field=f"{where}.{key}",
                value=value,
                legal=f'a name, such as {key} = "{"hgx-h100" if key == "on" else "vllm"}"',
            )
    for key in table:
        if table[key].endswith(".toml") or "/" in table[key]:
            table[key] = str(path.parent / Path(table[key]).expanduser())
    return table


@contextlib.contextmanager
def filled_in(ctx: click.Context, *, cluster: bool, phase: str | None, name: str) -> Iterator[None]:
    """The command's options with the file's defaults in place of what is not given. Errors about these
    name the file. ``cluster``: whether the command needs one; ``phase``: what its stack has to run."""
    wanted = [key for key in DEFAULT_KEYS if _lacks(ctx, key, cluster, name)]
    path = find_defaults() if wanted else None
    if path is None:
        yield
        return
    table, where = read_defaults(path), path_words(path)
    taken = {key: table[key] for key in wanted if key in table}
    try:
        ctx.meta["meshwise.defaults"] = list(_fill(ctx, taken, where, phase))
        yield
    except MeshwiseError as error:
        raise _blamed(error, taken, where) from None


def _fill(
    ctx: click.Context, taken: dict[str, str], where: str, phase: str | None
) -> Iterator[str]:
    """Set what is taken, but a stack that is not made for the question; and say so."""
    for key, value in taken.items():
        if key == "stack" and phase is not None and (why := _unfit(value, phase)):
            yield f"the default of {where}, stack {shorten(value)}, is left out: {why}"
            continue
        ctx.params[_PARAMETER[key]] = value
        yield f"{key} {shorten(value)} is the default of {where}"


def _unfit(stack: str, phase: str) -> str:
    from meshwise.stacks.load import load_stack
    from meshwise.stacks.stack import kind_of

    made = load_stack(stack).can.runs
    return "" if kind_of(phase) in made else f"it is made for {' and '.join(made)}"


def _lacks(ctx: click.Context, key: str, cluster: bool, name: str) -> bool:
    """Whether a command takes a default that the command line leaves open."""
    parameter = _PARAMETER[key]
    if parameter not in ctx.params or ctx.params[parameter] is not None:
        return False
    return cluster if key == "on" else name not in _OTHERS and not ctx.params.get("ideal")


def _blamed(error: MeshwiseError, taken: dict[str, str], where: str) -> MeshwiseError:
    """An error about an option that the file has set, as one about the file."""
    from meshwise.cli import spelling

    spelling.command_spelling().error(error)
    key = error.field.removeprefix("--")
    if error.field.startswith("--") and key in taken:
        said = error.message.replace(f"--{key}", f"{where}: {key}", 1)
        error.message = said if said != error.message else f"{where}: {key}: {error.message}"
        error.field = f"{where}.{key}"
    return error


def default_remarks() -> list[str]:
    """What of the answer came from a file."""
    context = click.get_current_context(silent=True)
    return [] if context is None else list(context.meta.get("meshwise.defaults", []))


def with_remarks(record: Mapping[str, object]) -> Mapping[str, object]:
    """A record that says what came from a file."""
    found, own = default_remarks(), record.get("remarks", [])
    assert isinstance(own, list)
    return {**record, "remarks": [*own, *found]} if found else record


def page_with_remarks(page: Page) -> Page:
    """The page that says it too, as its last sentences."""
    from meshwise.answers.text.sentences import remark_lines

    return page._replace(parts=(*page.parts, *remark_lines(default_remarks())))
