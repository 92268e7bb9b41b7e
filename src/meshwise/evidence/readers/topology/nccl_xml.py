"""Reads the topology that NCCL and RCCL dump (``NCCL_TOPO_DUMP_FILE``) or are given (``NCCL_TOPO_FILE``)."""

from __future__ import annotations

from xml.etree import ElementTree

from meshwise.evidence.readers.records import (
    FileFound,
    FileRow,
    RefusedLine,
    count_or_none,
    without_empty,
)

_FORM = "NCCL topology XML"
_SWITCH = "0x068000"  # PCI class of an NVSwitch


def claims_topology(root: ElementTree.Element) -> bool:
    """Whether XML is a topology of NCCL: a system of CPUs."""
    return root.tag in ("system", "systems") and root.find(".//cpu") is not None


def read_topology(root: ElementTree.Element) -> FileFound:
    """The machines of a file."""
    systems = [root] if root.tag == "system" else root.findall("system")
    rows, refused = list[FileRow](), list[RefusedLine]()
    for system in systems:
        row = _machine(system)
        if isinstance(row, str):
            refused.append(RefusedLine(1, row))
        else:
            rows.append(row)
    return FileFound("topology", _FORM, rows, refused)


def _machine(system: ElementTree.Element) -> FileRow | str:
    gpus = system.findall(".//gpu")
    if not gpus:
        return "at least one gpu in the system expected"
    links = [
        sum(count_or_none(n.get("count")) or 0 for n in g if n.tag in ("nvlink", "xgmi"))
        for g in gpus
    ]
    switched = any(n.get("tclass") == _SWITCH for g in gpus for n in g.findall("nvlink"))
    kinds = {str(g.get("sm") or g.get("gcn") or "") for g in gpus}
    if len(kinds) > 1:
        return f"devices of one kind expected, found {', '.join(sorted(kinds))}"
    nets = system.findall(".//net")
    speeds = [s for n in nets if (s := count_or_none(n.get("speed")))]  # Mb/s
    if len(speeds) != len(nets):
        return "a speed above 0 of each net expected"
    # how fast the slowest slot of a device is: a rate per lane and lanes, from the device's own entry
    slots = [_slot_bytes_per_s(p) for p in system.iter("pci") if p.find("gpu") is not None]
    known = [s for s in slots if s is not None]
    return FileRow(
        1,
        without_empty(
            {
                "devices": len(gpus),
                "cpus": len(system.findall("cpu")),
                "compute_capability": kinds.pop(),
                "nvlinks_least": min(links) or None,
                "nvlinks_most": max(links) or None,
                "nvlink_switch": switched or None,
                "nics": len(nets) or None,
                "nic_bytes_per_s": min(speeds) * 1e6 / 8 if speeds else None,
                "pcie_bytes_per_s": min(known) if known else None,
                "gdr": all(n.get("gdr") == "1" for n in nets) if nets else None,
            }
        ),
    )


def _slot_bytes_per_s(pci: ElementTree.Element) -> float | None:
    """Bytes per second and direction of a PCIe slot: transfers per second and lane are bits, but for their
    coding (8 of 10 up to 5 GT/s, 128 of 130 beyond)."""
    words = str(pci.get("link_speed") or "").split()
    lanes = count_or_none(pci.get("link_width"))
    try:
        rate = float(words[0])
    except (IndexError, ValueError):
        return None
    if lanes is None or rate <= 0.0:
        return None
    coded = 0.8 if rate <= 5.0 else 128 / 130
    return rate * 1e9 * coded * lanes / 8
