"""``meshwise validate``: a table of measurements, predicted row by row."""

from __future__ import annotations

import click

from meshwise.cli import output, values
from meshwise.cli.command import CliCommand
from meshwise.cli.given import Given
from meshwise.errors import InputError


@click.command(
    "validate",
    cls=CliCommand,
    about={"table": "A CSV file, or the JSON of `meshwise read`; or --published."},
    examples=(
        "meshwise validate --published layers",
        "meshwise validate --published collectives --worst 5",
    ),
)
@click.argument("table", metavar="[TABLE.csv]", required=False)
@click.option(
    "--published",
    type=values.PUBLISHED_TYPE,
    metavar="[KIND]",
    is_flag=False,
    flag_value="all",
    help="The shipped tables of published figures, or one: training, layers, serving or collectives.",
)
@click.option(
    "--stack",
    type=values.STACK_TYPE,
    help="Software that the catalog does not know: a stack, or a TOML file (default: generic).",
)
@click.option(
    "--worst",
    type=values.NUMBER_TYPE,
    help="Show the N rows that are furthest off (default 15; 0: none).",
)
@click.option(
    "--anchor",
    type=values.FILE_TYPE,
    metavar="FILE|N",
    help="Collectives: measured sizes that anchor their system's predictions: a table or a log of "
    "nccl-tests, or N of each system's own rows, which are not counted.",
)
@click.option(
    "--decisions",
    is_flag=True,
    help="Show every group of rows that differ in layout alone: what following the prediction would cost.",
)
@output.output_options
def command(table: str | None, **said: object) -> None:
    """Predict every row of TABLE.csv (training steps, single layers, serving runs or collectives; told by its header)
    and show measured, predicted and error, and what the errors come to.

    Model names are presets, or files models/NAME.json beside the table. A malformed row is listed and
    counted, and the others are predicted all the same; exit code 2 if no row can be read.
    """
    from meshwise import api

    o = Given(said)
    worst, published = o.number("worst", low=0), o.text("published")
    if table is not None and published is None:
        result = api.validate(table, stack=o.text("stack"), anchor=o.text("anchor"))
    elif published is not None and table is None and not o.has("anchor"):
        result = api.validate_published(published)
    else:
        raise InputError(
            "TABLE.csv: one table, or --published",
            field="TABLE.csv",
            value=table,
            legal="a CSV file, or --published [training, layers, serving or collectives]",
        )
    groups = o.flag("decisions")
    most = 15 if worst is None else worst
    output.write_answer(o, result.to_dict, lambda: result.page(most, groups), "rows")
    if result.invalid == len(result.results):
        raise click.exceptions.Exit(2)
