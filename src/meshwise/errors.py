"""One exception family for what a user got wrong: what it is, where, and what would be right.

A bug is never one of these: an ``assert`` or an ordinary exception is.

An error names the field by its Python keyword, and begins with it: ``field="tp"``, ``tp=3: …``, ``tp: …``.
Wherever else a sentence names a field, it *marks* it in backquotes, alone or with a value as a call has
it::

    leave `dcp` out
    for example `isl=2048, osl=256`
    ep > 1, or `overlap_experts=False`

No sentence has an option's dashes. The command line puts its own spelling in the place of fields and marks
when it prints them (:mod:`meshwise.cli.spelling`): ``--tp=3: …``, ``leave --dcp out``. That holds for
remarks and the sentences of pages too. Flags of other software (``--tensor-parallel-size``) are no fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_SHOWN = 80  # characters of a bad value that a one-line message repeats
_MOST_SLIPS = 2  # slips in a long name; half of it in a short one
_LONG = 9  # characters
_LARGEST_INT = 1 << 53  # what every JSON reader holds exactly

# A field that a sentence mentions: `dcp`, `acceptance=0.7`, `isl=2048, osl=256`; other text between
# backquotes, such as a command line, is none.
_ARGUMENT = r"[a-z][a-z0-9_]*=[^`,]*"
MARK = re.compile(rf"`([a-z][a-z0-9_]*|{_ARGUMENT}(?:, {_ARGUMENT})*)`")


# Control characters but line end and tab (ESC and the C1 ones steer a terminal), line separators, and
# what turns the direction of writing or hides in it.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    """``text`` without what would steer the terminal that it is shown on."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def shorten(value: object, limit: int = _SHOWN) -> str:
    """``value`` as one printable line of at most ``limit`` characters, however large or deep it is."""
    if isinstance(value, str):
        text = value[: limit + 1]
    elif isinstance(value, int) and abs(value) > 10**_SHOWN:
        text = f"a number of {value.bit_length()} bits"  # repr refuses one of 4300 digits
    elif isinstance(value, (dict, list, tuple, set)):
        import reprlib

        text = reprlib.repr(value)
    else:
        text = repr(value)
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def quoted(value: object) -> str:
    """``value`` as a message shows it: text in quotes, so that an empty one can be seen."""
    return f"'{shorten(value)}'" if isinstance(value, str) else shorten(value)


class MeshwiseError(ValueError):
    """Base of everything that meshwise refuses, in one line; no bug is one of these.

    :param message: what is wrong.
    :param field: the keyword, key or file (the command line: its option).
    :param value: what was given.
    :param legal: what is accepted.
    :param nearest: the legal value next to the one given; None where there is none.

    >>> import meshwise as mw
    >>> try:
    ...     mw.model("mixtrel-8x7b")
    ... except mw.MeshwiseError as error:
    ...     print(error.field, error.value, error.nearest)
    model mixtrel-8x7b mixtral-8x7b
    """

    exit_code = 2
    line: int | None = None  # of a text that was read, where the error is about a word of it
    file: str = ""  # that the line is of

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        value: Any = None,
        legal: Any = None,
        nearest: Any = None,
    ) -> None:
        self.field = field
        self.value = value
        self.message = message
        self.legal = legal
        self.nearest = nearest
        super().__init__(message)

    def __str__(self) -> str:
        parts = [self.message + self.place]
        if self.legal is not None:
            legal = self.legal
            if isinstance(legal, (list, tuple)):
                legal = ", ".join(str(item) for item in legal)
            parts.append(f"legal: {legal}")
        if self.nearest is not None:
            parts.append(f"nearest: {self.nearest}")
        return clean("; ".join(parts))

    @property
    def place(self) -> str:
        """Where in a text that was read the word stands that the error is about."""
        line = f"line {self.line}" if self.line is not None else ""
        return f" ({' '.join(filter(None, (self.file, line)))})" if self.file or line else ""

    def marked(self) -> str:
        """The error within a record or a page, where its field is marked too."""
        return self._marked(str(self))

    @property
    def sentence(self) -> str:
        """What is wrong, within another sentence: the message, its field marked too."""
        return self._marked(self.message)

    def _marked(self, text: str) -> str:
        name = self.field.partition(":")[0].partition(" ")[0]
        first = MARK.fullmatch(f"`{name}`") and re.match(rf"{name}\b", text)
        return f"`{name}`{text[len(name) :]}" if first else text

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract of an error."""
        value = self.value
        # as it is, where JSON can say it: it has no nan, no inf and no integer of any length
        if value is not None and not (
            isinstance(value, (int, float)) and abs(value) <= _LARGEST_INT
        ):
            value = shorten(value)
        found: dict[str, Any] = {
            "field": self.field,
            "value": value,
            "message": self.message,
            "legal": list(self.legal) if isinstance(self.legal, tuple) else self.legal,
            "nearest": self.nearest,
        }
        if self.line is not None:
            found |= {"file": self.file or None, "line": self.line}
        return {"error": found}


class InputError(MeshwiseError):
    """An option, a quantity or a file is not what it has to be."""


class Overloaded(MeshwiseError):
    """More requests arrive than can be served; ``nearest`` is a rate [requests/s] that can."""

    exit_code = 3


class DoesNotFit(MeshwiseError):
    """A request that the memory of a server does not hold; ``nearest`` is a value of the field that it does."""

    exit_code = 3


class UnknownName(InputError):
    """A name that no catalog has; ``nearest`` is the closest one."""


class UnsupportedModel(InputError):
    """A model whose architecture meshwise does not know; never a guess."""


class IllegalLayout(InputError):
    """A layout that the model or the cluster does not allow."""


def list_in_words(names: Iterable[str]) -> str:
    """``isl, osl and concurrency``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def closest(value: object, names: Iterable[str], n: int = 1) -> list[str]:
    """At most ``n`` of ``names`` that ``value`` may have meant, the likeliest first.

    Names that start with the value, or contain it, go before those that only resemble it.
    """
    import difflib

    asked = str(value)[:100].strip().lower()
    if not asked:
        return []
    matcher = difflib.SequenceMatcher()
    matcher.set_seq2(asked)

    def score(name: str) -> float:
        matcher.set_seq1(name.lower())
        part = len(asked) > 1
        bonus = 0.5 * (part and name.startswith(asked)) + 0.3 * (part and asked in name)
        return matcher.ratio() + bonus

    scored = sorted(((score(name), name) for name in names), key=lambda pair: (-pair[0], pair[1]))
    return [name for found, name in scored if found >= 0.3][:n]


