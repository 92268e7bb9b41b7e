"""``meshwise catalog``: what is known, with sources."""

from __future__ import annotations

from typing import Any

import click

from meshwise.cli import catalog_search, options, values
from meshwise.cli.command import Command
from meshwise.cli.values import KINDS
from meshwise.errors import InputError, shorten


@click.command(
    "catalog",
    cls=Command,
    about={
        "kind": "models, devices, fabrics, clusters or stacks; or words to look for in all of them.",
        "name": "The entry to show.",
    },
    examples=("meshwise catalog h100", "meshwise catalog cluster hgx-h100 --toml"),
)
@click.argument("kind", metavar="[KIND]", type=values.KIND, required=False)
@click.argument("name", metavar="[NAME]", type=values.ENTRY, required=False)
@click.option("--toml", "as_file", is_flag=True, help="The entry's file, to copy and change.")
@options.output
def command(kind: str | None, name: str | None, as_file: bool, **o: Any) -> None:
    """List the entries of KIND (models, devices, fabrics, clusters, stacks), show one with the source of
    each figure, or find what has the given words in its name, another name or its title."""
    from meshwise import catalog
    from meshwise.answers import listing
    from meshwise.strict_tables import one_of

    if as_file and name is None:
        raise InputError(
            "--toml: shows the file of one entry",
            field="--toml",
            legal="a kind and a name, such as `meshwise catalog cluster dgx-a100 --toml`",
        )
    if kind is None:
        records = listing.overview(KINDS)
    else:
        plural = kind + "s" if kind + "s" in KINDS else kind
        if plural not in KINDS and not as_file:
            found_in = catalog_search.search(" ".join(filter(None, (kind, name))))
            page = lambda: catalog_search.page(found_in)  # noqa: E731
            options.write(o, lambda: found_in, page, "entries")
            return
        one_of(plural, "KIND", KINDS)
        if name is not None:
            found, table = catalog.load(plural, _entry(plural, name), "NAME")
            if as_file:
                options.deliver(listing.file_text(plural, found).rstrip("\n"), o["path"])
                return
            stacks = plural == "stacks"
            shown = listing.stack_entry(name) if stacks else listing.entry(plural, found, table)
            options.write(o, lambda: shown, lambda: listing.entry_page(shown), "fields")
            return
        records = listing.entries(plural)
    options.write(o, lambda: records, lambda: listing.entries_page(records), "entries")


def _entry(kind: str, name: str) -> str:
    """The entry that a name stands for, as the commands read it; a name in a format is none of its own."""
    from meshwise.clusters import names as cluster_names
    from meshwise.models import names as model_names

    if kind == "clusters":
        device = cluster_names.exact_device(name)
        known = cluster_names.canonical_cluster(name) or (
            device and cluster_names.usual_node(device)
        )
        if known is None:
            raise cluster_names.unknown_cluster("NAME", name)
        return known
    if kind == "devices":
        from meshwise.clusters.load import device as read_device

        return read_device(name, "NAME").name
    if kind == "stacks":
        from meshwise.stacks.load import described

        return described(name, "NAME").software
    if kind == "models":
        found = model_names.named_model(name, "NAME")
        if found is None:
            raise model_names.unknown_model("NAME", name)
        if found.format is not None:
            raise InputError(
                f"NAME: {shorten(name)} is preset {found.preset} in a format; `meshwise model` shows it",
                field="NAME",
                value=name,
                legal=found.preset,
                nearest=found.preset,
            )
        return found.preset
    return name
