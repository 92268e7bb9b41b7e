"""Fit the scans, updates and convolutions of the catalog's kernels to measured tables.

    python tools/fit_recurrence.py WHEEL_DIR

after ``tools/fit_kernels.py``, which says what the wheel is. Its tables of linear attention are calls
of one kernel (or of one launch that runs several): the gated delta rule's chunked scan and its update
of a token, Kimi delta attention's, and the short causal convolutions before them, Mamba 2's too. The
forms are the functions of ``meshwise.cost.kernels.recurrence``. Every fifth shape, in their order, is
left out of the fit; the errors in the file are those of the shapes left out.

Calls that are not used:

- those whose operands stayed in the cache from one repetition to the next (:func:`cached`): a layer's
  states and activations are read from memory, since other layers' have been there in between;
- those of a machine that was busy with something else (:func:`disturbed`): large convolutions, which
  do nothing but move bytes, at less than 1/1.3 of the rate of the others, and scans of such a shape;
  large updates at such a rate.
  SGLang's table of an H200 has 286 of them, up to ten times as slow as vLLM's of the same kernel.

Mamba 2's scan and update are in no table. TensorRT-LLM's update is there without the width of its
states, and A100's (SGLang 0.5.10) too: read in 32 bit and written in 16 the kernel's share of the
memory's rate is on six devices what vLLM's 32-bit one is (within 0.03), which the A100's is fitted by.
TensorRT-LLM's scans of the two cards took less time than their queries, keys and values take to read.

Schema of a section::

    [recurrence.ENGINE.RULE.PHASE]   # gated_delta, kimi_delta, convolution; prefill, decode
    kernel, table                    # what ran; library/version of the wheel
    peak_flops_per_s
    launch_s, memory_efficiency, ... # see meshwise.cost.kernels.recurrence.RecurrenceFit
    points, left_out, median_error, mean_error, p90_error, bias   # of the shapes left out
    range = [[queries], [sequences], [heads, or channels]]
    tables
    [recurrence_elsewhere]
    kernels                          # whose file has the sections that this one has not
"""

from __future__ import annotations

import argparse
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fit_kernels as fk
import numpy as np
from fit_kernels import Array, Calls, Entry
from numpy.typing import NDArray
from scipy.optimize import least_squares

from meshwise.cost.kernels import recurrence as rec
from meshwise.cost.kernels import seconds as kernels
from meshwise.cost.kernels.recurrence import RecurrenceFit
from meshwise.cost.kernels.seconds import Chip, CorrectionTable
from meshwise.program.layers.recurrent import SCAN_WORK

HEADS = ["batch_size", "seq_len", "num_k_heads", "num_v_heads"]
MAMBA = ["batch_size", "seq_len", "nheads", "head_dim", "n_groups", "d_state"]
CHUNK = SCAN_WORK["gated_delta"].chunk
WIDTH = 128.0  # of every key and value head of the tables
KERNEL = 4.0  # positions that the convolutions see
STATE_BYTES = 4.0  # of a value of vLLM's, SGLang's states
LEFT_OUT = 5  # a fifth
DESCRIBED = 0.15  # median error of the shapes left out, above which a section is left out
FEWEST = 8  # calls that a section rests on
DISTURBED = 1.3
LARGE = 2e8  # bytes, from which a launch is no part of the rate
HARMLESS = 0.1  # share of a call below which it does not matter where its bytes came from


class Part(NamedTuple):
    """Calls of one section: folder of the wheel's tables and file, kernels of the table's column."""

    engine: str
    rule: str
    phase: str
    folder: str
    file: str
    kernels: tuple[str, ...]


