"""Fit the catalog's compute kernels to measured tables, one TOML file per device.

    pip install numpy scipy pyarrow
    pip download --no-deps aiconfigurator-core==0.12.0
    python -m zipfile -e aiconfigurator_core-0.12.0-*.whl WHEEL_DIR
    python tools/fit_kernels.py WHEEL_DIR

The wheel (Apache-2.0) carries measured calls as Parquet. It is read here and nowhere else: what
ships is a handful of constants per device and number format, with what they were fitted to.

Models, SI units (seconds, FLOP, bytes):

* GEMM of m x k by k x n:
  ``launch_s + max(2mnk / (efficiency * peak), bytes / (memory_efficiency * bandwidth))``,
  bytes = m*k*b_a + k*n*b_w + m*n*b_out.
* attention prefill (flash, causal): the same roofline with flops = 4 * batch * heads * head_dim *
  s**2 / 2, which is what a causal kernel executes, and bytes of q, k, v and the output once (16 bit
  each). The bytes stand for all work that grows with s and not with its square: without them the
  held-out median more than doubles.
* attention decode: ``launch_s + bytes / (memory_efficiency * bandwidth)``, bytes = 2 * batch *
  head_dim * (kv_heads * context * bytes per element of the cache + heads * 2), query and output
  included.

Half of the calls, chosen by a hash of their shape, is fitted (all calls weigh the same, soft L1
loss of the logarithm); the errors in the file are of the rounded constants on the other half.

Schema of ``kernels/DEVICE.toml``::

    device, source, command
    memory_bandwidth                  # bytes/s: the datasheet figure memory_efficiency refers to
    [gemm.DTYPE]                      # bf16, fp8 (per tensor), int8, nvfp4
    kernel, peak_flops_per_s          # what ran; the dense datasheet peak efficiency refers to
    efficiency, memory_efficiency, launch_s
    bytes_per_element = [a, w, out]
    points, median_error, mean_error, p90_error  # held-out half, |predicted / measured - 1|
    bias                              # median of predicted / measured - 1, held-out half
    flops_range                       # smallest, largest of the whole table
    [attention.prefill]  [attention.prefill_fp8]   # bf16 and fp8 KV cache
    kernel, peak_flops_per_s, efficiency, memory_efficiency, launch_s, head_dim, ... as above
    [attention.decode]  [attention.decode_fp8]
    kernel, memory_efficiency, launch_s, head_dim, bytes_range, ... as above
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.optimize import least_squares

Array = NDArray[np.float64]
Value = str | int | float | list[float]
Table = dict[str, Value]

CATALOG = Path(__file__).parents[1] / "src/meshwise/spec/catalog/kernels"
DATA = "aiconfigurator_core/systems/data"
PACKAGE = "aiconfigurator-core 0.12.0 (Apache-2.0)"
HEAD_DIM = 128


@dataclass(frozen=True)
class Source:
    """A device of the wheel: its folder, versions of the tables, and datasheet figures."""

    folder: str
    bandwidth: float  # bytes/s
    peaks: dict[str, float]  # FLOP/s, dense, by operand format
    gemm: dict[str, tuple[str, str]]  # our format -> (library/version, gemm_dtype of the table)
    attention: str = "vllm/0.24.0"
    kv_fp8: bool = True
    note: str = ""


# One library per format: the one whose calls the three constants describe best. All bf16 calls are
# cuBLAS; fp8 and nvfp4 include the dynamic quantisation of the activations.
HOPPER_GEMM = {
    "bf16": ("trtllm/1.3.0rc20", "bfloat16"),
    "fp8": ("trtllm/1.3.0rc20", "fp8"),
}
BLACKWELL_GEMM = HOPPER_GEMM | {"nvfp4": ("vllm/0.24.0", "nvfp4")}
DEVICES = {
    "a100-80gb-sxm": Source(
        "a100_sxm",
        2039e9,
        {"bf16": 312e12, "int8": 624e12},
        {"bf16": ("sglang/0.5.10", "bfloat16"), "int8": ("trtllm/1.0.0", "sq")},
        attention="vllm/0.14.0",
        kv_fp8=False,
        note="peaks: NVIDIA A100 80GB datasheet",
    ),
    "h100-80gb-sxm": Source(
        "h100_sxm",
        3350e9,
        {"bf16": 989.4e12, "fp8": 1978.9e12},
        HOPPER_GEMM,
        note="peaks: NVIDIA H100 architecture white paper, SXM5",
    ),
    "h200": Source(
        "h200_sxm",
        4.8e12,
        {"bf16": 989.4e12, "fp8": 1978.9e12},
        HOPPER_GEMM,
        note="peaks: NVIDIA H200 datasheet, SXM",
    ),
    "b200": Source(
        "b200_sxm",
        8e12,
        {"bf16": 2250e12, "fp8": 4500e12, "nvfp4": 9000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA HGX B200 datasheet / 8, dense (8 TB/s; some list 7.7)",
    ),
    "b300": Source(
        "b300_sxm",
        8e12,
        {"bf16": 2250e12, "fp8": 4500e12, "nvfp4": 13500e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA HGX B300 datasheet / 8, dense (nvfp4: 108 PFLOP/s / 8)",
    ),
    "gb200": Source(
        "gb200",
        8e12,
        {"bf16": 2500e12, "fp8": 5000e12, "nvfp4": 10000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA GB200 NVL72 datasheet / 72, dense",
    ),
    "gb300": Source(
        "gb300",
        8e12,
        {"bf16": 2500e12, "fp8": 5000e12, "nvfp4": 15000e12},
        BLACKWELL_GEMM,
        note="peaks: NVIDIA GB300 NVL72 datasheet / 72, dense",
    ),
    "l40s": Source(
        "l40s",
        864e9,
        {"bf16": 362e12, "fp8": 733e12},
        HOPPER_GEMM,
        note="peaks: NVIDIA L40S datasheet, dense",
    ),
}
# Bytes per element of the two operands and the result. NVFP4 carries an 8-bit scale per 16 values.
OPERAND_BYTES = {
    "bf16": (2.0, 2.0, 2.0),
    "fp8": (1.0, 1.0, 2.0),
    "int8": (1.0, 1.0, 2.0),
    "nvfp4": (0.5625, 0.5625, 2.0),
}


@dataclass(frozen=True)
class Calls:
    """Measured calls: shape columns, seconds, and which half is fitted."""

    columns: dict[str, Array]
    seconds: Array
    fitted: NDArray[np.bool_]
    kernel: str = field(default="")


def read(path: Path, shape: list[str], keep: dict[str, object]) -> Calls:
    """Calls of one Parquet table whose columns equal ``keep``; the median where a shape repeats."""
    rows: dict[tuple[int, ...], list[float]] = {}
    kernels: set[str] = set()
    table = pq.read_table(path)
    keep = {name: value for name, value in keep.items() if name in table.column_names}
    for row in table.to_pylist():
        if all(row[name] == value for name, value in keep.items()) and row["latency"] > 0:
            rows.setdefault(tuple(row[name] for name in shape), []).append(row["latency"] * 1e-3)
            kernels.add(row["kernel_source"])
    keys = sorted(rows)
    half = [zlib.crc32(repr(key).encode()) % 2 == 0 for key in keys]
    return Calls(
        {name: np.array([key[i] for key in keys], float) for i, name in enumerate(shape)},
        np.array([np.median(rows[key]) for key in keys]),
        np.array(half),
        ", ".join(sorted(kernels)),
    )


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def fit(
    model: Callable[..., Array], start: dict[str, float], work: tuple[Array, ...], calls: Calls
) -> Table:
    """Constants of ``model(*constants, *work)`` from the fitted half; errors from the other."""
    inside = tuple(array[calls.fitted] for array in work)
    target = np.log(calls.seconds[calls.fitted])

    def residuals(log_constants: Array) -> Array:
        return np.log(model(*np.exp(log_constants), *inside)) - target

    guess = np.log(np.array(list(start.values())))
    found = least_squares(
        residuals, guess, loss="soft_l1", f_scale=0.05, xtol=1e-12, ftol=1e-12, gtol=1e-12
    )
    constants: dict[str, float] = {
        name: rounded(np.exp(x)) for name, x in zip(start, found.x, strict=True)
    }
    outside = tuple(array[~calls.fitted] for array in work)
    ratio = model(*constants.values(), *outside) / calls.seconds[~calls.fitted] - 1
    error = np.abs(ratio)
    quality: Table = {
        "points": len(calls.seconds),
        "median_error": rounded(float(np.median(error))),
        "mean_error": rounded(float(np.mean(error))),
        "p90_error": rounded(float(np.quantile(error, 0.9))),
        "bias": rounded(float(np.median(ratio))),
    }
    return {**constants, **quality}


def roofline(peak: float, bandwidth: float) -> Callable[..., Array]:
    """Bound by arithmetic or by memory traffic, plus a launch floor."""

    def model(
        efficiency: float, memory_efficiency: float, launch_s: float, flops: Array, moved: Array
    ) -> Array:
        bound = np.maximum(flops / (efficiency * peak), moved / (memory_efficiency * bandwidth))
        return np.asarray(launch_s + bound, float)

    return model


def extent(values: Array) -> list[float]:
    return [rounded(float(values.min())), rounded(float(values.max()))]


def fit_gemm(path: Path, column: str, dtype: str, peak: float, bandwidth: float) -> Table:
    calls = read(path, ["m", "n", "k"], {"gemm_dtype": column})
    m, n, k = (calls.columns[name] for name in "mnk")
    a, w, out = OPERAND_BYTES[dtype]
    flops, moved = 2 * m * n * k, m * k * a + k * n * w + m * n * out

    start = {"efficiency": 0.7, "memory_efficiency": 0.7, "launch_s": 4e-6}
    head: Table = {"kernel": calls.kernel, "peak_flops_per_s": peak}
    tail: Table = {"bytes_per_element": [a, w, out], "flops_range": extent(flops)}
    return head | fit(roofline(peak, bandwidth), start, (flops, moved), calls) | tail


SHAPE = ["batch_size", "isl", "num_heads", "num_key_value_heads", "step"]


def attention_calls(path: Path, kv: str, attention: str) -> Calls:
    keep = {"head_dim": HEAD_DIM, "window_size": 0, "beam_width": 1}
    calls = read(path, SHAPE, keep | {"kv_cache_dtype": kv, "attn_dtype": attention})
    kv_heads = calls.columns["num_key_value_heads"]  # 0 in some tables: as many as heads
    calls.columns["num_key_value_heads"] = np.where(
        kv_heads == 0, calls.columns["num_heads"], kv_heads
    )
    return calls


def fit_prefill(path: Path, kv: str, peak: float, bandwidth: float) -> Table:
    calls = attention_calls(path, kv, "bfloat16")
    batch, new, heads, kv_heads, past = (calls.columns[name] for name in SHAPE)
    flops = 4 * batch * heads * HEAD_DIM * (new * new / 2 + new * past)
    values = heads * new * 2 + kv_heads * (new + past) * 2  # q and output, k and v
    moved = batch * HEAD_DIM * values * OPERAND_BYTES["bf16"][2]
    start = {"efficiency": 0.5, "memory_efficiency": 0.3, "launch_s": 1e-5}
    fitted = fit(roofline(peak, bandwidth), start, (flops, moved), calls)
    head: Table = {"kernel": calls.kernel, "peak_flops_per_s": peak}
    return head | fitted | {"head_dim": HEAD_DIM, "flops_range": extent(flops)}


def fit_decode(path: Path, kv: str, element_bytes: float, bandwidth: float) -> Table:
    calls = attention_calls(path, kv, "bfloat16")
    batch, new, heads, kv_heads, past = (calls.columns[name] for name in SHAPE)
    values = kv_heads * (new + past) * element_bytes + heads * OPERAND_BYTES["bf16"][2]
    moved = 2 * batch * HEAD_DIM * values

    def model(memory_efficiency: float, launch_s: float, moved: Array) -> Array:
        return launch_s + moved / (memory_efficiency * bandwidth)

    fitted = fit(model, {"memory_efficiency": 0.8, "launch_s": 1e-5}, (moved,), calls)
    return {"kernel": calls.kernel} | fitted | {"head_dim": HEAD_DIM, "bytes_range": extent(moved)}


def toml_value(value: Value) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return repr(value)


def write(device: str, source: Source, tables: dict[str, Table]) -> None:
    folders = {f"gemm/{version}" for version, _ in source.gemm.values()}
    folders.add(f"attention/{source.attention}")
    where = f"{PACKAGE}, systems/data/{source.folder}/{{{','.join(sorted(folders))}}}"
    head: Table = {
        "device": device,
        "source": f"{where}; {source.note}",
        "command": "python tools/fit_kernels.py WHEEL_DIR",
        "memory_bandwidth": source.bandwidth,
    }
    lines = [f"{key} = {toml_value(value)}" for key, value in head.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {toml_value(v)}" for key, v in table.items())]
    CATALOG.mkdir(parents=True, exist_ok=True)
    (CATALOG / f"{device}.toml").write_text("\n".join(lines) + "\n")


def fit_device(root: Path, device: str) -> dict[str, Table]:
    source = DEVICES[device]
    base = root / DATA / source.folder
    tables: dict[str, Table] = {}
    for dtype, (version, column) in source.gemm.items():
        path = base / "gemm" / version / "gemm_perf.parquet"
        tables[f"gemm.{dtype}"] = fit_gemm(
            path, column, dtype, source.peaks[dtype], source.bandwidth
        )
    attention = base / "attention" / source.attention
    formats = [("bfloat16", 2.0, "")] + ([("fp8", 1.0, "_fp8")] if source.kv_fp8 else [])
    for kv, size, suffix in formats:
        tables[f"attention.prefill{suffix}"] = fit_prefill(
            attention / "context_attention_perf.parquet", kv, source.peaks["bf16"], source.bandwidth
        )
        tables[f"attention.decode{suffix}"] = fit_decode(
            attention / "generation_attention_perf.parquet", kv, size, source.bandwidth
        )
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit kernels/*.toml to measured tables.")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--device", choices=sorted(DEVICES), action="append", help="only these")
    arguments = parser.parse_args()
    for device in arguments.device or DEVICES:
        tables = fit_device(arguments.wheel, device)
        write(device, DEVICES[device], tables)
        for name, table in tables.items():
            errors = "  ".join(
                f"{key} {table[key]:7.4f}" for key in ("median_error", "p90_error", "bias")
            )
            print(f"{device:14} {name:22} {errors}  {table['points']} points")


if __name__ == "__main__":
    main()
