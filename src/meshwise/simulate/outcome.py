"""What comes of a run: means and percentiles, of all requests and of the steady state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from meshwise.simulate.loads.requests import Requests
from meshwise.simulate.timeline import Timeline

PERCENTILES = (50, 90, 95, 99)
_A_DECODE = 1.5  # of the time per token: an iteration that lasts no longer is of decodes alone
_BATCH = 5  # requests whose mean is one observation (MSER-5)


class Spread(NamedTuple):
    """Of a quantity: its mean and percentiles, in its unit."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class Samples:
    """Each request of some figures: seconds to its first token, per token after it (of an answer of one
    token there is none), of the whole request, and the tokens of its answer."""

    __slots__ = ("answer", "request_s", "tpot_s", "ttft_s")

    def __init__(self, ttft_s: Any, tpot_s: Any, request_s: Any, answer: Any) -> None:
        self.ttft_s, self.tpot_s, self.request_s, self.answer = ttft_s, tpot_s, request_s, answer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Samples) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]

    def later(self, seconds: float) -> Samples:
        """The same requests, each of which waits so much longer for its place."""
        return Samples(self.ttft_s + seconds, self.tpot_s, self.request_s + seconds, self.answer)

    def percentile(self, quantity: str, percentile: float) -> float:
        """Of ``ttft``, ``tpot`` or ``request`` [s]; 0 where there are none."""
        values = getattr(self, f"{quantity}_s")
        if quantity == "tpot":
            values = values[self.answer > 1]
        return percentiles(values, (percentile,))[0] if values.size else 0.0


class Figures(NamedTuple):
    """Of ``requests`` requests of a replica. Seconds; rates are of all replicas."""

    requests: int
    tpot_s: Spread  # (end − first token) / (tokens − 1) of a request
    itl_s: Spread  # between two tokens of a request
    ttft_s: Spread  # from its arrival, the wait for its place included
    request_s: Spread  # from its arrival to its last token
    queue_s: Spread  # the wait for its place alone
    requests_per_s: float
    tokens_per_s: float  # output tokens
    running: Spread  # requests that run, over time
    waiting: Spread  # and that wait
    samples: Samples


def percentiles(values: Any, percents: Sequence[float]) -> list[float]:
    """Of one value or more, drawn linearly between two of them: what numpy's ``percentile`` gives, which
    imports masked arrays first."""
    ordered, found = np.sort(values), []
    for percent in percents:
        place = (ordered.size - 1) * (percent / 100)
        below = int(place)
        low, high = (float(ordered[min(i, ordered.size - 1)]) for i in (below, below + 1))
        share = place - below
        drawn = high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
        found.append(drawn)
    return found


def spread_of(values: Any, counts: Any = None) -> Spread:
    """Mean and percentiles of values, each as often as ``counts`` says; zeros where there are none."""
    values = np.asarray(values, dtype=np.float64)
    if counts is None:
        if not values.size:
            return Spread(*[0.0] * 5)
        return Spread(float(values.mean()), *percentiles(values, PERCENTILES))
    counts = np.asarray(counts, dtype=np.float64)
    total = counts.sum()
    if total <= 0.0:
        return Spread(*[0.0] * 5)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(counts[order])
    at = np.searchsorted(reached, np.array(PERCENTILES) / 100.0 * total)
    chosen = values[order][np.minimum(at, values.size - 1)]
    return Spread(float((values * counts).sum() / total), *map(float, chosen))


def over_time(begin: Any, end: Any, since: float, until: float) -> Spread:
    """How many stays, each from its ``begin`` to its ``end``, there are at a time, between two times."""
    begin, end = (np.clip(np.asarray(a, dtype=np.float64), since, until) for a in (begin, end))
    times = np.concatenate([begin, end])
    steps = np.concatenate([np.ones(begin.size), -np.ones(end.size)])
    order = np.argsort(times, kind="stable")
    times, inside = times[order], np.cumsum(steps[order])
    if not times.size or until <= since:
        return spread_of([])
    lasted = np.diff(times, append=until)
    return spread_of(np.concatenate([[0.0], inside]), np.concatenate([[times[0] - since], lasted]))


def as_served(f: Figures, rate: float, answer: float) -> Figures:
    """The steady state of arrivals that are served: as many end as come, ``rate`` requests per second, each
    with ``answer`` tokens in the mean. What ended during the run was short of it, or more, by chance."""
    return f._replace(requests_per_s=rate, tokens_per_s=rate * answer)


