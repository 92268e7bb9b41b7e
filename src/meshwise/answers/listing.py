"""The catalog's entries as records and tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from meshwise import catalog
from meshwise.answers.text.tables import Page, Table
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


def overview(kinds: Iterable[str]) -> dict[str, Any]:
    """How many entries each kind has."""
    return {
        "schema": 1,
        "kind": "catalog",
        "entries": [
            {"kind": k, "entries": len(catalog.names(k)), "example": catalog.names(k)[0]}
            for k in kinds
        ],
    }


def entries(kind: str) -> dict[str, Any]:
    """All entries of a kind, with their main figures."""
    if kind == "models":
        return {"schema": 1, "kind": kind, "entries": [_model_row(n) for n in catalog.names(kind)]}
    rows = []
    for name in catalog.names(kind):
        table = catalog.load(kind, name, kind)[1] if kind != "stacks" else _stack_table(name)
        flat = {
            **table,
            **table.get("peak", {}),
            "levels": " × ".join(
                f"{lv['ranks']} {lv.get('fabric', 'custom')}" for lv in table.get("level", [])
            ),
        }
        rows.append({"name": name, **{c: flat.get(c, "") for c in _COLUMNS[kind]}})
    return {"schema": 1, "kind": kind, "entries": rows}


def _stack_table(name: str) -> dict[str, Any]:
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


def stack_entry(name: str) -> dict[str, Any]:
    """A stack, or a version of one: every switch that it states or takes of the stack that it is like,
    in the order of records, with its source; then the versions and variants of its file."""
    from meshwise.stacks.load import described
    from meshwise.stacks.stack import NAMES

    found = described(name, "NAME")
    table: dict[str, Any] = {"title": found.title}
    table |= {"like": found.like} if found.like else {}
    table |= {"ideal": True} if found.ideal else {}
    table |= {k: found.switches[k] for k in NAMES if k in found.switches}
    releases = {k: found.table[k] for k in ("version", "variant") if k in found.table}
    record = entry("stacks", found.name, table | {"source": found.sources})
    record["fields"] += [{"field": k, "value": v, "source": ""} for k, v in releases.items()]
    return record


def _model_row(name: str) -> dict[str, Any]:
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


def entry(kind: str, name: str, table: dict[str, Any]) -> dict[str, Any]:
    """One entry: every field with its value and, where the file states one, its source."""
    sources = table.get("source", table.get("_source", {}))
    fields = []
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
    return {"schema": 1, "kind": kind, "name": name, "note": notes, "fields": fields}


def file_text(kind: str, name: str) -> str:
    path = catalog.ROOT / kind / (name + catalog.SUFFIX.get(kind, ".toml"))
    return path.read_text(encoding="utf-8")


def entries_page(records: dict[str, Any]) -> Page:
    rows = records["entries"]
    header = tuple(rows[0])
    table = Table(
        "",
        header,
        tuple(
            tuple(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()) for row in rows
        ),
        frozenset(i for i, k in enumerate(header) if isinstance(rows[0][k], str)),
        _KEPT.get(records["kind"], ()),
    )
    return Page(f"{records['kind']}: {len(rows)}", (table,))


def _shown(value: Any) -> str:
    """A field's value in words: lists joined, a level as its keys and values."""
    if isinstance(value, list):
        return "; ".join(_shown(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return str(value)


def _rows(record: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for f in record["fields"]:
        if isinstance(f["value"], list) and f["value"] and isinstance(f["value"][0], dict):
            for index, item in enumerate(f["value"]):
                yield f"{f['field']}[{index}]", _shown(item), str(f["source"])
        else:
            yield f["field"], _shown(f["value"]), str(f["source"])


def entry_page(record: dict[str, Any]) -> Page:
    rows = tuple(_rows(record))
    sourced = any(source for *_, source in rows)
    header = ("field", "value", "source") if sourced else ("field", "value")
    body = tuple(row[: len(header)] for row in rows)
    table = Table("", header, body, frozenset({0, 1, 2}), header)
    return Page(
        f"{record['kind']}/{record['name']}", (table, *([record["note"]] if record["note"] else []))
    )
