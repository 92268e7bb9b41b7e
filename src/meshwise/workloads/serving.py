"""How much is served: a closed loop of requests with prompts, answers, a prefix cache and drafts."""

from __future__ import annotations

from meshwise.checks import Check, KeywordStruct, a, check_fields, counted, optional, shared
from meshwise.errors import InputError, quoted
from meshwise.strict_tables import count, fraction
from meshwise.workloads.workload import (
    MAX_BATCH,
    MAX_IMBALANCE,
    MAX_QUERIES,
    MAX_SEQ,
    MAX_SKEW,
    Decode,
    Formats,
)

DRAFT_COSTS = ("none", "layer")
# Lengths of public sweeps: --random-range-ratio 0.8 of the client that InferenceMAX runs.
LENGTH_SPREAD = 0.2


def draft_cost(value: object) -> str | float:
    """``none``, ``layer``, or a share of the model's own decode iteration."""
    if isinstance(value, str) and value in DRAFT_COSTS:
        return value
    try:
        return fraction(value, "draft_cost", low=0.0, high=1.0)
    except InputError as error:
        error.legal = (
            "none (n-gram look-up), layer (EAGLE, MTP: one layer and the head per token), or a "
            "share of the model's decode time from 0 to 1"
        )
        raise


class Serving(KeywordStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``concurrency`` requests in flight over all replicas, a new one as soon as one ends, each
    ``isl`` tokens in and ``osl`` out.

    :param isl: tokens of a prompt.
    :param osl: tokens of the longest answer.
    :param concurrency: requests in flight over all replicas.
    :param prefix_hit: share of a prompt whose keys and values are in the cache already, as of a system
        prompt that all requests begin with: attended to, not computed, and held once for all of them.
    :param image_tokens: how many of the ``isl`` tokens are images' (or sounds'): see :class:`Prefill`.
    :param chunk: most tokens of an iteration; None: the stack's.
    :param draft_tokens: tokens that are drafted per verification (arXiv 2211.17192).
    :param acceptance: with what probability each of them is accepted.
    :param draft_cost: of drafting: ``"none"``, ``"layer"``, or a share of a decode iteration.
    :param expert_imbalance: as in :class:`Training`.
    :param expert_skew: as in :class:`Prefill`.
    :param length_spread: prompts have from (1 − it) · isl to isl tokens, answers likewise, every length as
        often; equal ones end together. The averages of a plan count it of answers, where prompts go first.
    :param formats: :class:`Formats`.
    :raises InputError: for a value out of its range; ``field`` is the option's name.

    >>> import meshwise as mw
    >>> mw.Serving(isl=512, osl=64, concurrency=8).context
    544
    """

    isl: int
    osl: int
    concurrency: int
    prefix_hit: float = 0.0
    image_tokens: int = 0
    chunk: int | None = None
    draft_tokens: int = 0
    acceptance: float | None = None
    draft_cost: str | float = "none"
    expert_imbalance: float | None = None
    expert_skew: float | None = None
    length_spread: float = LENGTH_SPREAD
    formats: Formats = Formats()

    phase = "serve"

    def __post_init__(self) -> None:
        check_fields(self, _RULES, "")
        count(self.image_tokens, "image_tokens", low=0, high=self.isl)
        self._check_drafts()

    def _check_drafts(self) -> None:
        if self.draft_tokens:
            if self.acceptance is None:
                raise InputError(
                    "acceptance: missing: how often a drafted token is accepted",
                    field="acceptance",
                    legal="a number from 0 to 1, for example `acceptance=0.7`",
                )
            return
        for value, unset, option in (
            (self.acceptance, None, "acceptance"),
            (self.draft_cost, "none", "draft_cost"),
        ):
            if value != unset:
                raise InputError(
                    f"{option}={quoted(value)} has no meaning without `draft_tokens`",
                    field=option,
                    value=value,
                    legal=f"leave `{option}` out, or `draft_tokens=3`",
                )

    @property
    def computed(self) -> int:
        """Tokens of a prompt that are computed: at least the last, whose logits begin the answer."""
        return max(self.isl - int(self.isl * self.prefix_hit), 1)

    @property
    def queries(self) -> int:
        """Tokens of a sequence that an iteration computes: the drafts and the one after them."""
        return self.draft_tokens + 1

    @property
    def context(self) -> int:
        """Mean tokens that a sequence holds while it decodes: time is affine in it."""
        return max(self.isl + self.osl // 2, self.queries)

    @property
    def tokens_per_iteration(self) -> float:
        """Mean tokens that a verification of γ drafts yields: (1 − α^(γ+1)) / (1 − α) (Leviathan et
        al., arXiv 2211.17192, equation 1)."""
        share = self.acceptance or 0.0
        if share == 1.0:
            return float(self.queries)
        return (1.0 - share**self.queries) / (1.0 - share)

    def decode(self) -> Decode:
        """One iteration of the requests of a single replica, for what reads a workload's sizes."""
        return Decode(
            batch=self.concurrency,
            context=self.context,
            image_tokens=self.image_tokens,
            formats=self.formats,
            expert_imbalance=self.expert_imbalance,
            expert_skew=self.expert_skew,
        )


_RULES: dict[str, Check] = {
    "isl": counted(high=MAX_SEQ),
    "osl": counted(high=MAX_SEQ),
    "concurrency": counted(high=MAX_BATCH),
    "prefix_hit": shared(low=0.0, high=1.0),
    "image_tokens": counted(low=0, high=MAX_SEQ),
    "chunk": optional(counted(high=MAX_SEQ)),
    "draft_tokens": counted(low=0, high=MAX_QUERIES - 1),
    "acceptance": optional(shared(low=0.0, high=1.0)),
    "draft_cost": lambda value, field: draft_cost(value),
    "expert_imbalance": optional(shared(low=1.0, high=MAX_IMBALANCE)),
    "expert_skew": optional(shared(low=0.0, high=MAX_SKEW)),
    "length_spread": shared(low=0.0, high=1.0),
    "formats": a(Formats),
}
