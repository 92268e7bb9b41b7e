"""The public function :func:`collective`: one collective on a group of a cluster, by every algorithm; and
the same of several sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from meshwise.arguments import NameOrPath, whole_bytes
from meshwise.arrays import Array
from meshwise.checks import keywords, name_of
from meshwise.clusters.cluster import Cluster
from meshwise.clusters.load import load_cluster
from meshwise.cost.collectives import collective as coll
from meshwise.cost.collectives.anchors.factors import (
    Factors,
    anchored_sd,
    fit_factors,
    left_over,
    price_on,
    scaled,
)
from meshwise.cost.collectives.fabric import Candidate
from meshwise.cost.doubt.question import collective_question
from meshwise.cost.doubt.spread import NORMAL
from meshwise.cost.uncertainty import collective_interval, collective_kind
from meshwise.errors import IllegalLayout, InputError, shorten
from meshwise.layouts.placement import Group, place, spread_over_nodes, usual_ranks
from meshwise.stacks.libraries import library_of
from meshwise.stacks.load import load_stack
from meshwise.stacks.stack import Stack
from meshwise.strict_tables import count

if TYPE_CHECKING:
    from meshwise.answers.collective import CollectiveRecord, CollectiveResult
    from meshwise.answers.collective_sizes import CollectiveSizes
    from meshwise.evidence.anchors.measured import MeasuredSize


@keywords
def collective(
    op: str,
    size: str | float,
    cluster: Cluster | NameOrPath,
    ranks: int | None = None,
    *,
    ranks_per_node: int | None = None,
    stack: Stack | NameOrPath | None = None,
    measured: NameOrPath | None = None,
) -> CollectiveResult:
    """Time of one collective by every algorithm that can run it.

    Rests on measured times of the library (latency and bandwidth per algorithm and protocol); bus
    bandwidth is nccl-tests' (its doc/PERFORMANCE.md).

    :param op: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``broadcast``,
        ``reduce``, ``scatter``, ``gather``, ``send_recv``, in any library's spelling.
    :param size: as nccl-tests counts it: text with a unit (``"16MiB"``), or bytes.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param ranks: neighbours that take part; None: a node, or all where there is one device a node.
    :param ranks_per_node: how many of them a node holds; None: as many as it has devices.
    :param stack: whose library and switches; None: the device's own library, NCCL or RCCL.
    :param measured: a table of collectives, or a log of nccl-tests or rccl-tests, with some sizes of the
        same operation on the same system: they anchor the answer by two factors.
    :returns: seconds with their interval, algorithm, bytes per second.
    :raises InputError: for what is not legal, with ``field``, ``legal`` and ``nearest``.

    >>> import meshwise as mw
    >>> answer = mw.collective("all_reduce", "16MiB", "dgx-a100", 8)
    >>> answer.bytes, answer.time_low_s < answer.time_s < answer.time_high_s
    (16777216.0, True)
    """
    from meshwise.answers.collective import CollectiveResult

    payload = whole_bytes(size, "size")
    asked = _prepared(op, cluster, ranks, ranks_per_node, stack, measured)
    return CollectiveResult(_record(asked, payload))


@keywords
def collective_sizes(
    op: str,
    sizes: str | Sequence[str | float],
    cluster: Cluster | NameOrPath,
    ranks: int | None = None,
    *,
    ranks_per_node: int | None = None,
    stack: Stack | NameOrPath | None = None,
    measured: NameOrPath | None = None,
) -> CollectiveSizes:
    """As :func:`collective`, of several sizes: the fastest algorithm of each, and what was measured of it.

    :param sizes: a list, or text: ``"1KiB:1GiB"`` (each twice the one before), ``"1KiB:1GiB:4"`` (four
        times), ``"64KiB,1MiB"``.
    """
    from meshwise.answers.collective_sizes import CollectiveSizes, sizes_record

    payloads = (
        opened_sizes(sizes)
        if isinstance(sizes, str)
        else tuple(whole_bytes(size, "size") for size in sizes)
    )
    asked = _prepared(op, cluster, ranks, ranks_per_node, stack, measured)
    return CollectiveSizes(sizes_record([_record(asked, p) for p in payloads], asked.given))


MOST_SIZES = 200
_SEVERAL = re.compile(r"(?<!\d),|,(?!\d{3}(?!\d))")  # a comma that does not group digits


def several_sizes(text: str) -> bool:
    """Whether text is more than one size; a comma between a bare number and one with a unit is a decimal's."""
    bare = {part.strip().isdecimal() for part in _SEVERAL.split(text)}
    return ":" in text or (bool(_SEVERAL.search(text)) and len(bare) == 1)


