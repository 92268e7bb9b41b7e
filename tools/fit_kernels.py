"""Fit the catalog's compute kernels to measured tables, one TOML file per device.

    pip install numpy scipy pyarrow
    pip install --no-deps -e .
    pip download --no-deps aiconfigurator-core==0.12.0
    python -m zipfile -e aiconfigurator_core-0.12.0-*.whl WHEEL_DIR
    python tools/fit_kernels.py WHEEL_DIR
    python tools/fit_moe.py WHEEL_DIR
    python tools/fit_recurrence.py WHEEL_DIR
    python tools/fit_sparse.py WHEEL_DIR
    python tools/fit_weight_only.py WHEEL_DIR

The wheel (Apache-2.0) carries measured calls as Parquet. It is read here and nowhere else: what
ships is a few constants and a small table of corrections per device and kind of call, with what
they were fitted to. The forms are the functions of ``meshwise.cost.kernels.seconds``, called as they are.

Half of the calls, chosen by a hash of their shape, is fitted: the constants first (soft L1 loss of
the logarithm), rounded to 4 digits, then the corrections left over them (per mille, ridge, robust).
The errors in the file are of the rounded constants and corrections on the other half.

Schema of ``kernels/DEVICE.toml``::

    device, source, command
    memory_bandwidth, sms            # what the constants are relative to: bytes/s, multiprocessors
    roofline = {efficiency, memory_efficiency, launch_s}   # passes over memory, unfused attention
    [gemm.DTYPE]                     # bf16, fp8 (per tensor), fp8_block (128 x 128), int8, nvfp4
    kernel, peak_flops_per_s         # what ran; the dense datasheet peak the constants refer to
    launch_s, tile_efficiency, ...   # see meshwise.cost.kernels.seconds.GemmFit
    ceiling                          # share of the peak that one measured call in 1000 exceeds
    quantise_s = {trtllm, ...}       # more of a launch, by engine: the passes that quantise
    points, median_error, mean_error, p90_error  # held-out half, |predicted / measured - 1|
    bias                             # median of predicted / measured - 1, held-out half
    range = [[m], [n], [k]]          # smallest, largest of the whole table
    table.knots, table.per_mille
    [moe.ENGINE.FORMAT]              # layers of experts: by tools/fit_moe.py, run afterwards
    [recurrence.ENGINE.RULE.PHASE]   # states: by tools/fit_recurrence.py, run afterwards
    [sparse.OPERATION.KIND], [attention.mla_decode]  # by tools/fit_sparse.py, run afterwards
    [weight_only.ENGINE.NAME]        # by tools/fit_weight_only.py, run afterwards
    [attention.prefill] [attention.decode] [attention.prefill_fp8] [attention.decode_fp8]
    as above; range = [[queries or keys], [sequences], [heads]]; two to five tables
    head_128 = {median_error, p90_error}   # of the heads of 128 without a window alone
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse.linalg import spsolve

from meshwise.cost.kernels import seconds as kernels
from meshwise.cost.kernels.seconds import AttentionFit, Chip, CorrectionTable

Array = NDArray[np.float64]
Entry = dict[str, Any]

CATALOG = Path(__file__).parents[1] / "src/meshwise/catalog/kernels"
DATA = "aiconfigurator_core/systems/data"
PACKAGE = "aiconfigurator-core 0.12.0 (Apache-2.0)"


@dataclass(frozen=True)
class Source:
    """A device of the wheel: its folder, versions of the tables, and datasheet figures."""

    folder: str
    bandwidth: float  # bytes/s
    sms: int
    peaks: dict[str, float]  # FLOP/s, dense, by operand format
    gemm: dict[str, tuple[str, str]]  # our format -> (library/version, gemm_dtype of the table)
    attention: str = "vllm/0.24.0"
    kv_fp8: bool = True
    windows: bool = True  # whether decoding kernels leave out what a window hides
    quantise: tuple[str, ...] = ("trtllm/1.3.0rc20", "vllm/0.24.0", "sglang/0.5.14")
    note: str = ""


# One library per format. All bf16 calls are cuBLAS; so is TensorRT-LLM's fp8 (vLLM and SGLang run
# CUTLASS kernels that no smooth form describes: 17 % p90 at best). Narrow formats include the
# dynamic quantisation of the activations.
HOPPER_GEMM = {
    "bf16": ("trtllm/1.3.0rc20", "bfloat16"),
    "fp8": ("trtllm/1.3.0rc20", "fp8"),
    "fp8_block": ("trtllm/1.3.0rc20", "fp8_block"),
}
BLACKWELL_GEMM = HOPPER_GEMM | {"nvfp4": ("vllm/0.24.0", "nvfp4")}
# Cards whose cache is large beside their memory's rate: TensorRT-LLM's table has calls there whose
# operands never left the cache, vLLM's of the same cuBLAS few (:func:`from_memory`).
CARD_BF16 = {"bf16": ("vllm/0.24.0", "bfloat16")}
DEVICES = {
    "a100-80gb-sxm": Source(
        "a100_sxm",
        2039e9,
        108,
        {"bf16": 312e12, "int8": 624e12},
        {"bf16": ("sglang/0.5.10", "bfloat16"), "int8": ("trtllm/1.0.0", "sq")},
        attention="vllm/0.14.0",
        kv_fp8=False,
        quantise=(),
        note="peaks: NVIDIA A100 80GB datasheet",
    ),
    "h100-80gb-sxm": Source(
        "h100_sxm",
        3350e9,
        132,
        {"bf16": 989.4e12, "fp8": 1978.9e12},
        HOPPER_GEMM,
        note="peaks: NVIDIA H100 architecture white paper, SXM5",
    ),
    "h200": Source(
        "h200_sxm",
        4.8e12,
        132,
        {"bf16": 989.4e12, "fp8": 1978.9e12},
        HOPPER_GEMM,
        note="peaks: NVIDIA H200 datasheet, SXM",
    ),
    "b200": Source(
        "b200_sxm",
        8e12,
        148,
        {"bf16": 2250e12, "fp8": 4500e12, "nvfp4": 9000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA HGX B200 datasheet / 8, dense (8 TB/s; some list 7.7)",
    ),
    "b300": Source(
        "b300_sxm",
        8e12,
        148,
        {"bf16": 2250e12, "fp8": 4500e12, "nvfp4": 13500e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA HGX B300 datasheet / 8, dense (nvfp4: 108 PFLOP/s / 8)",
    ),
    "gb200": Source(
        "gb200",
        8e12,
        152,
        {"bf16": 2500e12, "fp8": 5000e12, "nvfp4": 10000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA GB200 NVL72 datasheet / 72, dense",
    ),
    "gb300": Source(
        "gb300",
        8e12,
        152,
        {"bf16": 2500e12, "fp8": 5000e12, "nvfp4": 15000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA GB300 NVL72 datasheet / 72, dense",
    ),
    "l40s": Source(
        "l40s",
        864e9,
        142,
        {"bf16": 362e12, "fp8": 733e12},
        HOPPER_GEMM | CARD_BF16,
        windows=False,
        note="peaks: NVIDIA L40S datasheet, dense",
    ),
    "rtx-pro-6000": Source(
        "rtx_pro_6000_server",
        1597e9,
        188,
        {"bf16": 480e12, "fp8": 960e12, "nvfp4": 1920e12},
        BLACKWELL_GEMM | CARD_BF16,
        windows=False,
        note="the Server Edition; peaks: NVIDIA RTX PRO 6000 Blackwell Server Edition datasheet, dense",
    ),
}
# Bytes per element of the two operands and the result. NVFP4 carries an 8-bit scale per 16 values.
OPERAND_BYTES = {
    "bf16": (2.0, 2.0, 2.0),
    "fp8": (1.0, 1.0, 2.0),
    "fp8_block": (1.0, 1.0, 2.0),
    "int8": (1.0, 1.0, 2.0),
    "nvfp4": (0.5625, 0.5625, 2.0),
}


@dataclass(frozen=True)
class Calls:
    """Measured calls: one column per shape figure, seconds, and which half is fitted."""

    shape: Array  # figures x calls
    seconds: Array
    fitted: NDArray[np.bool_]
    kernel: str


def read(path: Path, shape: list[str], keep: dict[str, str]) -> Calls:
    """Calls of one Parquet table whose columns equal ``keep``; the median where a shape repeats."""
    table = pq.read_table(path)
    columns = table.to_pydict()
    count = table.num_rows
    figures = [columns.get(name, [0] * count) for name in shape]
    rows: dict[tuple[int, ...], list[float]] = {}
    names: set[str] = set()
    for i in range(count):
        if columns["latency"][i] > 0 and all(columns[key][i] == v for key, v in keep.items()):
            key = tuple(figure[i] for figure in figures)
            rows.setdefault(key, []).append(columns["latency"][i] * 1e-3)
            names.add(columns["kernel_source"][i])
    keys = sorted(rows)
    return Calls(
        np.array(keys, float).T,
        np.array([np.median(rows[key]) for key in keys]),
        np.array([zlib.crc32(repr(key).encode()) % 2 == 0 for key in keys]),
        ", ".join(sorted(names)),
    )


BEYOND_CACHES = 1e9  # bytes: of calls that read more, a tenth at most can stay in a cache


def from_memory(calls: Calls, read_bytes: Array, bandwidth: float) -> Calls:
    """Without the calls that read faster than any does that no cache can help, or than the memory."""
    rate = read_bytes / calls.seconds
    beyond = rate[read_bytes > BEYOND_CACHES]
    return chosen(calls, rate <= min(float(beyond.max(initial=0.0)) or bandwidth, bandwidth))


def chosen(calls: Calls, kept: NDArray[np.bool_]) -> Calls:
    return Calls(calls.shape[:, kept], calls.seconds[kept], calls.fitted[kept], calls.kernel)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


# -- fitting ---------------------------------------------------------------------------------------

Model = Callable[[Array, Array], Array]  # (constants, shape) -> seconds


def fit_constants(model: Model, start: list[float], calls: Calls, loss: float) -> list[float]:
    """Constants of ``model`` from every third call of the fitted half, each within e^5 of its start."""
    chosen = np.flatnonzero(calls.fitted)[::3]
    shape, target = calls.shape[:, chosen], np.log(calls.seconds[chosen])
    guess = np.log(np.array(start))
    found = least_squares(
        lambda x: np.log(model(np.exp(x), shape)) - target,
        guess,
        loss="soft_l1",
        f_scale=loss,
        max_nfev=60,
        bounds=(guess - 5, guess + 4),
    )
    return [rounded(value) for value in np.exp(found.x)]


def weights(knots: tuple[Array, ...], shape: tuple[Array, ...]) -> sparse.csr_matrix:
    """What each knot of a table counts at each call: the multilinear interpolation, transposed."""
    cells = [kernels.cell(k, x) for k, x in zip(knots, shape, strict=True)]
    sizes = tuple(len(k) for k in knots)
    calls = np.arange(len(shape[0]))
    rows, columns, values = [], [], []
    for corner in np.ndindex(*(2,) * len(sizes)):
        value = np.ones(len(calls))
        for c, (_, share) in zip(corner, cells, strict=True):
            value = value * (share if c else 1.0 - share)
        at = [low + c for c, (low, _) in zip(corner, cells, strict=True)]
        rows.append(calls)
        columns.append(np.ravel_multi_index(at, sizes))
        values.append(value)
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(parts, shape=(len(calls), int(np.prod(sizes))))


HOLD = 0.3  # of the square of a difference between neighbours, beside a call's squared error


def roughness(sizes: tuple[int, ...]) -> sparse.csr_matrix:
    """Differences of neighbouring knots along every axis."""
    parts = []
    for axis, size in enumerate(sizes):
        step = sparse.diags([-1.0, 1.0], [0, 1], shape=(size - 1, size))
        before, after = int(np.prod(sizes[:axis])), int(np.prod(sizes[axis + 1 :]))
        parts.append(
            sparse.kron(sparse.kron(sparse.identity(before), step), sparse.identity(after))
        )
    return sparse.vstack(parts).tocsr()


def fit_tables(
    predicted: Array,
    calls: Calls,
    grids: list[tuple[list[list[float]], tuple[Array, ...]]],
) -> list[Entry]:
    """Corrections at the knots of ``grids`` (knots, shape values) that bring ``predicted`` to the
    fitted half. Neighbouring knots are held together (those without a call take their neighbours'
    values); 12 rounds of weights pull outliers in."""
    knots = [tuple(kernels.position(np.array(k, float)) for k in grid) for grid, _ in grids]
    shapes = [shape for _, shape in grids]
    whole = sparse.hstack([weights(k, x) for k, x in zip(knots, shapes, strict=True)]).tocsr()
    ratio = (predicted / calls.seconds)[calls.fitted]
    matrix = sparse.diags(ratio) @ whole[calls.fitted]
    target = 1.0 - ratio
    rough = sparse.block_diag([roughness(tuple(len(axis) for axis in k)) for k in knots])
    penalty = 0.05 * sparse.identity(whole.shape[1]) + HOLD * rough.T @ rough
    weight = np.ones(len(target))
    solution = np.zeros(whole.shape[1])
    for _ in range(12):
        system = matrix.T @ sparse.diags(weight) @ matrix + penalty
        solution = spsolve(system.tocsc(), matrix.T @ (weight * target))
        weight = 1.0 / np.sqrt(1.0 + ((target - matrix @ solution) / 0.06) ** 2)
    entries, start = [], 0
    for (grid, _), k in zip(grids, knots, strict=True):
        count = int(np.prod([len(axis) for axis in k]))
        values = np.clip(np.rint(solution[start : start + count] * 1000), -600, 1500).astype(int)
        entries.append({"knots": grid, "per_mille": " ".join(str(v) for v in values)})
        start += count
    return entries


def quality(predicted: Array, calls: Calls, only: NDArray[np.bool_] | None = None) -> Entry:
    """Errors on the held-out half."""
    where = ~calls.fitted if only is None else ~calls.fitted & only
    ratio = predicted[where] / calls.seconds[where] - 1
    error = np.abs(ratio)
    return {
        "points": len(calls.seconds),
        "median_error": rounded(float(np.median(error))),
        "mean_error": rounded(float(np.mean(error))),
        "p90_error": rounded(float(np.quantile(error, 0.9))),
        "bias": rounded(float(np.median(ratio))),
    }


def extent(*values: Array) -> list[list[float]]:
    return [[float(v.min()), float(v.max())] for v in values]


# -- products --------------------------------------------------------------------------------------

GEMM_GRID = [
    [1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768],
    [32, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536],
    [32, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536],
]
GEMM_START = {
    "launch_s": 3e-6,
    "memory_efficiency": 0.85,
    "sm_bandwidth": 1.5,
    "tile_s": 2e-7,
    "cache_bandwidth": 3.0,
    "split_s": 2e-6,
    "split_bandwidth": 2.0,
    "smooth": 0.3,
    "store_efficiency": 1.0,
    "quantise_bytes": 6.0,
}
# Two starts, of which the better on the fitted half stays: waves paid whole, as the A100's kernels
# do, and waves that flow into each other, as the persistent ones of Hopper.
FLUID_START = {"smooth": 20.0, "store_efficiency": 50.0, "tile_s": 5e-7}
TILE_START = [0.2, 0.5, 0.6, 0.7, 0.75, 0.75]


def gemm_entry(values: Array, operand: float, quantised: bool) -> Entry:
    """The constants in a catalog's names. ``smooth`` is a share: x / (1 + x)."""
    entry = dict(zip(GEMM_START, (float(v) for v in values), strict=False))
    entry["smooth"] = rounded(entry["smooth"] / (1 + entry["smooth"]))
    if not quantised:
        del entry["quantise_bytes"]
    entry["operand_bytes"] = operand
    entry["tile_efficiency"] = [float(v) for v in values[len(GEMM_START) :]]
    return entry


