"""A header is read as the format says, or refused in one line; nothing large is read or made."""

from __future__ import annotations

import json
import os
import resource
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.models.checkpoint import written

from meshwise.errors import InputError
from meshwise.models.checkpoint.headers import BITS, read_header, read_index

TENSORS: dict[str, written.Shape] = {
    "b": ("F32", [2, 3]),
    "a": ("BF16", [5]),
    "scalar": ("F32", []),
    "none": ("I8", [0, 4]),
    "four": ("F4", [3, 2]),
}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_header(str(path), "model")
    message = str(caught.value)
    assert "\n" not in message and caught.value.field == "model"
    assert path.name in message
    return message


def test_every_tensor_has_its_place(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    total = written.write(file, TENSORS)
    found = read_header(str(file), "model")
    assert {n: (t.dtype, list(t.shape)) for n, t in found.items()} == TENSORS
    assert sum(t.bytes for t in found.values()) == total == 24 + 10 + 4 + 0 + 3
    start = file.stat().st_size - total
    place = start
    for name in TENSORS:
        assert found[name].offset == place
        place += found[name].bytes
    assert place == file.stat().st_size


def test_types_are_those_of_the_format() -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    known = {n: 8 * t.itemsize for n, t in safetensors._TYPES.items() if n in BITS}
    assert known == {n: BITS[n] for n in known} and len(known) > 10
    odd = set(safetensors._TYPES) - set(BITS)
    assert not odd, odd


def raw(path: Path, header: bytes, data: int = 0, length: int | None = None) -> Path:
    """A file with any header."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header) if length is None else length) + header)
        file.truncate(8 + len(header) + data)
    return path


def entry(**changes: Any) -> bytes:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return json.dumps({"x": one}).encode()


@pytest.mark.parametrize(
    "header, data, words",
    [
        (b"", 0, "no JSON"),
        (b"[1]", 0, "no table"),
        (b"{{", 0, "no JSON"),
        (b'{"x": "\xff"}', 0, "nor UTF-8 (byte 7)"),
        (b'{"x": 3}', 0, "damaged"),
        (entry(shape=[3]), 8, "8 bytes for [3] of F32"),
        (entry(dtype="F12"), 8, "stored as F12"),
        (entry(dtype="F4", shape=[3], data_offsets=[0, 1]), 1, "1 bytes for [3] of F4"),
        (entry(shape=[-2]), 8, "whole numbers"),
        (entry(shape=[2.0]), 8, "whole numbers"),
        (entry(shape=[2**70, 0], data_offsets=[0, 0]), 1, "no tensor's"),
        (entry(data_offsets=[8, 0]), 8, "-8 bytes"),
        (entry(data_offsets=[8, 16]), 16, "begins at byte 8"),
        (entry(data_offsets=[0]), 8, "damaged"),
        (entry(), 4, "ends at byte"),
        (entry(), 9, "1 bytes that are no tensor's"),
        (b"[" * 100_000, 0, "no JSON"),
    ],
)
def test_what_is_wrong_with_a_header(tmp_path: Path, header: bytes, data: int, words: str) -> None:
    assert words in refused(raw(tmp_path / "x.safetensors", header, data))


def test_tensors_that_overlap(tmp_path: Path) -> None:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    both = json.dumps({"x": one, "y": {**one, "data_offsets": [4, 12]}}).encode()
    assert "y begins at byte 4 of the data, not 8" in refused(raw(tmp_path / "x", both, 12))


@pytest.mark.parametrize("length", [10**9, 2**64 - 1, 100_000_001])
def test_a_length_that_no_header_has(tmp_path: Path, length: int) -> None:
    """It is refused by the eight bytes, however long the file is."""
    file = raw(tmp_path / "x", b"{}", 0, length)
    os.truncate(file, min(length + 100, 1 << 40))  # sparse
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"{length:,} bytes long" in refused(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_length_beyond_the_file(tmp_path: Path) -> None:
    assert "truncated" in refused(raw(tmp_path / "x", b"{}", 0, 5_000_000))
    (tmp_path / "y").write_bytes(b"1234")
    assert "4 bytes in all" in refused(tmp_path / "y")
    (tmp_path / "z").touch()
    assert "0 bytes in all" in refused(tmp_path / "z")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "is a folder where a file belongs" in refused(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refused(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert "symbolic links" in refused(tmp_path / "loop")
    assert "no such file" in refused(tmp_path / "gone")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no index"),
        ("[]", "no index"),
        ('{"weight_map": []}', "no index"),
        ('{"weight_map": {"a": 1}}', "outside its folder"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "outside its folder ('../x"),
        ('{"weight_map": {"a": ""}}', "outside its folder"),
        ('{"weight_map": {"a": ["x"]}}', "no index"),
    ],
)
def test_what_is_no_index(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_index(str(file), "model")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_index(tmp_path: Path) -> None:
    file = tmp_path / "i.json"
    for total, want in ((12, 12), (12.0, 12), (0, 0), (float("nan"), None)):
        table = {"metadata": {"total_size": total}, "weight_map": {"b": "2", "a": "1", "c": "2"}}
        file.write_text(json.dumps(table).replace("NaN", "null"))
        found = read_index(str(file), "model")
        assert found.shards == {"1": ["a"], "2": ["b", "c"]} and found.total_bytes == want
    for total in ("many", -1, [12], True, 1 << 61):
        file.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": {"b": "2"}}))
        with pytest.raises(InputError, match=r"metadata.total_size: .* is no number of bytes"):
            read_index(str(file), "model")