GDN = {"vllm": "vllm/0.24.0", "sglang": "sglang/0.5.14", "trtllm": "trtllm/1.3.0rc20"}
KDA = {"vllm": "vllm/0.1.dev19262", "sglang": "sglang/0.5.16"}
SCANS = (
    "chunk_gated_delta_rule",
    "chunk_gated_delta_rule_flashinfer",
    "chunk_gated_delta_rule_triton",
)
FUSED = ("flashinfer", "flashkda")  # words of the kernels that run a head's whole chain
UPDATES = ("fused_recurrent_gated_delta_rule_packed_decode",)
KIMI_UPDATES = ("fused_recurrent_kda_packed_decode", "kda_fused_decode")
PARTS = (
    *(
        Part(engine, rule, phase, f"linear_attention/{GDN[engine]}", "gdn", names)
        for engine in ("vllm", "sglang")
        for rule, phase, names in (
            ("gated_delta", "prefill", SCANS),
            ("gated_delta", "decode", UPDATES),
            ("convolution", "prefill", ("causal_conv1d_fn",)),
            ("convolution", "decode", ("causal_conv1d_update",)),
        )
    ),
    Part("trtllm", "gated_delta", "prefill", f"linear_attention/{GDN['trtllm']}", "gdn", SCANS),
    *(
        Part("trtllm", "convolution", phase, f"linear_attention/{GDN['trtllm']}", "mamba2", (name,))
        for phase, name in (("prefill", "causal_conv1d_fn"), ("decode", "causal_conv1d_update"))
    ),
    *(
        Part(engine, "kimi_delta", phase, f"kda/{KDA[engine]}", "kda", names)
        for engine in ("vllm", "sglang")
        for phase, names in (("prefill", ("flashkda_fwd", "chunk_kda")), ("decode", KIMI_UPDATES))
    ),
)
# Whose file has what a device's tables do not: no scan was measured on an A100, whose generation runs
# the Triton kernels that an L40S does.
ELSEWHERE = {"a100-80gb-sxm": "l40s"}
# Of SGLang 0.5.10: the convolution's CUDA kernel, and an update whose states are narrower in memory.
A100 = tuple(
    part._replace(folder="linear_attention/sglang/0.5.10")
    for part in (
        Part("sglang", "gated_delta", "decode", "", "gdn", ("fused_recurrent_gated_delta_rule",)),
        Part("sglang", "convolution", "prefill", "", "gdn", ("causal_conv1d_fn",)),
        Part("sglang", "convolution", "decode", "", "gdn", ("causal_conv1d_update",)),
    )
)
# Its convolutions take the same time whatever the value heads, as TensorRT-LLM's of that table do, whose
# other table says at what rate per channel: they are those of 16 key heads.
A100_CHANNELS = 16 * WIDTH
NARROW_STATES = 6.0  # bytes per value that A100's update moves: read in 32 bit, written in 16

SCAN_START = {
    "launch_s": 1e-5,
    "memory_efficiency": 0.6,
    "efficiency": 0.5,
    "unit_s": 2e-6,
    "slots": 1.0,
    "smooth": 1.0,
    "fill_s": 1e-5,
}
UPDATE_START = {"launch_s": 4e-6, "memory_efficiency": 0.8, "unit_s": 1e-7}
CONVOLUTION_START = {"launch_s": 3e-6, "memory_efficiency": 0.5, "unit_s": 5e-9}
SHARES = ("memory_efficiency", "efficiency")
SCAN_GRID: list[list[float]] = [
    [1, 16, 64, 128, 512, 2048, 32768],
    [2, 16, 64, 128, 256, 1024, 8192, 65536],
]
FEW_GRID: list[list[float]] = [[1, 64, 256, 2048, 32768], [16, 128, 1024, 8192]]
CONVOLUTION_GRID: list[list[float]] = [
    [1, 4, 8, 16, 64, 512, 8192],
    [2**9, 2**12, 2**15, 2**18, 2**22],
]
ROWS_GRID: list[list[float]] = [[2, 64, 512, 4096, 65536]]


def calls_of(path: Path, part: Part) -> Calls:
    """(batch, queries, key heads or nothing, value heads or channels) of each call."""
    mamba = part.file == "mamba2"
    found = []
    for name in part.kernels:
        keep = {
            "kernel_source": name,
            "phase": {"prefill": "context"}.get(part.phase, "generation"),
        }
        calls = fk.read(path, MAMBA if mamba else HEADS, keep)
        if len(calls.seconds):
            found.append(calls)
    if not found:
        return Calls(np.zeros((4, 0)), np.zeros(0), np.zeros(0, bool), "")
    shape = np.concatenate([c.shape for c in found], axis=1)
    if mamba:
        batch, queries, heads, width, groups, state = shape
        shape = np.array([batch, queries, 0 * batch, heads * width + 2 * groups * state])
    elif part.rule == "convolution":
        batch, queries, keys, values = shape
        channels = WIDTH * (2 * keys + values)
        if part.folder.endswith("0.5.10"):
            channels = np.full_like(keys, A100_CHANNELS)
        shape = np.array([batch, queries, 0 * batch, channels])
    seconds = np.concatenate([c.seconds for c in found])
    shape, place = np.unique(shape, axis=1, return_inverse=True)  # one channel count of two models
    seconds = np.array([np.median(seconds[place.ravel() == i]) for i in range(shape.shape[1])])
    names = ", ".join(sorted({c.kernel for c in found}))
    return Calls(shape, seconds, np.ones(len(seconds), bool), names)