def gemm_calls(base: Path, source: Source, dtype: str) -> Calls:
    version, column = source.gemm[dtype]
    path = base / f"gemm/{version}/gemm_perf.parquet"
    calls = read(path, ["m", "n", "k"], {"gemm_dtype": column})
    a, w, _ = OPERAND_BYTES[dtype]
    m, n, k = calls.shape
    return from_memory(calls, m * k * a + k * n * w, source.bandwidth)


def fit_gemm(base: Path, source: Source, dtype: str, floor: float | None) -> Entry:
    """The entry of one format. ``floor``: the bf16 launch, from which ``quantise_s`` counts."""
    version, column = source.gemm[dtype]
    calls = gemm_calls(base, source, dtype)
    a, w, out = OPERAND_BYTES[dtype]
    chip = Chip(source.sms, source.peaks[dtype.removesuffix("_block")], source.bandwidth)
    quantised = dtype != "bf16"

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...] = ()) -> Array:
        m, n, k = shape
        moved = m * k * a + k * n * w + m * n * out
        fit = kernels.gemm_fit(entry, tables)
        return np.asarray(kernels.gemm_seconds(m, n, k, 1.0, moved, chip, fit), float)

    best = np.inf
    entry, table = Entry(), Entry()
    for start in (GEMM_START, {**GEMM_START, **FLUID_START}):
        found = fit_constants(
            lambda values, shape: seconds(gemm_entry(values, a, quantised), shape),
            [*start.values(), *TILE_START],
            calls,
            0.05,
        )
        tried = gemm_entry(np.array(found), a, quantised)
        (left,) = fit_tables(seconds(tried, calls.shape), calls, [(GEMM_GRID, tuple(calls.shape))])
        final = seconds(tried, calls.shape, (kernels.correction_table(left),))
        error = float(np.mean(np.abs(final / calls.seconds - 1)[calls.fitted]))
        if error < best:
            best, entry, table = error, tried, left
    errors = quality(seconds(entry, calls.shape, (kernels.correction_table(table),)), calls)
    if floor is not None and entry["launch_s"] > floor:
        entry["quantise_s"] = {
            version.partition("/")[0]: rounded(entry["launch_s"] - floor),
            **quantise_floors(base, source, column),
        }
        entry["launch_s"] = floor
    entry["ceiling"] = ceiling(calls, chip)
    head: Entry = {"kernel": calls.kernel, "table": version, "peak_flops_per_s": chip.peak}
    tail: Entry = {"bytes_per_element": [a, w, out], "range": extent(*calls.shape)}
    return {**head, **entry, **errors, **tail, "tables": [table]}


