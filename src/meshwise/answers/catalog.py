"""``catalog``: its entries with their main figures, one entry with its sources, and what has the words
that are looked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict

from meshwise import catalog
from meshwise.answers.records import SCHEMA
from meshwise.answers.text.tables import Page, Table
from meshwise.errors import InputError, quoted
from meshwise.units import format_count

_COLUMNS = {
    "devices": ("title", "memory", "memory_bandwidth", "bf16"),
    "fabrics": ("title", "kind", "bandwidth", "latency"),
    "clusters": ("title", "device", "levels"),
    "stacks": ("title", "attention", "collectives", "like", "versions"),
}
# what a narrow terminal keeps beside the name: a device's title says what its name does
_KEPT = {
    "devices": ("memory", "memory_bandwidth", "bf16"),
    "fabrics": ("kind", "bandwidth", "latency"),
    "clusters": ("title",),
    "models": ("parameters",),
}
_SEARCH = "words are looked for with `meshwise catalog WORDS`"


class EntriesRecord(TypedDict):
    """The JSON of all entries of a kind, or of all kinds: a row each."""

    schema: int
    kind: str
    entries: list[dict[str, object]]


class FieldRecord(TypedDict):
    """A field of an entry with its source."""

    field: str
    value: object
    source: object


class EntryRecord(TypedDict):
    """The JSON of one entry."""

    schema: int
    kind: str
    name: str
    note: object
    fields: list[FieldRecord]


class FoundEntry(TypedDict):
    """An entry that has the words that were looked for."""

    kind: str
    name: str
    title: str
    aliases: list[str]


class SearchRecord(TypedDict):
    """The JSON of a search."""

    schema: int
    kind: str
    words: str
    entries: list[FoundEntry]


# -- all kinds, and all entries of one -------------------------------------------------------------


def overview(kinds: Iterable[str]) -> EntriesRecord:
    """How many entries each kind has."""
    return {
        "schema": SCHEMA,
        "kind": "catalog",
        "entries": [
            {"kind": k, "entries": len(catalog.names(k)), "example": catalog.names(k)[0]}
            for k in kinds
        ],
    }


# Lists whose entries have no file of their own.
LISTS = ("families", "formats")


def list_entries(kind: str) -> EntriesRecord:
    """The model types that are read, or the formats that a model's name may end in, a row each."""
    if kind == "families":
        from meshwise.models.families.config import family_words, known_types

        rows: list[dict[str, object]]
        rows = [{"name": name, "family": family_words(name)} for name in known_types()]
    else:
        from meshwise.models.served.formats import named_formats

        rows = [dict(entry._asdict()) for entry in named_formats()]
    return {"schema": SCHEMA, "kind": kind, "entries": rows}


def kind_entries(kind: str) -> EntriesRecord:
    """All entries of a kind, with their main figures."""
    names = catalog.names(kind)
    rows = [_model_row(n) if kind == "models" else _row(kind, n) for n in names]
    return {"schema": SCHEMA, "kind": kind, "entries": rows}


def _row(kind: str, name: str) -> dict[str, object]:
    if kind == "stacks":
        said = _stack_table(name)
        return {"name": name, **{c: said.get(c, "") for c in _COLUMNS[kind]}}
    table = catalog.load(kind, name, kind)[1]
    found = {
        **table,
        **table.get("peak", {}),
        "levels": " × ".join(
            f"{lv['ranks']} {lv.get('fabric', 'custom')}" for lv in table.get("level", [])
        ),
    }
    return {"name": name, **{c: found.get(c, "") for c in _COLUMNS[kind]}}


def _stack_table(name: str) -> dict[str, object]:
    """What a stack's file says, with what it takes of the stack that it is like."""
    from meshwise.stacks.load import described

    found = described(name)
    versions = [
        " ".join(f"{k} {table[k]}" for k in ("from", "before") if k in table)
        for table in found.table.get("version", ())
    ]
    named = [name for table in found.table.get("variant", ()) for name in table["named"]]
    return found.switches | {
        "title": found.title,
        "like": found.like or "",
        "versions": ", ".join(versions + named),
    }


def stack_entry_record(name: str) -> EntryRecord:
    """A stack, or a version of one: every switch that it states or takes of the stack that it is like,
    in the order of records, with its source; then the versions and variants of its file."""
    from meshwise.stacks.load import described
    from meshwise.stacks.stack import NAMES

    found = described(name, "NAME")
    table: dict[str, object] = {"title": found.title}
    table |= {"like": found.like} if found.like else {}
    table |= {"ideal": True} if found.ideal else {}
    table |= {k: found.switches[k] for k in NAMES if k in found.switches}
    record = entry_record("stacks", found.name, table | {"source": found.sources})
    for key in ("version", "variant"):
        if key in found.table:
            record["fields"].append({"field": key, "value": found.table[key], "source": ""})
    return record


def _model_row(name: str) -> dict[str, object]:
    from meshwise.models.load import load_model
    from meshwise.models.parameters import parameters

    model = load_model(name)
    total = parameters(model)
    return {
        "name": name,
        "model_type": model.model_type,
        "parameters": total,
        "active_parameters": parameters(model, active=True),
        "layers": model.layers,
        "hidden": model.hidden,
        "size": format_count(total),
    }