def every_fifth_left_out(calls: Calls) -> Calls:
    """In the order of the shapes, whose counts along each axis have no factor 5."""
    fitted = np.arange(len(calls.seconds)) % LEFT_OUT != 2
    return Calls(calls.shape, calls.seconds, fitted, calls.kernel)


def moved(part: Part, shape: Array, staged: bool, state_bytes: float) -> Array:
    """Bytes of device memory of each call."""
    batch, queries, keys, values = shape
    states = batch * values * WIDTH * WIDTH * STATE_BYTES
    if part.rule == "convolution":
        decode = part.phase == "decode"
        found = rec.convolution_bytes(batch, queries, values, KERNEL, decode=decode)
    elif part.phase == "decode":
        found = batch * values * WIDTH * WIDTH * state_bytes
    else:
        found = rec.scanned_bytes(
            part.rule,
            *(batch, queries, values, keys, WIDTH, WIDTH),
            CHUNK,
            states,
            staged,
        )
    return np.asarray(found, float)


def cached(calls: Calls, read_bytes: Array, bandwidth: float) -> NDArray[np.bool_]:
    """Calls that took less than moving their bytes does, the shortest call's launch apart."""
    least = read_bytes / bandwidth
    floor = calls.seconds.min()
    return np.asarray((calls.seconds - floor < least) & (least > HARMLESS * calls.seconds))


def disturbed(convolutions: Calls, read_bytes: Array) -> set[tuple[float, float]]:
    """(batch, queries) of large convolutions slower than 1/1.3 of the 90th percentile of their rates."""
    large = read_bytes > LARGE
    if not large.any():
        return set()
    rate = read_bytes / convolutions.seconds
    slow = large & (rate < np.quantile(rate[large], 0.9) / DISTURBED)
    return {(b, q) for b, q, *_ in convolutions.shape[:, slow].T.tolist()}


Model = Callable[[Entry, Array, tuple[CorrectionTable, ...]], Array]


def model_of(part: Part, chip: Chip, staged: bool, state_bytes: float) -> Model:
    """Seconds of the section's calls from a catalog entry."""

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...] = ()) -> Array:
        fit = RecurrenceFit(**entry, staged=staged, tables=tables)
        batch, queries, keys, values = shape
        if part.rule == "convolution":
            bytes_ = moved(part, shape, staged, state_bytes)
            found = rec.convolution_seconds(batch, queries, values, bytes_, chip, fit)
        elif part.phase == "decode":
            states = batch * values * (WIDTH * WIDTH * state_bytes / 2.0)
            found = rec.update_seconds(batch, queries, values, states, chip, fit)
        else:
            found = rec.scan_seconds(
                part.rule,
                *(batch, queries, values, keys, WIDTH, WIDTH),
                CHUNK,
                batch * values * WIDTH * WIDTH * STATE_BYTES,
                chip,
                fit,
            )
        return np.asarray(found, float)

    return seconds


def entry_of(start: Entry, values: Array, shares: tuple[str, ...] = SHARES) -> Entry:
    """The constants in a catalog's names. ``smooth`` is a share: x / (1 + x); ``shares`` are 1 at most."""
    entry = dict(zip(start, (float(v) for v in values), strict=True))
    if "smooth" in entry:
        entry["smooth"] = entry["smooth"] / (1 + entry["smooth"])
    for name in shares:
        if name in entry:
            entry[name] = min(entry[name], 1.0)
    return entry