def ceiling(calls: Calls, chip: Chip) -> float:
    """The largest share of the peak that one call in a thousand of the fitted half exceeds."""
    m, n, k = calls.shape
    share = (2 * m * n * k / (chip.peak * calls.seconds))[calls.fitted]
    return rounded(min(float(np.quantile(share, 0.999)), 1.0))


def quantise_floors(base: Path, source: Source, column: str) -> dict[str, float]:
    """Seconds that the smallest products of a format take beyond bf16's, by engine: the passes that
    quantise the activations (median over products of at most 16 x 512 x 512)."""
    floors: dict[str, float] = {}
    for version in source.quantise:
        path = base / f"gemm/{version}/gemm_perf.parquet"
        if version == source.gemm["fp8"][0] or not path.exists() or column != "fp8":
            continue
        small = []
        for dtype in ("bfloat16", column):
            calls = read(path, ["m", "n", "k"], {"gemm_dtype": dtype})
            m, n, k = calls.shape
            small.append(float(np.median(calls.seconds[(m <= 16) & (n <= 512) & (k <= 512)])))
        floors[version.partition("/")[0]] = rounded(max(small[1] - small[0], 0.0))
    return floors


def fit_roofline(base: Path, source: Source) -> Entry:
    """Launch + max(arithmetic, memory) of the bf16 products: what passes over memory are priced by."""
    version, column = source.gemm["bf16"]
    calls = read(
        base / f"gemm/{version}/gemm_perf.parquet", ["m", "n", "k"], {"gemm_dtype": column}
    )
    start = {"efficiency": 0.7, "memory_efficiency": 0.7, "launch_s": 4e-6}

    def model(values: Array, shape: Array) -> Array:
        m, n, k = shape
        arithmetic = 2 * m * n * k / (values[0] * source.peaks["bf16"])
        moved = 2 * (m * k + k * n + m * n)
        bound = np.maximum(arithmetic, moved / (values[1] * source.bandwidth))
        return np.asarray(values[2] + bound, float)

    found = fit_constants(model, list(start.values()), calls, 0.05)
    return dict(zip(start, found, strict=True))