def opened_sizes(text: str) -> tuple[float, ...]:
    """Sizes [bytes] of a list with commas, its ranges LOW:HIGH and LOW:HIGH:FACTOR opened as nccl-tests
    opens them: from LOW on, each FACTOR (2) times the one before, up to HIGH. :class:`InputError`."""
    found: list[float] = []
    for part in _SEVERAL.split(text):
        ends = part.split(":")
        low = whole_bytes(ends[0].strip(), "size")
        if len(ends) == 1:
            found.append(low)
            continue
        high = whole_bytes(ends[1].strip(), "size")
        factor = count(ends[2].strip(), "size") if len(ends) == 3 else 2
        if len(ends) > 3 or high < low or factor < 2:
            raise InputError(
                f"size: {shorten(part)} is no range of sizes",
                field="size",
                value=part,
                legal="LOW:HIGH or LOW:HIGH:FACTOR, HIGH not below LOW, FACTOR at least 2",
                nearest="1KiB:1GiB:2",
            )
        while low <= high and len(found) <= MOST_SIZES:
            found.append(low)
            low *= factor
    if len(found) > MOST_SIZES:
        raise InputError(
            f"size: {shorten(text)} is more than {MOST_SIZES} sizes",
            field="size",
            value=text,
            legal=f"1 to {MOST_SIZES} sizes",
        )
    return tuple(dict.fromkeys(found))


class _Prepared(NamedTuple):
    """What is asked, of whatever size."""

    op: str
    group: Group
    cluster: Cluster
    stack: Stack
    remarks: list[str]
    given: list[MeasuredSize]
    factors: Factors | None  # by the given sizes


def _prepared(
    op: str,
    cluster: Cluster | NameOrPath,
    ranks: int | None,
    ranks_per_node: int | None,
    stack: Stack | NameOrPath | None,
    measured: NameOrPath | None,
) -> _Prepared:
    op = coll.operation(op)
    cluster = load_cluster(cluster, field="cluster")
    # who takes part; a measurement of the user's own may say it
    given: list[MeasuredSize] = []
    if measured is not None:
        path = name_of(measured, "measured", "the path of a table or of a log of nccl-tests")
        given = _of_system(path, op, cluster, ranks)
        ranks, ranks_per_node = _stated_ranks(given, cluster, ranks, ranks_per_node)
    n = count(ranks, "ranks") if ranks is not None else usual_ranks(cluster)
    if n > cluster.devices:
        raise IllegalLayout(
            f"ranks={n} is more than the {cluster.devices} GPUs of {cluster.name}",
            field="ranks",
            value=n,
            legal=f"1 to {cluster.devices}",
            nearest=cluster.devices,
        )
    group = place("tp", np.int64(n), np.int64(1), np.int64(0), cluster)
    if ranks_per_node is not None:
        group = spread_over_nodes(group, n, count(ranks_per_node, "ranks_per_node"), cluster)
    _check_hosts(given, group, cluster)
    # by whose library
    library = library_of(cluster.device)
    chosen = load_stack(library.stack if stack is None else stack)
    remarks = [library.remark] if stack is None and library.remark else []
    if given and not all(m.cells.get("ranks") and m.cells.get("nodes") for m in given):
        remarks.append(
            "the file does not say its ranks or its nodes: taken as measured by this group"
        )
    if given and chosen.ideal:
        raise InputError(
            "measured: the ideal stack is a definition, which no measurement moves",
            field="measured",
            value=str(measured),
            legal="another stack",
        )
    factors = None
    if given:
        across = collective_kind(chosen, cluster, group) == "network"
        sizes: Array = np.array([m.bytes for m in given])
        price = price_on(op, sizes, coll.fabric_of(op, group, cluster, chosen))
        factors = fit_factors(price, np.array([m.time_s for m in given]), across)
    return _Prepared(op, group, cluster, chosen, remarks, given, factors)


def _record(a: _Prepared, payload: float) -> CollectiveRecord:
    """The answer about one size [bytes]."""
    from meshwise.answers.collective import collective_record
    from meshwise.answers.records.evidence import evidence_record

    asked = _Asked(a.op, payload, a.group, a.cluster, a.stack)
    priced = _by_model(asked) if a.factors is None else _anchored(asked, a.factors)
    n = int(a.group.size)
    factor = float(coll.busbw_factor(a.op, n))
    evidence = None
    if n > 1:
        best = coll.cheapest(a.op, np.float64(payload), a.group, a.cluster, a.stack)
        question = collective_question(a.op, payload, a.group, a.cluster, a.stack, best)
        evidence = evidence_record(question, a.stack)
    return collective_record(
        a.op,
        payload,
        n,
        a.cluster,
        priced.candidates,
        factor,
        priced.interval,
        evidence,
        stack=a.stack.name,
        remarks=a.remarks,
        factors=a.factors,
        left=priced.left,
        given=a.given,
    )