def fit_constants(
    start: Entry, model: Model, calls: Calls, shares: tuple[str, ...] = SHARES
) -> Entry:
    """Constants of the fitted calls from two starts, of which the better stays: kernels whose heads
    start together, and whose heads flow into each other."""
    shape, target = calls.shape[:, calls.fitted], np.log(calls.seconds[calls.fitted])
    others = {"smooth": 20.0, "unit_s": start.get("unit_s", 0.0) / 20, "efficiency": 0.9}
    best, found = np.inf, Entry()
    for first in (start, {**start, **{k: v for k, v in others.items() if k in start}}):
        guess = np.log(np.array(list(first.values())))
        fitted = least_squares(
            lambda x: np.log(model(entry_of(start, np.exp(x), shares), shape, ())) - target,
            guess,
            loss="soft_l1",
            f_scale=0.1,
            max_nfev=200,
            bounds=(guess - 8, guess + 6),
        )
        if fitted.cost < best:
            best, found = fitted.cost, entry_of(start, np.exp(fitted.x), shares)
    return {name: fk.rounded(value) for name, value in found.items()}


def grid_of(part: Part, calls: Calls) -> tuple[list[list[float]], tuple[Array, ...]]:
    """(knots, their coordinates) of a section's corrections."""
    batch, queries, _, values = calls.shape
    if part.rule != "convolution" and part.phase == "decode":
        return ROWS_GRID, (batch * values * queries,)
    if part.phase == "decode":
        return [[1, 2], *CONVOLUTION_GRID[1:]], (queries, batch * values)
    if part.rule == "convolution":
        return CONVOLUTION_GRID, (queries, batch * values)
    return (SCAN_GRID if len(calls.seconds) > 600 else FEW_GRID), (queries, batch * values)


def mean_error(predicted: Array, calls: Calls) -> float:
    return float(np.mean(np.abs(predicted / calls.seconds - 1)[~calls.fitted]))


def moved_per_state(part: Part) -> float:
    """Bytes that an update moves per value of a state."""
    return NARROW_STATES if part.folder.endswith("0.5.10") else 2.0 * STATE_BYTES


def used_calls(base: Path, source: fk.Source, part: Part) -> Calls | None:
    """The calls of a section, every fifth left out; None where there are too few."""
    path = base / part.folder / f"{part.file}_perf.parquet"
    if not path.exists():
        return None
    calls = calls_of(path, part)
    if not len(calls.seconds):
        return None
    state_bytes = moved_per_state(part)
    # what a scan's stages leave for each other may well be in the cache; what comes from outside is not
    read = moved(part, calls.shape, False, state_bytes)
    kept = ~cached(calls, read, source.bandwidth)
    if part.file == "gdn" and part.phase == "prefill":
        witness = part._replace(rule="convolution", kernels=("causal_conv1d_fn",))
        convolutions = calls_of(path, witness)
        there = disturbed(convolutions, moved(witness, convolutions.shape, False, 0.0))
        kept &= np.array([(b, q) not in there for b, q, *_ in calls.shape.T.tolist()])
    elif part.phase == "decode":
        rate = read / calls.seconds
        large = kept & (read > LARGE)
        if large.any():
            kept &= ~large | (rate >= np.quantile(rate[large], 0.9) / DISTURBED)
    calls = every_fifth_left_out(fk.chosen(calls, kept))
    return calls if len(calls.seconds) >= FEWEST else None


def fit_part(base: Path, source: fk.Source, part: Part) -> Entry | None:
    calls = used_calls(base, source, part)
    if calls is None:
        return None
    staged = part.phase == "prefill" and not any(word in calls.kernel for word in FUSED)
    staged = staged and part.rule != "convolution"
    chip = Chip(source.sms, source.peaks["bf16"], source.bandwidth)
    start: Entry = dict(CONVOLUTION_START if part.rule == "convolution" else UPDATE_START)
    if part.rule != "convolution" and part.phase == "prefill":
        start = dict(SCAN_START)
        if not staged:
            del start["fill_s"]
    model = model_of(part, chip, staged, moved_per_state(part))
    entry = fit_constants(start, model, calls)
    plain = model(entry, calls.shape, ())
    grid = grid_of(part, calls)
    tables: list[Entry] = []
    knots = int(np.prod([len(axis) for axis in grid[0]]))
    if knots < len(calls.seconds) / 5:
        tried = fk.fit_tables(plain, calls, [grid])
        better = model(entry, calls.shape, tuple(kernels.correction_table(t) for t in tried))
        if mean_error(better, calls) < 0.95 * mean_error(plain, calls):
            plain, tables = better, tried
    errors = fk.quality(plain, calls)
    if errors["median_error"] > DESCRIBED:
        return None
    batch, queries, _, values = calls.shape
    return {
        "kernel": calls.kernel,
        "table": "/".join(part.folder.split("/")[1:]),
        "peak_flops_per_s": chip.peak,
        **({"staged": True} if staged else {}),
        **entry,
        **errors,
        "left_out": int((~calls.fitted).sum()),
        "range": fk.extent(queries, batch, values),
        "tables": tables,
    }


