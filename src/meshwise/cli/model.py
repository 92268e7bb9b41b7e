"""``meshwise model``: what a model is made of."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import needs, options, values
from meshwise.cli.command import Command


@click.command(
    "model",
    cls=Command,
    needs=(needs.MODEL,),
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise model llama-3.1-70b",
        "meshwise model Qwen/Qwen2.5-72B-Instruct-AWQ --json",
    ),
)
@click.argument("model", metavar="MODEL", type=values.MODEL, required=False)
@options.output
def command(model: str, **o: Any) -> None:
    """Parameters, bytes by number format, heads, legal TP degrees; and why the others are not."""
    from meshwise import api

    result = api.describe(api.model(model))
    options.write(o, result.to_dict, result.page, "kinds")
