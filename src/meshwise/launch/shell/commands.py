"""Shell text taken apart: files that it writes, environment, the commands that it starts."""

from __future__ import annotations

import bisect
import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError, MeshwiseError, shorten
from meshwise.launch.shell.run import follow
from meshwise.launch.shell.values.memory import ShellValue, Text, file_name, shown_plain
from meshwise.launch.shell.way import Way
from meshwise.launch.wrappers import slurm

# what every shell has: where it is, whose it is
_PLACES = {"PWD": ".", "HOME": "~"}
MAX_TEXT = 1 << 20  # characters of a command

_UNREAD = re.compile(r"\$\{([A-Za-z_]\w*|[0-9]+|@)|\$([A-Za-z_]\w*|[0-9]|@)")

_SUM = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")


class StartedCommand(NamedTuple):
    """A command that a text starts: its words, the variables that are set where it stands, the line of
    each word, and the file of these lines (empty: the text itself)."""

    words: list[str]
    variables: Mapping[str, str]
    lines: tuple[int, ...] = ()
    file: str = ""


class Script(NamedTuple):
    """One way through a text: its commands, files written by here-documents, variables set at its end,
    what its SBATCH lines ask for, what it sources, and the conditions of its branches; where a command ends
    it early, what it would have gone on with."""

    commands: list[StartedCommand]
    files: dict[str, str]
    variables: Mapping[str, str]
    batch: slurm.ResourceRequest
    sourced: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    # the word that ends it before its last line, its line, the condition that it does so under
    ended: tuple[str, int, str] | None = None
    unreached: tuple[StartedCommand, ...] = ()  # what it would start after that


class _History:
    """Every value of the variables of a way, with the place in its log."""

    def __init__(self, log: list[tuple[str, ShellValue | None]]) -> None:
        self.of: dict[str, tuple[list[int], list[ShellValue | None]]] = {}
        for place, (name, value) in enumerate(log):
            places, values = self.of.setdefault(name, ([], []))
            places.append(place)
            values.append(value)


class _Then(Mapping[str, str]):
    """The variables at one place, and those that one command alone gets."""

    def __init__(self, history: _History, place: int, before: tuple[tuple[str, str], ...]) -> None:
        self._history, self._place, self._before = history, place, dict(before)

    def __getitem__(self, name: str) -> str:
        if name in self._before:
            return shown_plain(str(self._before[name]))
        places, values = self._history.of[name]
        at = bisect.bisect_left(places, self._place) - 1
        value = values[at] if at >= 0 else None
        if value is None:
            raise KeyError(name)
        return _joined(value)

    def __iter__(self) -> Iterator[str]:
        return (n for n in {**self._history.of, **self._before} if n in self)

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _AtEnd(Mapping[str, str]):
    """The variables at the end of a way; what a command alone got is known to the text's readers too."""

    def __init__(self, way: Way, history: _History) -> None:
        self._values, self._history = way.memory.values, history
        self._alone = {k: v for c in reversed(way.commands) for k, v in c.before}

    def __getitem__(self, name: str) -> str:
        if name in self._values:
            return _joined(self._values[name])
        if name in self._alone:
            return shown_plain(str(self._alone[name]))
        _, values = self._history.of[name]
        value = next((v for v in values if v is not None), None)
        if value is None:
            raise KeyError(name)
        return _joined(value)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._values, *self._alone, *self._history.of]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def check_text(text: Any) -> str:
    """Raise :class:`InputError` for what is no text of a command."""
    if not isinstance(text, str) or not text.strip():
        raise InputError("command: empty", field="command", legal="a launch command")
    if len(text) > MAX_TEXT:
        raise InputError(
            f"command: {len(text):,} characters",
            field="command",
            value=text[:40],
            legal=f"at most {MAX_TEXT:,}",
        )
    return text


