"""The matrix of links between devices of one machine, as ``nvidia-smi topo -m`` and ``rocm-smi --showtopo`` print it, and the
row that it makes."""

from __future__ import annotations

import re

from meshwise.evidence.readers.records import FileRow, FileValue, without_empty

_NVLINKS = re.compile(r"NV(\d+)")


def topology_row(
    line: int, names: list[str], links: list[list[str]], **more: FileValue | None
) -> FileRow:
    """What a machine is: its devices, the links between each two of them, the words that occur, and the
    least of them."""
    pairs = [links[i][j] for i in range(len(names)) for j in range(len(names)) if i != j]
    counts: dict[str, int] = {}
    for word in pairs:
        counts[word] = counts.get(word, 0) + 1
    nvlinks = [int(found[1]) for word in pairs if (found := _NVLINKS.fullmatch(word))]
    values: dict[str, FileValue | None] = {
        "devices": len(names),
        "links": links,
        "link_words": ", ".join(f"{word} x{n // 2}" for word, n in sorted(counts.items())),
        "nvlinks_least": min(nvlinks) if len(nvlinks) == len(pairs) and nvlinks else None,
        "nvlinks_most": max(nvlinks, default=None),
        **more,
    }
    return FileRow(line, without_empty(values))


def asymmetry(names: list[str], links: list[list[str]]) -> str | None:
    """The first pair that is not the same both ways, or a device that is another's; None where there is none."""
    for i, a in enumerate(names):
        if links[i][i] != "X" or links[i].count("X") > 1:
            return f"X of {a} to itself alone expected"
        for j, b in enumerate(names[:i]):
            if links[i][j] != links[j][i]:
                return f"the same link both ways expected, found {a}-{b} {links[i][j]} and {b}-{a} {links[j][i]}"
    return None