def entries_page(record: EntriesRecord) -> Page:
    """A row per entry, or per kind."""
    rows = record["entries"]
    header = tuple(rows[0])
    table = Table(
        "",
        header,
        tuple(
            tuple(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()) for row in rows
        ),
        frozenset(i for i, k in enumerate(header) if isinstance(rows[0][k], str)),
        _KEPT.get(record["kind"], ()),
    )
    return Page(f"{record['kind']}: {len(rows)}", (table,))


def entries_line(record: EntriesRecord) -> str:
    """How many of what there are, and how to look for one."""
    rows, kind = record["entries"], record["kind"]
    if kind in LISTS:
        return f"{len(rows)} {kind}"
    if kind != "catalog":
        return (
            f"{len(rows)} {kind}; one in full with `meshwise catalog {kind[:-1]} NAME`; {_SEARCH}"
        )
    counted = ", ".join(f"{row['entries']} {row['kind']}" for row in rows)
    return f"{counted}; all of a kind with `meshwise catalog KIND`; {_SEARCH}"


# -- one entry -------------------------------------------------------------------------------------


def entry_record(kind: str, name: str, table: Mapping[str, object]) -> EntryRecord:
    """One entry: every field with its value and, where the file states one, its source."""
    sources = table.get("source", table.get("_source", {}))
    fields: list[FieldRecord] = []
    for key, value in table.items():
        if key == "source" and isinstance(value, dict):
            continue
        items = value.items() if isinstance(value, dict) else [(None, value)]
        for sub, item in items:
            field = key if sub is None else f"{key}.{sub}"
            source = (
                sources.get(field, sources.get(key, "")) if isinstance(sources, dict) else sources
            )
            fields.append(
                {"field": field, "value": item, "source": source if key != "source" else ""}
            )
    notes = sources.get("note", "") if isinstance(sources, dict) else ""
    return {"schema": SCHEMA, "kind": kind, "name": name, "note": notes, "fields": fields}


def file_text(kind: str, name: str) -> str:
    """An entry's file, to copy and change."""
    path = catalog.ROOT / kind / (name + catalog.SUFFIX.get(kind, ".toml"))
    return path.read_text(encoding="utf-8")


def _shown(value: object) -> str:
    """A field's value in words: lists joined, a level as its keys and values."""
    if isinstance(value, list):
        return "; ".join(_shown(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return str(value)


def _rows(record: EntryRecord) -> Iterator[tuple[str, str, str]]:
    for f in record["fields"]:
        value = f["value"]
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for index, item in enumerate(value):
                yield f"{f['field']}[{index}]", _shown(item), str(f["source"])
        else:
            yield f["field"], _shown(value), str(f["source"])


def entry_page(record: EntryRecord) -> Page:
    """A row per field."""
    rows = tuple(_rows(record))
    sourced = any(source for *_, source in rows)
    header = ("field", "value", "source") if sourced else ("field", "value")
    body = tuple(row[: len(header)] for row in rows)
    table = Table("", header, body, frozenset({0, 1, 2}), header)
    note = [str(record["note"])] if record["note"] else []
    return Page(f"{record['kind']}/{record['name']}", (table, *note))


def entry_line(record: EntryRecord) -> str:
    """How many fields an entry has, and what else shows them."""
    kind, name, fields = record["kind"], record["name"], record["fields"]
    said = f"{kind}/{name}: {len(fields)} fields"
    if kind == "models":
        return f"{said}; what it is made of with `meshwise model {name}`"
    return f"{said}; its file with `meshwise catalog {kind[:-1]} {name} --toml`"


# -- words looked for ------------------------------------------------------------------------------


def search_record(words: str, kinds: Sequence[str]) -> SearchRecord:
    """All entries that have each of the words in their name, another name or their title, in the order
    of the kinds; refused where none has."""
    asked = words.split()
    found: list[FoundEntry] = []
    for kind in kinds:
        others: dict[str, list[str]] = {}
        for alias, name in catalog.aliases(kind).items():
            others.setdefault(name, []).append(alias)
        for name in catalog.names(kind):
            title, aliases = _title(kind, name), sorted(others.get(name, []))
            if asked and _has(asked, [name, title, *aliases]):
                found.append({"kind": kind, "name": name, "title": title, "aliases": aliases})
    if not found:
        raise _nothing(words, kinds)
    return {"schema": SCHEMA, "kind": "search", "words": words, "entries": found}


def _title(kind: str, name: str) -> str:
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


def _nothing(words: str, kinds: Sequence[str]) -> InputError:
    from meshwise.models.served.nearest import nearest_preset

    others = [kind for kind in kinds if kind != "models"]
    known = [n for kind in others for n in (*catalog.names(kind), *catalog.aliases(kind))]
    close = difflib.get_close_matches(words.lower()[:100], [*kinds, *known], n=1, cutoff=0.7)
    model = nearest_preset(words)  # of models only the same one
    close = [model] if model is not None else close
    return InputError(
        f"KIND: {quoted(words)} is no kind, and no name or title of the catalog has it",
        field="KIND",
        value=words,
        legal=kinds,
        nearest=close[0] if close else None,
    )


def search_page(record: SearchRecord) -> Page:
    """What was found, a table for each kind."""
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
        for kind in dict.fromkeys(e["kind"] for e in rows)
    ]
    return Page(
        f"{quoted(record['words'])}: {len(rows)} {'entry' if len(rows) == 1 else 'entries'}",
        tuple(tables),
    )


def search_line(record: SearchRecord) -> str:
    """How many entries have the words, and which come first."""
    rows = record["entries"]
    first = ", ".join(f"{e['kind'][:-1]} {e['name']}" for e in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"{quoted(record['words'])}: {first}{more}"
