"""What is sent to a server: requests of fixed or spread lengths, in a closed loop, at a rate, or as a trace
says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meshwise.checks import name_of
from meshwise.errors import InputError, quoted, shorten
from meshwise.strict_tables import fraction
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import MAX_SEQ

ROUNDS = 10  # requests of a closed loop per one in flight, as in public sweeps' benchmark scripts
MOST_REQUESTS = 200_000  # of a run, or read of a trace
MOST_RATE = 1e6  # requests per second
OPEN_REQUESTS = 2000  # of arrivals at a rate
BURSTINESS = (0.01, 100.0)
_LINE_BYTES = 1000  # no line of a trace is longer


class Arrivals(NamedTuple):
    """Requests that come whether others end or not.

    ``rate`` [requests/s] over all replicas, the time between two by a gamma distribution of shape
    ``burstiness`` (1: Poisson; below, in bursts; above, more evenly), or what a ``trace`` says.
    """

    rate: float
    burstiness: float = 1.0
    trace: Trace | None = None

    @property
    def words(self) -> str:
        """As the option is written."""
        if self.trace is not None:
            return self.trace.name
        return "poisson" if self.burstiness == 1.0 else f"gamma:{self.burstiness:g}"


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
        return (len(self.arrival) - 1) / span if span > 0.0 else MOST_RATE


def arrivals_of(words: str, rate: float) -> Arrivals:
    """Arrivals at a rate as an option says them: ``poisson`` or ``gamma:B``."""
    legal = "poisson, gamma:B with a burstiness B, or a file of arrival,input,output"
    kind, colon, shape = words.partition(":")
    if kind == "poisson" and not colon:
        return Arrivals(rate)
    if kind == "gamma" and shape:
        low, high = BURSTINESS
        return Arrivals(rate, fraction(shape, "arrivals", low=low, high=high))
    raise InputError(
        f"arrivals: {quoted(words)} is not known", field="arrivals", value=words, legal=legal
    )


def is_trace(words: str) -> bool:
    """Whether what is said of arrivals is a file."""
    return not re.match(r"(poisson|gamma)\b", words)


def request_rate(value: object, field: str = "request_rate") -> float:
    """Requests per second, above 0."""
    return fraction(value, field, low=1e-6, high=MOST_RATE)


def traffic(
    rate: float | None, arrivals: str | os.PathLike[str], requests: int | None
) -> Arrivals | None:
    """What is said of arrivals; None: a closed loop."""
    words = name_of(arrivals, "arrivals", "poisson, gamma:B, or the path of a trace")
    if is_trace(words):
        if rate is not None:
            raise InputError(
                f"request_rate={rate:g}: the trace says when its requests arrive",
                field="request_rate",
                value=rate,
                legal="leave `request_rate` out, or `arrivals` of poisson or gamma:B",
            )
        trace = read_trace(words, "arrivals", requests)
        return Arrivals(trace.rate, trace=trace)
    if rate is None:
        arrivals_of(words, 1.0)
        if words != "poisson":
            raise InputError(
                f"arrivals={words} has no meaning without a rate",
                field="arrivals",
                value=words,
                legal="leave `arrivals` out, or `request_rate` with it",
            )
        return None
    return arrivals_of(words, request_rate(rate))


def read_trace(path: str, field: str, most: int | None = None) -> Trace:
    """The first ``most`` requests of a CSV file of arrival [s], tokens in and tokens out, with a header or
    without; a line at a time, so that its size does not matter."""
    limit = MOST_REQUESTS if most is None else most
    arrival: list[float] = []
    prompt: list[int] = []
    answer: list[int] = []
    with _opened(path, field) as file:
        rows = _rows(file, path, field)
        for line, (when, tokens_in, tokens_out) in islice(rows, limit):
            if arrival and when < arrival[-1]:
                raise _wrong(
                    path,
                    field,
                    line,
                    f"{when:g} s comes before the line above it, {arrival[-1]:g} s",
                )
            arrival.append(when)
            prompt.append(tokens_in)
            answer.append(tokens_out)
        cut = next(rows, None) is not None
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


def _opened(path: str, field: str) -> Any:
    try:
        if not Path(path).is_file():
            raise FileNotFoundError(2, "no such file")
        return Path(path).open(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a file name"
        raise InputError(
            f"{field}: {shorten(path)}: {why}",
            field=field,
            value=path,
            legal="poisson, gamma:B, or a file of arrival,input,output",
        ) from None


def _rows(file: Any, path: str, field: str) -> Iterator[tuple[int, tuple[float, int, int]]]:
    """(number, (arrival, input, output)) of every line that is not empty."""
    number = 0
    while text := file.readline(_LINE_BYTES):
        number += 1
        if not text.strip() or (number == 1 and not re.match(r"\s*[-+.\d]", text)):
            continue  # the header
        cells = text.strip().split(",")
        try:
            when, (tokens_in, tokens_out) = float(cells[0]), map(int, cells[1:3])
        except ValueError:
            raise _wrong(path, field, number, f"{quoted(text.strip())} is not a request") from None
        if not 0.0 <= when < 1e12:
            raise _wrong(path, field, number, f"{cells[0]} is not a time in seconds")
        if not (tokens_in > 0 and tokens_out > 0 and tokens_in + tokens_out <= MAX_SEQ):
            raise _wrong(
                path, field, number, f"{tokens_in} tokens in, {tokens_out} out is not a request"
            )
        yield number, (when, tokens_in, tokens_out)


def _wrong(path: str, field: str, line: int, why: str) -> InputError:
    return InputError(
        f"{field}: {shorten(path)}, line {line}: {why}",
        field=field,
        value=path,
        legal="lines of arrival in seconds (rising), tokens in and tokens out: 0.25,1024,256",
    )


# -- lengths and times -----------------------------------------------------------------------------


class Drawn(NamedTuple):
    """Requests in the order in which they are sent; ``arrival`` None: a closed loop."""

    prompt: list[int]
    answer: list[int]
    cached: list[int]
    arrival: list[float] | None


def drawn_lengths(dice: np.random.Generator, n: int, longest: int, spread: float) -> Any:
    """``n`` whole numbers, each from (1 − spread) · longest to longest alike."""
    low = min(max(int(longest * (1.0 - spread)), 1), longest)
    return dice.integers(low, longest + 1, n)


def drawn_times(dice: np.random.Generator, n: int, rate: float, burstiness: float) -> Any:
    """``n`` rising times [s] from 0 at a ``rate`` [1/s]: gaps by a gamma distribution of that shape."""
    gaps = dice.gamma(burstiness, 1.0 / (rate * burstiness), n)
    gaps[0] = 0.0
    return np.cumsum(gaps)


def drawn(w: Serving, n: int, arrivals: Arrivals | None, replicas: int, seed: int) -> Drawn:
    """``n`` requests of one of ``replicas``, each of which gets its share of the arrivals in turn."""
    if arrivals is not None and arrivals.trace is not None:
        trace = arrivals.trace
        prompts: Any = np.array(trace.prompt[::replicas])
        answers: Any = np.array(trace.answer[::replicas])
        times: Any = np.array(trace.arrival[::replicas])
    else:
        lengths, clock = (np.random.default_rng([seed, i]) for i in range(2))
        prompts = drawn_lengths(lengths, n, w.isl, w.length_spread)
        answers = drawn_lengths(lengths, n, w.osl, w.length_spread)
        times = None
        if arrivals is not None:
            times = drawn_times(clock, n * replicas, arrivals.rate, arrivals.burstiness)[::replicas]
    cached = np.minimum((prompts * w.prefix_hit).astype(np.int64), prompts - 1)
    return Drawn(
        prompts.tolist(),
        answers.tolist(),
        cached.tolist(),
        None if times is None else times.tolist(),
    )