# -- attention -------------------------------------------------------------------------------------

SHAPE = [
    *("batch_size", "isl", "num_heads", "num_key_value_heads"),
    *("head_dim", "window_size", "step"),
]
QUERIES = [16, 64, 128, 256, 512, 1024, 2048, 4096, 16384]
KEYS = [2, 64, 256, 512, 1024, 4096, 16384, 131072]
PREFILL_GRIDS = [
    [QUERIES, [1, 8, 32, 128, 512, 2048, 16384], [1, 4, 16, 64]],
    [QUERIES, [1, 4, 16, 64, 256], [1, 4, 16, 96]],
    [QUERIES, [1, 8, 32, 128, 512, 2048, 16384], [64, 128, 192, 256]],
    [QUERIES, [64, 128, 192, 256], [1, 4, 16, 64]],
    [[8, 64, 256, 1024, 8192], [64, 128, 192, 256], [0.01, 0.1, 0.5]],
]
DECODE_GRIDS = [
    [KEYS, [1, 8, 32, 64, 128, 256, 1024, 2048, 16384], [1, 4, 16, 64]],
    [KEYS, [1, 8, 32, 64, 128, 129, 256, 1024, 2048], [1, 2, 4, 8]],
    [KEYS, [1, 8, 32, 64, 128, 256, 1024, 2048, 16384], [64, 128, 256]],
]
WIDTH_RATIOS = (0.684, 1.0, 1.195, 1.175)  # of kernels.WIDTHS, kernels/h100-80gb-sxm prefill
PREFILL_START = {
    "launch_s": 1e-5,
    "tail": 0.5,
    "diagonal": 64.0,
    "tile_s": 1e-6,
    "query_efficiency": 0.5,
    "kv_efficiency": 0.3,
}
DECODE_START = {
    "launch_s": 1e-5,
    "query_efficiency": 1.0,
    "kv_efficiency": 0.85,
    "sm_bandwidth": 2.0,
    "split_keys": 1.0,
    "head_s": 2e-6,
    "sequence_s": 1e-9,
}


