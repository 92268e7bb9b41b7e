"""Weight matrices of a layer, and how tensor parallelism divides them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Projection(NamedTuple):
    """A product with a weight of ``inputs`` × ``outputs`` features.

    ``how``: "column" divides the outputs, "row" the inputs, "none" leaves it on every rank. What is
    divided is ``heads`` equal parts (heads, groups, channels), each of them whole on a rank; where there
    are fewer than ranks, ranks hold copies.
    """

    role: str
    inputs: int
    outputs: int
    how: str
    heads: int = 1

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    def local(self, tp: Any) -> Any:
        """Number of weights on one of ``tp`` ranks (an array, or an integer)."""
        if self.how == "none":
            return self.weights
        return self.weights // self.heads * -(-self.heads // tp)

    def local_outputs(self, tp: Any) -> Any:
        """Output features on one of ``tp`` ranks."""
        if self.how != "column":
            return self.outputs
        return self.outputs // self.heads * -(-self.heads // tp)


class Vector(NamedTuple):
    """``size`` weights that are no matrix, in ``heads`` equal parts that TP divides; 0: on every rank."""

    size: int
    heads: int = 0

    def local(self, tp: Any) -> Any:
        """Number of weights on one of ``tp`` ranks (an array, or an integer)."""
        return self.size // self.heads * -(-self.heads // tp) if self.heads else self.size
