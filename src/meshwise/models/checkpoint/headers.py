"""Headers of safetensors files: names, types, shapes and places of tensors; nothing of the data is read.

A file is eight bytes of length, that many bytes of JSON, and the data
(https://github.com/huggingface/safetensors, *Format*). The data has no gap, and no byte of it is in two
tensors. What is wrong with a file is said in one line before anything large is read or made.
"""

# os.path and not pathlib: a checkpoint of a thousand shards is read at every answer
# ruff: noqa: PTH116, PTH119

from __future__ import annotations

import math
import os
import stat
from typing import Any, NamedTuple

import msgspec

from meshwise.errors import InputError, quoted, shorten

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
LARGEST_INDEX = LARGEST_HEADER
# Bits of an element, by the format's names of types.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_SHOWN = 4  # names that one line repeats


class StoredEntry(NamedTuple):
    """A tensor as a header has it; ``offset`` [byte] is where its data begins in the file."""

    name: str
    dtype: str  # a key of BITS
    shape: tuple[int, ...]
    bytes: int
    file: str
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def file_refusal(path: str, what: str, field: str, legal: str = "") -> InputError:
    """One line on a file. ``field`` is the argument that named it; a model's path names itself."""
    shown = shorten(path) if len(path) <= 80 else "…" + shorten(path[-79:])
    return InputError(
        f"{shown}: {what}" if field == "model" else f"{field}={shown}: {what}",
        field=field,
        value=path,
        legal=legal or "a folder or file of safetensors",
    )


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shorten(n, 100) for n in names[:_SHOWN]) + more


def file_size(path: str, field: str) -> int:
    """Bytes of a regular file; refused where something else, or nothing that can be read, is there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise file_refusal(path, "there is no such file", field) from None
    except (OSError, ValueError) as error:  # no permission, a loop of links, a NUL byte
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise file_refusal(path, reason[:1].lower() + reason[1:], field) from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise file_refusal(path, f"is {what} where a file belongs", field)
    return status.st_size


def _opening(path: str, field: str) -> tuple[bytes, int]:
    """(header, size of the file)."""
    size = file_size(path, field)
    try:
        # Between stat and open the path may become a FIFO: O_NONBLOCK keeps that from blocking.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or (length > size - 8 and length <= LARGEST_HEADER):
                raise file_refusal(
                    path, f"is truncated or no safetensors: {size:,} bytes in all", field
                )
            if length > LARGEST_HEADER:
                raise file_refusal(
                    path,
                    f"says that its header is {length:,} bytes long: truncated, or no safetensors",
                    field,
                    f"a header of at most {LARGEST_HEADER:,} bytes",
                )
            return file.read(length), size
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise file_refusal(path, reason[:1].lower() + reason[1:], field) from None


def read_header(path: str, field: str) -> dict[str, StoredEntry]:
    """The tensors of a safetensors file, in the order of their data.

    Raises :class:`InputError` where the file is not what the format says it has to be.
    """
    header, size = _opening(path, field)
    try:
        table = msgspec.json.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            header.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"its header is no JSON, nor UTF-8 (byte {error.start})"
            raise file_refusal(path, what, field) from None
        raise file_refusal(path, "its header is no JSON", field) from None
    if not isinstance(table, dict):
        raise file_refusal(path, "its header is no table of tensors", field)
    table.pop("__metadata__", None)
    # every entry by itself
    data = 8 + len(header)
    places = []
    for name, entry in table.items():
        kind, shape, start, stop = _entry(path, name, entry, field)
        if data + stop > size:
            raise file_refusal(
                path,
                f"is truncated: {shorten(name)} ends at byte {data + stop:,} of {size:,}",
                field,
            )
        places.append(
            (start, stop, StoredEntry(name, kind, shape, stop - start, path, data + start))
        )
    # all of them beside each other: no gap, and no byte in two tensors
    end = 0
    for start, stop, found in sorted(places):
        if start != end:
            raise file_refusal(
                path,
                f"{shorten(found.name)} begins at byte {start:,} of the data, not {end:,}",
                field,
            )
        end = stop
    if data + end != size:
        raise file_refusal(
            path, f"has {size - data - end:,} bytes that are no tensor's, at its end", field
        )
    return {found.name: found for _, _, found in places}


def _entry(path: str, name: str, entry: Any, field: str) -> tuple[str, tuple[int, ...], int, int]:
    """(type, shape, first byte, byte after the last) of a header's entry, in the file's data."""
    try:
        kind, shape = entry["dtype"], tuple(entry["shape"])
        start, stop = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise file_refusal(path, f"the entry of {shorten(name)} is damaged", field) from None
    if not isinstance(kind, str) or kind not in BITS:
        raise file_refusal(
            path, f"{shorten(name)} is stored as {shorten(kind)}", field, ", ".join(BITS)
        )
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise file_refusal(
            path, f"{shorten(name)}: its shape or place is no list of whole numbers", field
        )
    if 8 * (stop - start) != math.prod(shape) * BITS[kind]:
        raise file_refusal(
            path,
            f"{shorten(name)}: {stop - start} bytes for {shorten(list(shape))} of {kind}",
            field,
        )
    return kind, shape, start, stop


class Index(NamedTuple):
    """An index of shards: the tensors that it says are in each file, and the bytes of all."""

    shards: dict[str, list[str]]
    total_bytes: int | None


def read_index(path: str, field: str) -> Index:
    """A ``*.index.json``: ``weight_map`` from tensor to file, and ``metadata.total_size``."""
    size = file_size(path, field)
    if size > LARGEST_INDEX:
        legal = f"at most {LARGEST_INDEX:,} bytes"
        raise file_refusal(path, f"is {size:,} bytes long, too long for an index", field, legal)
    shards: dict[str, list[str]] = {}
    try:
        with open(path, "rb") as file:
            content = msgspec.json.decode(file.read(LARGEST_INDEX))
        for tensor, name in content["weight_map"].items():
            shards.setdefault(name, []).append(tensor)
        metadata = content.get("metadata")
        inside = all(isinstance(n, str) and os.path.basename(n) == n and n for n in shards)
    except (OSError, RecursionError, msgspec.DecodeError, KeyError, TypeError, AttributeError,
            UnicodeDecodeError):  # fmt: skip
        raise file_refusal(path, "is no index of safetensors (weight_map)", field) from None
    if not inside:
        odd = next(n for n in shards if not isinstance(n, str) or os.path.basename(n) != n or not n)
        raise file_refusal(path, f"names files outside its folder ({quoted(odd)})", field)
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    number = isinstance(total, int | float) and not isinstance(total, bool)
    if total is not None and not (number and 0 <= total < 1 << 60):
        what = f"metadata.total_size: {quoted(str(total))} is no number of bytes"
        raise file_refusal(path, what, field, f"an integer from 0 to {(1 << 60) - 1}")
    return Index(dict(sorted(shards.items())), None if total is None else int(total))
