"""Which norms a stack runs as a chain of passes."""

from __future__ import annotations

from meshwise.models.shapes import Block
from meshwise.stacks.stack import Stack


def written_out(stack: Stack, block: Block, hidden: int) -> bool:
    """Whether a layer's norms are chains of fp32 passes: an RMSNorm where the stack does not fuse it. A
    LayerNorm (two vectors of parameters) is one kernel in every framework.
    """
    parts = 1 if block.parallel else 2
    return not stack.kernels.fused_norm and block.norm_parameters <= parts * hidden
