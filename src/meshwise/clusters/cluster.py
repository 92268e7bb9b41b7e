"""A device, a level of its fabric, and the cluster that they make: the types, each checking itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from meshwise import catalog, dtypes
from meshwise.checks import (
    a,
    among,
    check_fields,
    flag,
    keywords,
    not_a,
    number,
    optional,
    quantity,
    text,
    texts,
    tuple_of,
    whole,
)
from meshwise.errors import InputError
from meshwise.strict_tables import MAX_COUNT, count, one_of
from meshwise.units import BANDWIDTH, BYTES, RATE, TIME

FABRIC_KINDS = (
    "nvswitch",
    "nvlink-mesh",
    "nvlink-bridge",
    "pcie",
    "pcie-host",
    "infinity-fabric",
    "ici",
    "gaudi-mesh",
    "socket",
    "network",
    "shared-memory",
)
WIDE = ("bf16", "fp16", "fp32")  # one of them prices what no narrow unit can run
PEAK_KEYS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "nvfp4", "int4")


def _generation(value: object, field: str) -> str:
    """One whose kernels the catalog names (``kernels/index.json``)."""
    return one_of(value, field, tuple(catalog.aliases("kernels")))


def _kernels(value: object, field: str) -> str:
    return one_of(value, field, catalog.names("kernels"))


def _peaks(value: object, field: str) -> Any:
    """Rates by number format, one of them of a wide one."""
    if not isinstance(value, dict):
        raise not_a("a table of rates", field, value, '{"bf16": 312e12}')
    rate = quantity(RATE)
    found = {
        dtypes.known(one_of(k, field, PEAK_KEYS)) or k: rate(v, f"{field}.{k}")
        for k, v in value.items()
    }
    if not any(key in found for key in WIDE):
        raise InputError(
            f"{field}: no rate for {', '.join(WIDE[:-1])} or {WIDE[-1]}",
            field=field,
            value=sorted(found),
            legal='one of them, such as {"bf16": 312e12}',
            nearest=WIDE[0],
        )
    return value if found == value else found


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One accelerator, in SI units; :meth:`of` takes figures with their units.

    :param name: as the catalog has it.
    :param title: its name for people.
    :param generation: whose kernels it runs, unless ``kernels`` names them: one of
        ``catalog/kernels/index.json``.
    :param memory_bytes: size of its memory [bytes].
    :param memory_bytes_per_s: bandwidth of its memory [bytes/s].
    :param peak_flops_per_s: dense matrix rates by number format, without sparsity [FLOP/s].
    :param fabric: what usually joins such devices inside a node.
    :param multiprocessors: what a kernel's tiles are spread over.
    :param kernels: file of the catalog's kernels that it inherits; None: its generation's.
    :param training_clock: clock under a training step's load over that of short measurements.
    :param training_clock_narrow: the same for products of operands of 8 bits and fewer, which draw
        less power per operation; None: as ``training_clock``.
    :param product_share: share of its peak that products reach, over that of the card whose kernels
        it inherits.
    :param memory_share: share of its bandwidth that reads reach, over that of the card whose kernels
        it inherits.
    :param sources: where each figure is from.
    :raises InputError: for a figure that no device has; ``field`` is ``device.…``.

    >>> import meshwise as mw
    >>> device = mw.Device.of(
    ...     "mine", memory="80 GB", memory_bandwidth="3 TB/s", peak={"bf16": "800 TFLOP/s"}
    ... )
    >>> node = mw.Level.of(8, kind="nvswitch", bandwidth="400 GB/s", latency="1 us")
    >>> cluster = mw.Cluster(name="mine", title="a node of mine", device=device, levels=(node,))
    >>> mw.estimate("llama-3.1-8b", cluster, mw.Decode(batch=8, context=1024), tp=8).fits
    True
    """

    name: str
    title: str
    generation: str
    memory_bytes: float
    memory_bytes_per_s: float
    peak_flops_per_s: dict[str, float]
    fabric: str | None = None  # what usually joins such devices inside a node
    multiprocessors: int | None = None  # what a kernel's tiles are spread over
    kernels: str | None = None  # file of kernels that it inherits; None: its generation's
    training_clock: float = 1.0  # under a training step's load, over that of short measurements
    training_clock_narrow: float | None = None  # of products in 8 bits and fewer; None: the same
    product_share: float = 1.0  # of its peak that products reach, over the inherited kernels' card
    memory_share: float = 1.0  # of its bandwidth that reads reach, over the inherited kernels' card
    sources: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_fields(self, _DEVICE, "device")
        if self.kernels is None:  # what is known of its generation prices it
            _generation(self.generation, "device.generation")

    @classmethod
    @keywords
    def of(
        cls,
        name: str,
        *,
        memory: str | None = None,
        memory_bandwidth: str | None = None,
        peak: Mapping[str, str] | None = None,
        like: str | None = None,
        generation: str | None = None,
    ) -> Device:
        """A device from figures with their units, as the ``[device]`` of a cluster file has them.

        :param name: what answers call it.
        :param memory: its size, such as ``"80 GB"``.
        :param memory_bandwidth: such as ``"3.35 TB/s"``.
        :param peak: dense matrix rates by number format, such as ``{"bf16": "989 TFLOP/s"}``.
        :param like: a device of the catalog, which has what is not said here.
        :param generation: whose kernels it runs (one of ``GENERATIONS``); where neither this nor
            ``like`` says it, answers call its efficiencies inherited.
        :raises InputError: for a figure that is missing, has no unit or another quantity's.

        >>> from meshwise import Device
        >>> Device.of("mine", like="h100-80gb-sxm", memory="96 GB").memory_bytes
        96000000000.0
        """
        from meshwise.clusters.load import device_of

        given = {"memory": memory, "memory_bandwidth": memory_bandwidth, "peak": peak}
        return device_of(text(name, "name"), {**given, "like": like, "generation": generation})


