"""Fit the constants of networks jointly, one set for each kind of transport, and predict systems left out.

    python tools/fit_networks.py [TABLE.csv]              # prints each system's errors with it left out
    python tools/fit_networks.py [TABLE.csv] --leave-out Polaris
    python tools/fit_networks.py [TABLE.csv] --write      # the catalog's files

Default table: the shipped one. Rows between nodes are priced as ``validate`` prices them, with trial
constants in place of the catalog's; those whose network's kind or rate is not stated are predicted, and
not fitted. The formulas are those of ``meshwise.cost.collectives.network``.

A system (a cluster, a cloud's instance type) weighs one, however many logs and sizes it has: its rows err
together. Weak priors (``START``: centre and standard deviation of the logarithm) keep what few systems
tell sensible: they are the one assumption besides the form, and are not refitted.
"""

from __future__ import annotations

import argparse
import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.algorithms import candidates_of
from meshwise.cost.collectives.collective import fabric_of
from meshwise.cost.collectives.transports import Transports, transport_of
from meshwise.errors import MeshwiseError
from meshwise.evidence import predict
from meshwise.evidence.prediction import Unsupported
from meshwise.evidence.tables import Row
from meshwise.layouts.placement import Group
from meshwise.stacks.stack import Stack

Array = NDArray[np.float64]
Flat = dict[str, float]

ROOT = Path(__file__).parents[1] / "src/meshwise"
TABLE = ROOT / "evidence/published/collectives.csv"

# Logs of one machine or instance type, by a part of their name; of the others those of one device in one
# repository are a system.
SYSTEMS = {
    "polaris": "Polaris",
    "sophia": "Sophia",
    "alps": "Alps",
    "a100-2x8-oci": "OCI A100",
    "mi300x-2x8-oci": "OCI MI300X",
    "a3mega": "GCP a3-mega",
    "t4-2x1": "AWS g4dn",
    "p5-truncated": "AWS p5",
    "p5-efa": "AWS p5",
    "stas-b200": "AWS p6-b200",
    "stas-h200": "AWS p5en",
    "rtx2080ti-8x4": "RTX 2080 Ti cluster",
    "rtx2080ti-16x1": "RTX 2080 Ti cluster",
    "gb200-nvl72": "GB200 NVL72",
}

# Constant → (centre, standard deviation of its logarithm).
#   hops: NCCL's own table (src/graph/tuning.cc, hwLat) has 5.0 and 8.5 us for a small message over a network
#   (LL, LL128), and 14 and 28 us for its protocol for bulk (ring, tree). A virtual machine's network: rough,
#   a round trip of 70 us.
#   efficiency: rings reach 0.88 to 0.96 of the wire where many nodes leave only the ring's (p5en, p6-b200),
#   and two nodes with one NIC each 0.64 (GKE A3 Ultra). Sockets: 1.19 of 1.25 GB/s (two A10G, 10 Gb/s).
#   without_gpudirect: buffers cross the host's memory once more each way.
#   all_to_all: between 0, full bisection of the whole network, and 1, a rate that all domains share.
START: dict[str, tuple[float, float]] = {
    "hop_s.links": (1.3e-6, 0.3),
    "hop_s.host": (2.3e-6, 0.3),
    "small_share": (0.13, 0.5),
    "tree_share": (0.8, 0.3),
    "direct_share": (1.0, 0.3),
    "neighbours": (0.035, 0.7),
    "all_to_all": (0.4, 1.5),
    "peer_s": (4e-6, 1.0),
    "without_gpudirect": (0.75, 0.3),
}
_RDMA_HOP, _CLOUD_HOP = (7e-6, 0.7), (35e-6, 1.0)
FITTED = {
    "verbs": _RDMA_HOP,
    "ofi": _RDMA_HOP,
    "efa": _CLOUD_HOP,
    "tcp": _CLOUD_HOP,
    "tcpx": _CLOUD_HOP,
}
for _name, _hop in FITTED.items():
    START[f"{_name}.hop_s"] = _hop
    START[f"{_name}.bulk"] = (2.8 if _hop is _RDMA_HOP else 2.0, 0.5)
    START[f"{_name}.efficiency"] = (0.95, 0.05) if _name == "tcp" else (0.85, 0.2)
