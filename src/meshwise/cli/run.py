"""``meshwise run``: the model performed, beside its prediction."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import needs, options, values
from meshwise.cli.command import Command, Need

RUN_PHASE = values.Words("PHASE", ("train", "prefill", "decode", "generate"))
RUN_DTYPE = values.Words("D", ("fp32", "bf16", "fp16", "fp64"))
RUN_OVERLAP = values.Words("HOW", ("none", "wgrad", "split", "decomposed"))
SENT = values.Words("D", ("int8", "e4m3", "e5m2", "bf16"))


@click.command(
    "run",
    cls=Command,
    needs=(Need("model", "gpt2"),),
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise run gpt2 --layers 1 --seq 64 --steps 2",
        "meshwise run gpt2 --layers 1 --seq 64 --steps 2 --tp 2",
    ),
)
@click.argument("model", metavar="MODEL", type=values.MODEL, required=False)
@options.stacked(
    click.option(
        "--tp", "--tensor-parallel-size", default="1", type=values.NUMBER, help="TP degree."
    ),
    click.option(
        "--pp", "--pipeline-parallel-size", default="1", type=values.NUMBER, help="Stages."
    ),
    click.option("--dp", "--data-parallel-size", default="1", type=values.NUMBER, help="Replicas."),
    click.option(
        "--phase",
        default="train",
        type=RUN_PHASE,
        show_default=True,
        help="train, prefill, decode or generate.",
    ),
    click.option("--layers", type=values.NUMBER, help="The model's first N layers, at full width."),
    click.option(
        "--batch", default="1", type=values.NUMBER, help="Sequences: per step, or per replica."
    ),
    click.option(
        "--seq",
        default="128",
        type=values.NUMBER,
        show_default=True,
        help="Tokens of each.",
    ),
    click.option("--micro-batch", type=values.NUMBER, help="Sequences of a microbatch."),
    click.option(
        "--new-tokens", default="16", type=values.NUMBER, help="generate: tokens to make."
    ),
    click.option(
        "--steps", default="10", type=values.NUMBER, show_default=True, help="Timed steps."
    ),
    click.option(
        "--warmup", default="2", type=values.NUMBER, show_default=True, help="Steps before."
    ),
    click.option(
        "--dtype", default="fp32", type=RUN_DTYPE, help="fp32 (default), bf16, fp16, fp64."
    ),
    click.option("--shard", default="none", type=values.SHARD, help="none (DDP) or zero3 (FSDP2)."),
    click.option("--schedule", default="1f1b", type=values.SCHEDULE, help="1f1b or gpipe."),
    click.option("--checkpoint", metavar="PATH", help="Safetensors; default random weights."),
    click.option("--seed", default="0", type=values.NUMBER, help="Of random weights and words."),
    click.option("--backend", default="gloo", metavar="B", help="gloo (CPU) or nccl (CUDA)."),
    click.option("--threads", type=values.NUMBER, help="Of each rank (default: cores / ranks)."),
    click.option(
        "--timeout",
        default="120 s",
        metavar="T",
        help="Longest wait in a collective: 8, 8 s, 500 ms.",
    ),
    click.option("--on", type=values.CLUSTER, help="Predict for this cluster, not the host."),
)
@options.stacked(
    click.option("--sequence-parallel", is_flag=True, help="Norms on 1/TP of the sequence."),
    click.option(
        "--overlap",
        default="wgrad",
        type=RUN_OVERLAP,
        show_default=True,
        help="none, wgrad, split (batch in two) or decomposed.",
    ),
    click.option("--comm-dtype", type=SENT, help="TP sends int8, e4m3, e5m2 or bf16."),
    click.option(
        "--scale-group", default="128", type=values.NUMBER, help="Values that share a scale."
    ),
    click.option(
        "--algorithm",
        default="auto",
        metavar="A",
        show_default=True,
        help="auto, backend, ring, hierarchical or shared_memory.",
    ),
    click.option(
        "--chunks", default="4", type=values.NUMBER, help="Pieces of a decomposed product."
    ),
)
@options.output
def command(model: str, **o: Any) -> None:
    """Perform MODEL on this machine (or under torchrun or srun) and print what every operation took,
    beside the prediction."""
    from meshwise.runs import run
    from meshwise.runtime.options import (
        ALGORITHMS,
        COMM_DTYPES,
        MAX_PIECES,
        OVERLAPS,
        RUN_PHASES,
        RUN_SCHEDULES,
        RUN_SHARDS,
        Options,
    )
    from meshwise.strict_tables import MAX_COUNT, count, one_of
    from meshwise.units import TIME, parse_quantity

    def number(name: str, low: int = 1, high: int = MAX_COUNT) -> int:
        return count(o[name], "--" + name.replace("_", "-"), low=low, high=high)

    narrow = o["comm_dtype"]
    if narrow is not None:
        narrow = one_of(narrow, "--comm-dtype", COMM_DTYPES)
    switches = Options(
        sequence_parallel=o["sequence_parallel"],
        overlap=one_of(o["overlap"], "--overlap", OVERLAPS),
        comm_dtype=narrow,
        scale_group=number("scale_group", high=MAX_PIECES),
        algorithm=one_of(o["algorithm"], "--algorithm", ALGORITHMS),
        chunks=number("chunks", high=MAX_PIECES),
    )
    result = run(
        model,
        on=o["on"],
        layers=number("layers") if o["layers"] is not None else None,
        backend=one_of(o["backend"], "--backend", ("gloo", "nccl")),
        timeout_s=parse_quantity(
            o["timeout"], TIME._replace(example="120 s"), "--timeout", bare=True
        ),
        threads=number("threads") if o["threads"] is not None else None,
        tp=number("tp"),
        pp=number("pp"),
        dp=number("dp"),
        phase=one_of(o["phase"], "--phase", RUN_PHASES),
        batch=number("batch"),
        seq=number("seq"),
        new_tokens=number("new_tokens"),
        micro_batch=number("micro_batch") if o["micro_batch"] is not None else None,
        steps=number("steps"),
        warmup=number("warmup", 0),
        dtype=o["dtype"],
        shard=one_of(o["shard"], "--shard", RUN_SHARDS),
        schedule=one_of(o["schedule"], "--schedule", RUN_SCHEDULES),
        checkpoint=o["checkpoint"],
        seed=number("seed", 0),
        options=switches,
    )
    if result is not None:
        options.write(o, result.to_dict, result.page, "operations")
