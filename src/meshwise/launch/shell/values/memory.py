"""What a shell knows on its way through a text: variables, and where each word of them is written."""

from __future__ import annotations

import bisect
import itertools
import re
import shlex
from collections.abc import Iterable

MAX_VALUE = 1_000_000  # characters of a variable
_MAX_MARKS = 2_000


class Text(str):
    """A text with the lines that its parts are written in: (offset, line) each."""

    __slots__ = ("marks",)
    marks: tuple[tuple[int, int], ...]

    @property
    def line(self) -> int:
        return self.line_at(0)

    def line_at(self, at: int) -> int:
        place = max(bisect.bisect_right(self.marks, (at, MAX_VALUE)) - 1, 0)
        return next((line for _, line in self.marks[place : place + 4] if line), 0)


def marked(text: str, marks: tuple[tuple[int, int], ...]) -> Text:
    found = Text(text)
    found.marks = marks
    return found


def line_of(text: str, line: int) -> int:
    return text.line or line if isinstance(text, Text) else line


def joined_texts(parts: Iterable[tuple[str, int]]) -> Text:
    """Parts with their lines as one text."""
    texts: list[str] = []
    marks: list[tuple[int, int]] = []
    size = 0
    for text, line in parts:
        if not text and marks:
            continue
        own = text.marks if isinstance(text, Text) else ((0, line),)
        if not marks and not size:  # a long value that is added to: its marks, each line once
            pairs = itertools.pairwise(own)
            marks = [*own[:1], *[mark for last, mark in pairs if mark[1] != last[1]]][:_MAX_MARKS]
            own = ()
        for offset, said in own:
            if len(marks) < _MAX_MARKS and (not marks or marks[-1][1] != said):
                marks.append((size + offset, said))
        texts.append(text)
        size += len(text)
    return marked("".join(texts), tuple(marks))


def lines_of(text: str) -> list[tuple[str, int]]:
    """The parts of a text with the line of each, 0 where that is not known."""
    if not isinstance(text, Text) or not text.marks:
        return [(str(text), 0)]
    ends = [offset for offset, _ in text.marks[1:]] + [len(text)]
    found, start = [], 0
    for (_, line), end in zip(text.marks, ends, strict=True):
        found.append((str(text[start:end]), line))
        start = end
    return found


def text_of(rows: Iterable[str]) -> str:
    """Rows as one text, whose parts keep the lines that they stand in."""
    parts = [part for row in rows for part in (*lines_of(row), ("\n", 0))]
    return joined_texts(parts[:-1])


def assigned(name: str, value: str) -> str:
    return joined_texts([(f"{name}=", 0), *lines_of(quoted_text(value))])


def quoted_text(text: str) -> str:
    """``shlex.quote`` with the lines of its parts."""
    plain = shlex.quote(text)
    if plain == text:
        return text
    parts = [(p.replace("'", "'\"'\"'"), line) for p, line in lines_of(text)]
    return joined_texts([("'", parts[0][1]), *parts, ("'", parts[-1][1])])


def placed_words(words: list[str], text: str) -> list[str]:
    """Words of a text with the lines that they stand in."""
    found: list[str] = []
    at = 0
    for word in words:
        place = text.find(word, at)
        at = max(place, at)
        line = text.line_at(at) if isinstance(text, Text) else 0
        at += len(word) if place >= 0 else 0
        found.append(marked(word, ((0, line),)))
    return found


ShellValue = str | tuple[str, ...] | dict[str, str]


class ShellMemory:
    """Variables, with what they were at every place: :meth:`at`."""

    def __init__(self) -> None:
        self.values: dict[str, ShellValue] = {}
        self.exported: set[str] = set()
        self.all_exported = False
        self.tables: set[str] = set()  # arrays by keys
        self.integers: set[str] = set()
        self.log: list[tuple[str, ShellValue | None]] = []

    def scratch(self) -> ShellMemory:
        """The same for a shell of its own whose past is of no interest."""
        new = ShellMemory()
        new.values, new.tables, new.integers = dict(self.values), self.tables, self.integers
        return new

    def copy(self) -> ShellMemory:
        new = ShellMemory()
        new.values, new.exported = dict(self.values), set(self.exported)
        new.all_exported, new.log = self.all_exported, list(self.log)
        new.tables, new.integers = set(self.tables), set(self.integers)
        return new

    def get(self, name: str) -> ShellValue | None:
        return self.values.get(name)

    def set(self, name: str, value: ShellValue) -> None:
        self.values[name] = value
        self.log.append((name, value))
        if self.all_exported:
            self.exported.add(name)

    def unset(self, name: str) -> None:
        if name in self.values:
            del self.values[name]
            self.log.append((name, None))

    def restore(self, values: dict[str, ShellValue]) -> None:
        """The variables of another time."""
        for name in [n for n in self.values if n not in values]:
            self.unset(name)
        for name, value in values.items():
            if self.values.get(name) is not value:
                self.set(name, value)

    def parts_from(self, other: ShellMemory) -> int:
        """Where the logs of two copies begin to differ: what both have before they parted is the same object."""
        a, b = self.log, other.log
        both = range(min(len(a), len(b)))
        return bisect.bisect_left(both, True, key=lambda i: a[i] is not b[i])

    def environment(self) -> dict[str, ShellValue]:
        """What a shell that is started gets."""
        return {k: v for k, v in self.values.items() if k in self.exported}

    def at(self, place: int) -> dict[str, ShellValue]:
        found: dict[str, ShellValue] = {}
        for name, value in self.log[:place]:
            if value is None:
                found.pop(name, None)
            else:
                found[name] = value
        return found


# A value that does not follow from the text is a word that stays unread: `${NAME!why}`.
WHY = re.compile(r"\$\{([A-Za-z_]\w*|[0-9@*])!([^{}]*)\}")


def unfollowed(name: str, what: str = "") -> str:
    """The value of a variable that does not follow from the text: one word, which says why."""
    plain = re.sub(r"\$\{(\w+)[^{}]*\}", r"$\1", what)
    plain = re.sub(r"[{}`\"'\\]", "", plain)
    return f"${{{name}!" + re.sub(r"[ \n\t]+", "~", plain) + "}"


def reasons(word: str) -> dict[str, str]:
    """Variable → what sets it, of those in a word that do not follow from the text."""
    return {name: what.replace("~", " ") for name, what in WHY.findall(word) if what}


def shown_plain(text: str, always: bool = False) -> str:
    """A value without the marks of what is not set, for those who do not ask why: those that say
    nothing, or all of them."""
    if "!" not in text:
        return text

    def plain(match: re.Match[str]) -> str:
        if match[2] and not always:
            return match[0]
        return f"${{{match[1]}}}" if match[1].isidentifier() else f"${match[1]}"

    return WHY.sub(plain, text)


def file_name(text: str) -> str:
    """A file's name with what is not set written in one way: ``$JOB.json`` and ``${JOB}.json`` are one."""
    if "$" not in text:
        return text.removeprefix("./")
    plain = shown_plain(text, always=True)
    return re.sub(r"\$([A-Za-z_]\w*)", r"${\1}", plain).removeprefix("./")
