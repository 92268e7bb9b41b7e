"""Reads the matrix of ``nvidia-smi topo -m``: devices and NICs of a machine and what is between each two."""

from __future__ import annotations

import re

from meshwise.clusters.pcie_hosts import TOPOLOGY_WORDS
from meshwise.errors import quoted
from meshwise.evidence.readers.records import FileFound, FileRow, RefusedLine
from meshwise.evidence.readers.topology.matrix import asymmetry, topology_row

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_HEAD = re.compile(r"\s*((?:GPU\d+\s+)*GPU\d+)\b\s*(.*)")
_GPU = re.compile(r"GPU\d+")
_NIC = re.compile(
    r"(?:mlx\w+|NIC\d+|bnxt\w+|irdma\w+|efa\w*|rdmap\w+|ibp\w+|roce\w*|hfi\w*|rxe\w*)"
)
_LINK = re.compile(r"X|NV\d+|PIX|PXB|PHB|NODE|SYS|SOC|PSB")
_PEER = {"OK", "NS", "CNS", "GNS", "TNS", "DR", "U"}  # words of the matrix that -p2p prints
_EXPECTED = "a link (NV#, PIX, PXB, PHB, NODE or SYS) to each device expected"


class _Matrix:
    def __init__(self, line: int, names: list[str], nics: list[str], certain: bool) -> None:
        self.line, self.names, self.nics = line, names, nics
        self.certain = certain  # affinities or NICs are headed, which no other matrix has
        self.links: dict[str, list[str]] = {}
        self.nearest: dict[str, str] = {}  # of each device, the link to its nearest NIC


class NvidiaTopology:
    """The matrices of a text; what ``-p2p`` prints has other words, and is left."""

    def __init__(self) -> None:
        self._done: list[FileRow] = []
        self._refused: list[RefusedLine] = []
        self._open: _Matrix | None = None

    @property
    def marks(self) -> tuple[str, ...]:
        """Words that its lines have."""
        return ("GPU",)

    def feed(self, number: int, line: str) -> None:
        """One line of the text."""
        if self._open is None and "GPU0" not in line and "GPU1" not in line:
            return
        line = _ESCAPES.sub("", line)
        head = _HEAD.fullmatch(line)
        certain = head is not None and ("Affinity" in head[2] or bool(_nics(head[2])))
        if head and (certain or not head[2].strip()) and not _cells_of(head[2]):
            self._close()
            named = head[1].split()
            if len(named) == len(set(named)):
                self._open = _Matrix(number, named, _nics(head[2]), certain)
            return
        if self._open is not None:
            self._row(number, line)

    def _row(self, number: int, line: str) -> None:
        matrix = self._open
        assert matrix is not None
        name, *cells = line.split() or [""]
        if name in matrix.names:
            links = cells[: len(matrix.names)]
            wrong = next((c for c in links if not _LINK.fullmatch(c)), None)
            if not matrix.links and (wrong in _PEER or (wrong is not None and not matrix.certain)):
                self._open = None  # another matrix of the same devices
                return
            if len(links) < len(matrix.names) or wrong is not None:
                said = quoted(wrong if wrong is not None else line.strip())
                self._refused.append(RefusedLine(number, f"{_EXPECTED}, found {said}"))
                self._open = None
                return
            matrix.links[name] = links
            near = [c for c in cells[len(links) :][: len(matrix.nics)] if c in _ORDER]
            if near:
                matrix.nearest[name] = min(near, key=_ORDER.index)
        elif not _NIC.fullmatch(name) and line.strip():
            self._close()

    def _close(self) -> None:
        matrix, self._open = self._open, None
        if matrix is None:
            return
        missing = [n for n in matrix.names if n not in matrix.links]
        if missing:
            if matrix.links or matrix.certain:
                at = matrix.line + 1 + len(matrix.links)
                self._refused.append(RefusedLine(at, f"a line of {missing[0]} expected: cut short"))
            return
        links = [matrix.links[n] for n in matrix.names]
        odd = asymmetry(matrix.names, links)
        if odd is not None:
            self._refused.append(RefusedLine(matrix.line, odd))
            return
        near = sorted(set(matrix.nearest.values()), key=_ORDER.index)
        self._done.append(
            topology_row(
                matrix.line,
                matrix.names,
                links,
                nics=len(matrix.nics) or None,
                nearest_nic=", ".join(near) or None,
                **_hosts(matrix.names, links),
            )
        )

    def found(self) -> FileFound:
        """The machines, one a matrix."""
        if self._open is not None:
            self._close()
        return FileFound("topology", "nvidia-smi topo -m", self._done, self._refused)


_ORDER = ("X", "PIX", "PXB", "PSB", "PHB", "NODE", "SOC", "SYS")


def _cells_of(rest: str) -> list[str]:
    return [word for word in rest.split() if _LINK.fullmatch(word)]


def _nics(rest: str) -> list[str]:
    return [word for word in rest.split() if _NIC.fullmatch(word)]


def _hosts(names: list[str], links: list[list[str]]) -> dict[str, str]:
    """What is between cards that have no NVLink: the worst of it, in the words of clusters' files."""
    words = {links[i][j] for i in range(len(names)) for j in range(i)}
    plain = words - {w for w in words if w.startswith("NV")}
    worst = max(plain, key=_ORDER.index) if plain else ""
    host = TOPOLOGY_WORDS.get(worst.lower())
    return {"pcie_host": host} if host else {}
