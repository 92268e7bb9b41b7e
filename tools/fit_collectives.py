"""Fit the catalog's collectives to measured tables, one TOML file per fabric.

    pip install numpy scipy pyarrow
    pip download --no-deps aiconfigurator-core==0.12.0
    python -m zipfile -e aiconfigurator_core-0.12.0-*.whl WHEEL_DIR
    python tools/fit_collectives.py collectives.csv WHEEL_DIR

NVLink families come from the wheel's ``comm`` tables (Apache-2.0; nccl-tests and the engines'
custom all-reduce under CUDA graphs, 2/4/8 GPUs), everything else from ``collectives.csv``, the
table of published measurements (a row each: op, nodes, ranks, bytes, time_us, library, ...).

Symbols, SI units: S payload as nccl-tests counts it, n ranks, k nodes, B ``bandwidth`` of the
fabric per device and direction, W = NICs x NIC rate of one node. The cheapest legal candidate wins.

* ring all_reduce:                ``launch_s + 2(n-1) step_s + 2(n-1)/n S / (efficiency B)``
* ring all_gather/reduce_scatter: ``launch_s +  (n-1) step_s +  (n-1)/n S / (efficiency B)``;
  a ring has protocols (simple, ll128, ll), each with its own step_s and efficiency. They are the
  pieces of a lower envelope, fastest wire first, not NCCL's own switch points.
* nvls (in the switch) all_reduce: ``launch_s + S / (efficiency B)``
* one_shot all_reduce: ``launch_s + (n-1) S / (efficiency B)``
* two_shot all_reduce: ``launch_s + 2 step_s + 2(n-1)/n S / (efficiency B)``
* all_to_all:          ``launch_s + (n-1)/n S / (efficiency B)``
* between nodes, all_reduce over all n ranks of k nodes:
  ring ``launch_s + 2(n-1) step_s + 2(n-1)/n S / (efficiency W)``,
  tree ``launch_s + 2(ceil(log2 k) + 1) step_s + 2(k-1)/k S / (efficiency W)``

Schema of ``collectives/FABRIC.toml``::

    fabric, source, command
    bandwidth                      # bytes/s per device and direction; absent between nodes
    [LIBRARY.OP]                   # LIBRARY nccl; OP all_reduce, all_gather, reduce_scatter
    launch_s
    [LIBRARY.OP.ring]
    protocols = [{name, step_s, efficiency}, ...]          # one to three
    [LIBRARY.OP.nvls]              # launch_s, efficiency, min_ranks, dtypes_excluded
    [LIBRARY.all_to_all]           # launch_s, efficiency
    [ENGINE.all_reduce]            # ENGINE vllm, sglang, trtllm (CUDA graphs)
    fallback = "nccl"              # its all_reduce where that is cheaper
    [ENGINE.all_reduce.one_shot]   # launch_s, efficiency
    [ENGINE.all_reduce.two_shot]   # launch_s, step_s, efficiency; absent where never seen
    [ENGINE.all_reduce.multimem]   # launch_s, efficiency, min_ranks: the engine's own kernel of
                                   #   nvls' form, beside nccl's nvls; absent where never seen
    [nccl.all_reduce]              # between nodes
    launch_s
    [nccl.all_reduce.ring]         # step_s, efficiency
    [nccl.all_reduce.tree]         # step_s, efficiency
    [....fit]                      # beside each fitted set: points; median_error, mean_error,
                                   #   p90_error, bias: held-out half, of predicted / measured - 1;
                                   #   median_error_by_ranks; bytes_range

Half of the rows, alternating in log2(bytes) + log2(ranks), is fitted (soft L1 loss of the
logarithm, and a weak pull to the starting constants, so that what the rows do not determine stays
sensible); errors are of the rounded constants on the other half. A protocol that wins on fewer than
three fitted rows is dropped.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Constants = dict[str, float]
Model = Callable[[Constants, "Rows"], Array]
Tree = dict[str, object]

CATALOG = Path(__file__).parents[1] / "src/meshwise/spec/catalog/collectives"
DATA = "aiconfigurator_core/systems/data"
WIRE = {  # bytes/s per device and direction
    "nvlink3-nvswitch": 300e9,
    "nvlink4-nvswitch": 450e9,
    "nvlink5-nvswitch": 900e9,
    "pcie4-p2p": 31.5e9,
    "pcie4-no-p2p": 31.5e9,
    "pcie3-no-p2p": 15.75e9,
}
NODE_GBITS = {"allreduce-t4-2x1": 50.0, "allreduce-gb10": 200.0}  # where not stated as AxB Gb/s
PULL = 0.02  # weight of one e-fold away from the start, against log residuals


@dataclass(frozen=True)
class Rows:
    """Columns of the measurements that a fit uses."""

    op: NDArray[np.str_]
    dtype: NDArray[np.str_]
    ranks: Array
    nodes: Array
    payload: Array
    node_rate: Array  # bytes/s of one node's NICs, 0 inside a node
    seconds: Array

    def where(self, mask: Mask) -> Rows:
        return Rows(
            self.op[mask],
            self.dtype[mask],
            self.ranks[mask],
            self.nodes[mask],
            self.payload[mask],
            self.node_rate[mask],
            self.seconds[mask],
        )

    def of(self, op: str) -> Rows:
        return self.where(self.op == op)

    @property
    def fitted(self) -> Mask:
        level = np.round(np.log2(self.payload)) + np.round(np.log2(self.ranks))
        return np.asarray(level % 2 == 0, bool)


def node_rate(row: dict[str, str]) -> float:
    found = re.search(r"(\d+)x(\d+) Gb/s", row["inter_node"])
    if found:
        return int(found[1]) * int(found[2]) * 1e9 / 8
    for prefix, gbits in NODE_GBITS.items():
        if row["id"].startswith(prefix):
            return gbits * 1e9 / 8
    return 0.0


def published(table: Sequence[dict[str, str]], *sources: str) -> Rows:
    """Rows of ``collectives.csv`` whose id is ``source/number``."""
    rows = [row for row in table if row["id"].rsplit("/", 1)[0] in sources and row["time_us"]]
    return Rows(
        np.array([row["op"] for row in rows]),
        np.array([row["dtype"] for row in rows]),
        np.array([float(row["ranks"]) for row in rows]),
        np.array([float(row["nodes"]) for row in rows]),
        np.array([float(row["bytes"]) for row in rows]),
        np.array([node_rate(row) for row in rows]),
        np.array([float(row["time_us"]) * 1e-6 for row in rows]),
    )


def wheel(path: Path) -> Rows:
    """Rows of a ``comm`` table: sizes in elements, times in milliseconds; eager runs left out.

    Eager runs of an engine's kernel measure the host (a floor of about 20 us), not the network.
    """
    rows = [
        row
        for row in pq.read_table(path).to_pylist()
        if "eager" not in str(row["kernel_source"]) and row["latency"] > 0
    ]
    dtypes = [row.get("nccl_dtype") or row["allreduce_dtype"] for row in rows]
    size = {"half": 2, "bfloat16": 2, "int8": 1}
    return Rows(
        np.array([row["op_name"] for row in rows]),
        np.array(dtypes),
        np.array([float(row["num_gpus"]) for row in rows]),
        np.ones(len(rows)),
        np.array(
            [float(row["message_size"] * size[d]) for row, d in zip(rows, dtypes, strict=True)]
        ),
        np.zeros(len(rows)),
        np.array([row["latency"] * 1e-3 for row in rows]),
    )


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


# The algorithms -------------------------------------------------------------------------------


def ring(launch: float, step: float, efficiency: float, rows: Rows, bandwidth: Array) -> Array:
    n = rows.ranks
    passes = np.where(rows.op == "all_reduce", 2.0, 1.0)
    wire = passes * (n - 1) / n * rows.payload
    return launch + passes * (n - 1) * step + wire / (efficiency * bandwidth)


def tree(launch: float, step: float, efficiency: float, rows: Rows) -> Array:
    k = rows.nodes
    wire = 2 * (k - 1) / k * rows.payload
    return launch + 2 * (np.ceil(np.log2(k)) + 1) * step + wire / (efficiency * rows.node_rate)


def by_protocol(c: Constants, rows: Rows, bandwidth: float) -> Array:
    """Times of a ring by protocol (first axis), in the order of the constants."""
    wire = np.full(rows.ranks.shape, bandwidth)
    return np.array(
        [
            ring(c["launch_s"], c[f"{name}.step_s"], c[f"{name}.efficiency"], rows, wire)
            for name in protocol_names(c)
        ]
    )


def cheapest(candidates: Array) -> Array:
    """The least time over the first axis."""
    return np.asarray(candidates.min(axis=0), float)


def protocol_names(constants: Constants) -> list[str]:
    return [name for name in PROTOCOLS if f"{name}.step_s" in constants]


def in_switch(c: Constants, rows: Rows, bandwidth: float, name: str = "nvls") -> Array:
    return c[f"{name}.launch_s"] + rows.payload / (c[f"{name}.efficiency"] * bandwidth)


# Fitting --------------------------------------------------------------------------------------

PROTOCOLS = {"simple": (5e-6, 0.75), "ll128": (1.5e-6, 0.4), "ll": (7e-7, 0.1)}


def errors(model: Model, constants: Constants, rows: Rows) -> Tree:
    """How far off the constants are on the half that was not fitted."""
    held = rows.where(~rows.fitted)
    ratio = model(constants, held) / held.seconds - 1
    error = np.abs(ratio)
    by_ranks = {
        str(int(n)): rounded(float(np.median(error[held.ranks == n])))
        for n in np.unique(held.ranks)
    }
    return {
        "points": len(rows.seconds),
        "median_error": rounded(float(np.median(error))),
        "mean_error": rounded(float(np.mean(error))),
        "p90_error": rounded(float(np.quantile(error, 0.9))),
        "bias": rounded(float(np.median(ratio))),
        "median_error_by_ranks": by_ranks,
        "bytes_range": [int(rows.payload.min()), int(rows.payload.max())],
    }


def fit(
    model: Model, start: Constants, rows: Rows, scales: Sequence[Constants] = ({},)
) -> Constants:
    """Constants from the fitted half, best of several starts; no efficiency exceeds one.

    ``scales``: for each start, factors on the constants whose name ends with the key.
    """
    inside = rows.where(rows.fitted)
    target = np.log(inside.seconds)
    names = list(start)
    centre = np.log([start[name] for name in names])
    limit = np.array([0.0 if name.endswith("efficiency") else np.inf for name in names])

    def residuals(log_constants: Array) -> Array:
        constants = dict(zip(names, np.exp(log_constants), strict=True))
        pull = PULL * (log_constants - centre)
        return np.concatenate([np.log(model(constants, inside)) - target, pull])

    best: tuple[float, Array] | None = None
    for scale in scales:
        factors = [
            float(np.prod([factor for key, factor in scale.items() if name.endswith(key)]))
            for name in names
        ]
        found = least_squares(
            residuals,
            np.minimum(centre + np.log(factors), limit - 0.01),
            bounds=(-np.inf, limit),
            loss="soft_l1",
            f_scale=0.05,
            xtol=1e-12,
            ftol=1e-12,
            max_nfev=400,
        )
        if best is None or found.cost < best[0] * (1 - 1e-6):
            best = (float(found.cost), found.x)
    assert best is not None
    return {name: rounded(np.exp(x)) for name, x in zip(names, best[1], strict=True)}


STEPS: list[Constants] = [{"step_s": factor} for factor in (1.0, 0.5, 2.0, 4.0)]
# Which of the two carries large messages is not known beforehand.
RING_OR_TREE: list[Constants] = [
    {"step_s": step, "ring.efficiency": by_ring, "tree.efficiency": by_tree}
    for step in (1.0, 0.2, 0.4, 2.0)
    for by_ring, by_tree in ((1.0, 1.0), (1.0, 0.3), (1.0, 3.0))
] + [
    {"ring.step_s": step, "ring.efficiency": 0.2, "tree.step_s": 20.0, "tree.efficiency": 6.0}
    for step in (1.0, 0.25)
]


def fit_ring(
    rows: Rows,
    bandwidth: float,
    names: Sequence[str] = ("simple", "ll128", "ll"),
    slower: float = 1.0,
    nvls_ranks: int = 0,
) -> Tree:
    """A ring of up to three protocols and, from ``nvls_ranks`` ranks on, the switch."""

    def model(c: Constants, r: Rows) -> Array:
        rings = cheapest(by_protocol(c, r, bandwidth))
        if not nvls_ranks:
            return rings
        legal = (r.ranks >= nvls_ranks) & (r.dtype != "int8")
        return np.where(legal, np.minimum(rings, in_switch(c, r, bandwidth)), rings)

    start = {"launch_s": 5e-6}
    for name in names:
        step, efficiency = PROTOCOLS[name]
        start |= {f"{name}.step_s": step * slower, f"{name}.efficiency": efficiency / slower}
    if nvls_ranks:
        start |= {"nvls.launch_s": 5e-5, "nvls.efficiency": 0.55}
    while True:
        constants = fit(model, start, rows, STEPS)
        left = protocol_names(constants)
        winner = by_protocol(constants, rows.where(rows.fitted), bandwidth).argmin(axis=0)
        idle = [name for i, name in enumerate(left) if np.sum(winner == i) < 3]
        if not idle:
            break
        start = {key: value for key, value in start.items() if not key.startswith(idle[0] + ".")}
    table = ring_table(constants)
    if nvls_ranks:
        table["nvls"] = {
            "launch_s": constants["nvls.launch_s"],
            "efficiency": constants["nvls.efficiency"],
            "min_ranks": nvls_ranks,
            "dtypes_excluded": ["int8"],
        }
    return table | {"fit": errors(model, constants, rows)}


def ring_table(constants: Constants) -> Tree:
    ordered = sorted(protocol_names(constants), key=lambda n: -constants[f"{n}.efficiency"])
    rows = [
        {
            "name": label,
            "step_s": constants[f"{name}.step_s"],
            "efficiency": constants[f"{name}.efficiency"],
        }
        for label, name in zip(("simple", "ll128", "ll"), ordered, strict=False)
    ]
    if len(rows) == 2:
        rows[1]["name"] = "ll"
    return {"launch_s": constants["launch_s"], "ring": {"protocols": rows}}


def read_ring(table: Tree, rows: Rows, bandwidth: float) -> Array:
    """What the shipped constants of an all_reduce predict: what an engine falls back to."""
    rings = table["ring"]
    assert isinstance(rings, dict)
    c: Constants = {"launch_s": float(str(table["launch_s"]))}
    for entry in rings["protocols"]:
        c |= {f"{entry['name']}.{key}": entry[key] for key in ("step_s", "efficiency")}
    best = cheapest(by_protocol(c, rows, bandwidth))
    switch = table.get("nvls")
    if isinstance(switch, dict):
        c |= {f"nvls.{key}": switch[key] for key in ("launch_s", "efficiency")}
        legal = rows.ranks >= switch["min_ranks"]
        best = np.where(legal, np.minimum(best, in_switch(c, rows, bandwidth)), best)
    return best


def fit_all_to_all(rows: Rows, bandwidth: float) -> Tree:
    def model(c: Constants, r: Rows) -> Array:
        wire = (r.ranks - 1) / r.ranks * r.payload
        return c["launch_s"] + wire / (c["efficiency"] * bandwidth)

    constants = fit(model, {"launch_s": 1e-5, "efficiency": 0.6}, rows)
    return dict(constants) | {"fit": errors(model, constants, rows)}


def fit_engine(rows: Rows, bandwidth: float, nccl: Tree, kinds: Sequence[str]) -> Tree:
    """One-shot, two-shot and in-switch kernels of an engine that falls back to NCCL."""

    def model(c: Constants, r: Rows) -> Array:
        n, launch = r.ranks, c["launch_s"]
        one = launch + (n - 1) * r.payload / (c["one_shot.efficiency"] * bandwidth)
        times = [one, read_ring(nccl, r, bandwidth)]
        if "two_shot" in kinds:
            wire = 2 * (n - 1) / n * r.payload / (c["two_shot.efficiency"] * bandwidth)
            times.append(launch + 2 * c["two_shot.step_s"] + wire)
        if "multimem" in kinds:
            times.append(np.where(n >= 8, in_switch(c, r, bandwidth, "multimem"), np.inf))
        return cheapest(np.array(times))

    start = {"launch_s": 4e-6, "one_shot.efficiency": 0.6}
    if "two_shot" in kinds:
        start |= {"two_shot.step_s": 2e-6, "two_shot.efficiency": 0.6}
    if "multimem" in kinds:
        start |= {"multimem.launch_s": 9e-6, "multimem.efficiency": 0.42}
    c = fit(model, start, rows)
    table: Tree = {
        "fallback": "nccl",
        "one_shot": {"launch_s": c["launch_s"], "efficiency": c["one_shot.efficiency"]},
    }
    if "two_shot" in kinds:
        table["two_shot"] = {
            "launch_s": c["launch_s"],
            "step_s": c["two_shot.step_s"],
            "efficiency": c["two_shot.efficiency"],
        }
    if "multimem" in kinds:
        table["multimem"] = {
            "launch_s": c["multimem.launch_s"],
            "efficiency": c["multimem.efficiency"],
            "min_ranks": 8,
        }
    return table | {"fit": errors(model, c, rows)}


def fit_between(rows: Rows) -> Tree:
    def model(c: Constants, r: Rows) -> Array:
        launch = c["launch_s"]
        by_ring = ring(launch, c["ring.step_s"], c["ring.efficiency"], r, r.node_rate)
        return np.minimum(by_ring, tree(launch, c["tree.step_s"], c["tree.efficiency"], r))

    start = {
        "launch_s": 2e-5,
        "ring.step_s": 1e-5,
        "ring.efficiency": 0.9,
        "tree.step_s": 8e-6,
        "tree.efficiency": 0.15,
    }
    c = fit(model, start, rows, RING_OR_TREE)
    return {
        "launch_s": c["launch_s"],
        "ring": {"step_s": c["ring.step_s"], "efficiency": c["ring.efficiency"]},
        "tree": {"step_s": c["tree.step_s"], "efficiency": c["tree.efficiency"]},
        "fit": errors(model, c, rows),
    }


# Families -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NVLink:
    """An NVLink family: the wheel's folder, its tables, and which kernels its engines use."""

    device: str
    folder: str
    nccl: str
    nvls_ranks: int
    engines: dict[str, tuple[str, tuple[str, ...]]]