def attention_calls(path: Path, kv: str) -> Calls:
    """Calls with at least 16 queries or one, heads of 64 to 256; key-value heads 0: as many as heads."""
    calls = read(path, SHAPE, {"kv_cache_dtype": kv, "attn_dtype": "bfloat16"})
    shape = calls.shape.copy()
    shape[3] = np.where(shape[3] == 0, shape[2], shape[3])
    keep = (shape[4] <= 256) & ((shape[1] >= 16) | ("generation" in path.name))
    return Calls(shape[:, keep], calls.seconds[keep], calls.fitted[keep], calls.kernel)


def attended(queries: Array, keys: Array, window: Array) -> Array:
    """Keys that a query sees on average: causal, at most the window's."""
    limit = np.where(window > 0, np.minimum(window, keys), keys)
    first = keys - queries + 1
    growing = np.clip(limit - first, 0, queries)
    pairs = growing * first + growing * (growing - 1) / 2 + (queries - growing) * limit
    return np.asarray(pairs / queries, float)


def prefill(
    entry: Entry, shape: Array, chip: Chip, tables: tuple[CorrectionTable, ...] = ()
) -> Array:
    batch, new, heads, kv_heads, width, window, past = shape
    fit = AttentionFit(**entry, tables=tables)
    seconds = np.zeros(len(batch))
    for one in np.unique(width):
        at = width == one
        b, s, h, g, w = (x[at] for x in (batch, new, heads, kv_heads, window))
        keys = s + past[at]
        query_bytes, kv_bytes = 4.0 * b * s * h * one, 4.0 * b * keys * g * one
        seconds[at] = kernels.prefill_seconds(
            s, b, h, float(one), attended(s, keys, w), query_bytes, kv_bytes, h / g, chip, fit
        )
    return seconds


