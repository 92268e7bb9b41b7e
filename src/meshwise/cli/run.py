"""``meshwise run``: the model performed, beside its prediction."""

from __future__ import annotations

import click

from meshwise.cli import needs, options, output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import InputError

RUN_PHASE_TYPE = values.WordType("PHASE", ("train", "prefill", "decode", "generate"))
RUN_DTYPE_TYPE = values.WordType("D", ("fp32", "bf16", "fp16", "fp64"))
RUN_OVERLAP_TYPE = values.WordType("HOW", ("none", "wgrad", "split", "decomposed"))
SENT_TYPE = values.WordType("D", ("int8", "e4m3", "e5m2", "bf16"))


@click.command(
    "run",
    cls=CliCommand,
    needs=(Need("model", "gpt2"),),
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise run gpt2 --layers 1 --seq 64 --steps 2",
        "meshwise run gpt2 --layers 1 --seq 64 --steps 2 --tp 2",
    ),
)
@click.argument("model", metavar="MODEL", type=values.MODEL_TYPE, required=False)
@options.stacked(
    click.option(
        "--tp", "--tensor-parallel-size", default="1", type=values.NUMBER_TYPE, help="TP degree."
    ),
    click.option(
        "--pp", "--pipeline-parallel-size", default="1", type=values.NUMBER_TYPE, help="Stages."
    ),
    click.option(
        "--dp", "--data-parallel-size", default="1", type=values.NUMBER_TYPE, help="Replicas."
    ),
    click.option(
        "--phase",
        default="train",
        type=RUN_PHASE_TYPE,
        show_default=True,
        help="train, prefill, decode or generate.",
    ),
    click.option(
        "--layers", type=values.NUMBER_TYPE, help="The model's first N layers, at full width."
    ),
    click.option(
        "--batch", default="1", type=values.NUMBER_TYPE, help="Sequences: per step, or per replica."
    ),
    click.option(
        "--seq",
        default="128",
        type=values.NUMBER_TYPE,
        show_default=True,
        help="Tokens of each.",
    ),
    click.option("--micro-batch", type=values.NUMBER_TYPE, help="Sequences of a microbatch."),
    click.option(
        "--new-tokens", default="16", type=values.NUMBER_TYPE, help="generate: tokens to make."
    ),
    click.option(
        "--steps", default="10", type=values.NUMBER_TYPE, show_default=True, help="Timed steps."
    ),
    click.option(
        "--warmup", default="2", type=values.NUMBER_TYPE, show_default=True, help="Steps before."
    ),
    click.option(
        "--dtype", default="fp32", type=RUN_DTYPE_TYPE, help="fp32 (default), bf16, fp16, fp64."
    ),
    click.option(
        "--shard", default="none", type=values.SHARD_TYPE, help="none (DDP) or zero3 (FSDP2)."
    ),
    click.option("--schedule", default="1f1b", type=values.SCHEDULE_TYPE, help="1f1b or gpipe."),
    click.option("--checkpoint", metavar="PATH", help="Safetensors; default random weights."),
    click.option(
        "--seed", default="0", type=values.NUMBER_TYPE, help="Of random weights and words."
    ),
    click.option("--backend", default="gloo", metavar="B", help="gloo (CPU) or nccl (CUDA)."),
    click.option(
        "--threads", type=values.NUMBER_TYPE, help="Of each rank (default: cores / ranks)."
    ),
    click.option(
        "--timeout",
        default="120 s",
        metavar="T",
        help="Longest wait in a collective: 8, 8 s, 500 ms.",
    ),
    click.option("--on", type=values.CLUSTER_TYPE, help="Predict for this cluster, not the host."),
    options.pcie_host_option,
)
@options.stacked(
    click.option("--sequence-parallel", is_flag=True, help="Norms on 1/TP of the sequence."),
    click.option(
        "--overlap",
        default="wgrad",
        type=RUN_OVERLAP_TYPE,
        show_default=True,
        help="none, wgrad, split (batch in two) or decomposed.",
    ),
    click.option("--comm-dtype", type=SENT_TYPE, help="TP sends int8, e4m3, e5m2 or bf16."),
    click.option(
        "--scale-group", default="128", type=values.NUMBER_TYPE, help="Values that share a scale."
    ),
    click.option(
        "--algorithm",
        default="auto",
        metavar="A",
        show_default=True,
        help="auto, backend, ring, hierarchical or shared_memory.",
    ),
    click.option(
        "--chunks", default="4", type=values.NUMBER_TYPE, help="Pieces of a decomposed product."
    ),
)
@output.output_options
def command(model: str, **said: object) -> None:
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
    from meshwise.strict_tables import one_of
    from meshwise.units import TIME, parse_quantity

    o = Given(said)
    # switches of the runtime
    narrow = o.text("comm_dtype")
    switches = Options(
        sequence_parallel=o.flag("sequence_parallel"),
        overlap=one_of(o["overlap"], "--overlap", OVERLAPS),
        comm_dtype=None if narrow is None else one_of(narrow, "--comm-dtype", COMM_DTYPES),
        scale_group=o.count("scale_group", high=MAX_PIECES),
        algorithm=one_of(o["algorithm"], "--algorithm", ALGORITHMS),
        chunks=o.count("chunks", high=MAX_PIECES),
    )
    # the run, on this rank or on all
    on = o.text("on")
    if o.has("pcie_host") and on is None:
        raise InputError(
            f"--pcie-host={o['pcie_host']}: without --on the host is this machine",
            field="--pcie-host",
            value=o["pcie_host"],
            legal="with --on CLUSTER",
        )
    result = run(
        model,
        on=None if on is None else options.read_cluster(on, None, None, o.text("pcie_host")),
        layers=o.number("layers"),
        backend=one_of(o["backend"], "--backend", ("gloo", "nccl")),
        timeout_s=parse_quantity(
            o["timeout"], TIME._replace(example="120 s"), "--timeout", bare=True
        ),
        threads=o.number("threads"),
        tp=o.count("tp"),
        pp=o.count("pp"),
        dp=o.count("dp"),
        phase=one_of(o["phase"], "--phase", RUN_PHASES),
        batch=o.count("batch"),
        seq=o.count("seq"),
        new_tokens=o.count("new_tokens"),
        micro_batch=o.number("micro_batch"),
        steps=o.count("steps"),
        warmup=o.count("warmup", low=0),
        dtype=o["dtype"],
        shard=one_of(o["shard"], "--shard", RUN_SHARDS),
        schedule=one_of(o["schedule"], "--schedule", RUN_SCHEDULES),
        checkpoint=o["checkpoint"],
        seed=o.count("seed", low=0),
        options=switches,
    )
    if result is not None:
        output.write_answer(o, result.to_dict, result.page, "operations")
