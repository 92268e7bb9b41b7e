"""What is sent to a server: requests of fixed or spread lengths, in a closed loop, at a rate, or as a trace
says."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from meshwise.checks import name_of
from meshwise.errors import InputError, quoted
from meshwise.simulate.loads.traces import Trace, read_trace
from meshwise.strict_tables import fraction

ROUNDS = 10  # requests of a closed loop per one in flight, as in public sweeps' benchmark scripts
MOST_RATE = 1e6  # requests per second
OPEN_REQUESTS = 2000  # of arrivals at a rate
BURSTINESS = (0.01, 100.0)


class Arrivals(NamedTuple):
    """Requests that come whether others end or not.

    ``rate`` [requests/s] over all replicas, the time between two by a gamma distribution of shape
    ``burstiness`` (1: Poisson; below, in bursts; above, more evenly), or what a ``trace`` says.
    """

    rate: float
    burstiness: float = 1.0
    trace: Trace | None = None

    @property
    def stated_rate(self) -> float | None:
        """The rate [requests/s]; None of a trace whose requests all come at one time."""
        return None if self.trace is not None and self.trace.arrival[-1] <= 0.0 else self.rate

    @property
    def words(self) -> str:
        """As the option is written."""
        if self.trace is not None:
            return self.trace.name
        return "poisson" if self.burstiness == 1.0 else f"gamma:{self.burstiness:g}"


def arrivals_of(words: str, rate: float) -> Arrivals:
    """Arrivals at a rate as an option says them: ``poisson`` or ``gamma:B``."""
    legal = "poisson, gamma:B with a burstiness B, or a file of arrival,input,output"
    kind, colon, shape = words.partition(":")
    if kind == "poisson" and not colon:
        return Arrivals(rate)
    if kind == "gamma" and shape:
        low, high = BURSTINESS
        try:
            return Arrivals(rate, fraction(shape, "arrivals", low=low, high=high))
        except InputError as error:
            near = error.nearest
            raise InputError(
                f"arrivals={words}: the burstiness {quoted(shape)} is not from {low:g} to {high:g}",
                field="arrivals",
                value=words,
                legal=f"gamma:B with {error.legal}",
                nearest=None if near is None else f"gamma:{near:g}",
            ) from None
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
    rate: float | None,
    arrivals: str | os.PathLike[str],
    requests: int | None,
    *,
    seed: int = 0,
    drafts: int = 0,
) -> Arrivals | None:
    """What is said of arrivals; None: a closed loop. ``drafts``: tokens of a step, of which those
    that are accepted are drawn."""
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
        _draws_what_it_says(trace, requests, seed, drafts)
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


def _draws_what_it_says(trace: Trace, requests: int | None, seed: int, drafts: int) -> None:
    """Refuse more requests than a trace has, and a seed where nothing is drawn: neither has an effect."""
    listed = len(trace.arrival)
    if requests is not None and requests > listed:
        raise InputError(
            f"requests={requests}: the trace has {listed:,}",
            field="requests",
            value=requests,
            legal=f"1 to {listed} of the trace, or leave `requests` out: all of them",
            nearest=listed,
        )
    if seed and not drafts:
        raise InputError(
            f"seed={seed}: nothing is drawn of a trace, which says when its requests arrive and how long they are",
            field="seed",
            value=seed,
            legal="leave `seed` out, or `arrivals` of poisson or gamma:B",
        )
