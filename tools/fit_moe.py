"""Fit the layers of experts of the catalog's kernels to measured tables, by engine and format.

    python tools/fit_moe.py WHEEL_DIR

after ``tools/fit_kernels.py``, whose products' tiles these share; it says what the wheel is. Engines
differ by more than 2 here (four-bit experts on Blackwell: CUTLASS against TensorRT-LLM's generated
kernels), so each has its own sections. A measured call is a layer's experts with as many tokens for
each (permute, gate and up, activation, down, unpermute); the passes over memory are priced by the
device's ``roofline``, the two products by the form of ``meshwise.cost.kernels.seconds`` with constants of
their own, and a table of corrections over rows per expert, experts visited and elements of a weight.

Schema of a section::

    [moe.ENGINE.FORMAT]              # bf16, fp8, fp8_block, nvfp4; w4a16_*, w4a8_*: 4-bit weights under
                                     # 16-bit and 8-bit activations
    kernel, table                    # what ran; library/version of the wheel
    weight_bytes                     # of a weight and its scales
    launch_s, memory_efficiency, efficiency, quantise_bytes  # over the dense format's
    held_s                           # of a product, per expert of the rank: of kernels that walk all of them
    points, median_error, p90_error, bias                    # on the held-out half
    decode = {median_error, p90_error, bias}                 # of its calls of up to 256 tokens
    range = [[rows per expert], [n], [k]]
    table.knots, table.per_mille
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import fit_kernels as fk
import numpy as np
import pyarrow.parquet as pq
import scipy.sparse as sparse
from fit_kernels import Array, Calls, Entry
from scipy.sparse.linalg import spsolve

from meshwise.cost.kernels import seconds as kernels
from meshwise.cost.kernels.seconds import Chip, GemmFit

SHAPE = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts"]
START = {
    "launch_s": 5e-6,
    "memory_efficiency": 0.8,
    "efficiency": 0.7,
    "quantise_bytes": 3.0,
    "held_s": 1e-8,
}
# rows per expert, experts visited, elements of one expert's weight
GRID: list[list[float]] = [
    [1, 2, 8, 32, 128, 1024],
    [1, 8, 32, 128, 512],
    [2**16, 2**19, 2**21, 2**23, 2**25],
]
SMALL = 256  # tokens of a decode
# Shapes of models whose experts have no gate (Nemotron): one product fewer.
NO_GATE = ((1024, 2688), (2048, 5120), (2688, 1856))


class Format(NamedTuple):
    """A format of the experts: the table's word, the dense products whose tiles it runs on, bytes of an
    activation and of a weight, and whether weights are expanded in the product."""

    column: str
    dense: str
    activation: float
    weight: float
    weight_only: bool = False


FORMATS = {
    "bf16": Format("bfloat16", "bf16", 2.0, 2.0),
    "fp8": Format("fp8", "fp8", 1.0, 1.0),
    "fp8_block": Format("fp8_block", "fp8", 1.0, 1.0),
    "nvfp4": Format("nvfp4", "nvfp4", 0.5625, 0.5625),
    "w4a16_mxfp4": Format("w4a16_mxfp4", "bf16", 2.0, 0.53125, weight_only=True),
    "w4a8_mxfp4": Format("w4a8_mxfp4_mxfp8", "fp8", 1.03125, 0.53125, weight_only=True),
    "w4a16_int4": Format("int4_wo", "bf16", 2.0, 0.515625, weight_only=True),
}
ENGINES = {"trtllm": "trtllm/1.3.0rc20", "vllm": "vllm/0.24.0", "sglang": "sglang/0.5.14"}
# vLLM's and SGLang's kernels of this device are the same Triton and Marlin ones.
ENGINES_OF = {"a100-80gb-sxm": {"vllm": "sglang/0.5.10", "sglang": "sglang/0.5.10"}}
# Which of an engine's kernels its server runs, where the table has several; the first that is there.
# None: all of them, each where the engine chose it.
KERNELS = {
    ("trtllm", None): ("moe_torch_flow_cutlass", "deepgemm", "moe_torch_flow"),
    ("vllm", "w4a16_mxfp4"): (
        "vllm_gptossmxfp4moe_flashinfer_trtllm_mxfp4_bf16_trtllmmxfp4expertsmonolithic",
        "vllm_gptossmxfp4moe_triton_oaitritonmxfp4expertsmonolithic",
        "vllm_gptossmxfp4moe_marlin_marlinexperts",
    ),
    ("sglang", "bf16"): ("sglang_fused_moe_triton",),
    ("sglang", None): (
        "sglang_flashinfer_trtllm_moe",
        "sglang_fused_moe_triton",
        "sglang_marlin_moe",
    ),
}
# Bytes of cache in which weights stay from one repetition of a call to the next: those of calls that
# read less than twice as much were not read from memory (GDDR is slow beside its cache; NVIDIA L40S and
# RTX PRO 6000 Blackwell datasheets: 96, 128 MB).
CACHE = {"l40s": 96e6, "rtx-pro-6000": 128e6}
FEWEST = 120  # calls that a section rests on
# Share of the memory's bandwidth that a kernel's best call has to read its weights at. Below it are
# kernels that nobody serves with: untuned ones (vLLM's CUTLASS for FP8 by tensor takes six times the
# others' time), or such as expand four-bit weights when they are loaded (SGLang's Triton).
REACH = 0.42


def calls_of(
    path: Path, engine: str, name: str, bandwidth: float, cache: float = 0.0
) -> Calls | None:
    """The measured calls of an engine's kernel, balanced over gated experts."""
    keep = {"moe_dtype": FORMATS[name].column, "distribution": "balanced"}
    columns = pq.read_table(path, columns=[*keep, "kernel_source"]).to_pydict()
    rows = zip(*(columns[key] for key in (*keep, "kernel_source")), strict=True)
    there = {kernel for *what, kernel in rows if what == list(keep.values())}
    wanted = KERNELS.get((engine, name)) or KERNELS.get((engine, None))
    if wanted is not None:
        keep["kernel_source"] = next((k for k in wanted if k in there), "none")
    calls = fk.read(path, [*SHAPE, "moe_tp_size", "moe_ep_size"], keep)
    if not len(calls.seconds):
        return None
    calls = fk.chosen(calls, read_bytes(calls, FORMATS[name].weight) >= 2.0 * cache)
    _, hidden, inter, *_ = calls.shape
    kept = ~np.any([(hidden == h) & (inter == i) for h, i in NO_GATE], axis=0)
    kept &= ~unevenly_routed(calls, FORMATS[name].weight, bandwidth)
    calls = fk.chosen(calls, kept)
    if len(calls.seconds) < FEWEST or reach(calls, FORMATS[name].weight, bandwidth).max() < REACH:
        return None
    return calls


