"""``meshwise import``: a launch command, read, priced and held against the best layout."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshwise.cli import options


@click.command("import")
@click.argument("launch", metavar="COMMAND")
@click.option("--on", "cluster", metavar="CLUSTER", help="Cluster: a preset or a TOML file.")
@click.option("--nodes", metavar="N", help="Nodes of the cluster, in place of its own number.")
@click.option("--nics", metavar="N", help="NICs per node, in place of the cluster's.")
@click.option("--model", metavar="MODEL", help="Where the command does not name a known one.")
@click.option("--target", metavar="TARGET", help="Where the command's own words do not tell it.")
@click.option("--gpus", metavar="N", help="Where the command does not say on how many it runs.")
@click.option("--global-batch", "--batch", "global_batch", metavar="N", help="Training.")
@click.option(
    "--seq",
    "--seq-len",
    "seq",
    metavar="N",
    help="Training: tokens per sequence.",
    callback=options.in_tokens,
)
@click.option("--isl", metavar="N", help="Serving: tokens of a prompt.", callback=options.in_tokens)
@click.option(
    "--osl", metavar="N", help="Serving: tokens of an answer.", callback=options.in_tokens
)
@click.option("--concurrency", metavar="N", help="Serving: requests in flight.")
@click.option("--acceptance", metavar="P", help="Serving: of a token that the command drafts.")
@click.option("--stack", metavar="STACK", help="Software (default: the target's).")
@options.output
def command(
    launch: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any
) -> None:
    """Read a launch COMMAND (vLLM, SGLang, TensorRT-LLM, Megatron-LM, Megatron-Bridge, torchtitan,
    DeepSpeed, accelerate) into its layout, price it on CLUSTER beside the best, and say what to change.

    COMMAND is one argument in quotes, or - for stdin.
    """
    from meshwise import commands
    from meshwise.strict_tables import count, fraction

    text = sys.stdin.read(1_000_000) if launch == "-" else launch
    where = options.read_cluster(cluster, nodes, nics)
    numbers = {
        name: count(o[name], "--" + name.replace("_", "-"))
        for name in ("gpus", "global_batch", "seq", "isl", "osl", "concurrency")
        if o[name] is not None
    }
    accepted = o["acceptance"]
    if accepted is not None:
        accepted = fraction(accepted, "--acceptance", low=0.0, high=1.0)
    result = commands.read_command(
        text,
        where,
        model=o["model"],
        target=o["target"],
        stack=o["stack"],
        acceptance=accepted,
        **numbers,
    )
    options.write(o, result.to_dict, result.page, "changes")