START["tcp.limit_bytes_per_s"] = (2.5e9, 0.5)
# The share of the ramp was found with rates and latencies of every log free, and no log tells on how many
# domains the fall of an all_to_all begins: those of one leaf of a network have its full bisection.
FIXED: Flat = {"launch_s": 5e-6, "ramp": 0.67, "bisection_domains": 16.0}
SIGMA = 0.3  # of a system's mean, below which a difference costs its square, beyond it its amount
KIB, MIB = 2.0**10, 2.0**20


class Log(NamedTuple):
    """Rows of one operation on one machine: where it ran, and what it took."""

    system: str
    name: str
    op: str
    cluster: Cluster
    group: Group
    stack: Stack
    payload: Array
    seconds: Array
    ids: tuple[str, ...]
    stated: bool

    @property
    def transports(self) -> tuple[str, ...]:
        return tuple(transport_of(lv.fabric) for lv in self.cluster.levels if lv.kind == "network")


def system_of(row: Row) -> str:
    other = f"{row.text('source').partition(' ')[0]} {row.text('device')}"
    return next((system for part, system in SYSTEMS.items() if part in row.text("id")), other)


def logs_of(table: Sequence[dict[str, str]]) -> list[Log]:
    """The rows between nodes of a table of collectives that cross a network."""
    parts: dict[tuple[str, ...], list[Row]] = {}
    for line, cells in enumerate(table, start=2):
        row = Row(line, {k: (v or "").strip() for k, v in cells.items()})
        if int(row.text("nodes", "1")) > 1 and row.text("time_us"):
            key = (row.text("id").rpartition("/")[0], *map(row.text, _WHERE))
            parts.setdefault(key, []).append(row)
    found = []
    for (name, *_), rows in parts.items():
        try:
            asked = predict.collective_asked(rows[0])
        except (Unsupported, MeshwiseError):
            continue
        cluster, group = asked.cluster, asked.group
        if not any(
            lv.kind == "network" and int(r) > 1
            for lv, r in zip(cluster.levels, group.ranks, strict=True)
        ):
            continue
        found.append(
            Log(
                system_of(rows[0]),
                name,
                asked.op,
                cluster,
                group,
                asked.stack,
                np.array([row.number("bytes") for row in rows]),
                np.array([row.number("time_us") * 1e-6 for row in rows]),
                tuple(row.text("id") for row in rows),
                not asked.unsure,
            )
        )
    return found


_WHERE = ("op", "device", "intra_node", "inter_node", "nodes", "devices_per_node", "library")


# The model ------------------------------------------------------------------------------------


def tables_of(c: Flat) -> dict[str, dict[str, Any]]:
    """Constants as the catalog's files have them."""
    shared: dict[str, Any] = dict(FIXED)
    for key in ("small_share", "tree_share", "direct_share", "neighbours", "all_to_all", "peer_s"):
        shared[key] = c[key]
    shared["without_gpudirect"] = min(c["without_gpudirect"], 1.0)
    shared["hop_s"] = {"links": c["hop_s.links"], "host": c["hop_s.host"]}
    found = {"network": shared}
    for name in FITTED:
        hop = c[f"{name}.hop_s"]
        own = {
            "gpudirect": name in ("verbs", "ofi", "efa"),
            "hop_s": hop,
            "bulk_hop_s": hop * max(c[f"{name}.bulk"], 1.0),
            "efficiency": min(c[f"{name}.efficiency"], 0.97),
        }
        if f"{name}.limit_bytes_per_s" in c:
            own["limit_bytes_per_s"] = c[f"{name}.limit_bytes_per_s"]
        found[name] = own
    found["rdma"] = _between(found["verbs"], found["ofi"])
    found["kernel"] = dict(found["tcp"])
    return found


