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
    click.option(
        "--max-num-seqs",
        "--max-running-requests",
        "--max-batch-size",
        "max_num_seqs",
        type=values.NUMBER_TYPE,
        help="Serving: most requests of a replica that run at once, in place of the stack's.",
    ),
    click.option(
        "--enforce-eager",
        "--disable-cuda-graph",
        "enforce_eager",
        is_flag=True,
        help="Serving: no CUDA graphs; the host launches every layer of decodes.",
    ),
    click.option(
        "--no-enable-chunked-prefill",
        "--disable-chunked-prefill",
        "no_enable_chunked_prefill",
        is_flag=True,
        help="Serving: prompts are not cut: one that does not fit an iteration waits.",
    ),
    click.option(
        "--enable-mixed-chunk",
        "--enable-chunked-prefill",
        "enable_mixed_chunk",
        is_flag=True,
        help="Serving: prompts are cut, and share iterations with decodes.",
    ),
)
_FLAGS = ("enforce_eager", "no_enable_chunked_prefill", "enable_mixed_chunk")


def engine_stack(o: Given) -> Stack:
    """The stack of ``--stack`` and its switches, with the share of memory and the rules that are given."""
    from meshwise.search.serving.engine_limits import EngineLimits, limited_stack
    from meshwise.strict_tables import fraction

    stack = options.phase_stack(o, "decode")
    _check_rules(o, stack)
    given, share = o["gpu_memory_utilization"], None
    if given is not None:
        share = fraction(given, "--gpu-memory-utilization", low=0.05, high=1.0)
    if share is not None and stack.ideal:
        raise InputError(
            f"--gpu-memory-utilization={share:g} contradicts ideal rates, whose engine takes all of it",
            field="--gpu-memory-utilization",
            value=given,
            legal="leave it or --ideal out",
        )
    cut = False if o.flag("no_enable_chunked_prefill") else None
    limits = EngineLimits(
        memory_share=share,
        max_sequences=o.number("max_num_seqs", high=1 << 20),
        eager=True if o.flag("enforce_eager") else None,
        chunked_prefill=True if o.flag("enable_mixed_chunk") else cut,
    )
    return limited_stack(stack, limits)


def _check_rules(o: Given, stack: Stack) -> None:
    """Raise for rules that contradict each other, or the stack."""
    if o.flag("no_enable_chunked_prefill") and o.flag("enable_mixed_chunk"):
        raise InputError(
            "--enable-mixed-chunk contradicts --no-enable-chunked-prefill",
            field="--enable-mixed-chunk",
            value=True,
            legal="one of them",
        )
    if o.flag("enforce_eager") and stack.ideal:
        raise InputError(
            "--enforce-eager contradicts ideal rates, whose host takes no time",
            field="--enforce-eager",
            value=True,
            legal="leave it or --ideal out",
        )


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
    if o.has("max_num_seqs"):
        given["max_num_seqs"] = o.number("max_num_seqs")
    for name in _FLAGS:
        if o.flag(name):
            given[name] = True
    return {**record, "workload": given}


def within_length(o: Given, load: Serving) -> Serving:
    """The load; :class:`InputError` where its requests, or a trace's, are longer than the engine takes."""
    from meshwise.search.serving.runs.lengths import check_told, with_lengths
    from meshwise.simulate.loads.arrivals import is_trace, traffic
    from meshwise.simulate.loads.traces import MOST_REQUESTS
    from meshwise.workloads.workload import MAX_SEQ

    most = o.number("max_model_len", high=MAX_SEQ)
    if most is None:
        return load
    traced = o.has("arrivals") and is_trace(o.word("arrivals"))
    asked = load
    if traced:
        requests = o.number("requests", high=MOST_REQUESTS)
        asked = with_lengths(load, traffic(None, o.word("arrivals"), requests))
    check_told(asked, most, traced=traced)
    return load
