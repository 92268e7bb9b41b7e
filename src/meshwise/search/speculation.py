"""Speculative decoding: tokens per verification, and what the drafts cost."""

from __future__ import annotations

from typing import Any, NamedTuple

from meshwise.cost.pricing import total
from meshwise.errors import InputError, quoted
from meshwise.search.iteration import Engine
from meshwise.spec.reading import count, fraction
from meshwise.spec.workload import MAX_QUERIES

Array = Any

DRAFT_COSTS = ("none", "layer")
_LEGAL = "none (n-gram look-up), layer (EAGLE, MTP: one layer and the head per token), or a share of the model's decode time, such as 0.1"


class Speculation(NamedTuple):
    """``tokens`` drafted per verification, each accepted with probability ``acceptance``.

    ``cost`` of a drafted token: ``none``, ``layer``, or a share of the model's own decode iteration.
    """

    tokens: int = 0
    acceptance: float = 0.0
    cost: str | float = "none"

    @property
    def queries(self) -> int:
        """Tokens per sequence that a verification computes: the drafts and the one after them."""
        return self.tokens + 1

    @property
    def expected(self) -> float:
        """Mean tokens that a verification yields: (1 − α^(γ+1)) / (1 − α) (Leviathan et al., arXiv
        2211.17192, equation 1)."""
        if self.acceptance == 1.0:
            return float(self.queries)
        return (1.0 - self.acceptance**self.queries) / (1.0 - self.acceptance)


def speculation(
    tokens: object = 0, acceptance: object | None = None, cost: object = "none"
) -> Speculation:
    """From what a user wrote; :class:`InputError` where it is not sound."""
    k = count(tokens, "--draft-tokens", low=0, high=MAX_QUERIES - 1)
    if k == 0:
        for given, unset, option in (
            (acceptance, None, "--acceptance"),
            (cost, "none", "--draft-cost"),
        ):
            if given != unset:
                raise InputError(
                    f"{option}={quoted(given)} has no meaning without --draft-tokens",
                    field=option,
                    value=given,
                    legal=f"leave {option} out, or --draft-tokens 3",
                )
        return Speculation()
    if acceptance is None:
        raise InputError(
            "--acceptance: missing: how often a drafted token is accepted",
            field="--acceptance",
            legal="a number from 0 to 1, for example --acceptance 0.7",
        )
    share = fraction(acceptance, "--acceptance", low=0.0, high=1.0)
    if cost in DRAFT_COSTS:
        return Speculation(k, share, str(cost))
    try:
        return Speculation(k, share, fraction(cost, "--draft-cost", low=0.0, high=1.0))
    except InputError as error:
        error.legal = _LEGAL
        raise


def draft_s(engine: Engine, spec: Speculation, batch: Array, context: int) -> Array:
    """Seconds to draft the tokens of one verification, one after the other."""
    if spec.tokens == 0 or spec.cost == "none":
        return 0.0
    e = engine.decode(batch, context)
    if spec.cost == "layer":
        one: Array = total(e.layer_costs[-1]).busy + total(e.head_costs).busy
        return spec.tokens * one
    return spec.tokens * float(spec.cost) * e.step_s
