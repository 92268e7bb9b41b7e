"""The formats that a model's name may state (``catalog/checkpoint_formats.json``), and where one stands in it."""

from __future__ import annotations

import functools
import json
import re
from typing import Any, NamedTuple

from meshwise import catalog

# Who publishes other people's models in formats of their own: an entry of a model's own publisher is not theirs.
_QUANTISERS = ("nvidia", "redhatai", "neuralmagic", "amd")


class NamedFormat(NamedTuple):
    """A format that a name may end in."""

    name: str
    of: str  # whose checkpoints, where the format is not everybody's
    says: str
    source: str


@functools.cache
def format_table() -> dict[str, Any]:
    """The table as it is written: entries, and the pattern of formats that no name describes."""
    text = (catalog.ROOT / "checkpoint_formats.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def named_formats() -> list[NamedFormat]:
    """Every format that a name describes."""
    return [
        NamedFormat(e["name"], ", ".join(_whose(e)), says(e), e["source"])
        for e in format_table()["entries"]
    ]


def says(entry: dict[str, Any]) -> str:
    """What an entry's checkpoints have, in words; that they were calibrated for a narrow cache too, which
    engines then keep."""
    cache = entry.get("config", {}).get("kv_cache_quant_algo")
    return f"{entry['says']}; KV cache in {cache}" if cache else str(entry["says"])


def _whose(entry: dict[str, Any]) -> list[str]:
    own = [entry["of"]] if "of" in entry else []
    return [*own, *entry.get("publishers", ()), *entry.get("presets", ())]


def format_parts(key: str) -> list[tuple[str, str]]:
    """(name without it, format) for whatever may be a format: those that a name describes before others,
    the longest first and the last first."""
    table = format_table()
    known = re.compile("|".join(f"(?:{e['pattern']})" for e in table["entries"]))
    other = re.compile(table["not_priced"])
    cuts = [m.start() for m in re.finditer(r"[-.@:]", key)]
    spans = [(at, end) for at in cuts for end in (*cuts, len(key)) if at < end]
    spans.sort(key=lambda span: (span[0] - span[1], -span[0]))
    found = [
        (a, z) for pattern in (known, other) for a, z in spans if pattern.fullmatch(key[a + 1 : z])
    ]
    return [(key[:a] + key[z:], key[a + 1 : z]) for a, z in found]


def without_format(key: str) -> tuple[str, str]:
    """(a name without its format, the format): two models are not alike because both are in FP8."""
    found = format_parts(key)
    return found[0] if found else (key, "")


def format_entry(said: str, preset: str, publisher: str, named: str = "") -> dict[str, Any] | None:
    """The table's entry of a format of a preset, which is ``named`` so: the first whose pattern and
    publisher agree; None where it is one of theirs that no name describes."""
    table = format_table()
    if any(
        re.fullmatch(e["pattern"], said) and _is_whose(e, preset, publisher)
        for e in table["not_described"]
    ):
        return None
    for entry in table["entries"]:
        if "named" in entry and not re.fullmatch(entry["named"], named):
            continue
        if re.fullmatch(entry["pattern"], said) and _is_whose(entry, preset, publisher):
            found: dict[str, Any] = entry
            return found
    return None


def _is_whose(entry: dict[str, Any], preset: str, publisher: str) -> bool:
    """Whether an entry is that of a publisher's checkpoint of a preset."""
    only, whose = entry.get("presets"), entry.get("publishers")
    if only is not None:
        return preset in only and publisher in ("", entry["of"])
    if whose is None or publisher in whose or publisher + "/" in whose:
        return True
    return publisher not in _QUANTISERS and any(preset.startswith(w) for w in whose)