def cached_bytes(shape: Array, element: float) -> Array:
    """Of the keys and values that one new token per sequence reads."""
    batch, new, _, kv_heads, width, window, past = shape
    keys = np.where(window > 0, np.minimum(window, new + past), new + past)
    return np.asarray(2.0 * batch * keys * kv_heads * width * element, float)


def decode_calls(calls: Calls, source: Source, element: float) -> Calls:
    """Those that read their keys and values from memory, and only these: a kernel that reads what a
    window hides as well takes up to six times as long as the window's keys do."""
    calls = from_memory(calls, cached_bytes(calls.shape, element), source.bandwidth)
    return calls if source.windows else chosen(calls, calls.shape[5] == 0)


def decode(
    entry: Entry, shape: Array, chip: Chip, element: float, tables: tuple[CorrectionTable, ...] = ()
) -> Array:
    batch, new, heads, kv_heads, width, window, past = shape
    fit = AttentionFit(**entry, tables=tables)
    keys = np.where(window > 0, np.minimum(window, new + past), new + past)
    query_bytes, kv_bytes = 4.0 * batch * heads * width, cached_bytes(shape, element)
    seconds = np.zeros(len(batch))
    for one in np.unique(width):
        at = width == one
        seconds[at] = kernels.decode_seconds(
            *(x[at] for x in (keys, batch, heads, kv_heads)),
            float(one),
            query_bytes[at],
            kv_bytes[at],
            chip,
            fit,
        )
    return seconds


