"""``meshwise model``: what a model is made of."""

from __future__ import annotations

import click

from meshwise.cli import needs, output, values
from meshwise.cli.command import CliCommand
from meshwise.cli.given import Given


@click.command(
    "model",
    cls=CliCommand,
    needs=(needs.NEEDS_MODEL,),
    about={"model": needs.ABOUT_MODEL},
    examples=(
        "meshwise model llama-3.1-70b",
        "meshwise model Qwen/Qwen2.5-72B-Instruct-AWQ --json",
    ),
)
@click.argument("model", metavar="MODEL", type=values.MODEL_TYPE, required=False)
@output.output_options
def command(model: str, **said: object) -> None:
    """Parameters, bytes by number format, heads, legal TP degrees; and why the others are not."""
    from meshwise import api

    result = api.describe(api.model(model))
    output.write(Given(said), result.to_dict, result.page, "kinds")
