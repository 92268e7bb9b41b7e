"""Names of clusters as people and clouds write them: ``8xH100``, ``h100x8``, ``ml.p4d.24xlarge``.

So many of a device are the node of the catalog that has as many of it, or a part of that node where its
switch or its host gives every device the same rate whatever their number. The nearest of an unknown name
is a shape of the same family of the same cloud, then a node of the device that the name holds.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from meshwise import catalog
from meshwise.errors import UnknownName, closest, quoted, unknown_name

_COUNTED = (
    re.compile(r"(?P<n>\d{1,3})[ -]?[x×*][ -]?(?P<device>[a-z0-9].*)"),
    re.compile(r"(?P<device>[a-z0-9].*?)[ -]?[x×*:][ -]?(?P<n>\d{1,3})"),
    re.compile(r"(?P<device>[a-z0-9].*?)-(?P<n>\d{1,3})x"),
    re.compile(r"(?P<device>[a-z0-9].*?)-(?P<n>1|2|4|8|16)"),  # more is a size of memory
)
_SHAPE = re.compile(r"(?P<family>[a-z]+\d+[a-z]*)[.-](?P<size>.+)")
_WORDS = re.compile(r"[^a-z0-9]+")
CLOUDS = ("aws-", "azure-", "gcp-", "oci-")


class CountedDevices(NamedTuple):
    """So many of a device."""

    device: str
    number: int


def _key(name: str) -> str:
    return name.strip().lower().replace("_", "-").removeprefix("ml.")  # SageMaker's


def canonical_cluster(name: str) -> str | None:
    """The cluster of the catalog that a name stands for; None if there is none."""
    return catalog.canonical("clusters", name) or catalog.canonical("clusters", _key(name))


def counted_devices(name: str) -> CountedDevices | None:
    """The device and the number that a name such as ``8xH100`` says."""
    key = _key(name)
    for pattern in _COUNTED:
        found = pattern.fullmatch(key)
        device = catalog.canonical("devices", found["device"]) if found else None
        if found and device and int(found["n"]) > 0:
            return CountedDevices(device, int(found["n"]))
    return None


@functools.cache
def _devices() -> dict[str, tuple[str, int]]:
    """cluster → (its device, devices of a node)."""
    found = {}
    for name in catalog.names("clusters"):
        table = catalog.load("clusters", name, "cluster")[1]
        node = 1
        for i, level in enumerate(table["level"]):
            fabric = str(level.get("fabric", ""))
            if i and not fabric.startswith("socket"):
                break
            node *= level["ranks"]
        if isinstance(table["device"], str):
            found[name] = (catalog.canonical("devices", table["device"]) or "", node)
    return found


def nodes_of(device: str) -> list[tuple[str, int]]:
    """(cluster, devices of a node) with this device, the makers' and ordinary ones before clouds'."""
    own = [(name, n) for name, (d, n) in _devices().items() if d == device]
    usual = catalog.aliases("clusters")
    named = {usual.get(device)} | {
        usual.get(alias) for alias, d in catalog.aliases("devices").items() if d == device
    }
    return sorted(own, key=lambda c: (c[0] not in named, c[0].startswith(CLOUDS), c[0]))


def usual_node(device: str) -> str | None:
    """The one cluster that is the usual node of a device: the one that the catalog gives a name of the
    device to, else the only one that is no cloud's, else the only one; None where several are."""
    own = [name for name, _ in nodes_of(device)]
    spelt = {device, *(alias for alias, d in catalog.aliases("devices").items() if d == device)}
    named = {cluster for alias, cluster in catalog.aliases("clusters").items() if alias in spelt}
    makers = [name for name in own if not name.startswith(CLOUDS)]
    for found in (sorted(named & set(own)), makers, own):
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _family(key: str) -> str | None:
    """A shape of the same family of a cloud: g5.24xlarge is nearest to g5.12xlarge."""
    asked = _SHAPE.fullmatch(key.removeprefix("standard-"))
    if asked is None:
        return None
    alike = [
        alias
        for alias in catalog.aliases("clusters")
        if (shape := _SHAPE.fullmatch(alias)) and shape["family"] == asked["family"]
    ]
    near = closest(key, alike)
    return near[0] if near else next(iter(alike), None)


