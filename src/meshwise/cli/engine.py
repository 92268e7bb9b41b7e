"""Limits of a serving engine, as its own options call them: its share of memory, its longest sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from meshwise.cli import options, values
from meshwise.cli.given import Given
from meshwise.errors import InputError

if TYPE_CHECKING:
    from meshwise.stacks.stack import Stack
    from meshwise.workloads.serving import Serving

limit_options = options.stacked(
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
        type=values.NUMBER_TYPE,
        help="Serving: most tokens of a prompt and its answer; a longer request is refused.",
    ),
)


def engine_stack(o: Given) -> Stack:
    """The stack of ``--stack`` and its switches, with the share of memory that is given."""
    from meshwise.stacks.stack import taking
    from meshwise.strict_tables import fraction

    stack = options.phase_stack(o, "decode")
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


def with_limits(o: Given, record: Mapping[str, object]) -> dict[str, object]:
    """The record of an answer, the engine's limits that are given beside its load."""
    share, most, work = (
        o.text("gpu_memory_utilization"),
        o.text("max_model_len"),
        record["workload"],
    )
    assert isinstance(work, dict)
    given = {**work}
    if share is not None:
        given["gpu_memory_utilization"] = float(share)
    if most is not None:
        given["max_model_len"] = int(most)
    return {**record, "workload": given}


def within_length(o: Given, load: Serving) -> Serving:
    """The load; :class:`InputError` where its requests are longer than the engine takes."""
    from meshwise.workloads.workload import MAX_SEQ

    most, asked = o.number("max_model_len", high=MAX_SEQ), load.isl + load.osl
    if most is not None and asked > most:
        raise InputError(
            f"--max-model-len={most}: a request of {load.isl:,} tokens in and {load.osl:,} out is longer",
            field="--max-model-len",
            value=most,
            legal=f"at least {asked}",
            nearest=asked,
        )
    return load