def sections(root: Path, device: str) -> dict[str, Entry]:
    """The sections of a device."""
    source = fk.DEVICES[device]
    base = root / fk.DATA / source.folder
    found = {}
    for name, part in parts_of(device).items():
        entry = fit_part(base, source, part)
        if entry:
            found[name] = entry
    if device in ELSEWHERE:
        found["recurrence_elsewhere"] = {"kernels": ELSEWHERE[device]}
    return found


def write(device: str, family: str, entries: dict[str, Entry]) -> None:
    """Into the device's file, at its end, in place of what it had of the family."""
    path = fk.CATALOG / f"{device}.toml"
    old = rf"(?ms)^\[\[?{family}[._].*?(?=^\[\[?(?!{family}[._])|\Z)"
    kept = re.sub(old, "", path.read_text()).rstrip("\n")
    path.write_text(kept + "\n\n" + "".join(f"{line}\n" for line in fk.section_lines(entries)))


def report(device: str, entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        if "points" not in entry:
            continue
        errors = "  ".join(
            f"{key} {entry[key]:7.4f}" for key in ("median_error", "p90_error", "bias")
        )
        print(f"{device:14} {name:38} {errors}  {entry['points']} points", flush=True)


def parts_of(device: str) -> dict[str, Part]:
    """The sections that a device may have."""
    parts = A100 if device == "a100-80gb-sxm" else PARTS
    return {f"recurrence.{p.engine}.{p.rule}.{p.phase}": p for p in parts}


SAMPLE = 15  # calls left out of each section's fit that the tests' sample has


def sampled(device: str, name: str, calls: Calls) -> list[str]:
    """Lines of the tests' sample: those calls left out whose shapes hash lowest."""
    shapes = calls.shape.T.astype(int).tolist()
    rank = {i: zlib.crc32(repr(shapes[i]).encode()) for i in np.flatnonzero(~calls.fitted)}
    return [
        f"{device},{name},{' '.join(str(v) for v in shapes[i])},{calls.seconds[i]:.5g}"
        for i in sorted(sorted(rank, key=lambda i: rank[i])[:SAMPLE])
    ]


def sample(root: Path, path: Path) -> None:
    """Calls left out of the fits, for the tests."""
    lines = ["device,part,shape,seconds"]
    for device in fk.SAMPLED:
        source = fk.DEVICES[device]
        there = fk.CATALOG / f"{device}.toml"
        for name, part in parts_of(device).items():
            calls = used_calls(root / fk.DATA / source.folder, source, part)
            if calls is not None and f"[{name}]" in there.read_text():
                lines += sampled(device, name, calls)
    path.write_text("\n".join(lines) + "\n")


def fit(
    what: str,
    table: str,
    sections: Callable[[Path, str], dict[str, Entry]],
    sample: Callable[[Path, Path], None],
) -> None:
    """The command of a tool that fits ``what`` into the catalog's sections that ``table`` matches."""
    parser = argparse.ArgumentParser(description=f"Fit {what} of kernels/*.toml.")
    parser.add_argument("wheel", type=Path, help="folder of the unpacked aiconfigurator-core wheel")
    parser.add_argument("--device", choices=sorted(fk.DEVICES), action="append", help="only these")
    parser.add_argument("--sample", type=Path, help="write the tests' sample of calls, fit nothing")
    arguments = parser.parse_args()
    if arguments.sample:
        sample(arguments.wheel, arguments.sample)
        return
    for device in arguments.device or fk.DEVICES:
        entries = sections(arguments.wheel, device)
        if entries:
            write(device, table, entries)
            report(device, entries)


if __name__ == "__main__":
    fit("the recurrences", "recurrence", sections, sample)