def visits(shape: Array) -> tuple[Array, Array]:
    """(rows of a rank, experts that they visit) where tokens are spread evenly."""
    tokens, _, _, top_k, experts, _, ep = shape
    rows = tokens * top_k / ep
    return rows, np.minimum(np.maximum(experts / ep, 1), rows)


def read_bytes(calls: Calls, weight: float) -> Array:
    """Of the weights of the experts visited."""
    _, hidden, inter, _, _, tp, _ = calls.shape
    return np.asarray(visits(calls.shape)[1] * 3 * hidden * np.ceil(inter / tp) * weight, float)


def reach(calls: Calls, weight: float, bandwidth: float) -> Array:
    """Share of the bandwidth at which they are read."""
    return read_bytes(calls, weight) / bandwidth / calls.seconds


def unevenly_routed(calls: Calls, weight: float, bandwidth: float) -> Array:
    """Models of which a call took less than reading the weights of as many experts as an even routing
    visits: their kernels route inside, by groups of experts, and visited fewer."""
    _, hidden, inter, _, experts, *_ = calls.shape
    model = hidden * 1e9 + inter * 1e4 + experts
    return np.isin(model, model[reach(calls, weight, bandwidth) > 1.0])


class Layer(NamedTuple):
    """A layer's experts: seconds of its passes, and of the products with their place in the table."""

    passes: Array
    products: list[Array]
    places: list[tuple[Array, ...]]

    @property
    def seconds(self) -> Array:
        return np.asarray(self.passes + sum(self.products), float)


def layer(shape: Array, fmt: Format, fit: GemmFit, chip: Chip, roofline: Entry) -> Layer:
    """The experts as the program builds them; rows of a token that no expert of the rank takes are
    not there."""
    tokens, hidden, inter, _, experts, tp, ep = shape
    rows, visited = visits(shape)
    width = np.ceil(inter / tp)
    rate = roofline["memory_efficiency"] * chip.bandwidth
    moved = 2 * rows * hidden + 3 * rows * width + (rows + tokens) * hidden
    m = rows / visited
    products, places = [], []
    for n, k in ((2 * width, hidden), (hidden, width)):
        traffic = visited * (m * k * fmt.activation + k * n * fmt.weight + m * n * 2.0)
        products.append(kernels.gemm_seconds(m, n, k, visited, traffic, chip, fit))
        places.append((m, visited, n * k))
    walked = 2 * fit.held_s * np.maximum(experts / ep, 1)
    return Layer(3 * roofline["launch_s"] + 2 * moved / rate + walked, products, places)