NVLINK = {
    "nvlink3-nvswitch": NVLink(
        "A100 SXM4 80 GB",
        "a100_sxm",
        "2.27.3",
        0,
        {
            "vllm": ("0.14.0", ("two_shot",)),
            "sglang": ("0.5.10", ("two_shot",)),
            "trtllm": ("1.0.0", ()),
        },
    ),
    "nvlink4-nvswitch": NVLink(
        "H100 SXM5",
        "h100_sxm",
        "2.29.2",
        5,
        {
            "vllm": ("0.24.0", ("two_shot", "multimem")),
            "sglang": ("0.5.14", ("two_shot",)),
            "trtllm": ("1.3.0rc20", ()),
        },
    ),
    "nvlink5-nvswitch": NVLink(
        "B200 SXM",
        "b200_sxm",
        "2.29.2",
        6,
        {
            "vllm": ("0.24.0", ("two_shot",)),
            "sglang": ("0.5.14", ("two_shot",)),
            "trtllm": ("1.3.0rc20", ("two_shot",)),
        },
    ),
}


def fit_nvlink(root: Path, fabric: str) -> tuple[str, Tree]:
    family, bandwidth = NVLINK[fabric], WIRE[fabric]
    base = root / DATA / family.folder / "comm"
    rows = wheel(base / "nccl" / family.nccl / "nccl_perf.parquet")
    nccl: Tree = {}
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        ranks = family.nvls_ranks if op == "all_reduce" else 0
        nccl[op] = fit_ring(rows.of(op), bandwidth, nvls_ranks=ranks)
    nccl["all_to_all"] = fit_all_to_all(rows.of("alltoall"), bandwidth)
    tables: Tree = {"nccl": nccl}
    reduction = nccl["all_reduce"]
    assert isinstance(reduction, dict)
    for engine, (version, kinds) in family.engines.items():
        rows = wheel(base / engine / version / "custom_allreduce_perf.parquet")
        tables[engine] = {"all_reduce": fit_engine(rows, bandwidth, reduction, kinds)}
    engines = ", ".join(f"{name} {version}" for name, (version, _) in family.engines.items())
    source = (
        f"{family.device}, 2/4/8 GPUs: aiconfigurator-core 0.12.0 (Apache-2.0),"
        f" systems/data/{family.folder}/comm: nccl {family.nccl}; {engines} (CUDA graphs)"
    )
    return source, tables


