"""Memory of every layout at once: bytes on the fullest stage, whole and by part."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.memory import activations as act
from meshwise.cost.memory import held
from meshwise.cost.memory import parts as mem
from meshwise.cost.memory.server import ServerMemory
from meshwise.models.parameters import has_towers
from meshwise.program.context import Context
from meshwise.program.step import Program
from meshwise.stacks.stack import Stack, replaced


class Footprint:
    """What an estimate says of memory. Attributes are arrays over the layouts' axes."""

    program: Program
    cluster: Cluster
    stack: Stack

    @cached_property
    def _states(self) -> list[mem.StateBytes]:
        return [mem.state_bytes(self.program.ctx, role) for role in self.program.roles]

    @cached_property
    def _working(self) -> list[mem.WorkingBytes]:
        return [mem.working_bytes(self.program.ctx, role) for role in self.program.roles]

    @cached_property
    def _stage_memory(self) -> list[Array]:
        return [
            (state.total + work.total) * role.exists
            for state, work, role in zip(
                self._states, self._working, self.program.roles, strict=True
            )
        ]

    @cached_property
    def memory_bytes(self) -> Array:
        """Bytes on the stage that needs most."""
        most = self._stage_memory[0]
        for value in self._stage_memory[1:]:
            most = np.maximum(most, value)
        return most

    @cached_property
    def memory(self) -> dict[str, Array]:
        """Its parts, by name (``weights_bytes`` …); they add up to :attr:`memory_bytes`. ``towers_bytes``
        is there where the model has encoders of images or sounds."""
        index: Array = np.int64(0)
        for i, value in enumerate(self._stage_memory):
            index = np.where(value == self.memory_bytes, i, index)
        tables = [
            s._asdict() | w._asdict() for s, w in zip(self._states, self._working, strict=True)
        ]
        parts: dict[str, Array] = {}
        for name, first in tables[0].items():
            if name == "towers_bytes" and not has_towers(self.program.ctx.model):
                continue
            value = first
            for i, table in enumerate(tables[1:], start=1):
                value = np.where(index == i, table[name], value)
            parts[name] = value
        return parts

    @property
    def reserved_bytes(self) -> Array:
        """Training: peak that the framework's allocator has reserved, of the stage that needs most."""
        if not self.program.ctx.training:
            return self.memory_bytes
        return held.reserved_bytes(self.memory_bytes)

    @property
    def device_bytes(self) -> Array:
        """Training: what the device reports as used: reserved, the driver's context, communicators."""
        if not self.program.ctx.training:
            return self.memory_bytes
        return held.device_bytes(self.memory_bytes, self.program.ctx.layout)

    @property
    def loss_bytes(self) -> Array:
        """Of the workspace what the loss takes at its peak: logits, their copies and their gradient."""
        return act.loss_bytes(self.program.ctx) if self.program.ctx.training else 0.0

    @property
    def whole_loss_bytes(self) -> Array:
        """The same with a microbatch's logits at once."""
        whole = replaced(self.stack, {"loss_chunks": 1})
        ctx = self.program.ctx._replace(stack=whole)
        return act.loss_bytes(ctx) if ctx.training else 0.0

    @cached_property
    def memory_limit_bytes(self) -> Array:
        """What a device has for the step's bytes."""
        return usable_bytes(self.program.ctx, self.cluster, self.memory_bytes)

    @cached_property
    def fits(self) -> Array:
        return self.memory_bytes <= self.memory_limit_bytes


def usable_bytes(ctx: Context, cluster: Cluster, memory_bytes: Array) -> Array:
    """What a device has for a step of ``memory_bytes``: its memory less what the stack keeps for itself. Of an
    engine what it has for weights, cache and activations; in decode as much beside the step's own as its
    cache has."""
    if ctx.training:
        return cluster.device.memory_bytes * (1.0 - ctx.stack.memory.memory_reserve)
    server = ServerMemory(ctx, cluster)
    if ctx.phase != "decode":
        return np.asarray(server.limit_bytes)[()]
    return np.asarray(memory_bytes + server.spare_bytes(ctx.keys, ctx.sequences))[()]
