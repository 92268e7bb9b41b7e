"""Reads the matrices of ``rocm-smi --showtopo``: weights, hops and link types between the devices of a machine."""

from __future__ import annotations

import re

from meshwise.errors import quoted
from meshwise.evidence.readers.records import FileFound, FileRow, RefusedLine
from meshwise.evidence.readers.topology.matrix import topology_row

_TITLE = re.compile(r"=+ (Weight|Hops|Link Type) between two GPUs =+")
_HEAD = re.compile(r"\s*GPU\d+(?:\s+GPU\d+)*\s*")
_NUMA = re.compile(r"GPU\[(\d+)\]\s*:.*Numa Node:\s*(-?\d+)")
_CELLS = {
    "Weight": re.compile(r"\d+|N/A"),
    "Hops": re.compile(r"\d+|N/A"),
    "Link Type": re.compile(r"0|X|XGMI|PCIE|N/A"),
}


class RocmTopology:
    """The machines of a text: a matrix of each kind makes one."""

    def __init__(self) -> None:
        self._rows: list[FileRow] = []
        self._refused: list[RefusedLine] = []
        self._names: list[str] = []
        self._matrices: dict[str, dict[str, list[str]]] = {}
        self._title, self._line = "", 0
        self._numa: dict[int, int] = {}

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return ("GPU",) if self._title else ("between two GPUs", "Numa Node")

    def feed(self, number: int, line: str) -> None:
        """One line of the text."""
        if "GPU" not in line:
            return
        title = _TITLE.search(line)
        if title:
            if title[1] in self._matrices:
                self._close()
            self._title, self._line = title[1], self._line or number
            self._matrices[self._title] = {}
            return
        numa = _NUMA.search(line)
        if numa:
            self._numa[int(numa[1])] = int(numa[2])
        elif self._title and _HEAD.fullmatch(line):
            self._names = line.split()
        elif self._title and line.split()[0] in self._names:
            self._cells(number, line)

    def _cells(self, number: int, line: str) -> None:
        name, *cells = line.split()
        legal = _CELLS[self._title]
        wrong = next((c for c in cells if not legal.fullmatch(c)), None)
        if len(cells) != len(self._names) or wrong is not None:
            said = quoted(wrong if wrong is not None else line.strip())
            why = f"a {self._title.lower()} for each device expected, found {said}"
            self._refused.append(RefusedLine(number, why))
            return
        self._matrices[self._title][name] = cells

    def _close(self) -> None:
        types, hops = self._matrices.get("Link Type", {}), self._matrices.get("Hops", {})
        names, line = self._names, self._line
        self._matrices, self._title, self._line = {}, "", 0
        if not line:
            return
        short = next((n for n in names if n not in types), None)
        if not names or short is not None:
            if not self._refused:
                what = f"of {short} " if short else ""
                self._refused.append(RefusedLine(line, f"link types {what}expected: cut short"))
            return
        links = [
            ["X" if i == j else types[a][j] for j in range(len(names))] for i, a in enumerate(names)
        ]
        far = [int(h) for row in hops.values() for h in row if h.isdigit()]
        self._rows.append(
            topology_row(
                line,
                names,
                links,
                hops_most=max(far, default=None),
                numa_nodes=len(set(self._numa.values())) or None,
            )
        )
        self._numa = {}

    def found(self) -> FileFound:
        """The machines."""
        self._close()
        return FileFound("topology", "rocm-smi --showtopo", self._rows, self._refused)