PCIE = {
    "pcie4-no-p2p": (
        "RTX 4090, 2 and 4 GPUs, no peer-to-peer: nccl-tests logs (kalavai-client)",
        tuple(f"allreduce-rtx4090-1x{n}-pcie-{run}" for n in (2, 4) for run in "ab"),
    ),
    "pcie3-no-p2p": (
        "RTX 2080 Ti, 2 GPUs, no peer-to-peer: nccl-tests logs (Anthony-Hoo)",
        tuple(f"{op}-rtx2080ti-1x2-pcie" for op in ("allreduce", "allgather", "alltoall")),
    ),
}
BETWEEN = {
    "roce": (
        "A100 2x8 on 16x100 Gb/s and MI300X 2x8 on 8x400 Gb/s RoCE (oracle-quickstart/oci-hpc-oke)",
        (
            "allreduce-a100-2x8-oci-roce-2023",
            "allreduce-a100-2x8-oci-roce-2026",
            "allreduce-a100-2x8-oci-roce-full",
            "allreduce-mi300x-2x8-oci-rccl",
        ),
    ),
    "tcpxo": (
        "H100 2x8 on 8x200 Gb/s GPUDirect-TCPXO (GCP a3-megagpu-8g)",
        ("allreduce-h100-2x8-gcp-a3mega",),
    ),
    "efa": (
        "B200 4x8, H200 4x8, H100 2x8 on 3.2 Tb/s EFA (stas00/ml-engineering, aws-do-eks)",
        ("stas-b200-4n", "stas-h200-4n", "allreduce-h100-2x8-p5-truncated"),
    ),
    "efa-host": (
        "T4 2x1 on 50 Gb/s EFA without GPUDirect (aws-samples/aws-do-eks)",
        ("allreduce-t4-2x1-efa-info", "allreduce-t4-2x1-efa-mpitag"),
    ),
    "tcp": (
        "T4 2x1 on 50 Gb/s ENA, TCP sockets (aws-samples/aws-do-eks)",
        ("allreduce-t4-2x1-tcp-mpitag",),
    ),
}


