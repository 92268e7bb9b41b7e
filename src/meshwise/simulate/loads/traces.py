"""Traces: files that say when each request arrives, and how long it is.

CSV with a header by whose names the columns are found, or without one; and JSON lines. Read a line at a
time up to a bound, so that a file's size does not matter.
"""

from __future__ import annotations

import csv
import datetime
import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from meshwise.errors import InputError, quoted, shorten
from meshwise.workloads.workload import MAX_SEQ

MOST_REQUESTS = 200_000  # of a run, or read of a trace
_MOST_RATE = 1e6  # requests per second
_LINE_BYTES = 1 << 20  # no line of a trace is longer
_SHOWN = 60  # characters of a line that an error shows

# names of columns, in small letters without spaces and signs, and the unit of the arrival [s]
_ARRIVAL = {
    **dict.fromkeys(
        (
            *("arrival", "arrivals", "arrivaltime", "arrivedat"),
            *("time", "times", "timestamp", "timestamps", "requesttime", "starttime"),
        ),
        1.0,
    ),
    **dict.fromkeys(("arrivalms", "arrivaltimems", "timems", "timestampms"), 1e-3),
}
_INPUT = (
    *("input", "inputlen", "inputlength", "inputtokens", "numinputtokens", "isl"),
    *("prompt", "promptlen", "promptlength", "prompttokens", "numprefilltokens"),
    *("contexttokens", "requesttokens", "tokensin"),
)
_OUTPUT = (
    *("output", "outputlen", "outputlength", "outputtokens", "numoutputtokens", "osl"),
    *("completiontokens", "numdecodetokens", "generatedtokens", "responsetokens", "tokensout"),
)
# Mooncake's traces, and those made after it, count milliseconds
_JSON_MILLISECONDS = "timestamp"