def meant(word: str, known: Mapping[str, str]) -> set[str]:
    """What the names stand for that ``word`` is but for a slip of the fingers or two, the nearest of
    them; several where they are as near. Only letters and the marks between them are mended: another
    digit is another size or version, and so is another unit behind one (125m for 125b)."""
    allowed = _MOST_SLIPS if len(word) >= _LONG else 1
    least, found = float(allowed) + 0.75, set[str]()
    for name, stands_for in known.items():
        if abs(len(name) - len(word)) > allowed or not _same_numbers(word, name):
            continue
        far = slips(word, name)
        if far < least:
            least, found = far, {stands_for}
        elif far == least:
            found.add(stands_for)
    return found


def _same_numbers(word: str, name: str) -> bool:
    """Whether two names have the same digits, and units behind them that do not contradict."""
    numbers, others = re.findall(r"\d+", word), re.findall(r"\d+", name)
    # joined where a letter between them is left out (87b); never parted elsewhere (31-4b, 3-14b)
    if "".join(numbers) != "".join(others) or (len(numbers) == len(others) and numbers != others):
        return False
    if word.count(".") != name.count("."):  # 1.8b and 18b
        return False
    pattern = r"(\d+)([bmt])(?![a-z0-9])"
    ours, theirs = dict(re.findall(pattern, word)), dict(re.findall(pattern, name))
    # a letter alone before a number is a line of models: r2 is no v2
    lines = r"(?<![a-z0-9])([a-z])(\d+)"
    mine, other = ({n: x for x, n in re.findall(lines, text)} for text in (word, name))
    return all(ours[n] == theirs[n] for n in ours.keys() & theirs.keys()) and all(
        mine[n] == other[n] for n in mine.keys() & other.keys()
    )


def slips(a: str, b: str) -> float:
    """Slips between two words: a letter left out, doubled or put in, two exchanged (1 each); another
    letter in its place (1.5: a key beside it is rarer than a key too few). Optimal string alignment."""
    before: list[float] = []
    row = [float(j) for j in range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        last, row = row, [float(i)]
        for j, y in enumerate(b, 1):
            best = min(last[j] + 1.0, row[j - 1] + 1.0, last[j - 1] + 1.5 * (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y and x != y:
                best = min(best, before[j - 2] + 1.0)
            row.append(best)
        before = last
    return row[-1]


def unknown_name(
    field: str, value: str, names: Iterable[str], what: str, others: Iterable[str] = ()
) -> UnknownName:
    """An :class:`UnknownName` with the closest of ``names`` (and of their other spellings,
    ``others``) as the nearest alternative."""
    known = sorted(names)
    close = closest(value, [*known, *others])
    if len(known) <= 40:
        legal = ", ".join(known)
    else:
        likely = ", ".join(closest(value, known, n=6))
        listed = f"{len(known)} names, see `meshwise catalog`"
        legal = f"{likely} ({listed})" if likely else listed
    return UnknownName(
        f"{field}: no {what} is called {quoted(value)}",
        field=field,
        value=value,
        legal=legal,
        nearest=close[0] if close else None,
    )
