"""``meshwise model``: what a model is made of."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import options, values


@click.command("model")
@click.argument("model", metavar="MODEL", type=values.MODEL)
@options.output
def command(model: str, **o: Any) -> None:
    """Parameters, bytes by number format, heads, legal TP degrees; and why the others are not."""
    from meshwise import api

    result = api.describe(api.model(model))
    options.write(o, result.to_dict, result.page, "kinds")
