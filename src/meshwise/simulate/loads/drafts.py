"""Speculative decoding: how many verifications a request's tokens take, drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Drafts(NamedTuple):
    """``tokens`` are drafted per verification, each accepted with the probability ``acceptance`` if those
    before it are: a verification yields 1 to tokens + 1 (Leviathan et al., arXiv 2211.17192)."""

    tokens: int
    acceptance: float
    seed: int = 0

    def verifications(self, request: int, tokens: int) -> int:
        """Verifications until ``tokens`` of a request are made: the same for the same seed, request and
        number of tokens."""
        most = self.tokens + 1
        if self.acceptance == 1.0 or self.tokens == 0 or self.acceptance == 0.0:
            return math.ceil(tokens / (most if self.acceptance == 1.0 else 1))
        dice = np.random.default_rng([self.seed, request, tokens])
        mean = (1.0 - self.acceptance**most) / (1.0 - self.acceptance)
        made, found = 0, 0
        while True:
            drawn = dice.geometric(1.0 - self.acceptance, int((tokens - made) / mean) + 16)
            reached = made + np.cumsum(np.minimum(drawn, most))
            if reached[-1] >= tokens:
                return found + int(np.searchsorted(reached, tokens)) + 1
            made, found = int(reached[-1]), found + drawn.size
