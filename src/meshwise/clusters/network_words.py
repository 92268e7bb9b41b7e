"""A network in a person's words ("RoCE 16x100 Gb/s per node", "2x NDR200") → a level of a cluster.

What the words leave open (the NICs, their rate, the kind) is the device's usual, and is named.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.clusters import names as cluster_names
from meshwise.clusters.load import Cluster, load_cluster
from meshwise.errors import InputError, quoted
from meshwise.units import BANDWIDTH, parse_quantity

# What a network is called → its family, the first that is found; then the family's catalog fabrics.
_FAMILIES = (
    ("tcpxo", r"tcp-?xo"),
    ("tcpx", r"tcp-?x\b"),
    ("ethernet", r"\btcp\b|sockets?\b|\bena\b|\bgvnic\b|ib_disable\s*=\s*1"),
    ("efa", r"\befa(v?\d)?\b"),
    ("slingshot", r"slingshot|\bcxi\b"),
    ("roce", r"\brocev?\d?\b|spectrum-?x"),
    (
        "ib",
        r"infini-?band|\bib\b|(\b|(?<=\dx))[fehnx]dr(\d{2,3})?\b|quantum|connectx|\bcx-?\d\b|mlx5|verbs",
    ),
    ("rdma", r"omni-?path|\bopa\b|\brdma\b"),
    ("ethernet", r"ethernet|\d\s*g(b|ig)?e\b"),
)
_FABRICS = {
    "tcpxo": ("gcp-tcpxo",),
    "tcpx": ("gcp-tcpx",),
    "efa": ("efa-40", "efa-50", "efa-100", "efa-200", "efa-400"),
    "slingshot": ("slingshot-11",),
    "roce": ("roce-25", "roce-50", "roce-100", "roce-200", "roce-400", "roce-800"),
    "ib": ("ib-edr", "ib-hdr100", "ib-hdr", "ib-ndr200", "ib-ndr", "ib-xdr"),
    "rdma": ("omni-path-100",),
    "ethernet": tuple(f"ethernet-{n}" for n in (1, 10, 25, 40, 50, 100, 200, 400)),
}
_STAGED = {"efa": "efa-50", "roce": "roce-200-host", "ib": "roce-200-host", "rdma": "roce-200-host"}
_NO_GPUDIRECT = (
    r"(\bno|without|\bdisabled?) (gpu-?direct|gdr)|(gpu-?direct|gdr)( rdma)? (is )?(off|disabled)"
)
NETWORK_FORMS = (
    "InfiniBand (EDR, HDR, NDR, XDR), RoCE, EFA, Slingshot, GPUDirect-TCPX, TCP or Ethernet, with NICs and"
    " rate such as 8x400 Gb/s; or empty"
)

# Gb/s of a port by its name.
_SPEED = {"fdr": 56.0, "edr": 100.0, "hdr": 200.0, "ndr": 400.0, "xdr": 800.0}
_CARD = {"4": 100.0, "5": 100.0, "6": 200.0, "7": 400.0, "8": 800.0}  # ConnectX generations
_UNIT = (
    r"(?P<unit>GB/s|GBps|GByte/s|[Tt]b/s|[Tt]bps|[Tt]bit/s|[Gg]b/s|[Gg]bps|[Gg]bits?/s|[Gg]bit|GbE|GigE|gbe"
    r"|Gb|GE|G)(?![A-Za-z0-9])"
)
_RATE = re.compile(
    rf"(?:(?P<count>\d+)\s*[xX*]\s*)?(?P<rate>\d+(?:\.\d+)?)[\s-]*{_UNIT}(?:\s*[x*]\s*(?P<after>\d+)\b)?"
)
_BARE = re.compile(r"(?P<count>\d+)\s*[x*]\s*(?P<rate>25|40|50|56|100|200|400|800)(?![\w.]|\s*x)")
_NAMED = re.compile(
    r"(?:\b|(?<=\dx))(?P<name>[fehnx]dr)-?(?P<rate>\d{2,3})?\b(?:\s*x\s*(?P<after>\d{1,2})\b)?",
    re.IGNORECASE,
)
_CONNECTX = re.compile(r"\b(?:connectx|cx)-?(?P<generation>\d)", re.IGNORECASE)
_WIDTH = re.compile(r"\b(?:1|2|4|8|12)X(?=\s*(?:FDR|EDR|HDR|NDR|XDR))")  # lanes of a port
_THING = r"(?:nics?|hcas?|ports?|rails?|adapters?|cards?|cables?|links?)\b"
_KIND = (
    r"(?:infiniband|ib|roce|efa|rdma|[fehnx]dr\d*|connectx-?\d|cx-?\d|mellanox|slingshot|ethernet)"
)
_COUNT = re.compile(
    rf"(?<![\d.x])(\d{{1,2}})\s*(?:x\s*{_KIND}|x?\s*(?:{_KIND}\s+){{0,2}}{_THING})", re.IGNORECASE
)
_WORD_COUNT = re.compile(
    rf"\b(one|single|two|dual|four|quad|eight)[\s-]+(?:{_KIND}\s+)?{_THING}", re.IGNORECASE
)
_NUMBERS = {"one": 1, "single": 1, "two": 2, "dual": 2, "four": 4, "quad": 4, "eight": 8}
_PER_DEVICE = re.compile(r"(?:per|each|/)\s*(?:rank|gpu|device|accelerator|die|gcd)\b", re.I)
_PER_NODE = re.compile(r"per (?:node|host|server|vm|instance)\b|in (?:all|total)|aggregate", re.I)
_RACKS = re.compile(r"(?:(\d+|one|a|single)\s+)?(?:gb\d+[\s-]*)?nvl-?(\d+)\b", re.IGNORECASE)
_IMPOSSIBLE = re.compile(r"(?:^|\s)-\d|\b0\s*[xX*]\s*\d|\b0+(?:\.0+)?\s*(?:[GgTt][Bb]|NICs?\b)")
_NOTHING = re.compile(r"^\W*$|^(unknown|none|n/?a|not stated)\W*$|not stated|unknown", re.I)

FASTEST_PORT = 800.0  # Gb/s: more is what a node's ports come to
# Slower than this no maker sells RDMA today: what is called by its rate alone is then Ethernet.
SLOWEST_RDMA = 25.0
# Ethernet between nodes of GPUs at this rate of a port and above is RoCE, if its words do not say TCP.
ROCE_FROM = 200.0


class NetworkWords(NamedTuple):
    """What the words say: a level (None: all ranks share one domain of links), how many devices such a
    domain has (None: a node's), by which fabric; and what of it is the usual of the device."""

    level: dict[str, Any] | None
    domain: int | None = None
    inside: str | None = None
    assumed: str = ""
    unsure: bool = False  # whether the rate of a node's network rests on what is assumed


def network_of_words(text: str, device: str, per_node: int, ranks: int) -> NetworkWords:
    """The network that joins nodes of ``per_node`` devices, ``ranks`` in all.

    Raises :class:`InputError` where the words name no network.
    """
    cell = _WIDTH.sub(" ", text.replace("×", "x"))
    domain, inside = _rack(cell, device, per_node, ranks)
    family = _family(cell)
    if domain is not None and (domain >= ranks):
        return NetworkWords(None, domain, inside)
    nics, rate, per_device = _ports(cell)
    if family is None and rate is None and nics is None and not _NOTHING.search(cell):
        raise InputError(
            f"{quoted(text)} names no network that is known",
            field="inter_node",
            value=text,
            legal=NETWORK_FORMS,
        )
    devices = domain or per_node
    if per_device and (nics is not None or rate is not None):
        nics = (nics or 1) * devices
    usual = usual_network(device, devices, family)
    unsure = rate is None or (family is None and nics is None)
    guessed = family is None or rate is None
    if family is None:
        slow = rate is not None and rate < 2 * SLOWEST_RDMA
        family = "ethernet" if slow else usual.family
    elif family == "ethernet" and rate is not None and rate >= ROCE_FROM and not _sockets(cell):
        family, guessed = "roce", True
    rate = usual.gbits if rate is None else rate
    if nics is None and (rate > FASTEST_PORT or _PER_NODE.search(cell)):
        nics = max(1, round(rate / usual.gbits))  # the rate is what all ports of a node come to
        rate = rate / nics
    elif nics is None:
        several = family in ("ib", "roce", "efa", "slingshot", "rdma") and devices > 1
        nics = max(1, round(usual.nics * min(1.0, usual.gbits / rate))) if several else 1
        guessed = guessed or devices > 1
        unsure = unsure or several
    elif devices == 1 and not per_device and usual.node > 1:
        nics = max(1, nics // usual.node)  # one device of a node drives the NICs beside it
    fabric = _fabric_of(family, rate, bool(re.search(_NO_GPUDIRECT, cell, re.IGNORECASE)))
    level = {"name": "cluster", "fabric": fabric, "bandwidth": f"{rate:g} Gb/s", "nics": nics}
    assumed = f"{fabric} {nics}x{rate:g} Gb/s" if guessed else ""
    return NetworkWords(level, domain, inside, assumed, unsure)


class UsualNetwork(NamedTuple):
    """A network as such devices usually have it: Gb/s and number of NICs of a node of so many."""

    family: str
    gbits: float
    nics: int
    node: int  # devices of the usual node


def usual_network(device: str, devices: int, family: str | None = None) -> UsualNetwork:
    """The usual network of nodes with ``devices`` of a device: of a family, if a cluster of the catalog
    with this device has one."""
    found: list[tuple[str, Cluster]] = []
    for name, _ in cluster_names.nodes_of(device):
        cluster = load_cluster(name)
        own = _family_of(cluster.levels[-1].fabric)
        if own is not None and cluster.levels[-1].nics:
            found.append((own, cluster))
    fit = [f for f in found if f[0] == family] or found
    if not fit:
        table = catalog.load("devices", device, "device")[1]
        inside = str(table.get("fabric", ""))
        if family == "ethernet" or inside.endswith("-host"):
            return UsualNetwork(family or "ethernet", 25.0, 1, devices)
        new = table["generation"] in ("hopper", "blackwell")
        few = max(1, devices // 4) if inside.startswith("pcie") else devices
        return UsualNetwork(family or "ib", 400.0 if new else 200.0, few, devices)
    own, cluster = fit[0]
    level, node = cluster.levels[-1], cluster.node_devices
    nics = max(1, round((level.nics or 1) * devices / node))
    return UsualNetwork(family or own, level.bandwidth_bytes_per_s * 8e-9, nics, node)


def _family(cell: str) -> str | None:
    text = cell.lower()
    return next((f for f, words in _FAMILIES if re.search(words, text)), None)


def _sockets(cell: str) -> bool:
    return re.search(r"tcp|socket|\bena\b|gvnic|ib_disable", cell.lower()) is not None


def _family_of(fabric: str) -> str | None:
    return next((f for f, names in _FABRICS.items() if fabric in names), None)


def _rack(cell: str, device: str, per_node: int, ranks: int) -> tuple[int | None, str | None]:
    """(devices of one domain of links that spans nodes, its fabric), where the words name one."""
    rack = _RACKS.search(cell)
    links = re.search(r"\bnvlink|\bmnnvl", cell, re.IGNORECASE)
    if rack is None and not (links and device.startswith(("gb2", "gb3", "gh2"))):
        return None, None
    size = int(rack[2]) if rack else 72
    racks = {"one": 1, "a": 1, "single": 1}.get((rack[1] or "").lower()) if rack else 1
    racks = int(rack[1]) if rack and (rack[1] or "").isdigit() else racks
    domain = min(size, ranks) if racks is None else -(-ranks // racks)
    if domain > size or domain % per_node or ranks % domain:
        raise InputError(
            f"{quoted(cell)}: {ranks} ranks do not fill domains of {size} devices evenly",
            field="inter_node",
            value=cell,
            legal=f"a multiple of {per_node} ranks in each domain, {size} at most",
        )
    usual = str(catalog.load("devices", device, "device")[1].get("fabric", ""))
    return domain, "nvlink5-nvl72" if usual.startswith("nvlink5") else usual or None


def _ports(cell: str) -> tuple[int | None, float | None, bool]:
    """(NICs, Gb/s of one, whether they are each device's), None where the words do not say."""
    if _IMPOSSIBLE.search(cell):
        raise _unclear(cell)
    text = _CONNECTX.sub(lambda m: m[0].replace("-", ""), cell)
    rates = [(_gbits(m), int(m["count"] or m["after"] or 0)) for m in _RATE.finditer(text)]
    rates = rates or [(float(m["rate"]), int(m["count"])) for m in _BARE.finditer(text)]
    counts = [int(m[1]) for m in _COUNT.finditer(text)]
    counts += [_NUMBERS[m[1].lower()] for m in _WORD_COUNT.finditer(text)]
    nics = next((n for _, n in rates if n), 0) or next(iter(counts), 0)
    rate = _one_rate(cell, rates)
    named = _NAMED.search(text)
    if rate is not None and not nics:
        whole = max(r for r, _ in rates)
        nics = round(whole / rate) if whole > rate else 0
    nics = nics or int((named and named["after"]) or 0)
    if rate is None:
        card = _CONNECTX.search(text)
        if named:
            rate = float(named["rate"] or _SPEED[named["name"].lower()])
        elif card:
            rate = _CARD.get(card["generation"])
    if nics and not 1 <= nics <= 256:
        raise _unclear(cell)
    return nics or None, rate, bool(_PER_DEVICE.search(cell))


def _one_rate(cell: str, rates: list[tuple[float, int]]) -> float | None:
    """The rate of one port among those that the words give: with its number of ports, or that of
    which the other one is the node's sum."""
    counted = {r for r, n in rates if n}
    every = counted or {r for r, _ in rates}
    if len(every) == 1:
        return next(iter(every))
    if len(every) == 2 and max(every) % min(every) == 0 and _PER_NODE.search(cell):
        return min(every)
    if every:
        raise _unclear(cell)
    return None


def _gbits(found: re.Match[str]) -> float:
    unit = found["unit"]
    times = 1000.0 if unit[0] in "tT" else 8.0 if unit.startswith(("GB/", "GBp", "GByte")) else 1.0
    return float(found["rate"]) * times


def _unclear(cell: str) -> InputError:
    return InputError(
        f"{quoted(cell)} gives several rates, or one or a number of ports that is impossible",
        field="inter_node",
        value=cell,
        legal=NETWORK_FORMS,
    )


def _fabric_of(family: str, gbits: float, staged: bool) -> str:
    """The family's catalog fabric with the nearest rate."""
    if staged and family in _STAGED:
        return _STAGED[family]

    def distance(name: str) -> float:
        table = catalog.load("fabrics", name, "fabric")[1]
        own = parse_quantity(table["bandwidth"], BANDWIDTH, "bandwidth") * 8e-9
        return max(own / gbits, gbits / own)

    return min(_FABRICS[family], key=distance)
