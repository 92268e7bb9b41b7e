"""Fit the catalog's collectives to measured tables, one TOML file per fabric.

    pip install scipy pyarrow && pip install -e .
    pip download --no-deps aiconfigurator-core==0.12.0
    python -m zipfile -e aiconfigurator_core-0.12.0-*.whl WHEEL_DIR
    python tools/fit_collectives.py collectives.csv WHEEL_DIR

NVLink families come from the wheel's ``comm`` tables (Apache-2.0; nccl-tests and the engines'
custom all-reduce under CUDA graphs, 2/4/8 GPUs). Networks are fitted by ``fit_networks.py`` from
``collectives.csv``, the table of published measurements (a row each: op, nodes, ranks, bytes, time_us,
library, ...), one set of constants for each kind of transport; what goes over PCIe by ``fit_hosts.py``.

The algorithms and their formulas are those of ``meshwise.cost.collectives.algorithms``, called with trial
constants; the cheapest legal candidate wins. Which kernels of NCCL and of the engines are fitted, from
where and with which constants, is said by their lines in that registry. In a protocol marked per_peer
every peer has a channel of its own.

all_reduce, all_gather and reduce_scatter share one ring: the same launches, steps, efficiencies and
copy. A ring has protocols: "simple" (all channels), "narrow" (simple over few channels), "ll128",
"ll". They are the pieces of a lower envelope, not NCCL's own switch points.

Schema of ``collectives/FABRIC.toml``::

    fabric, source, command
    bandwidth                      # bytes/s per device and direction
    [nccl]
    copy_bytes_per_s
    [nccl.ring]
    protocols = [{name, launch_s, step_s, efficiency}, ...]
    [nccl.OP.ALGORITHM]            # launch_s, step_s, efficiency, or protocols of them; min_ranks,
                                   #   dtypes_excluded; absent: those of the registry's ``like``
    [ENGINE.all_reduce]            # ENGINE vllm, sglang, trtllm (CUDA graphs)
    fallback = "nccl"              # its all_reduce where that is cheaper
    [ENGINE.all_reduce.ALGORITHM]  # a kernel of the engine's own; absent where never seen
    [LIBRARY.OP.fit]               # points; median_error, mean_error, p90_error, bias: held-out
                                   #   half, of predicted / measured - 1; mean_error_by_ranks;
                                   #   bytes_range

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
from dataclasses import dataclass, fields
from pathlib import Path

import fit_networks
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from meshwise import catalog
from meshwise.cost.collectives import fits as collective_fits
from meshwise.cost.collectives.algorithms import (
    COLLECTIVE_ALGORITHMS,
    OPS,
    RING_ROUNDS,
    Algorithm,
)
from meshwise.cost.collectives.collective import candidates_on
from meshwise.cost.collectives.fabric import PROTOCOLS, Candidate, Constants, Fabric
from meshwise.cost.sources import Source

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Flat = dict[str, float]  # trial constants by dotted name
Model = Callable[[Flat, "Rows"], Array]
Tree = dict[str, object]

CATALOG = Path(__file__).parents[1] / "src/meshwise/catalog/collectives"
DATA = "aiconfigurator_core/systems/data"
WIRE = {  # bytes/s per device and direction
    "nvlink3-nvswitch": 300e9,
    "nvlink4-nvswitch": 450e9,
    "nvlink5-nvswitch": 900e9,
}
SPELT = {"alltoall": "all_to_all"}  # the tables' name, the model's
PULL = 0.02  # weight of one e-fold away from the start, against log residuals


@dataclass(frozen=True)
class Rows:
    """Columns of the measurements that a fit uses."""

    log: NDArray[np.str_]
    op: NDArray[np.str_]
    dtype: NDArray[np.str_]
    ranks: Array
    nodes: Array
    payload: Array
    seconds: Array

    def where(self, mask: Mask) -> Rows:
        return Rows(*(getattr(self, field.name)[mask] for field in fields(self)))

    def of(self, *ops: str) -> Rows:
        return self.where(np.isin(self.op, ops))

    @property
    def fitted(self) -> Mask:
        level = np.round(np.log2(self.payload)) + np.round(np.log2(self.ranks))
        return np.asarray(level % 2 == 0, bool)


def published(table: Sequence[dict[str, str]], *logs: str) -> Rows:
    """Rows of ``collectives.csv`` whose id is ``log/number``."""
    rows = [row for row in table if row["id"].rsplit("/", 1)[0] in logs and row["time_us"]]
    return Rows(
        np.array([row["id"].rsplit("/", 1)[0] for row in rows]),
        np.array([SPELT.get(row["op"], row["op"]) for row in rows]),
        np.array([row["dtype"] for row in rows]),
        np.array([int(row["ranks"]) for row in rows]),
        np.array([int(row["nodes"]) for row in rows]),
        np.array([float(row["bytes"]) for row in rows]),
        np.array([float(row["time_us"]) * 1e-6 for row in rows]),
    )


def wheel(path: Path) -> Rows:
    """Rows of a ``comm`` table: sizes in elements, times in milliseconds; eager runs left out.

    Eager runs of an engine's kernel measure the host (a floor of about 20 us), not the network.
    """
    import pyarrow.parquet as pq

    rows = [
        row
        for row in pq.read_table(path).to_pylist()
        if "eager" not in str(row["kernel_source"]) and row["latency"] > 0
    ]
    dtypes = [row.get("nccl_dtype") or row["allreduce_dtype"] for row in rows]
    size = {"half": 2, "bfloat16": 2, "int8": 1}
    return Rows(
        np.full(len(rows), path.parts[-4]),
        np.array([SPELT.get(row["op_name"], row["op_name"]) for row in rows]),
        np.array(dtypes),
        np.array([int(row["num_gpus"]) for row in rows]),
        np.ones(len(rows), int),
        np.array(
            [float(row["message_size"] * size[d]) for row, d in zip(rows, dtypes, strict=True)]
        ),
        np.array([row["latency"] * 1e-3 for row in rows]),
    )


def left_out(table_rows: Sequence[dict[str, str]]) -> list[tuple[str, float, float]]:
    """(row id, measured seconds, predicted seconds) of the rows between nodes, each system left out of the
    fit with all of its logs."""
    return fit_networks.left_out(table_rows)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


# The model ------------------------------------------------------------------------------------


def entry(c: Flat, name: str, **more: object) -> Tree:
    """The constants under ``name.``; a protocol's launch and step are the quickest one's and more:
    what is sent in larger pieces never takes less time to the next rank."""
    found: Tree = {}
    extra = c.get(f"{name}.extra_s")
    if extra is not None:
        found["launch_s"] = c["launch_s"] + extra
    elif f"{name}.launch_s" not in c and "launch_s" in c:
        found["launch_s"] = c["launch_s"]
    for key in ("launch_s", "step_s", "efficiency"):
        if f"{name}.{key}" in c:
            found[key] = c[f"{name}.{key}"]
    if f"{name}.more_step_s" in c:
        found["step_s"] = c["ll.step_s"] + c[f"{name}.more_step_s"]
    return found | more


def tidy(value: object) -> object:
    """Every figure with four digits, as it is shipped."""
    if isinstance(value, dict):
        return {key: tidy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tidy(item) for item in value]
    return rounded(value) if isinstance(value, float) else value


def tidied(table: Tree) -> Tree:
    found = tidy(table)
    assert isinstance(found, dict)
    return found


def protocols(c: Flat, names: Sequence[str], **more: Tree) -> Tree:
    listed = [
        {"name": n, **entry(c, n, **more.get(n, {}))} for n in names if f"{n}.efficiency" in c
    ]
    return {"protocols": listed}


def on_one_level(table: Tree, rows: Rows, bandwidth: float, library: str = "nccl") -> Array:
    """Seconds of each row by the shipped formulas, with ``table`` as the file of constants."""
    seconds = np.zeros(rows.payload.shape)
    for op in np.unique(rows.op):
        some = rows.op == op
        r = rows.where(some)
        nccl = table["nccl"]
        assert isinstance(nccl, dict)
        copy = nccl.get("copy_bytes_per_s", np.inf)
        algorithms = collective_fits.algorithms_of(table, str(op), library)
        fabric = Fabric(
            ranks=(r.ranks,),
            bandwidth=(bandwidth,),
            per_level=(Constants(algorithms, copy, Source("")),),
            outermost=np.int64(0),
            size=r.ranks,
            peer_to_peer=np.bool_(True),
            in_switch=r.dtype != "int8",
            through=(False,),
        )
        seconds[some] = cheapest(candidates_on(str(op), r.payload, fabric))
    return seconds


def cheapest(found: Sequence[Candidate]) -> Array:
    return np.asarray(np.min(np.broadcast_arrays(*(c.seconds for c in found)), axis=0), float)


# Fitting --------------------------------------------------------------------------------------


def errors(ratio: Array, rows: Rows) -> Tree:
    """How far off the constants are on the half that was not fitted."""
    held = ~rows.fitted
    error = np.abs(ratio[held])
    ranks = rows.ranks[held]
    return {
        "points": len(rows.seconds),
        "median_error": rounded(float(np.median(error))),
        "mean_error": rounded(float(np.mean(error))),
        "p90_error": rounded(float(np.quantile(error, 0.9))),
        "bias": rounded(float(np.median(ratio[held]))),
        "mean_error_by_ranks": {
            str(int(n)): rounded(float(np.mean(error[ranks == n]))) for n in np.unique(ranks)
        },
        "bytes_range": [int(rows.payload.min()), int(rows.payload.max())],
    }


def fit(model: Model, start: Flat, rows: Rows, scales: Sequence[Flat] = ({},)) -> Flat:
    """Constants from the fitted half, best of several starts; no efficiency exceeds one.

    ``scales``: for each start, factors on the constants whose name ends with the key.
    """
    inside = rows.where(rows.fitted)
    target = np.log(inside.seconds)
    names = list(start)
    centre = np.log([start[name] for name in names])
    limit = np.array([0.0 if n.rpartition(".")[2] == "efficiency" else np.inf for n in names])

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


def fit_used(
    model: Model, start: Flat, rows: Rows, scales: Sequence[Flat], names: Sequence[str]
) -> Flat:
    """As :func:`fit`, without the protocols that hardly ever win."""
    while True:
        c = fit(model, start, rows, scales)
        inside = rows.where(rows.fitted)
        best = model(c, inside)
        left = [n for n in names if f"{n}.efficiency" in c]
        for name in left[:-1]:  # the last one has the launch that the others add to
            rest = {k: v for k, v in c.items() if not k.startswith(name + ".")}
            if np.sum(model(rest, inside) > best * (1 + 1e-9)) < 3:
                start = {k: v for k, v in start.items() if not k.startswith(name + ".")}
                break
        else:
            return c


STEPS: list[Flat] = [{"step_s": 1.0}, {"step_s": 2.0}, {"more_step_s": 0.2}, {"more_step_s": 10.0}]
RINGS = PROTOCOLS
RING_START = {
    "launch_s": 5e-6,
    "simple.extra_s": 3e-5,
    "simple.more_step_s": 5e-7,
    "simple.efficiency": 0.81,
    "narrow.extra_s": 1.2e-5,
    "narrow.more_step_s": 1e-7,
    "narrow.efficiency": 0.6,
    "ll128.extra_s": 8e-7,
    "ll128.more_step_s": 1e-7,
    "ll128.efficiency": 0.35,
    "ll.step_s": 8e-7,
    "ll.efficiency": 0.03,
}
PEERS = ("simple", "ll")
PEER_START = {
    "launch_s": 6e-6,
    "simple.extra_s": 8e-6,
    "simple.efficiency": 0.7,
    "ll.efficiency": 0.015,
}


# Protocols of these serve every peer at the same time in the one for small messages.
PER_PEER = ("direct",)


def kernels(library: str, without: Sequence[str] = ()) -> list[Algorithm]:
    """The registry's kernels of a library in all_reduce, but those that it was never seen to run."""
    every = COLLECTIVE_ALGORITHMS.values()
    return [a for a in every if a.kernel_of == library and a.name not in without]