class _Asked(NamedTuple):
    op: str
    payload: float
    group: Group
    cluster: Cluster
    stack: Stack


class _Priced(NamedTuple):
    """Every algorithm, and the 90 % interval of the fastest one's time."""

    candidates: list[Candidate]
    interval: tuple[float, float]
    left: float = 1.0  # of the measured sizes near this one, beyond both factors


def _by_model(a: _Asked) -> _Priced:
    payload = np.float64(a.payload)
    found = coll.candidates(a.op, payload, a.group, a.cluster, a.stack)
    best = coll.cheapest(a.op, payload, a.group, a.cluster, a.stack)
    seconds = float(best.seconds)
    interval = collective_interval(seconds, a.op, a.payload, best, a.stack, a.cluster, a.group)
    return _Priced(found, interval)


def _anchored(a: _Asked, factors: Factors) -> _Priced:
    """With the factors that the measured sizes gave."""
    fabric = coll.fabric_of(a.op, a.group, a.cluster, a.stack)
    own = scaled(fabric, factors.latency, factors.bandwidth)
    left = float(left_over(np.array([a.payload]), factors)[0])
    found = [
        c._replace(seconds=c.seconds * left)
        for c in coll.candidates_on(a.op, np.float64(a.payload), own)
    ]
    seconds = min(float(c.seconds) for c in found)
    price = price_on(a.op, np.array([a.payload]), fabric)
    wide = float(np.exp(NORMAL * anchored_sd(price, factors)[0]))
    return _Priced(found, (seconds / wide, seconds * wide), left)


def _of_system(path: str, op: str, cluster: Cluster, ranks: int | None) -> list[MeasuredSize]:
    """The rows of a file that measured the operation; refused where they are another system's."""
    from meshwise.evidence.anchors.measured import agrees, read_measured

    rows = read_measured(path, "measured")
    cells = {"op": op, "device": cluster.device.name}
    if ranks is not None:
        cells["ranks"] = str(ranks)
    found = [m for m in rows if agrees(m, cells)]
    if not found:
        said = {c: sorted({m.cells.get(c, "") for m in rows} - {""}) for c in cells}
        why = "; ".join(f"{c} {', '.join(v)}" for c, v in said.items() if v)
        factor = rows[0].bus_factor
        if factor is not None:
            why += f"; bus bandwidth {factor:.3g} times the algorithm's"
        raise InputError(
            f"measured: {shorten(path)} has no row of {op} on {cluster.device.name}"
            + (f" with {ranks} ranks" if ranks is not None else "")
            + f"; it says {why}",
            field="measured",
            value=path,
            legal="rows of the same operation, device and number of ranks",
        )
    return found


def _stated_ranks(
    given: list[MeasuredSize], cluster: Cluster, ranks: int | None, per_node: int | None
) -> tuple[int | None, int | None]:
    """How many ranks, and how many a node, where the file says it and the question does not."""
    stated = {m.cells.get("ranks", "") for m in given} - {""}
    if ranks is None and len(stated) > 1:
        raise InputError(
            f"ranks: the file measured groups of {', '.join(sorted(stated, key=int))}",
            field="ranks",
            value=None,
            legal=sorted(map(int, stated)),
        )
    n = ranks if ranks is not None else (int(stated.pop()) if stated else None)
    nodes = {m.cells.get("nodes", "") for m in given} - {""}
    if per_node is None and n is not None and len(nodes) == 1 and len(cluster.levels) == 2:
        hosts = int(nodes.pop())
        if hosts > 1 and n % hosts == 0 and n // hosts < cluster.node_devices:
            return n, n // hosts
    return n, per_node


_HOST_DEVICES = 8  # a fabric that joins more spans hosts, which a file counts as nodes


def _check_hosts(given: list[MeasuredSize], group: Group, cluster: Cluster) -> None:
    """Refuse measurements between other hosts than the group's: a network tells nothing of a node's links."""
    stated = {m.cells.get("nodes", "") for m in given} - {""}
    if len(stated) != 1 or cluster.node_devices > _HOST_DEVICES:
        return
    hosts = 1
    for level, ranks in zip(cluster.levels, group.ranks, strict=True):
        hosts *= int(np.max(ranks)) if level.kind == "network" else 1
    other = stated.pop()
    if int(other) != hosts:
        raise InputError(
            f"measured: the file's ranks were on {other} nodes, the question's are on {hosts}",
            field="measured",
            value=other,
            legal=f"measurements on {hosts} nodes, or a question on {other}: a cluster of so many nodes, "
            "and ranks_per_node",
        )
