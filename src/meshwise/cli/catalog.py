"""``meshwise catalog``: what is known, with sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from meshwise.cli import output, values
from meshwise.cli.command import CliCommand
from meshwise.cli.given import Given
from meshwise.cli.values import CATALOG_KINDS
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page


@click.command(
    "catalog",
    cls=CliCommand,
    about={
        "kind": "models, devices, fabrics, clusters or stacks; families or formats of models; or words to "
        "look for.",
        "name": "The entry to show.",
    },
    examples=("meshwise catalog h100", "meshwise catalog cluster hgx-h100 --toml"),
)
@click.argument("kind", metavar="[KIND]", type=values.KIND_TYPE, required=False)
@click.argument("name", metavar="[NAME]", type=values.ENTRY_TYPE, required=False)
@click.option("--toml", "as_file", is_flag=True, help="The entry's file, to copy and change.")
@output.output_options
def command(kind: str | None, name: str | None, as_file: bool, **options_: object) -> None:
    """List the entries of KIND (models, devices, fabrics, clusters, stacks), show one with the source of
    each figure, or find what has the given words in its name, another name or its title."""
    from meshwise import catalog
    from meshwise.answers import catalog as answers
    from meshwise.strict_tables import one_of

    o = Given(options_)
    if as_file and name is None:
        raise InputError(
            "--toml: shows the file of one entry",
            field="--toml",
            legal="a kind and a name, such as `meshwise catalog cluster dgx-a100 --toml`",
        )
    if kind in answers.LISTS and name is None and not as_file:
        listed = answers.list_entries(str(kind))
        _write(o, listed, answers.entries_page(listed), answers.entries_line(listed), "entries")
        return
    plural = kind + "s" if kind is not None and kind + "s" in CATALOG_KINDS else kind
    # words to look for
    if kind is not None and plural not in CATALOG_KINDS and not as_file:
        found = answers.search_record(" ".join(filter(None, (kind, name))), CATALOG_KINDS)
        page = answers.search_page(found)
        _write(o, found, page, answers.search_line(found), "entries")
        return
    # all kinds, or all of one
    if plural is None or name is None:
        if plural is not None:
            one_of(plural, "KIND", CATALOG_KINDS)
        listed = answers.overview(CATALOG_KINDS) if plural is None else answers.kind_entries(plural)
        page = answers.entries_page(listed)
        _write(o, listed, page, answers.entries_line(listed), "entries")
        return
    # one entry
    one_of(plural, "KIND", CATALOG_KINDS)
    known, table = catalog.load(plural, _entry_name(plural, name), "NAME")
    if as_file:
        output.deliver(answers.file_text(plural, known).rstrip("\n"), o.text("path"))
        return
    if plural == "stacks":
        shown = answers.stack_entry_record(name)
    else:
        shown = answers.entry_record(plural, known, table)
    page = answers.entry_page(shown)
    _write(o, shown, page, answers.entry_line(shown), "fields")


def _write(o: Given, record: Mapping[str, object], page: Page, line: str, rows: str) -> None:
    """A list is its own answer; in one line it is how many there are, and how to see more."""
    shown = page._replace(answer=line) if o.flag("brief") else page
    output.write_answer(o, lambda: record, lambda: shown, rows)


def _entry_name(kind: str, name: str) -> str:
    """The entry that a name stands for, as the commands read it; a name in a format is none of its own."""
    from meshwise.clusters import names as cluster_names
    from meshwise.models import names as model_names
    from meshwise.models.served.nearest import unknown_model

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
            raise unknown_model("NAME", name)
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