def starts(found: Sequence[Algorithm]) -> Flat:
    return {f"{a.name}.{k}": v for a in found for k, v in (a.start or {}).items()}


def own_constants(op: str) -> list[Algorithm]:
    """The algorithms of an operation that run as a ring's pieces where nothing else is measured."""
    every = COLLECTIVE_ALGORITHMS.values()
    return [a for a in every if op in a.operations and op not in RING_ROUNDS and a.like == "ring"]


def fit_nccl(
    rows: Rows, bandwidth: float, slower: float = 1.0, fewest: dict[str, int] | None = None
) -> Tree:
    """One ring for its three collectives, NCCL's kernels from their ``fewest`` ranks on, and what has no
    ring."""
    own = [a for a in kernels("nccl") if a.name in (fewest or {})]

    def table(c: Flat) -> Tree:
        nccl: Tree = {"ring": protocols(c, RINGS)}
        if "copy" in c:
            nccl = {"copy_bytes_per_s": c["copy"] * 1e12} | nccl
        if own:
            assert fewest is not None
            nccl["all_reduce"] = {
                a.name: entry(c, a.name, min_ranks=fewest[a.name], dtypes_excluded=["int8"])
                for a in own
            }
        return {"nccl": nccl}

    def model(c: Flat, r: Rows) -> Array:
        return on_one_level(table(c), r, bandwidth)

    start = {
        k: v / slower if k.endswith("efficiency") else v * slower if k.endswith("step_s") else v
        for k, v in RING_START.items()
    }
    start["copy"] = 1.0 / slower
    start |= starts(own)
    rings = rows.of(*RING_ROUNDS)
    tables = tidied(table(fit_used(model, start, rings, STEPS, RINGS)))
    nccl = tables["nccl"]
    assert isinstance(nccl, dict)

    for op in OPS:
        of_op = rows.of(op)
        for a in own_constants(op) if len(of_op.op) else ():
            start = {
                k: v / slower if k.endswith("efficiency") else v for k, v in PEER_START.items()
            }
            more: Tree = {"per_peer": True} if a.name in PER_PEER else {}
            tables = fit_direct(tables, op, a.name, start, of_op, bandwidth, more)
    return report_errors(tables, rows, bandwidth)


