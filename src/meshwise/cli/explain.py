"""``meshwise explain``: the program of operations."""

from __future__ import annotations

import click

from meshwise.cli import needs, options, output
from meshwise.cli.command import CliCommand
from meshwise.cli.estimate import estimated, layout_options
from meshwise.cli.given import Given


@click.command(
    "explain",
    cls=CliCommand,
    needs=needs.STEP,
    phase=needs.phase_of,
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise explain gpt3-175b --on dgx-a100 --tp 8 --pp 8 --batch 64 --seq 2k",
        "meshwise explain llama-3.1-70b --on hgx-h100 --tp 8 --phase decode --batch 32 --context 4k",
    ),
)
@options.target_options
@layout_options
@options.workload_options
@options.software_options
@output.output_options
def command(
    model: str, cluster: str | None, nodes: str | None, nics: str | None, **said: object
) -> None:
    """Print what one device does in a step: each product with m, n, k, FLOPs and bytes; each
    collective with group, payload, algorithm, wire bytes per fabric level and time."""
    o = Given(said)
    result = estimated(model, cluster, nodes, nics, o)
    output.write(o, result.explain, result.explain_page, "operations")