def warm_up(values: Any) -> int:
    """How many of a series' first values are not of its steady state: the cut after which the mean of the
    others is known best (MSER-5: White, Simulation 69(6), 1997), at most half of them."""
    means = np.asarray(values, dtype=np.float64)
    means = means[: means.size // _BATCH * _BATCH].reshape(-1, _BATCH).mean(axis=1)
    if means.size < 4:
        return 0
    left = np.arange(means.size, 0, -1.0)
    sums, squares = (np.cumsum(v[::-1])[::-1] for v in (means, means * means))
    error = (squares - sums * sums / left) / (left * left)
    return int(np.argmin(error[: means.size // 2 + 1])) * _BATCH


def figures(
    requests: Requests, timeline: Timeline, replicas: float, index: Any, span: tuple[float, float]
) -> Figures:
    """Of the requests of ``index``, and of what ran during ``span``."""
    arrival, start, first, end = (
        np.asarray(a)[index]
        for a in (requests.arrival, requests.start, requests.first, requests.end)
    )
    answer, made = np.asarray(requests.answer), np.asarray(requests.made)[index]
    more = answer[index] > 1
    others = np.maximum(answer[index] - 1, 1)
    # whose last token was seen at once had the first one an iteration of decodes before it was to be seen;
    # where the iteration was of prompts, it was seen late
    at_once = first - made <= _A_DECODE * (end - made) / others
    first = np.where(at_once, made, first)
    pace = (end - first) / others
    since, until = span
    itl = spread_of(*timeline.gaps(since, until))
    if more.any() and requests.drafts is None:  # where iterations yield one token each
        itl = itl._replace(mean=float((end - first)[more].sum() / (answer[index][more] - 1).sum()))
    # what ended in the span: in a steady state as much as was begun in it
    ends = np.asarray(requests.end)
    over = (ends > since) & (ends <= until)
    seconds = max(until - since, 1e-30)
    return Figures(
        requests=int(arrival.size),
        tpot_s=spread_of(pace[more]),
        itl_s=itl,
        ttft_s=spread_of(first - arrival),
        request_s=spread_of(end - arrival),
        queue_s=spread_of(start - arrival),
        requests_per_s=float(over.sum()) / seconds * replicas,
        tokens_per_s=float(answer[over].sum()) / seconds * replicas,
        running=over_time(requests.start, requests.end, since, until),
        waiting=over_time(requests.arrival, requests.start, since, until),
        samples=Samples(
            first - arrival,
            np.where(more, pace, 0.0),
            end - arrival,
            answer[index],
        ),
    )


def whole_run(requests: Requests, timeline: Timeline, replicas: float) -> Figures:
    """Of all requests, from the first arrival to the last end."""
    span = (-1e-30, float(np.max(requests.end)))
    return figures(requests, timeline, replicas, np.arange(requests.size), span)


def turned_over(f: Figures, replicas: float, answer: float) -> Figures:
    """A closed loop's rates by Little's law: as many are in flight at any time, each for as long as its
    request takes. Ends that fall into a window come in waves, of which it may hold one more or less.
    ``answer``: tokens of one in the mean."""
    in_flight = (f.running.mean + f.waiting.mean) * replicas
    tokens = in_flight * float(f.samples.answer.sum()) / float(f.samples.request_s.sum())
    return f._replace(requests_per_s=tokens / answer, tokens_per_s=tokens)


def steady_state(
    requests: Requests,
    timeline: Timeline,
    replicas: float,
    in_flight: int,
    answer: float | None = None,
) -> Figures:
    """Without those that met an empty server, and those that none followed. ``in_flight``: of a closed loop,
    whose first round and last are neither; 0 of arrivals. Where those are nearly all, of the whole run.
    ``answer``: tokens of one in the mean, where that is known better than from the run's own."""
    few = max(requests.size // 5, 1)
    if requests.closed and requests.size - 2 * in_flight < few:
        return whole_run(requests, timeline, replicas)
    arrival = np.asarray(requests.arrival)
    request = np.asarray(requests.end) - arrival
    last = float(arrival[-1])
    if requests.closed:
        at_once = int(np.count_nonzero(arrival == 0.0))  # the first of whom waited for nobody
        begin = max(warm_up(request[: requests.size - in_flight]), in_flight, at_once)
        stop = requests.size - in_flight
    else:
        begin = warm_up(request)
        stop = int(np.searchsorted(arrival, last - float(request.mean()), side="right"))
    if stop - begin < few:  # too few rounds: all that are left
        begin, stop = (
            min(begin, requests.size // 2),
            max(stop, requests.size // 2 + 1, requests.size - in_flight),
        )
    since = float(arrival[begin])
    ends = np.asarray(requests.end)
    if last <= since or not np.any((ends > since) & (ends <= last)):  # none ends while others come
        return whole_run(requests, timeline, replicas)
    found = figures(requests, timeline, replicas, np.arange(begin, stop), (since, last))
    if not requests.closed:
        return found
    return turned_over(found, replicas, answer or float(np.mean(requests.answer)))