def _between(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """A transport of which no more is known than that it is like both: geometric means."""
    mean = {k: float(np.sqrt(a[k] * b[k])) for k in ("hop_s", "bulk_hop_s", "efficiency")}
    return {"gpudirect": True, **mean, "lent": 1.0}


class Model:
    """Predictions of logs; a log is priced again only where a constant that it uses has changed."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self.logs = logs
        self._known: list[dict[tuple[float, ...], Array]] = [{} for _ in logs]

    def __call__(self, c: Flat) -> list[Array]:
        transports = Transports(tables_of(c).__getitem__)
        shared = tuple(c[k] for k in START if k.partition(".")[0] not in FITTED)
        found = []
        for log, known in zip(self.logs, self._known, strict=True):
            used = {"rdma": ("verbs", "ofi"), "kernel": ("tcp",)}
            names = {n for t in log.transports for n in used.get(t, (t,))}
            key = (*shared, *(c[k] for k in START if k.partition(".")[0] in names))
            if key not in known:
                if len(known) > 64:
                    known.clear()
                known[key] = priced(log, transports)
            found.append(known[key])
        return found


def priced(log: Log, transports: Transports) -> Array:
    fabric = fabric_of(log.op, log.group, log.cluster, log.stack, transports)
    every = (c.seconds for c in candidates_of(log.op, log.payload, fabric))
    return np.asarray(functools.reduce(np.minimum, every), float)


def fit(logs: Sequence[Log]) -> Flat:
    """Constants of the logs whose network is stated."""
    stated = [log for log in logs if log.stated]
    model, names = Model(stated), list(START)
    centre = np.log([START[n][0] for n in names])
    spread = np.array([START[n][1] for n in names])
    weight = []
    for log in stated:
        logs_beside = sum(other.system == log.system for other in stated)
        weight.append(np.full(len(log.seconds), 1.0 / logs_beside / len(log.seconds)))
    root = np.sqrt(np.concatenate(weight))
    measured = np.log(np.concatenate([log.seconds for log in stated]))

    def residuals(x: Array) -> Array:
        predicted = np.log(np.concatenate(model(dict(zip(names, np.exp(x), strict=True)))))
        off = (predicted - measured) / SIGMA
        soft = np.sign(off) * np.sqrt(2.0 * (np.sqrt(1.0 + off**2) - 1.0))
        return np.concatenate([root * soft, (x - centre) / spread])

    found = least_squares(residuals, centre, max_nfev=25, xtol=1e-5, ftol=1e-5)
    return dict(zip(names, np.exp(found.x), strict=True))


def predictions_left_out(logs: Sequence[Log], only: str | None = None) -> list[tuple[Log, Array]]:
    """Every log's predicted seconds by constants fitted without its system."""
    found = []
    for system in dict.fromkeys(log.system for log in logs):
        if only is not None and system != only:
            continue
        own = [log for log in logs if log.system == system]
        c = fit([log for log in logs if log.system != system])
        found += list(zip(own, Model(own)(c), strict=True))
    return found


def left_out(table_rows: Sequence[dict[str, str]]) -> list[tuple[str, float, float]]:
    """(row id, measured seconds, predicted seconds) of the rows between nodes, every system left out of
    the fit with all of its logs."""
    found = []
    for log, predicted in predictions_left_out(logs_of(table_rows)):
        found += [
            (name, float(m), float(p))
            for name, m, p in zip(log.ids, log.seconds, predicted, strict=True)
        ]
    return found


# What is printed and written ------------------------------------------------------------------


class Flatly(NamedTuple):
    """Left-out predictions, a row each."""

    system: NDArray[np.str_]
    log: NDArray[np.str_]
    transport: NDArray[np.str_]
    op: NDArray[np.str_]
    payload: Array
    off: Array  # ln(measured / predicted)
    domains: Array
    stated: NDArray[np.bool_]
    predicted: Array


def flat(found: Sequence[tuple[Log, Array]]) -> Flatly:
    columns: list[tuple[Any, ...]] = []
    for log, predicted in found:
        domains = np.prod(
            [
                int(r)
                for lv, r in zip(log.cluster.levels, log.group.ranks, strict=True)
                if lv.kind == "network"
            ]
        )
        for payload, measured, value in zip(log.payload, log.seconds, predicted, strict=True):
            asked = (log.system, log.name, log.transports[-1], log.op, payload)
            columns.append((*asked, np.log(measured / value), domains, log.stated, value))
    return Flatly(*(np.array(column) for column in zip(*columns, strict=True)))


def errors(off: Array) -> dict[str, float]:
    """Of predicted / measured - 1."""
    ratio = np.exp(-off) - 1.0
    return {
        "points": len(off),
        "median_error": _digits(np.median(np.abs(ratio))),
        "mean_error": _digits(np.mean(np.abs(ratio))),
        "p90_error": _digits(np.quantile(np.abs(ratio), 0.9)),
        "bias": _digits(np.median(ratio)),
    }


def _digits(value: Any) -> float:
    return float(f"{float(value):.4g}")


def line(name: str, off: Array) -> str:
    e = errors(off)
    return (
        f"{name:42}{e['points']:5} rows  median {e['median_error']:6.1%}  p90 {e['p90_error']:7.1%}"
        f"  bias {e['bias']:+7.1%}"
    )


def report(rows: Flatly) -> None:
    """Errors with each system left out: all, by what is asked, by system."""
    size = rows.payload
    parts: list[tuple[str, NDArray[np.bool_]]] = [
        ("all rows", np.ones(len(size), bool)),
        ("network stated", rows.stated),
        ("to 32 KiB", size <= 32 * KIB),
        ("to 1 MiB", (size > 32 * KIB) & (size <= MIB)),
        ("to 256 MiB", (size > MIB) & (size <= 256 * MIB)),
        ("above", size > 256 * MIB),
        ("all_gather", rows.op == "all_gather"),
        ("all_to_all", rows.op == "all_to_all"),
        ("more than two domains", rows.domains > 2),
        *((f"system {s}", rows.system == s) for s in dict.fromkeys(rows.system)),
    ]
    for name, part in parts:
        if part.any():
            print(line(name, rows.off[part]))


def write(logs: Sequence[Log], rows: Flatly) -> None:
    """The catalog's files: a transport each, and what they have in common."""
    c = fit(logs)
    command = "python tools/fit_networks.py --write"
    for name, own in tables_of(c).items():
        fitted = {"rdma": ("verbs", "ofi"), "kernel": ("tcp",)}.get(name, (name,))
        used = [
            log
            for log in logs
            if log.stated and (name == "network" or set(log.transports) & set(fitted))
        ]
        logs_used = sorted({f"{log.name} ({log.system})" for log in used})
        what = {
            "network": "what all transports have in common, fitted jointly: the logs of their files",
            "rdma": "a network of which only RDMA is known: geometric means of verbs and ofi",
            "kernel": "a network through the kernel of which no more is known: as tcp",
        }.get(
            name,
            "nccl-tests between nodes, fitted jointly with all transports: " + ", ".join(logs_used),
        )
        head: dict[str, Any] = {"fabric": name, "source": what, "command": command}
        own = {k: v if k == "gpudirect" else _tidy(v) for k, v in own.items()}
        flat_keys = {k: v for k, v in own.items() if not isinstance(v, dict)}
        tables = {k: v for k, v in own.items() if isinstance(v, dict)}
        text = [f"{k} = {toml_value(v)}" for k, v in (head | flat_keys).items()]
        for key, value in tables.items():
            text += ["", f"[{key}]", *(f"{k} = {toml_value(v)}" for k, v in value.items())]
        if name != "network":
            for op in dict.fromkeys(log.op for log in used) if name in FITTED else ():
                part = (rows.transport == name) & (rows.op == op) & rows.stated
                sizes = [int(rows.payload[part].min()), int(rows.payload[part].max())]
                fit_of = errors(rows.off[part]) | {"bytes_range": sizes}
                text += [
                    "",
                    f"[nccl.{op}.fit]",
                    *(f"{k} = {toml_value(v)}" for k, v in fit_of.items()),
                ]
        (ROOT / "catalog/collectives" / f"{name}.toml").write_text("\n".join(text) + "\n")


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tidy(v) for k, v in value.items()}
    return _digits(value)


def toml_value(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + "}"
    return repr(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit networks, and predict systems left out.")
    parser.add_argument("table", type=Path, nargs="?", default=TABLE, help="collectives.csv")
    parser.add_argument("--leave-out", metavar="SYSTEM", help="one system alone, and its logs")
    parser.add_argument("--write", action="store_true", help="write the catalog's files")
    arguments = parser.parse_args()
    with arguments.table.open(newline="", encoding="utf-8") as lines:
        logs = logs_of(list(csv.DictReader(lines)))
    only = arguments.leave_out
    if only is not None and only not in {log.system for log in logs}:
        parser.error(f"{only} is no system: {', '.join(dict.fromkeys(log.system for log in logs))}")
    rows = flat(predictions_left_out(logs, only))
    report(rows)
    if arguments.write and only is None:
        write(logs, rows)


if __name__ == "__main__":
    main()