def fit_direct(
    tables: Tree, op: str, name: str, start: Flat, rows: Rows, bandwidth: float, more: Tree
) -> Tree:
    """An operation without a ring, beside the ring's constants."""
    nccl = tables["nccl"]
    assert isinstance(nccl, dict)

    def table(c: Flat) -> Tree:
        return {"nccl": nccl | {op: {name: protocols(c, PEERS, ll=more)}}}

    def model(c: Flat, r: Rows) -> Array:
        return on_one_level(table(c), r, bandwidth)

    return tidied(table(fit_used(model, start, rows, [{}], PEERS)))


def report_errors(tables: Tree, rows: Rows, bandwidth: float) -> Tree:
    nccl = tables["nccl"]
    assert isinstance(nccl, dict)
    for op in OPS:
        r = rows.of(op)
        if len(r.op):
            ratio = on_one_level(tables, r, bandwidth) / r.seconds - 1
            nccl[op] = nccl.get(op, {}) | {"fit": errors(ratio, r)}
    return tables


def fit_engine(
    rows: Rows, bandwidth: float, nccl: Tree, library: str, without: Sequence[str]
) -> Tree:
    """The kernels of an engine that falls back to NCCL."""
    found_kernels = kernels("engine", without)

    def table(c: Flat) -> Tree:
        own: Tree = {"fallback": "nccl"}
        for a in found_kernels:
            fewest = {"min_ranks": FEWEST[a.name]} if a.name in FEWEST else {}
            own[a.name] = entry(c, a.name, **fewest)
        return {"nccl": nccl, library: {"all_reduce": own}}

    def model(c: Flat, r: Rows) -> Array:
        return on_one_level(table(c), r, bandwidth, library)

    start = {"launch_s": 4e-6} | starts(found_kernels)
    found = table(fit(model, start, rows))
    ratio = on_one_level(found, rows, bandwidth, library) / rows.seconds - 1
    own = found[library]
    assert isinstance(own, dict)
    return {"all_reduce": own["all_reduce"] | {"fit": errors(ratio, rows)}}