def unmeasured_widths(efficiency: list[float], width: Array) -> list[float]:
    """Head widths that a table does not have: at the ratio to 128 of the H100's measurements."""
    measured = np.isin(kernels.WIDTHS, width)
    base = efficiency[1]
    return [
        value if known else float(f"{base * ratio:.4g}")
        for value, known, ratio in zip(efficiency, measured, WIDTH_RATIOS, strict=True)
    ]


def fit_attention(path: Path, source: Source, kv: str, *, decoding: bool) -> Entry:
    calls = attention_calls(path, kv)
    chip = Chip(source.sms, source.peaks["bf16"], source.bandwidth)
    start = DECODE_START if decoding else PREFILL_START
    element = 2.0 if kv == "bfloat16" else 1.0
    if decoding:
        calls = decode_calls(calls, source, element)

    def entry_of(values: Array) -> Entry:
        entry: Entry = dict(zip(start, (float(v) for v in values), strict=False))
        entry["efficiency"] = [float(v) for v in values[len(start) :]]
        return entry

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...] = ()) -> Array:
        if decoding:
            return decode(entry, shape, chip, element, tables)
        return prefill(entry, shape, chip, tables)

    efficiencies = [0.3] if decoding else [0.5, 0.6, 0.6, 0.5]
    found = fit_constants(
        lambda values, shape: seconds(entry_of(values), shape),
        [*start.values(), *efficiencies],
        calls,
        0.1,
    )
    entry = entry_of(np.array(found))
    batch, new, heads, kv_heads, width, window, past = calls.shape
    if not decoding:
        entry["efficiency"] = unmeasured_widths(entry["efficiency"], width)
    if decoding:
        keys = np.where(window > 0, np.minimum(window, new + past), new + past)
        rows, long = batch * kv_heads, keys
        coordinates = [(keys, rows, heads / kv_heads), (keys, batch, kv_heads), (keys, rows, width)]
    else:
        rows, long = batch * heads, new
        group, seen = heads / kv_heads, attended(new, new + past, window)
        coordinates = [
            *((new, rows, group), (new, batch, heads), (new, rows, width)),
            *((new, width, group), (seen, width, seen / new)),
        ]
    several = len(np.unique(width)) > 1
    grids = list(zip(DECODE_GRIDS if decoding else PREFILL_GRIDS, coordinates, strict=True))
    tables = fit_tables(seconds(entry, calls.shape), calls, grids if several else grids[:2])
    final = seconds(entry, calls.shape, tuple(kernels.correction_table(t) for t in tables))
    plain = quality(final, calls, (width == 128) & (window == 0))
    head: Entry = {"kernel": calls.kernel, "peak_flops_per_s": chip.peak}
    tail: Entry = {
        "head_128": {key: plain[key] for key in ("median_error", "p90_error")},
        "range": extent(long, batch, heads),
    }
    return {**head, **entry, **quality(final, calls), **tail, "tables": tables}


# -- files -----------------------------------------------------------------------------------------