def read_script(
    text: str,
    *,
    given: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> list[Script]:
    """Every way through a text; :class:`InputError` for what no shell would take. ``given``: values of
    variables that the text does not set; ``files``: texts that it may source and run, by name."""
    text = check_text(text)
    _check_characters(text)
    batch = slurm.script_request(text)
    wins = dict(given or {})
    start: dict[str, ShellValue] = {**_PLACES, **slurm.variables(batch)}
    if "@" in wins:
        start["@"] = tuple(shlex.split(wins.pop("@")))
    elif "1" in wins:  # those that are given are all
        last = next(n for n in range(1, 100) if str(n + 1) not in wins)
        start["@"] = tuple(wins[str(n)] for n in range(1, last + 1))
    found = []
    marks = text.marks if isinstance(text, Text) else ()
    beside = tuple((files or {}).items())
    ways = _ways(text, marks, tuple(start.items()), beside, tuple(wins.items()))
    unreached: tuple[StartedCommand, ...] | None = None
    for way in ways:
        commands, history = _commands(way)
        early = way.halt in ("exit", "return") and way.left_out
        if early and unreached is None:
            unreached = _unreached(text, start, dict(files or {}), wins)
        asked = batch
        for inner in way.batches:
            asked = asked.over(slurm.script_request(inner))
        texts = dict(files or {})
        texts |= {str(name): shown_plain(str(said)) for name, said in way.files.items()}
        texts |= {f"./{name}": said for name, said in texts.items() if "/" not in name}
        found.append(
            Script(
                commands,
                texts,
                _AtEnd(way, history),
                asked,
                tuple(_plain_word(str(w)) for w in way.sourced),
                way.conditions,
                way.ended if early else None,
                (unreached or ()) if early else (),
            )
        )
    return found


@functools.lru_cache(maxsize=1)
def _ways(
    text: str,
    marks: tuple[tuple[int, int], ...],
    start: tuple[tuple[str, ShellValue], ...],
    files: tuple[tuple[str, str], ...],
    wins: tuple[tuple[str, str], ...],
) -> list[Way]:
    """A text is read once more when its model is known, and the shell does the same with it: not to be changed.
    ``marks``: those of the text, which do not tell it from another one."""
    return follow(text, dict(start), dict(files), dict(wins))


def _commands(way: Way) -> tuple[list[StartedCommand], _History]:
    history = _History(way.memory.log)
    found = [
        StartedCommand(
            [_plain_word(str(w)) for w in c.words],
            _Then(history, c.place, c.before),
            c.lines,
            c.file,
        )
        for c in way.commands
    ]
    return found, history


def _unreached(
    text: str, start: dict[str, ShellValue], files: dict[str, str], wins: dict[str, str]
) -> tuple[StartedCommand, ...]:
    """What a script starts if no command ends it."""
    try:
        ways = follow(text, start, files, wins, past_end=True)
    except MeshwiseError:
        return ()
    return tuple(c for way in ways for c in _commands(way)[0])


def _check_characters(text: str) -> None:
    at = text.find("\0")
    if at >= 0:
        line = text.count("\n", 0, at) + 1
        raise InputError(
            f"command: no text: a byte of value 0 in line {line}",
            field="command",
            value=shorten(text[:at].strip()[-40:]),
            legal="a launch command as text",
        )


_ENDING = re.compile(r"\.(?:sh|json|ya?ml|toml)$")


def _plain_word(word: str) -> str:
    """A word; why a part of it is not known is said of values, not of paths."""
    if _ENDING.search(word) is not None and "$" in word:
        before = "./" if word.startswith("./") else ""
        return before + file_name(word)
    return shown_plain(word, always="/" in word)


def _joined(value: ShellValue) -> str:
    if isinstance(value, dict):
        value = tuple(value.values())
    return shown_plain(str(value) if isinstance(value, str) else " ".join(value))


def unset_names(word: str) -> list[str]:
    """Names of the variables that a word still has."""
    found = [braced or plain for braced, plain in _UNREAD.findall(word)]
    for sum_ in _SUM.findall(word):  # in which a name stands for its value
        found += re.findall(r"(?<![\w$])[A-Za-z_]\w*", sum_)
    return found


def whole_number(text: Any) -> int | None:
    """A plain whole number, else None (a variable, ``gpu``, ``auto``)."""
    value = str(text)
    return int(value) if re.fullmatch(r"\d{1,9}", value) else None


def option(words: list[str], *names: str) -> str | None:
    """The last value of a launcher's option, in any of its spellings, ``-`` and ``_`` alike."""
    wanted = {name.replace("-", "_").strip("_") for name in names}
    found = None
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not name.startswith("-") or name.strip("-").replace("-", "_") not in wanted:
            continue
        if equals:
            found = value
        elif i + 1 < len(words):
            found = words[i + 1]
    return found