# Families -------------------------------------------------------------------------------------


FEWEST = {"multimem": 8}  # ranks of an engine's kernel


@dataclass(frozen=True)
class NVLink:
    """An NVLink family: the wheel's folder, its tables, NCCL's kernels with their fewest ranks, and by
    engine its version and the kernels that it was never seen to run."""

    device: str
    folder: str
    nccl: str
    fewest: dict[str, int]
    engines: dict[str, tuple[str, tuple[str, ...]]]


NVLINK = {
    "nvlink3-nvswitch": NVLink(
        "A100 SXM4 80 GB",
        "a100_sxm",
        "2.27.3",
        {},
        {
            "vllm": ("0.14.0", ("multimem",)),
            "sglang": ("0.5.10", ("multimem",)),
            "trtllm": ("1.0.0", ("multimem", "two_shot")),
        },
    ),
    "nvlink4-nvswitch": NVLink(
        "H100 SXM5",
        "h100_sxm",
        "2.29.2",
        {"nvls": 5},
        {
            "vllm": ("0.24.0", ()),
            "sglang": ("0.5.14", ("multimem",)),
            "trtllm": ("1.3.0rc20", ("multimem", "two_shot")),
        },
    ),
    "nvlink5-nvswitch": NVLink(
        "B200 SXM",
        "b200_sxm",
        "2.29.2",
        {"nvls": 6},
        {
            "vllm": ("0.24.0", ("multimem",)),
            "sglang": ("0.5.14", ("multimem",)),
            "trtllm": ("1.3.0rc20", ("multimem",)),
        },
    ),
}


