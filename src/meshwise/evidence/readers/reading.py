"""Reads a file of whatever kind: told by its structure, streamed where it is a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from meshwise.errors import InputError, shorten
from meshwise.evidence.readers.documents import DocumentKind, JsonObject, json_objects, xml_root
from meshwise.evidence.readers.kinds import (
    FILE_KINDS,
    document_kinds,
    text_readers,
    xml_kinds,
)
from meshwise.evidence.readers.lines import TextFile, cannot_read
from meshwise.evidence.readers.records import FileFound, RefusedLine

MAX_ROWS = 1_000_000  # of one file
_JSON = re.compile(rb"\s*(?:\{\s*[\"}]|\[\s*\{)")
_XML = re.compile(rb"\s*<[?!a-z]")


def read_file(name: str) -> list[FileFound]:
    """What stands in a file, one entry per kind.

    :raises InputError: where it cannot be read, or is of no kind that is.
    """
    file = TextFile(name)
    try:
        found = _read(file)
    finally:
        file.close()
    found = [f for f in found if f.rows or f.refused]
    if not found:
        raise cannot_read(name, "is of no kind that is read", kinds_in_words())
    if sum(len(f.rows) for f in found) > MAX_ROWS:
        raise cannot_read(name, f"has more than {MAX_ROWS:,} rows", "a part of it")
    return found


def kinds_in_words() -> str:
    """The kinds of files that are read."""
    return "; ".join(dict.fromkeys(kind.title for kind in FILE_KINDS))


def _read(file: TextFile) -> list[FileFound]:
    if file.encoding == "utf-8" and _XML.match(file.head):
        text = file.content()
        root = xml_root(text, file.name)
        if root is not None:
            return [kind.read(root) for kind in xml_kinds() if kind.claims(root)]
    if file.encoding == "utf-8" and _JSON.match(file.head):
        return _read_json(file)
    return _read_text(file.blocks())


def _read_json(file: TextFile) -> list[FileFound]:
    """A JSON document, or lines of JSON; a log that only begins as one is a text."""
    text = file.content()
    objects = json_objects(text)
    if objects is None or not objects.found:
        plain = [f for f in _read_text([(1, text)]) if f.rows or f.refused]
        if plain or objects is None:
            return plain
        broken = objects.refused[0]
        raise cannot_read(file.name, broken.reason, line=broken.line)
    claimed: dict[int, list[JsonObject]] = {}
    kinds, refused = document_kinds(), list(objects.refused)
    for item in objects.found:
        index = _claimed_by(kinds, item)
        if index is None:
            refused.append(RefusedLine(item.line, "keys of a kind that is read expected"))
        else:
            claimed.setdefault(index, []).append(item)
    if not claimed:
        return [f for f in _read_text([(1, text)]) if f.rows or f.refused]
    found = [kinds[index].read(items) for index, items in claimed.items()]
    first = found[0]
    return [first._replace(refused=[*first.refused, *refused]), *found[1:]]


def _claimed_by(kinds: list[DocumentKind], item: JsonObject) -> int | None:
    return next((i for i, kind in enumerate(kinds) if kind.claims(item.content)), None)


def _read_text(blocks: Iterable[tuple[int, str]]) -> list[FileFound]:
    """What all readers of texts find. A block without any of a reader's marks is not shown to it: logs of any
    length are mostly of other things."""
    readers = text_readers()
    for first, text in blocks:
        lines: list[str] = []
        for reader in readers:
            if any(mark in text for mark in reader.marks):
                lines = lines or text.split("\n")
                for number, line in enumerate(lines, start=first):
                    reader.feed(number, line)
    return [reader.found() for reader in readers]


def first_refusal(name: str, refused: Iterable[RefusedLine], skip: str) -> InputError | None:
    """The error for the first line that cannot be used; None where all can. ``skip``: the keyword that
    leaves such lines out."""
    every = sorted(refused)
    if not every:
        return None
    more = f" (and {len(every) - 1} more)" if len(every) > 1 else ""
    where = f"{shorten(name)}, line {every[0].line}" if every[0].line else shorten(name)
    return InputError(
        f"files: {where}: {every[0].reason}{more}",
        field="files",
        value=name,
        legal=f"a whole file, or `{skip}=True` for what is good of it",
    )
