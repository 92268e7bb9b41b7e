"""``meshwise import``: a launch command, read, priced and held against the best layout."""

from __future__ import annotations

from collections.abc import Mapping

import click

from meshwise.cli import launch_text, needs, options, output, values
from meshwise.cli.command import CliCommand, Need
from meshwise.cli.given import Given
from meshwise.errors import InputError
from meshwise.units import format_gpus


@click.command(
    "import",
    cls=CliCommand,
    needs=(Need("launch", "'vllm serve meta-llama/Llama-3.1-8B -tp 2'"), needs.NEEDS_CLUSTER),
    about={
        "launch": "The command in quotes, or files: the script or manifest that runs, and what it names; "
        "- for stdin."
    },
    examples=(
        "meshwise import 'vllm serve meta-llama/Llama-3.1-70B -tp 8' --on hgx-h100 --isl 2k --osl 256 "
        "--concurrency 64",
        "meshwise import 'trtllm-serve meta-llama/Llama-3.1-8B --tp_size 2' --on hgx-h100 --isl 1k "
        "--osl 128 --concurrency 32",
    ),
)
@click.argument("launch", metavar="COMMAND", nargs=-1, callback=lambda _c, _p, words: words or None)
@launch_text.which_option
@launch_text.set_option
@click.option("--on", "cluster", type=values.CLUSTER_TYPE, help="Cluster: a preset or a TOML file.")
@click.option(
    "--nodes", type=values.NUMBER_TYPE, help="Nodes of the cluster, in place of its own number."
)
@click.option("--nics", type=values.NUMBER_TYPE, help="NICs per node, in place of the cluster's.")
@options.pcie_host_option
@click.option(
    "--model", type=values.MODEL_TYPE, help="Where the command does not name a known one."
)
@click.option(
    "--target", type=values.TARGET_TYPE, help="Where the command's own words do not tell it."
)
@click.option(
    "--gpus", type=values.NUMBER_TYPE, help="Where the command does not say on how many it runs."
)
@click.option(
    "--global-batch", "--batch", "global_batch", type=values.NUMBER_TYPE, help="Training."
)
@click.option(
    "--micro-batch",
    "--micro-batch-size",
    "micro_batch",
    type=values.NUMBER_TYPE,
    help="Training: sequences per microbatch.",
)
@click.option(
    "--seq",
    "--seq-len",
    "seq",
    type=values.NUMBER_TYPE,
    help="Training: tokens per sequence.",
)
@click.option(
    "--isl",
    type=values.NUMBER_TYPE,
    help="Serving: tokens of a prompt.",
)
@click.option(
    "--osl",
    type=values.NUMBER_TYPE,
    help="Serving: tokens of an answer.",
)
@click.option("--concurrency", type=values.NUMBER_TYPE, help="Serving: requests in flight.")
@click.option("--acceptance", metavar="P", help="Serving: of a token that the command drafts.")
@click.option("--stack", type=values.STACK_TYPE, help="Software (default: the target's).")
@output.output_options
def command(
    launch: tuple[str, ...],
    cluster: str | None,
    nodes: str | None,
    nics: str | None,
    **said: object,
) -> None:
    """Read a launch COMMAND (vLLM, SGLang, TensorRT-LLM, Megatron-LM, Megatron-Bridge, torchtitan,
    DeepSpeed, accelerate) into its layout, price it on CLUSTER beside the best, and say what to change.

    COMMAND is one argument in quotes, - for stdin, or files: the script or manifest that runs, then what
    it names; what stands beside it is found by itself. Nothing of it is ever run.
    """
    from meshwise import commands
    from meshwise.strict_tables import fraction

    o = Given(said)
    # the command, where it runs, and what it does not say
    given = launch_text.read_launch(launch, o)
    where = options.read_cluster(cluster, nodes, nics, o.text("pcie_host"))
    accepted = None
    if o.has("acceptance"):
        accepted = fraction(o["acceptance"], "--acceptance", low=0.0, high=1.0)
    result = commands.read_command(
        given.text,
        where,
        which=given.which,
        values=given.values,
        files=given.files,
        name=given.name,
        model=o.text("model"),
        target=o.text("target"),
        stack=o.text("stack"),
        acceptance=accepted,
        gpus=o.number("gpus"),
        global_batch=o.number("global_batch"),
        micro_batch=o.number("micro_batch"),
        seq=o.number("seq"),
        isl=o.number("isl"),
        osl=o.number("osl"),
        concurrency=o.number("concurrency"),
    )
    # the cluster has to hold it
    started = result.parsed.job.gpus
    if nodes is not None and started > where.devices:
        raise InputError(
            f"--nodes={nodes}: the command starts {format_gpus(started)}, and {where.name} has {where.devices}",
            field="--nodes",
            value=nodes,
            legal=f"at least {-(-started // where.node_devices)}, or no --nodes",
            nearest=-(-started // where.node_devices),
        )

    def record() -> Mapping[str, object]:
        rows = o.flag("as_csv") or o.flag("as_parquet")
        return {"rows": result.rows()} if rows else result.to_dict()

    output.write_answer(o, record, result.page, "rows")
    if not result.compared.runs:  # priced and said, but it does not run
        raise click.exceptions.Exit(3)
