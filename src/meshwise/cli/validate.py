"""``meshwise validate``: a table of measurements, predicted row by row."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import options, values
from meshwise.cli.command import Command
from meshwise.errors import InputError


@click.command(
    "validate",
    cls=Command,
    about={"table": "A CSV file; or --published."},
    examples=(
        "meshwise validate --published layers",
        "meshwise validate --published collectives --worst 5",
    ),
)
@click.argument("table", metavar="[TABLE.csv]", required=False)
@click.option(
    "--published",
    type=values.PUBLISHED,
    metavar="[KIND]",
    is_flag=False,
    flag_value="all",
    help="The shipped tables of published figures, or one: training, layers, serving or collectives.",
)
@click.option(
    "--worst",
    type=values.NUMBER,
    help="Show the N rows that are furthest off (default 15; 0: none).",
)
@options.output
def command(table: str | None, **o: Any) -> None:
    """Predict every row of TABLE.csv (training steps, single layers, serving runs or collectives; told by its header)
    and show measured, predicted and error, and what the errors come to.

    Model names are presets, or files models/NAME.json beside the table. A malformed row is listed and
    counted, and the others are predicted all the same; exit code 2 if no row can be read.
    """
    from meshwise import api
    from meshwise.strict_tables import count

    worst = count(o["worst"], "--worst", low=0) if o["worst"] is not None else 15
    if (table is None) == (o["published"] is None):
        raise InputError(
            "TABLE.csv: one table, or --published",
            field="TABLE.csv",
            value=table,
            legal="a CSV file, or --published [training, layers, serving or collectives]",
        )
    result = api.validate(table) if table is not None else api.validate_published(o["published"])
    options.write(o, result.to_dict, lambda: result.page(worst), "rows")
    if result.invalid == len(result.results):
        raise click.exceptions.Exit(2)
