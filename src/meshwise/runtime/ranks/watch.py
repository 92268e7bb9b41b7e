"""What every rank of a host does now, on a board that its launcher reads."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

RECORD = 256  # bytes: calls entered, inside or not, since when, pid, length of the text, text
_HEAD = struct.Struct("<qqdqq")
_ROOM = RECORD - _HEAD.size


class PeerLost(RuntimeError):
    """Another rank has ended, or did not come in time: never what went wrong first."""


class Entry(NamedTuple):
    """A rank's record: the collective that it is in, or was in last, for ``since_s``."""

    rank: int
    text: str
    since_s: float
    inside: bool
    calls: int
    pid: int


class Board:
    """A mapped file with one record per local rank. A record that is read while it is written may mix
    two texts; nobody waits."""

    def __init__(self, path: str, ranks: int, rank: int | None) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), ranks * RECORD)
        self.ranks, self._rank, self._count = ranks, rank, 0
        self.last = ""  # collective
        if rank is not None:
            self._write(b"starting", False)

    @classmethod
    def create(cls, path: str, ranks: int) -> Board:
        Path(path).write_bytes(bytes(ranks * RECORD))
        return cls(path, ranks, None)

    @classmethod
    def open(cls, path: str, ranks: int, rank: int) -> Board:
        return cls(path, ranks, rank)

    def enter(self, text: str) -> None:
        """A collective begins."""
        self._count += 1
        self.last = text
        self._write(text.encode()[:_ROOM], True)

    def leave(self) -> None:
        """It has ended; its text stays."""
        assert self._rank is not None
        begin = self._rank * RECORD
        struct.pack_into("<qd", self._map, begin + 8, 0, time.monotonic())

    def note(self, text: str) -> None:
        """Something that is no collective goes on: reading weights, compute."""
        self._write(text.encode()[:_ROOM], False)

    def _write(self, text: bytes, inside: bool) -> None:
        assert self._rank is not None
        begin = self._rank * RECORD
        _HEAD.pack_into(
            self._map, begin, self._count, inside, time.monotonic(), os.getpid(), len(text)
        )
        self._map[begin + _HEAD.size : begin + _HEAD.size + len(text)] = text

    def read(self) -> list[Entry]:
        """Every rank's record; a rank that has not opened the board yet has pid 0."""
        now, found = time.monotonic(), []
        for rank in range(self.ranks):
            raw = self._map[rank * RECORD : (rank + 1) * RECORD]
            count, inside, since, pid, length = _HEAD.unpack_from(raw)
            text = raw[_HEAD.size : _HEAD.size + min(length, _ROOM)].decode(errors="replace")
            found.append(Entry(rank, text, now - since if pid else 0.0, bool(inside), count, pid))
        return found


class _Nobody(Board):
    """Where no launcher reads."""

    def __init__(self) -> None:
        self.last = ""

    def enter(self, text: str) -> None:
        self.last = text

    def leave(self) -> None:
        pass

    def note(self, text: str) -> None:
        pass


_current: Board = _Nobody()


def board() -> Board:
    """This rank's."""
    return _current


def use(found: Board) -> None:
    global _current
    _current = found


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """This rank waits for others, unless it fails there."""
    _current.enter(text)
    yield
    _current.leave()


def waiting_lines(entries: list[Entry]) -> list[str]:
    """A line per rank: what it waits in, and who has not come."""
    lines = []
    for e in entries:
        if not e.pid:
            lines.append(f"rank {e.rank} has not started")
        elif e.inside:
            lines.append(f"rank {e.rank} waits in {e.text} ({e.since_s:.1f} s)")
        elif e.calls:
            lines.append(
                f"rank {e.rank} did not come: after {e.text} it has been elsewhere for "
                f"{e.since_s:.1f} s"
            )
        else:
            lines.append(f"rank {e.rank} did not come: {e.text} ({e.since_s:.1f} s)")
    return lines
