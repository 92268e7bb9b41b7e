"""Limits of a serving engine, as its own options call them: its share of memory, its longest sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import options, values
from meshwise.errors import InputError

if TYPE_CHECKING:
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.serving import Serving

limits = options.stacked(
    click.option(
        "--gpu-memory-utilization",
        "--mem-fraction-static",
        "gpu_memory_utilization",
        metavar="SHARE",
        help="Serving: share of a GPU's memory that the engine takes, in place of the stack's.",
    ),
    click.option(
        "--max-model-len",
        "--context-length",
        "max_model_len",
        type=values.NUMBER,
        help="Serving: most tokens of a prompt and its answer; a longer request is refused.",
    ),
)


def read_stack(o: dict[str, Any]) -> Stack:
    """The stack of ``--stack`` and its switches, with the share of memory that is given."""
    from meshwise.stacks.stack import taking
    from meshwise.strict_tables import fraction

    stack = options.read_stack(o, "decode")
    given = o["gpu_memory_utilization"]
    if given is None:
        return stack
    share = fraction(given, "--gpu-memory-utilization", low=0.05, high=1.0)
    if stack.ideal:
        raise InputError(
            f"--gpu-memory-utilization={share:g} contradicts ideal rates, whose engine takes all of it",
            field="--gpu-memory-utilization",
            value=given,
            legal="leave it or --ideal out",
        )
    return taking(stack, share)


def recorded(o: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record of an answer, the engine's limits that are given beside its load."""
    share, most = o["gpu_memory_utilization"], o["max_model_len"]
    given: dict[str, Any] = {} if share is None else {"gpu_memory_utilization": float(share)}
    given |= {} if most is None else {"max_model_len": int(most)}
    return record | {"workload": record["workload"] | given}


def within(o: dict[str, Any], load: Serving) -> Serving:
    """The load; :class:`InputError` where its requests are longer than the engine takes."""
    from meshwise.strict_tables import count
    from meshwise.workloads.workload import MAX_SEQ

    if o["max_model_len"] is None:
        return load
    most, asked = count(o["max_model_len"], "--max-model-len", high=MAX_SEQ), load.isl + load.osl
    if asked > most:
        raise InputError(
            f"--max-model-len={most}: a request of {load.isl:,} tokens in and {load.osl:,} out is longer",
            field="--max-model-len",
            value=most,
            legal=f"at least {asked}",
            nearest=asked,
        )
    return load