def _device_in(key: str) -> str | None:
    """The device that some words of a name name, the longest such."""
    words = [w for w in _WORDS.split(key) if w]
    words += [w.lstrip("0123456789").lstrip("x") for w in words]  # 8xh100
    words += [part for w in words for part in re.findall(r"[a-z]+\d+", w)]  # h100sxm
    runs = ["-".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    known = [d for run in sorted(runs, key=len, reverse=True) if (d := _exact_device(run))]
    return known[0] if known else None


def exact_device(name: str) -> str | None:
    """The device that a name is, in whatever spelling; None where it says anything more."""
    return catalog.canonical("devices", name) or catalog.canonical("devices", _key(name))


def _of_device(field: str, name: str, device: str) -> UnknownName:
    """The error for a device's name, where no cluster or several are its node."""
    nodes = [cluster for cluster, _ in nodes_of(device)]
    many = f"{len(nodes)} clusters of the catalog have it" if nodes else "no cluster has it"
    own = f'a TOML file with device = "{device}"'
    return UnknownName(
        f"{field}: {quoted(name)} is a device, and {many}",
        field=field,
        value=name,
        legal=f"{', '.join(nodes)}; or {own}" if nodes else own,
        nearest=nodes[0] if nodes else None,
    )


def nearest_device(name: str, by_letters: str | None) -> str | None:
    """The device that a name is nearest to: by a slip of the fingers, else that of the node that the
    name is nearest to, else by letters."""
    if by_letters is not None and _typed_badly(_key(name), by_letters):
        return by_letters
    return _device_of_node(name) or by_letters


def _device_of_node(name: str) -> str | None:
    near = canonical_cluster(name) or nearest_cluster(name)
    found = canonical_cluster(near) if near is not None else None
    return _devices()[found][0] if found in _devices() else _device_in(_key(name))


def _exact_device(text: str) -> str | None:
    return catalog.canonical("devices", text) if re.search(r"[a-z]", text) else None


def nearest_cluster(name: str) -> str | None:
    """The cluster that an unknown name is nearest to; None where nothing tells."""
    key = _key(name)
    exact = _exact_device(key)
    if exact is not None and (nodes := nodes_of(exact)):
        return nodes[0][0]
    shape = _family(key)
    if shape is not None:
        return shape
    asked = counted_devices(name)
    device = asked.device if asked else _device_in(key)
    if device is not None and (nodes := nodes_of(device)):
        last = re.search(r"[.-](\d{1,2})g?$", key)  # BM.GPU.L40S.4
        n = asked.number if asked else int(last[1]) if last else 0
        return min(nodes, key=lambda c: abs(c[1] - n) if n else 0)[0]
    return None


def unknown_cluster(field: str, name: str) -> UnknownName:
    """The error for a name that is no cluster."""
    device = exact_device(name)
    if device is not None:
        return _of_device(field, name, device)
    everything = [*catalog.names("clusters"), *catalog.aliases("clusters")]
    error = unknown_name(field, name, catalog.names("clusters"), "cluster (or TOML file)")
    key = _key(name)
    typo = next((n for n in closest(key, everything) if _typed_badly(key, n)), None)
    error.nearest = _family(key) or typo or nearest_cluster(name)
    asked = counted_devices(name)
    device = asked.device if asked else _device_in(key)
    listed = f"{len(catalog.names('clusters'))} names, see `meshwise catalog clusters`"
    if typo is None and device is not None and (nodes := nodes_of(device)):
        several = _in_nodes(asked) if asked is not None else ""
        error.legal = f"{several}{', '.join(c for c, _ in nodes[:6])} ({listed})"
    elif error.nearest is None:
        error.legal = f"{listed}; so many of a device, such as 8xH100; or a TOML file"
    return error


def _in_nodes(asked: CountedDevices) -> str:
    """So many of a device as several nodes of a cluster that has a network: ``16xH100``; nothing where
    they do not fill them."""
    for name, each in nodes_of(asked.device):
        levels = catalog.load("clusters", name, "cluster")[1]["level"]
        grows = len(levels) > 1 and not str(levels[-1].get("fabric", "")).startswith("socket")
        if grows and asked.number > each and asked.number % each == 0:
            return f"`cluster={name}, nodes={asked.number // each}`; "
    return ""


def _typed_badly(asked: str, name: str) -> bool:
    """Whether a name differs by a slip of the fingers, its numbers being the same."""
    import difflib

    same = re.findall(r"\d+", asked) == re.findall(r"\d+", name)
    begun = len(asked) > 2 and name.startswith(asked)
    return begun or (same and difflib.SequenceMatcher(None, asked, name).ratio() > 0.8)