class Trace(NamedTuple):
    """Requests as a file lists them: arrival [s, from 0], tokens in, tokens out."""

    name: str
    arrival: tuple[float, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    cut: bool  # the file has more

    @property
    def rate(self) -> float:
        """Requests per second, in the mean."""
        span = self.arrival[-1] - self.arrival[0]
        return (len(self.arrival) - 1) / span if span > 0.0 else _MOST_RATE


def read_trace(path: str, field: str, most: int | None = None) -> Trace:
    """The first ``most`` requests of a file, :data:`MOST_REQUESTS` at most."""
    limit = MOST_REQUESTS if most is None else most
    arrival: list[float] = []
    prompt: list[int] = []
    answer: list[int] = []
    with _opened(path, field) as file:
        rows = _Rows(file, path, field).rows()
        for line, (when, tokens_in, tokens_out) in islice(rows, limit):
            if arrival and when < arrival[-1]:
                above = when - arrival[0], arrival[-1] - arrival[0]
                raise _wrong(
                    path,
                    field,
                    line,
                    f"arrives {above[1] - above[0]:.6g} s before the request above it",
                )
            arrival.append(when)
            prompt.append(tokens_in)
            answer.append(tokens_out)
        cut = len(arrival) == limit and next(rows, None) is not None
    if not arrival:
        raise _wrong(path, field, 1, "no request is in it")
    first = arrival[0]
    return Trace(
        Path(path).name,
        tuple(t - first for t in arrival),
        tuple(prompt),
        tuple(answer),
        cut,
    )


def require_file(path: str, field: str) -> None:
    """Refuse what is no file that can be read."""
    _opened(path, field).close()


def _opened(path: str, field: str) -> Any:
    try:
        if (what := _other_than_file(Path(path))) is not None:
            raise FileNotFoundError(2, what)
        return Path(path).open(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or "not a file name"
        why = f"{shorten(path)}: {what}"
        meant = re.fullmatch(r"[a-z]+(:\S*)?", path)  # as a way of arriving
        if meant and what not in (_FOLDER, _DEVICE):
            why = f"{quoted(path)} is neither poisson nor gamma:B, and no file is called so"
        raise InputError(
            f"{field}: {why}",
            field=field,
            value=path,
            legal="poisson, gamma:B, or a file of arrival,input,output",
        ) from None


_FOLDER, _DEVICE = "a folder, not a file", "a device or a pipe, not a file"


def _other_than_file(path: Path) -> str | None:
    """What is there in place of a file that can be read line by line; None of such a file."""
    if path.is_file():
        return None
    if path.is_dir():
        return _FOLDER
    return _DEVICE if path.exists() else "no such file"


_Request = tuple[float, int, int]  # arrival [s], tokens in, tokens out


class _Rows:
    """The requests of an open file, each with the number of its line."""

    def __init__(self, file: Any, path: str, field: str) -> None:
        self.file, self.path, self.field, self.line = file, path, field, 0
        self.delimiter, self.columns, self.unit = ",", (0, 1, 2), 1.0

    def rows(self) -> Iterator[tuple[int, _Request]]:
        read: Callable[[str], _Request] | None = None
        while text := self.file.readline(_LINE_BYTES):
            self.line += 1
            if len(text) >= _LINE_BYTES:
                raise self.wrong(f"longer than {_LINE_BYTES >> 20} MiB")
            if not text.strip():
                continue
            if read is None:
                read = self._json if text.lstrip().startswith("{") else self._csv
                if read == self._csv and self._header(text):
                    continue
            yield self.line, self._checked(read(text))

    def wrong(self, why: str) -> InputError:
        return _wrong(self.path, self.field, self.line, why)

    # -- one line ----------------------------------------------------------------------------------

    def _cells(self, text: str) -> list[str]:
        if '"' not in text:
            return [cell.strip() for cell in text.strip().split(self.delimiter)]
        try:
            return next(csv.reader([text.strip()], delimiter=self.delimiter, skipinitialspace=True))
        except (csv.Error, StopIteration):
            raise self.wrong(f"{_part(text)} is not a request") from None

    def _header(self, text: str) -> bool:
        """Whether the first line has names of columns, by which they are found then."""
        self.delimiter = next((d for d in ("\t", ";") if d in text and "," not in text), ",")
        if re.match(r'\s*"?[-+.\d]', text):
            return False
        names = [_plain(cell) for cell in self._cells(text)]
        found = [
            next((i for i, name in enumerate(names) if name in known), None)
            for known in (_ARRIVAL, _INPUT, _OUTPUT)
        ]
        for place, what in zip(found, ("arrivals", "tokens in", "tokens out"), strict=True):
            if place is None:
                raise self.wrong(f"no column of {what} among {_part(text)}")
        arrival, tokens_in, tokens_out = (int(place or 0) for place in found)
        self.columns, self.unit = (arrival, tokens_in, tokens_out), _ARRIVAL[names[arrival]]
        return True

    def _csv(self, text: str) -> _Request:
        cells = self._cells(text)
        try:
            when, tokens_in, tokens_out = (cells[i] for i in self.columns)
            return self._time(when) * self.unit, int(tokens_in), int(tokens_out)
        except (ValueError, IndexError):
            raise self.wrong(f"{_part(text)} is not a request") from None

    def _json(self, text: str) -> _Request:
        try:
            table = json.loads(text)
            named = {_plain(key): value for key, value in table.items()}
            name = next(key for key in named if key in _ARRIVAL)
            sizes = [
                next(named[key] for key in named if key in known) for known in (_INPUT, _OUTPUT)
            ]
            when = named[name]
            if isinstance(when, bool) or any(type(n) is not int for n in sizes):
                raise ValueError
            unit = 1e-3 if name == _JSON_MILLISECONDS else _ARRIVAL[name]
            seconds = self._time(when) if isinstance(when, str) else float(when) * unit
            return seconds, *sizes
        except (ValueError, TypeError, AttributeError, StopIteration, RecursionError):
            raise self.wrong(f"{_part(text)} is not a request") from None

    def _time(self, text: str) -> float:
        """Seconds, of a number or of a date and time (ISO 8601; without a zone UTC)."""
        if "-" not in text[1:] or ":" not in text:
            return float(text)
        # seconds of more than six places are cut
        known = re.sub(r"(\.\d{6})\d+", r"\1", text.strip())
        when = datetime.datetime.fromisoformat(known)
        return when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp()

    def _checked(self, request: _Request) -> _Request:
        when, tokens_in, tokens_out = request
        if not 0.0 <= when < 1e12:
            raise self.wrong(f"{when:g} is not a time in seconds")
        if not (tokens_in > 0 and tokens_out > 0 and tokens_in + tokens_out <= MAX_SEQ):
            raise self.wrong(f"{tokens_in} tokens in, {tokens_out} out is not a request")
        return request


def _plain(name: object) -> str:
    """A column's name in small letters, without spaces and signs."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _part(text: str) -> str:
    short = text.strip()
    return quoted(short if len(short) <= _SHOWN else short[: _SHOWN - 1] + "…")


def _wrong(path: str, field: str, line: int, why: str) -> InputError:
    return InputError(
        f"{field}: {shorten(path)}, line {line}: {why}",
        field=field,
        value=path,
        legal="lines of arrival in seconds (rising), tokens in and tokens out: 0.25,1024,256",
    )