def toml_value(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return f"{value:.1f}"
    return repr(value)


def wrapped(numbers: str, width: int = 1000) -> list[str]:
    lines, line = [], ""
    for number in numbers.split(" "):
        if len(line) + len(number) > width:
            lines.append(line)
            line = ""
        line += (" " if line else "") + number
    return [*lines, line]


def write(device: str, source: Source, roofline: Entry, entries: dict[str, Entry]) -> None:
    folders = {f"gemm/{version}" for version, _ in source.gemm.values()}
    folders.add(f"attention/{source.attention}")
    where = f"{PACKAGE}, systems/data/{source.folder}/{{{','.join(sorted(folders))}}}"
    head: Entry = {
        "device": device,
        "source": f"{where}; {source.note}",
        "command": "python tools/fit_kernels.py WHEEL_DIR",
        "memory_bandwidth": source.bandwidth,
        "sms": source.sms,
        "roofline": roofline,
    }
    lines = [f"{key} = {toml_value(value)}" for key, value in head.items()]
    lines += ["", *section_lines(entries)]
    CATALOG.mkdir(parents=True, exist_ok=True)
    (CATALOG / f"{device}.toml").write_text("\n".join(lines) + "\n")


def section_lines(entries: dict[str, Entry]) -> list[str]:
    lines: list[str] = []
    for name, entry in entries.items():
        fields = {key: value for key, value in entry.items() if key != "tables"}
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(v)}" for key, v in fields.items())]
        for table in entry.get("tables", ()):
            lines += ["", f"[[{name}.tables]]", f"knots = {toml_value(table['knots'])}"]
            lines += ["per_mille = '''", *wrapped(table["per_mille"])]
            lines[-1] += "'''"
    return lines[1:]


def fit_device(root: Path, device: str) -> tuple[Entry, dict[str, Entry]]:
    source = DEVICES[device]
    base = root / DATA / source.folder
    entries: dict[str, Entry] = {}
    floor: float | None = None
    for dtype in source.gemm:
        entries[f"gemm.{dtype}"] = fit_gemm(base, source, dtype, floor)
        floor = floor or entries[f"gemm.{dtype}"]["launch_s"]
    roofline = fit_roofline(base, source)
    attention = base / "attention" / source.attention
    for kv, suffix in (("bfloat16", ""), ("fp8", "_fp8")):
        if suffix and not source.kv_fp8:
            continue
        for name, file, decoding in (
            ("prefill", "context_attention_perf.parquet", False),
            ("decode", "generation_attention_perf.parquet", True),
        ):
            entries[f"attention.{name}{suffix}"] = fit_attention(
                attention / file, source, kv, decoding=decoding
            )
    return roofline, entries


SAMPLED = ("a100-80gb-sxm", "h100-80gb-sxm", "h200", "b200", "l40s", "rtx-pro-6000")
SAMPLE = 40  # held-out calls of each part that the tests' sample has


def sample(root: Path, path: Path) -> None:
    """Held-out calls for the tests: of each part the 40 whose shapes hash lowest."""
    lines = ["device,part,shape,seconds"]
    for device in SAMPLED:
        source = DEVICES[device]
        base = root / DATA / source.folder
        parts: dict[str, Calls] = {}
        for dtype in source.gemm:
            parts[f"gemm.{dtype}"] = gemm_calls(base, source, dtype)
        folder = base / "attention" / source.attention
        for name, file in (("prefill", "context"), ("decode", "generation")):
            for kv, suffix in (("bfloat16", ""), ("fp8", "_fp8"))[: 1 + source.kv_fp8]:
                calls = attention_calls(folder / f"{file}_attention_perf.parquet", kv)
                if name == "decode":
                    calls = decode_calls(calls, source, 1.0 if suffix else 2.0)
                parts[f"attention.{name}{suffix}"] = calls
        for part, calls in parts.items():
            shapes = calls.shape.T.astype(int).tolist()
            rank = {i: zlib.crc32(repr(shapes[i]).encode()) for i in np.flatnonzero(~calls.fitted)}
            for i in sorted(sorted(rank, key=lambda i: rank[i])[:SAMPLE]):
                shape = " ".join(str(v) for v in shapes[i])
                lines.append(f"{device},{part},{shape},{calls.seconds[i]:.5g}")
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit kernels/*.toml to measured tables.")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--device", choices=sorted(DEVICES), action="append", help="only these")
    parser.add_argument("--sample", type=Path, help="write the tests' sample of calls, fit nothing")
    arguments = parser.parse_args()
    if arguments.sample:
        sample(arguments.wheel, arguments.sample)
        return
    for device in arguments.device or DEVICES:
        roofline, entries = fit_device(arguments.wheel, device)
        write(device, DEVICES[device], roofline, entries)
        for name, entry in entries.items():
            errors = "  ".join(
                f"{key} {entry[key]:7.4f}" for key in ("median_error", "p90_error", "bias")
            )
            print(f"{device:14} {name:22} {errors}  {entry['points']} points", flush=True)


if __name__ == "__main__":
    main()
