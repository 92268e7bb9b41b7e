"""What a server is told of its engine, by options of its own names or in its launch command, as switches of
the stack and a load that it serves."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from meshwise.stacks.stack import Stack, replaced, taking
from meshwise.workloads.serving import Serving


class EngineLimits(NamedTuple):
    """Of one replica's engine; None: as the stack does by itself.

    ``memory_share``: of what the stack's ``kv_budget`` says (0.05 to 1). ``chunk``: tokens of an iteration.
    ``eager``: no CUDA graphs. ``chunked_prefill``: False: prompts are not cut; True: they are, and share
    iterations with decodes.
    """

    memory_share: float | None = None
    max_sequences: int | None = None
    chunk: int | None = None
    eager: bool | None = None
    chunked_prefill: bool | None = None


def limited_stack(stack: Stack, limits: EngineLimits) -> Stack:
    """The stack under the limits. Ideal rates have an engine that takes all memory, and no host."""
    changes: dict[str, object] = {}
    if limits.eager is not None and not stack.ideal:
        changes["eager"] = limits.eager
    if limits.chunked_prefill is not None:
        changes["whole_prompts"] = not limits.chunked_prefill
        if limits.chunked_prefill:
            changes["mixes_prefill"] = True
    if limits.max_sequences is not None:
        most = limits.max_sequences
        changes |= {"max_sequences": most, "max_sequences_small": most}
    return taking(replaced(stack, changes) if changes else stack, limits.memory_share)


def limited_load(load: Serving, limits: EngineLimits) -> Serving:
    """The load in iterations of as many tokens as the limits say."""
    if limits.chunk is None:
        return load
    return msgspec.structs.replace(load, chunk=limits.chunk)
