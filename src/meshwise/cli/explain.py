"""``meshwise explain``: the program of operations."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import options
from meshwise.cli.estimate import layout, priced


@click.command("explain")
@options.target
@layout
@options.workload
@options.software
@options.output
def command(model: str, cluster: str | None, nodes: str | None, nics: str | None, **o: Any) -> None:
    """Print what one device does in a step: each product with m, n, k, FLOPs and bytes; each
    collective with group, payload, algorithm, wire bytes per fabric level and time."""
    result = priced(model, cluster, nodes, nics, o)
    options.write(o, result.explain, result.explain_page, "operations")
