"""Switches of what training keeps from step to step and between its passes: in which optimizer, and on
which side of the host's link."""

# no `from __future__ import annotations`: the annotations are read (meshwise.stacks.fields)
from typing import Annotated

from meshwise.stacks.fields import Range, SwitchGroup
from meshwise.stacks.words import Optimizer

EVERY_LAYER = 1 << 20  # more than a model has


class TrainingState(SwitchGroup, frozen=True, kw_only=True):
    """What training keeps of its optimizer and its activations, and where."""

    optimizer: Annotated[
        Optimizer,
        "What is kept per weight beside its master copy: `adam` two moments, `muon`, `lion` and `sgd` "
        "(with momentum) one, `adafactor` next to none. Its option overrides it.",
    ] = "adam"
    master_weights: Annotated[
        bool,
        "16-bit weights have an fp32 copy that the optimizer works on. Otherwise it works on them as "
        "they are. Its option overrides it.",
    ] = True
    offload_optimizer: Annotated[
        bool,
        "Master weights, moments and sharded gradients are in the host's memory, and its cores work on "
        "them: gradients go there and weights come back once a step. Its option overrides it.",
    ] = False
    offload_layers: Annotated[
        int,
        Range(0, EVERY_LAYER, "layers"),
        "So many layers of a stage have what backward reads in the host's memory: it goes there beside "
        "forward and comes back beside backward. Its option overrides it.",
    ] = 0
    recompute_layers: Annotated[
        int,
        Range(1, EVERY_LAYER, "layers"),
        "Full recomputation works on so many layers of a stage, the others keep everything. Its option "
        "overrides it.",
    ] = EVERY_LAYER
    divides_residual: Annotated[
        bool,
        "TP divides what flows between layers among its ranks along the hidden dimension, where sequence "
        "parallelism does not along the sequence (XLA's sharding).",
    ] = False
    shards_by_tensor: Annotated[
        bool,
        "ZeRO-1 and ZeRO-2 scatter the gradient, and gather the weight, of every parameter by itself. "
        "Otherwise buckets of many.",
    ] = False
