"""Launch commands as the command line is given them: a text in quotes, stdin, or files with what they name."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwise.cli.given import Given
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.commands import LaunchText

TEXT_BYTES = 1 << 20
MAX_FILES = 64  # that are read because a text names them
_NAMED = re.compile(r"[\w./${}+-]*\w\.(?:sh|bash|env|json|ya?ml|toml|conf|cfg|txt)\b")
_SUFFIXES = (
    *(".sh", ".bash", ".slurm", ".sbatch", ".job", ".yaml", ".yml", ".json", ".toml"),
    ".py",
)
_WHAT = "a launch script, a manifest or a configuration"

which_option = click.option(
    "--which", metavar="N|NAME", help="Of several commands in the text: its number, or its name."
)
set_option = click.option(
    "--set",
    "values",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable that the text does not set ($1 is 1=…). Repeat it.",
)


def read_launch(words: Sequence[str], o: Given) -> LaunchText:
    """The text of a launch command, and what is given beside it. ``words``: one command, ``-``, or
    files, of which the first is the one that runs."""
    from meshwise.commands import LaunchText

    values = _values(o)
    which = o.text("which")
    if list(words) == ["-"]:
        return LaunchText(_standard_input(), which, values)
    if len(words) == 1 and not _is_file(words[0]):
        return LaunchText(words[0], which, values)
    for word in words[1:] if _is_file(words[0]) else words:
        if not _is_file(word):
            raise InputError(
                f"command: {shorten(word)}: no such file; a command is one argument, in quotes",
                field="command",
                value=word,
                legal="files, or one command in quotes, or - for stdin",
            )
    texts = {word: _text(word) for word in words}
    first, *others = words
    if all(_is_manifest(word) for word in words) and others:  # parts of one deployment
        return LaunchText("\n---\n".join(texts.values()), which, values, {}, first)
    files = {name: texts[word] for word in others for name in (word, Path(word).name)}
    files |= {k: v for k, v in _named_by(texts[first], Path(first).parent) if k not in files}
    return LaunchText(texts[first], which, values, files, first)


def _values(o: Given) -> dict[str, str]:
    said = o.get("values") or ()
    assert isinstance(said, tuple)
    found: dict[str, str] = {}
    for word in said:
        name, equals, value = str(word).partition("=")
        if not equals or (name in found and found[name] != value):
            other = f"; it is also {found[name]}" if name in found else ""
            raise InputError(
                f"--set={shorten(word)}: not NAME=VALUE{other}",
                field="--set",
                value=word,
                legal="NAME=VALUE, such as TP=8, each name once",
            )
        found[name] = value
    return found


def _standard_input() -> str:
    raw = sys.stdin.buffer.read(TEXT_BYTES + 1) if hasattr(sys.stdin, "buffer") else None
    if raw is None:
        return sys.stdin.read(TEXT_BYTES)
    why = f"more than {TEXT_BYTES:,} bytes" if len(raw) > TEXT_BYTES else ""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, why = "", why or "is not UTF-8 text"
    if why or "\0" in text:
        raise InputError(
            f"command: stdin: {why or 'holds NUL bytes'}",
            field="command",
            legal=f"{_WHAT}, UTF-8 text of at most {TEXT_BYTES >> 20} MiB",
        )
    return text


def _is_file(word: str) -> bool:
    """Whether a word stands for a file: one that is there, or what is written as one."""
    if not word.strip() or "\n" in word or len(word) > 4096 or "\0" in word:
        return False
    try:
        if Path(word).expanduser().exists():
            return True
    except OSError:
        return False
    return not re.search(r"[\s'\"]", word) and word.endswith(_SUFFIXES)


def _is_manifest(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _text(word: str) -> str:
    from meshwise.files import read_text_file

    text = read_text_file(word, "command", _WHAT, TEXT_BYTES)
    if not text.strip() or "\0" in text:
        raise InputError(
            f"command: {shorten(word)}: {'holds NUL bytes' if text.strip() else 'is empty'}",
            field="command",
            value=word,
            legal=_WHAT,
        )
    return text


def _named_by(text: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Files beside a text that it names, and those that scripts among them name: by the word as it is
    written, and by the name alone."""
    seen: set[str] = set()
    waiting = [text]
    while waiting and len(seen) < MAX_FILES:
        for word in dict.fromkeys(_NAMED.findall(waiting.pop())):
            name = Path(word).name
            if word in seen or len(seen) >= MAX_FILES:
                continue
            seen.add(word)
            for path in dict.fromkeys((folder / word, folder / name)):
                if "$" in str(path) or not _small_file(path):
                    continue
                own = _plain(path)
                if own is None:
                    break
                yield word, own
                yield name, own
                if name.endswith((".sh", ".bash", ".env")):
                    waiting.append(own)
                break


def _small_file(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size <= TEXT_BYTES
    except (OSError, ValueError):
        return False


def _plain(path: Path) -> str | None:
    """The text of a file; None where it is none, or may not be read: whoever needs it asks for it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text