def fit_nvlink(root: Path, fabric: str) -> tuple[str, Tree]:
    family, bandwidth = NVLINK[fabric], WIRE[fabric]
    base = root / DATA / family.folder / "comm"
    rows = wheel(base / "nccl" / family.nccl / "nccl_perf.parquet")
    tables = fit_nccl(rows, bandwidth, fewest=family.fewest)
    nccl = tables["nccl"]
    assert isinstance(nccl, dict)
    for engine, (version, without) in family.engines.items():
        rows = wheel(base / engine / version / "custom_allreduce_perf.parquet")
        tables[engine] = fit_engine(rows, bandwidth, nccl, engine, without)
    engines = ", ".join(f"{name} {version}" for name, (version, _) in family.engines.items())
    source = (
        f"{family.device}, 2/4/8 GPUs: aiconfigurator-core 0.12.0 (Apache-2.0),"
        f" systems/data/{family.folder}/comm: nccl {family.nccl}; {engines} (CUDA graphs)"
    )
    return source, tables


# Writing --------------------------------------------------------------------------------------


def toml_value(value: object) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        items = (f"{bare(key)} = {toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"'


INLINE = ("protocols", "mean_error_by_ranks")


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
    collective_fits.constants.cache_clear()
    collective_fits._collective_table.cache_clear()
    catalog._table.cache_clear()


def report(name: str, table: Tree) -> None:
    quality = table.get("fit")
    if isinstance(quality, dict):
        figures = " ".join(
            f"{key.removesuffix('_error')} {quality[key]:.4f}"
            for key in ("median_error", "mean_error", "p90_error")
        )
        print(f"{name:40} {figures}  {quality['points']} points {quality['mean_error_by_ranks']}")
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
    logs = fit_networks.logs_of(table)
    fit_networks.write(logs, fit_networks.flat(fit_networks.predictions_left_out(logs)))


if __name__ == "__main__":
    main()
