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
    iterations with decodes. ``dispatcher``: how experts get their tokens.
    """

    memory_share: float | None = None
    max_sequences: int | None = None
    chunk: int | None = None
    eager: bool | None = None
    chunked_prefill: bool | None = None
    dispatcher: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Each limit that is said, in a few words."""
        found = []
        if self.max_sequences is not None:
            found.append(f"at most {self.max_sequences:,} requests of a replica at once")
        if self.chunk is not None:
            found.append(f"at most {self.chunk:,} tokens an iteration")
        if self.eager is not None:
            found.append("no CUDA graphs" if self.eager else "CUDA graphs")
        if self.chunked_prefill is not None:
            found.append(
                "prompts cut, beside decodes"
                if self.chunked_prefill
                else "prompts that are not cut"
            )
        if self.dispatcher is not None:
            found.append(f"the dispatcher {self.dispatcher}")
        if self.memory_share is not None:
            found.append(f"{self.memory_share:g} of the memory")
        return tuple(found)

    def changing(self, stack: Stack, load: Serving) -> EngineLimits:
        """Of the limits those that are not what the stack and the load have by themselves."""
        found = EngineLimits()
        for name, value in self._asdict().items():
            alone = EngineLimits()._replace(**{name: value})
            if limited_stack(stack, alone) != stack or limited_load(load, alone) != load:
                found = found._replace(**{name: value})
        return found


class FreeEngine(NamedTuple):
    """An engine and a load without the limits that a command states, and these in words."""

    stack: Stack
    load: Serving
    limits: tuple[str, ...]


def freed(stack: Stack, load: Serving, limits: EngineLimits) -> FreeEngine | None:
    """The engine and the load as they are without ``limits``; None where these change nothing."""
    said = limits.changing(stack, load).words
    return FreeEngine(stack, load, said) if said else None


def limited_stack(stack: Stack, limits: EngineLimits) -> Stack:
    """The stack under the limits. Ideal rates have an engine that takes all memory, and no host."""
    changes: dict[str, object] = {}
    if limits.eager is not None and not stack.ideal:
        changes["eager"] = limits.eager
    if limits.chunked_prefill is not None:
        changes["whole_prompts"] = not limits.chunked_prefill
        if limits.chunked_prefill:
            changes["mixes_prefill"] = True
    if limits.dispatcher is not None:
        changes["dispatcher"] = limits.dispatcher
    if limits.max_sequences is not None:
        most = limits.max_sequences
        changes |= {"max_sequences": most, "max_sequences_small": most}
    return taking(replaced(stack, changes) if changes else stack, limits.memory_share)


def limited_load(load: Serving, limits: EngineLimits) -> Serving:
    """The load in iterations of as many tokens as the limits say."""
    if limits.chunk is None:
        return load
    return msgspec.structs.replace(load, chunk=limits.chunk)
