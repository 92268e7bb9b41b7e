"""``meshwise catalog``: what is known, with sources."""

from __future__ import annotations

import sys
from typing import Any

import click

from meshwise.cli import options

KINDS = ("models", "devices", "fabrics", "clusters", "stacks")


@click.command("catalog")
@click.argument("kind", metavar="[KIND]", required=False)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--toml", "as_file", is_flag=True, help="The entry's file, to copy and change.")
@options.output
def command(kind: str | None, name: str | None, as_file: bool, **o: Any) -> None:
    """List the entries of KIND (models, devices, fabrics, clusters, stacks), or show one with the
    source of each figure."""
    from meshwise.present import listing
    from meshwise.spec import catalog
    from meshwise.spec.reading import one_of

    if kind is None:
        records = listing.overview(KINDS)
    else:
        plural = kind if kind.endswith("s") else kind + "s"
        one_of(plural, "KIND", KINDS)
        if name is not None:
            found, table = catalog.load(plural, name, "NAME")
            if as_file:
                sys.stdout.write(listing.file_text(plural, found))
                return
            shown = listing.entry(plural, found, table)
            options.write(o, lambda: shown, lambda: listing.entry_page(shown), "fields")
            return
        records = listing.entries(plural)
    options.write(o, lambda: records, lambda: listing.entries_page(records), "entries")