_DEVICE = {
    "name": text,
    "title": text,
    "generation": text,
    "kernels": optional(_kernels),
    "memory_bytes": quantity(BYTES),
    "memory_bytes_per_s": quantity(BANDWIDTH),
    "peak_flops_per_s": _peaks,
    "fabric": optional(text),
    "multiprocessors": optional(whole(1, 100_000)),
    "training_clock": number(0.01, 1.0),
    "training_clock_narrow": optional(number(0.01, 1.0)),
    "product_share": number(0.01, 2.0),
    "memory_share": number(0.01, 1.0),
    "sources": texts,
}


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One level of the fabric: domains of the level below, joined; :meth:`of` takes units.

    :param name: such as ``node``.
    :param ranks: how many domains of the level below it joins (of the innermost: devices).
    :param fabric: its entry of the fabric catalog, or ``custom``.
    :param kind: one of ``FABRIC_KINDS``.
    :param bandwidth_bytes_per_s: per device and direction; with ``nics`` per NIC (port), and a domain
        of the level below shares its NICs [bytes/s].
    :param latency_s: of one hop of a small message [s].
    :param peer_to_peer: devices write into each other's memory.
    :param in_switch: switches add up (NVLink SHARP, SHARP).
    :param nics: NICs of a domain of the level below; None: no NICs.
    :param oversubscription: how much less the upper tiers carry than the NICs.
    :param efficiency: share of the wire rate that collectives reach; None: the measured fit's.
    :param own_latency: ``latency_s`` was stated for this level, so no fit's is taken.
    :param assumed: nobody named the fabric: it is the device's usual one.
    :param pcie_host: of PCIe with peer access, what is between the cards: ``switch`` or ``root`` (root
        ports of the processors); None: not known.
    :raises InputError: for a figure that no fabric has; ``field`` is ``level.…``.

    >>> import meshwise as mw
    >>> network = mw.Level.of(4, fabric="ib-ndr", nics=8)
    >>> network.per_device_bytes_per_s(8) == network.bandwidth_bytes_per_s
    True
    """

    name: str
    ranks: int
    fabric: str
    kind: str
    bandwidth_bytes_per_s: float
    latency_s: float
    peer_to_peer: bool = False
    in_switch: bool = False
    nics: int | None = None
    oversubscription: float = 1.0
    efficiency: float | None = None  # share of the wire rate that collectives reach; None = fit
    own_latency: bool = False  # latency_s was stated for this level: one step takes it, no fit's
    assumed: bool = False  # the file names no fabric: the device's usual one
    pcie_host: str | None = None  # PCIe with peer access: what is between the cards

    def __post_init__(self) -> None:
        check_fields(self, _LEVEL, "level")
        if self.pcie_host is not None and self.kind != "pcie":
            raise InputError(
                f"level.pcie_host={self.pcie_host} has no meaning on a level of kind {self.kind}",
                field="level.pcie_host",
                value=self.pcie_host,
                legal="a level of kind pcie",
            )

    @classmethod
    @keywords
    def of(
        cls,
        ranks: int,
        *,
        fabric: str | None = None,
        kind: str | None = None,
        bandwidth: str | None = None,
        latency: str | None = None,
        name: str | None = None,
        nics: int | None = None,
        oversubscription: float = 1.0,
        peer_to_peer: bool | None = None,
        in_switch: bool | None = None,
        efficiency: float | None = None,
        pcie_host: str | None = None,
    ) -> Level:
        """A level from figures with their units, as a ``[[level]]`` of a cluster file has them.

        :param ranks: domains of the level below that it joins (of the innermost: devices).
        :param fabric: an entry of the fabric catalog, which has what is not said here; without it
            ``kind``, ``bandwidth`` and ``latency`` are needed.
        :param kind: one of ``FABRIC_KINDS``.
        :param bandwidth: per device (with ``nics``: per NIC) and direction, such as ``"450 GB/s"``.
        :param latency: of one hop of a small message, such as ``"2 us"``.
        :param name: None: ``node``, or ``cluster`` where the level is a network.
        :param nics: NICs that a domain of the level below shares.
        :param oversubscription: how much less the upper tiers carry than the NICs.
        :param peer_to_peer: devices write into each other's memory (None: unless it is a network).
        :param in_switch: switches add up (NVLink SHARP) (None: as the fabric does).
        :param efficiency: share of the wire rate that collectives reach (None: the measured fit).
        :param pcie_host: of PCIe, what is between the cards: ``"switch"``, ``"root"`` or
            ``"host-memory"`` (None: not known), or a word of ``nvidia-smi topo``.
        :raises InputError: for a figure that is missing, has no unit or another quantity's.

        >>> from meshwise import Level
        >>> Level.of(8, fabric="nvlink4-nvswitch").kind
        'nvswitch'
        """
        from meshwise.clusters.load import level_of

        given: dict[str, object] = {
            "ranks": ranks,
            "fabric": fabric,
            "kind": kind,
            "bandwidth": bandwidth,
        }
        given |= {"latency": latency, "name": name, "nics": nics, "efficiency": efficiency}
        given |= {"peer_to_peer": peer_to_peer, "in_switch": in_switch, "pcie_host": pcie_host}
        return level_of({**given, "oversubscription": oversubscription})

    def per_device_bytes_per_s(self, devices_below: int) -> float:
        """Wire rate per device and direction when all ``devices_below`` the level communicate."""
        rate = self.bandwidth_bytes_per_s
        if self.nics is not None:
            rate = rate * self.nics / devices_below
        return rate / self.oversubscription


_LEVEL = {
    "name": text,
    "ranks": whole(1, MAX_COUNT),
    "fabric": text,
    "kind": among(*FABRIC_KINDS),
    "bandwidth_bytes_per_s": quantity(BANDWIDTH),
    "latency_s": quantity(TIME),
    "peer_to_peer": flag,
    "in_switch": flag,
    "nics": optional(whole(1, 4096)),
    "oversubscription": number(1.0, 1000.0),
    "efficiency": optional(number(0.01, 1.0)),
    "own_latency": flag,
    "assumed": flag,
    "pcie_host": optional(among("switch", "root")),
}


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A device and its fabric levels, innermost first.

    :param name: what answers call it.
    :param title: its name for people.
    :param device: a :class:`Device`.
    :param levels: one :class:`Level` or several, innermost first; devices are the product of ranks.
    :param source: where its figures are from.
    :param asked: the name that was given, where it is a device's and this is its usual node.
    :raises InputError: for a field that is not what it has to be; ``field`` is ``cluster.…``.

    >>> import meshwise as mw
    >>> node = mw.cluster("hgx-h100").levels[0]
    >>> mw.Cluster(
    ...     name="mine", title="one node", device=mw.cluster("hgx-h200").device, levels=(node,)
    ... ).devices
    8
    """

    name: str
    title: str
    device: Device
    levels: tuple[Level, ...]
    source: str = ""
    asked: str = ""  # the name that was given, where it is a device's and this is its usual node

    def __post_init__(self) -> None:
        check_fields(self, _CLUSTER, "cluster")
        count(self.devices, "product of all level.ranks")

    @property
    def devices(self) -> int:
        total = 1
        for level in self.levels:
            total *= level.ranks
        return total

    @property
    def node_devices(self) -> int:
        """Devices that a network of NICs joins: all levels below the first level with NICs."""
        total = 1
        for level in self.levels:
            if level.kind == "network":
                break
            total *= level.ranks
        return total

    def domain_sizes(self) -> tuple[int, ...]:
        """Devices in one domain of each level: cumulated ranks, innermost first."""
        sizes, total = [], 1
        for level in self.levels:
            total *= level.ranks
            sizes.append(total)
        return tuple(sizes)


_CLUSTER = {
    "name": text,
    "title": text,
    "device": a(Device),
    "levels": tuple_of(a(Level), "Level"),
    "source": text,
    "asked": text,
}