L40S = (
    "L40S, 2 GPUs with peer-to-peer: aiconfigurator-core 0.12.0 (Apache-2.0), systems/data/l40s"
    "/comm/nccl/2.27.3. The same machine reaches 5.2 GB/s bus bandwidth with 4 GPUs"
    " and 1.4 GB/s with 8, across its host bridges: not fitted"
)


def fit_pcie(rows: Rows, fabric: str) -> Tree:
    bandwidth, peers = WIRE[fabric], not fabric.endswith("-no-p2p")
    names = ("simple", "ll128", "ll") if peers else ("simple", "ll")
    tables: Tree = {}
    for op in ("all_reduce", "all_gather", "reduce_scatter"):
        if (rows.op == op).any():
            tables[op] = fit_ring(rows.of(op), bandwidth, names, slower=4.0)
    if (rows.op == "alltoall").any():
        tables["all_to_all"] = fit_all_to_all(rows.of("alltoall"), bandwidth)
    return {"nccl": tables}


# Writing --------------------------------------------------------------------------------------


def toml_value(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        items = (f"{bare(key)} = {toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


INLINE = ("protocols", "median_error_by_ranks")


def toml_lines(table: Tree, path: tuple[str, ...] = ()) -> list[str]:
    inner = {k: v for k, v in table.items() if isinstance(v, dict) and k not in INLINE}
    plain = {k: v for k, v in table.items() if k not in inner}
    lines: list[str] = []
    if plain and path:
        lines += ["", "[" + ".".join(bare(name) for name in path) + "]"]
    for key, value in plain.items():
        if key == "protocols":
            assert isinstance(value, list)
            lines += ["protocols = [", *(f"    {toml_value(item)}," for item in value), "]"]
        else:
            lines.append(f"{key} = {toml_value(value)}")
    for key, value in inner.items():
        assert isinstance(value, dict)
        lines += toml_lines(value, (*path, key))
    return lines


def write(fabric: str, source: str, tables: Tree) -> None:
    head: Tree = {
        "fabric": fabric,
        "source": source,
        "command": "python tools/fit_collectives.py collectives.csv WHEEL_DIR",
    }
    if fabric in WIRE:
        head["bandwidth"] = WIRE[fabric]
    CATALOG.mkdir(parents=True, exist_ok=True)
    (CATALOG / f"{fabric}.toml").write_text("\n".join(toml_lines(head | tables)) + "\n")
    report(fabric, tables)


def report(name: str, table: Tree) -> None:
    quality = table.get("fit")
    if isinstance(quality, dict):
        figures = " ".join(
            f"{key.removesuffix('_error')} {quality[key]:.4f}"
            for key in ("median_error", "mean_error", "p90_error")
        )
        print(f"{name:40} {figures}  {quality['points']} points {quality['median_error_by_ranks']}")
    for key, value in table.items():
        if isinstance(value, dict) and key != "fit":
            report(f"{name} {key}", value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit collectives/*.toml to measured tables.")
    parser.add_argument("table", type=Path, help="collectives.csv")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    arguments = parser.parse_args()
    with arguments.table.open(newline="") as lines:
        table = list(csv.DictReader(lines))
    for fabric in NVLINK:
        write(fabric, *fit_nvlink(arguments.wheel, fabric))
    for fabric, (source, names) in PCIE.items():
        write(fabric, source, fit_pcie(published(table, *names), fabric))
    rows = wheel(arguments.wheel / DATA / "l40s/comm/nccl/2.27.3/nccl_perf.parquet")
    pair = rows.where(rows.ranks == 2)
    write("pcie4-p2p", L40S, fit_pcie(pair, "pcie4-p2p"))
    for fabric, (source, names) in BETWEEN.items():
        tables: Tree = {"nccl": {"all_reduce": fit_between(published(table, *names))}}
        write(fabric, source, tables)


if __name__ == "__main__":
    main()
