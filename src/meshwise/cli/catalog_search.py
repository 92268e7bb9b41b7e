"""Words looked for in the whole catalog: names, other names and titles of every kind."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from meshwise.cli.values import KINDS
from meshwise.errors import InputError, quoted

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page


def search(words: str) -> dict[str, Any]:
    """All entries that have each of the words, in the order of the kinds; refused where none has."""
    from meshwise import catalog

    asked = words.split()
    found = []
    for kind in KINDS:
        others: dict[str, list[str]] = {}
        for alias, name in catalog.aliases(kind).items():
            others.setdefault(name, []).append(alias)
        for name in catalog.names(kind):
            title, aliases = _title(kind, name), sorted(others.get(name, []))
            if asked and _has(asked, [name, title, *aliases]):
                entry = {"kind": kind, "name": name, "title": title, "aliases": aliases}
                found.append(entry)
    if not found:
        raise _nothing(words)
    return {"schema": 1, "kind": "search", "words": words, "entries": found}


def _title(kind: str, name: str) -> str:
    from meshwise import catalog

    if kind == "models":  # named by their hub's id
        from meshwise.models.names import hub_id

        return hub_id(name) or ""
    return str(catalog.load(kind, name, kind)[1].get("title", ""))


def _has(asked: list[str], texts: list[str]) -> bool:
    """Whether one text or another has each word, spelt as it is or with other marks in it."""
    lowered = [text.lower() for text in texts]
    plain = [_plain(text) for text in texts]
    return all(
        any(word.lower() in text for text in lowered)
        or (_plain(word) != "" and any(_plain(word) in text for text in plain))
        for word in asked
    )


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _nothing(words: str) -> InputError:
    from meshwise import catalog

    known = [n for kind in KINDS for n in (*catalog.names(kind), *catalog.aliases(kind))]
    close = difflib.get_close_matches(words.lower()[:100], [*KINDS, *known], n=1, cutoff=0.7)
    return InputError(
        f"KIND: {quoted(words)} is no kind, and no name or title of the catalog has it",
        field="KIND",
        value=words,
        legal=KINDS,
        nearest=close[0] if close else None,
    )


def page(record: dict[str, Any]) -> Page:
    """What was found, a table for each kind."""
    from meshwise.answers.text.tables import Page, Table

    rows = record["entries"]
    tables = [
        Table(
            kind,
            ("name", "title", "also"),
            tuple(
                (e["name"], e["title"], ", ".join(e["aliases"])) for e in rows if e["kind"] == kind
            ),
            frozenset({0, 1, 2}),
            ("title",),
        )
        for kind in KINDS
        if any(e["kind"] == kind for e in rows)
    ]
    return Page(
        f"{quoted(record['words'])}: {len(rows)} {'entry' if len(rows) == 1 else 'entries'}",
        tuple(tables),
    )
