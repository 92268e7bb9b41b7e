"""What a change of layout brings, and how sure that is: the interval of the *difference*, in which what
both layouts have errs together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.clusters.load import Cluster
from meshwise.cost.doubt.question import Question
from meshwise.cost.doubt.spread import NORMAL, difference_sd
from meshwise.layouts.layout import arrays
from meshwise.models.shapes import Model
from meshwise.search.serving.plan import ServingRow
from meshwise.search.serving.steady_state import steady_question
from meshwise.search.training.rows import PlanRow, same_program
from meshwise.simulate.iteration import Engine
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving

# Of an engine's throughput: what is nearer than this is a tie whatever is known of the two.
TIE_SHARE = 0.03


class Gain(NamedTuple):
    """What a change brings as a share: of training the time that it saves, of serving the throughput that
    it adds; ``low`` and ``high`` are the ends of the 90 % interval of the difference."""

    share: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether nobody can say which of the two is better."""
        return self.low <= 0.0 <= self.high

    @property
    def advised(self) -> bool:
        """Whether the change is better beyond its own interval."""
        return self.low > 0.0


def training_gain(mine: PlanRow, other: PlanRow, *, ideal: bool) -> Gain:
    """The share of a step that ``other`` saves."""
    saved, half = mine.step_s - other.step_s, 0.0
    if not ideal and not same_program(mine, other):
        sd = difference_sd("step_s", (mine.step_s, mine.question), (other.step_s, other.question))
        half = NORMAL * sd
    return Gain(*((x / mine.step_s) for x in (saved, saved - half, saved + half)))


class ServingDoubt:
    """What decides how far rows of one server question may be off; each is looked at once."""

    def __init__(self, model: Model, cluster: Cluster) -> None:
        self.model, self.cluster = model, cluster
        self._known: dict[tuple[object, ...], Question] = {}

    def question(self, row: ServingRow, stack: Stack, w: Serving) -> Question:
        """That of a row's tokens."""
        running = max(1, min(row.concurrency, row.max_concurrency or row.concurrency))
        key = (row.layout, running, id(stack), w.chunk)
        if key not in self._known:
            layouts = arrays(row.layout, w.decode())
            engine = Engine(
                *(self.model, self.cluster, stack, layouts, w.formats),
                *(w.expert_imbalance, w.expert_skew),
            )
            self._known[key] = steady_question(engine, w, np.int64(running)).at(0)
        return self._known[key]


def serving_gain(
    mine: tuple[ServingRow, Question], other: tuple[ServingRow, Question], *, ideal: bool
) -> Gain:
    """The share of the throughput per device that ``other`` adds: tokens per second of so many requests
    in flight are as far off as the time per token."""
    (a, q), (b, r) = mine, other
    if a.tokens_per_s_per_device <= 0.0 or q is r:  # one layout of one engine at one load
        return Gain(0.0, 0.0, 0.0)
    ratio = b.tokens_per_s_per_device / a.tokens_per_s_per_device
    half = 0.0
    if not ideal:
        # of ln(ratio): both at 1, so that the difference is that of the logarithms
        half = NORMAL * float(
            np.hypot(difference_sd("tpot_s", (1.0, q), (1.0, r)), TIE_SHARE / NORMAL)
        )
    return Gain(ratio - 1.0, float(ratio * np.exp(-half)) - 1.0, float(ratio * np.exp(half)) - 1.0)