def fit_format(path: Path, engine: str, name: str, device: Entry) -> Entry | None:
    fmt, cache = FORMATS[name], CACHE.get(device["device"], 0.0)
    calls = calls_of(path, engine, name, device["memory_bandwidth"], cache)
    if calls is None or fmt.dense not in device["gemm"]:
        return None
    dense = device["gemm"][fmt.dense]
    chip = Chip(device["sms"], dense["peak_flops_per_s"], device["memory_bandwidth"])
    tiles = kernels.gemm_fit(
        {**dense, "ceiling": 1.0},
        elsewhere=fmt.weight_only,
        weight_bytes=fmt.weight if fmt.weight_only else None,
    )

    # activations of 16 bit are not narrowed on their way: with them the term is of a kernel's other passes,
    # and calls of a single TP degree do not tell it from arithmetic, which TP divides
    identified = fmt.activation < 2.0 or len(np.unique(calls.shape[5])) > 1
    start = {k: v for k, v in START.items() if k != "quantise_bytes" or identified}

    def predicted(values: Array, shape: Array) -> Layer:
        entry = {"quantise_bytes": 0.0} | dict(zip(start, map(float, values), strict=True))
        entry["memory_efficiency"] = min(entry["memory_efficiency"], 1.0)
        return layer(shape, fmt, kernels.grouped_fit(tiles, entry), chip, device["roofline"])

    found = fk.fit_constants(lambda v, s: predicted(v, s).seconds, list(start.values()), calls, 0.1)
    entry = {"quantise_bytes": 0.0} | dict(zip(start, found, strict=True))
    entry["memory_efficiency"] = min(entry["memory_efficiency"], 1.0)
    plain = predicted(np.array(found), calls.shape)
    table, final = corrections(plain, calls)
    few = fk.quality(final, calls, calls.shape[0] <= SMALL)
    _, hidden, inter, _, _, tp, _ = calls.shape
    both = np.concatenate([hidden, 2 * inter / tp, inter / tp])
    return {
        "kernel": calls.kernel,
        "table": "/".join(path.parts[-3:-1]),
        "weight_bytes": fmt.weight,
        **entry,
        **fk.quality(final, calls),
        "decode": {key: few[key] for key in ("median_error", "p90_error", "bias")},
        "range": fk.extent(plain.places[0][0], both, both),
        "tables": [table],
    }


def corrections(plain: Layer, calls: Calls) -> tuple[Entry, Array]:
    """(the table that brings the fitted half's predictions to its measurements, all of them with it).

    As :func:`fit_kernels.fit_tables`, for calls that are the sum of two products.
    """
    knots = tuple(kernels.position(np.array(k, float)) for k in GRID)
    whole = sum(
        sparse.diags(seconds / calls.seconds) @ fk.weights(knots, place)
        for seconds, place in zip(plain.products, plain.places, strict=True)
    )
    ratio = plain.seconds / calls.seconds
    matrix, target = whole.tocsr()[calls.fitted], (1.0 - ratio)[calls.fitted]
    rough = fk.roughness(tuple(len(k) for k in knots))
    penalty = 0.05 * sparse.identity(whole.shape[1]) + fk.HOLD * rough.T @ rough
    weight, solution = np.ones(len(target)), np.zeros(whole.shape[1])
    for _ in range(12):
        system = matrix.T @ sparse.diags(weight) @ matrix + penalty
        solution = spsolve(system.tocsc(), matrix.T @ (weight * target))
        weight = 1.0 / np.sqrt(1.0 + ((target - matrix @ solution) / 0.06) ** 2)
    values = np.clip(np.rint(solution * 1000), -600, 1500).astype(int)
    table = {"knots": GRID, "per_mille": " ".join(str(v) for v in values)}
    return table, (ratio + whole @ (values / 1000.0)) * calls.seconds


def sections(root: Path, name: str) -> dict[str, Entry]:
    """The sections of a device."""
    device = tomllib.loads((fk.CATALOG / f"{name}.toml").read_text())
    found = {}
    for engine, version in ENGINES_OF.get(name, ENGINES).items():
        path = root / fk.DATA / fk.DEVICES[name].folder / "moe" / version / "moe_perf.parquet"
        for fmt in FORMATS if path.exists() else ():
            entry = fit_format(path, engine, fmt, device)
            if entry:
                found[f"moe.{engine}.{fmt}"] = entry
    return found


def write(name: str, entries: dict[str, Entry]) -> None:
    """Into the device's file, before its attention."""
    path = fk.CATALOG / f"{name}.toml"
    kept = re.sub(r"(?ms)^\[\[?moe\..*?(?=^\[\[?(?!moe\.))", "", path.read_text())
    text = "".join(f"{line}\n" for line in fk.section_lines(entries))
    path.write_text(kept.replace("[attention.prefill]", f"{text}\n[attention.prefill]", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the experts of kernels/*.toml.")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--device", choices=sorted(fk.DEVICES), action="append", help="only these")
    arguments = parser.parse_args()
    for device in arguments.device or fk.DEVICES:
        entries = sections(arguments.wheel, device)
        write(device, entries)
        for name, entry in entries.items():
            few = "  ".join(f"{key} {value:7.4f}" for key, value in entry["decode"].items())
            print(f"{device:14} {name:24} {few}  {entry['points']} points", flush=True)


if __name__ == "__main__":
    main()
