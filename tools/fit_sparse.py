"""Fit sparse attention of the catalog's kernels to measured tables.

    python tools/fit_sparse.py WHEEL_DIR

after ``tools/fit_kernels.py``, which says what the wheel is. Its tables of SGLang's kernels have an
indexer's scores (DeepGEMM, of GLM-5's 32 heads for prompts and DeepSeek-V4's 64 for decode, which sees a key
for each 4 positions), the choice of 2048 keys, and attention to the chosen latents (FlashMLA, GLM-5's 64 heads);
vLLM's have DeepSeek-V4's attention to a window of 128 keys and an entry for each 128 positions. Forms:
``meshwise.cost.kernels.sparse``. Every fifth shape, in their order, is left out of the fit.

Of the choice's two tables the one is used whose best scores differ (``top_last``): with all scores
alike, the other, every row needs all passes. Prompts of fewer than 16 tokens are left out: the kernel
lays sequences end to end, and a tile walks the keys of several. So are decodes whose keys stayed in the
cache (``fit_recurrence.cached``): with one token per sequence all large ones did, so that the rate at
which keys come from memory is that of passes over memory (``roofline``).

A choice that is decoded goes to another kernel, whose calls no table has alone: latents of 2048 keys
are attended to like a context of 2048 (``attention.mla_decode``), by TensorRT-LLM's table of MLA. In
SGLang's modules of DeepSeek's sparse attention a context of 2048 keys and more takes what that says:
an H200's 64 sequences of 64 heads 51 us more than a context of one key.

Schema of a section::

    [sparse.scores.prefill] [sparse.scores.decode] [sparse.choice.any]
    [sparse.gather.prefill] [sparse.gather.compressed] [sparse.gather.compressed_decode]
    kernel, table, peak_flops_per_s
    launch_s, memory_efficiency, ... # see meshwise.cost.kernels.sparse.SparseFit
    points, left_out, median_error, mean_error, p90_error, bias   # of the shapes left out
    range = [[queries], [keys], [sequences]]
    tables
    [attention.mla_decode] [attention.mla_decode_fp8]  # as attention.decode
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import fit_kernels as fk
import fit_recurrence as fr
import numpy as np
from fit_kernels import Array, Calls, Entry

from meshwise.cost.kernels import seconds as kernels
from meshwise.cost.kernels import sparse
from meshwise.cost.kernels.seconds import AttentionFit, Chip, CorrectionTable
from meshwise.cost.kernels.sparse import SparseFit

SHAPE = ["batch_size", "isl", "step"]
FOLDER = "sparse_attention/sglang/0.5.14"
TOP_K = 2048
FEWEST_QUERIES = 16
DRAFT = 8  # tokens of a sequence that a decode verifies, at most
WINDOW, ENTRY = 128.0, 128.0  # keys of DeepSeek-V4's window; positions of one of its entries
QUERIES: list[float] = [16, 128, 512, 2048, 16384]
SEEN: list[float] = [16, 256, 2048, 16384, 131072]
WHOLE = 64  # tokens of a prompt from which its start, once per sequence, does not count
COMPRESSED: list[float] = [16, 128, 256, 1024, 8192]
ROWS: list[float] = [1, 32, 128, 512, 2048, 8192, 131072]


def seen(shape: Array) -> Array:
    """Keys that a query sees on average."""
    _, new, past = shape
    return np.asarray(past + (new + 1) / 2, float)


def prompt_scores(shape: Array, chip: Chip, fit: SparseFit) -> Array:
    batch, new, past = shape
    return np.asarray(
        sparse.score_seconds(
            batch, new, seen(shape), new + past, 32, 128.0, chip, fit, decode=False
        )
    )


def compressed(shape: Array, by: float) -> tuple[Array, Array]:
    """(entries that a query sees on average, entries cached) with one for each ``by`` positions."""
    _, new, past = shape
    return np.maximum(seen(shape) / by, 1.0), np.maximum((new + past) / by, 1.0)


def decode_scores(shape: Array, chip: Chip, fit: SparseFit) -> Array:
    batch, new, _ = shape
    attended, keys = compressed(shape, 4.0)
    return np.asarray(
        sparse.score_seconds(batch, new, attended, keys, 64, 128.0, chip, fit, decode=True)
    )


def choice(shape: Array, chip: Chip, fit: SparseFit) -> Array:
    batch, new, past = shape
    return np.asarray(sparse.choice_seconds(batch * new, seen(shape), new + past, TOP_K, chip, fit))


def chosen_keys(shape: Array) -> Array:
    """Of 2048 slots those with a key, on average: queries see ``past`` + 1 keys and more."""
    _, new, past = shape
    growing = np.clip(TOP_K - past, 0, new)
    pairs = growing * (past + (growing + 1) / 2) + (new - growing) * TOP_K
    return np.asarray(pairs / new, float)


def gather(shape: Array, chip: Chip, fit: SparseFit) -> Array:
    batch, new, _ = shape
    slots = np.full_like(batch, float(TOP_K))
    heads = np.full_like(batch, 64.0)
    return np.asarray(
        sparse.gather_seconds(
            batch * new, chosen_keys(shape), slots, heads, 576.0, 512.0, 1152.0, chip, fit
        )
    )


def window_and_entries(shape: Array) -> Array:
    return np.asarray(np.floor(seen(shape) / ENTRY) + np.minimum(seen(shape), WINDOW))


def gather_compressed(shape: Array, chip: Chip, fit: SparseFit) -> Array:
    batch, new, _ = shape
    entries = window_and_entries(shape)
    heads = np.full_like(batch, 64.0)
    return np.asarray(
        sparse.gather_seconds(batch * new, entries, entries, heads, 512.0, 512.0, 584.0, chip, fit)
    )


class Part(NamedTuple):
    """A section: file of the table and its rows, which calls, form, constants' starts, corrections."""

    folder: str
    file: str
    keep: dict[str, str]
    used: Callable[[Array], Array]
    form: Callable[[Array, Chip, SparseFit], Array]
    peak: str
    start: Entry
    grid: list[list[float]]
    at: Callable[[Array], tuple[Array, ...]]


# Heads that a block works on: in vLLM's modules of sparse attention 8 heads take as long as 64 but for
# their products on Hopper, and on Blackwell 64 as long as 128.
BLACKWELL_HEADS = 128.0
SCORES: Entry = {"launch_s": 3e-6, "memory_efficiency": 0.6, "efficiency": 0.5}
GATHER: Entry = {
    "launch_s": 5e-6,
    "memory_efficiency": 0.8,
    "efficiency": 0.6,
    "unit_s": 1e-6,
}
PARTS = {
    "scores.prefill": Part(
        FOLDER,
        "glm5_mqa_logits_module_perf",
        {},
        lambda shape: shape[1] >= FEWEST_QUERIES,
        prompt_scores,
        "fp8",
        {**SCORES, "unit_s": 5e-7},
        [QUERIES, SEEN, [1, 8, 64, 512]],
        lambda shape: (shape[1], seen(shape), shape[0]),
    ),
    "scores.decode": Part(
        FOLDER,
        "dsv4_paged_mqa_logits_module_perf",
        {},
        lambda shape: shape[1] <= DRAFT,
        decode_scores,
        "fp8",
        {"launch_s": 3e-6, "efficiency": 0.5},
        [ROWS[:-1], [16, 256, 2048, 16384, 262144]],
        lambda shape: (shape[0] * shape[1], compressed(shape, 4.0)[1]),
    ),
    "choice.any": Part(
        FOLDER,
        "glm5_topk_module_perf",
        {"score_mode": "top_last"},
        lambda shape: shape[2] + 1 > TOP_K,
        choice,
        "bf16",
        {"launch_s": 3e-6, "memory_efficiency": 0.5, "unit_s": 2e-6, "sm_bandwidth": 1.0},
        [ROWS, [2048, 4096, 16384, 65536, 262144]],
        lambda shape: (shape[0] * shape[1], seen(shape)),
    ),
    "gather.prefill": Part(
        FOLDER,
        "glm5_dsa_attn_module_perf",
        {},
        lambda shape: shape[1] > 0,
        gather,
        "bf16",
        GATHER,
        [ROWS, [16, 256, 1024, 2048]],
        lambda shape: (shape[0] * shape[1], chosen_keys(shape)),
    ),
    "gather.compressed": Part(
        "sparse_attention/vllm/0.24.0",
        "dsv4_hca_attn_module_perf",
        {},
        lambda shape: shape[1] >= WHOLE,
        gather_compressed,
        "bf16",
        GATHER,
        [ROWS, COMPRESSED],
        lambda shape: (shape[0] * shape[1], window_and_entries(shape)),
    ),
    "gather.compressed_decode": Part(
        "sparse_attention/vllm/0.24.0",
        "dsv4_hca_attn_module_perf",
        {},
        lambda shape: shape[1] == 1,
        gather_compressed,
        "bf16",
        GATHER,
        [ROWS[:-1], COMPRESSED],
        lambda shape: (shape[0] * shape[1], window_and_entries(shape)),
    ),
}
MLA = {"bfloat16": ("mla_decode", 2.0), "fp8": ("mla_decode_fp8", 1.0)}
MLA_FOLDER = "mla/trtllm/1.3.0rc20"
LATENT, LATENT_VALUES = 576.0, 512.0
MLA_GRID: list[list[float]] = [
    [2, 64, 256, 1024, 4096, 16384, 131072],
    [1, 8, 32, 128, 256, 1024],
    [1, 16, 32, 64, 128],
]
MLA_START: Entry = {**fk.DECODE_START, "efficiency": 0.4}
ROUGH = 0.3  # 90th percentile of the errors, above which a table of MLA is not used


def used_calls(base: Path, source: fk.Source, part: Part) -> Calls | None:
    """The calls of a section, every fifth left out."""
    path = base / part.folder / f"{part.file}.parquet"
    if not path.exists():
        return None
    calls = fk.read(path, SHAPE, part.keep)
    calls = fk.chosen(calls, part.used(calls.shape))
    if part.form is decode_scores:
        read = calls.shape[0] * compressed(calls.shape, 4.0)[1] * (128.0 * sparse.KEY_BYTES)
        calls = fk.chosen(calls, ~fr.cached(calls, read, source.bandwidth))
    return fr.every_fifth_left_out(calls)


def fit_part(base: Path, source: fk.Source, part: Part, passes: Entry) -> Entry | None:
    """``passes``: the device's roofline, with its share of the memory's rate."""
    calls = used_calls(base, source, part)
    if calls is None:
        return None
    chip = Chip(source.sms, source.peaks[part.peak], source.bandwidth)
    fixed: Entry = {}
    if part.start is GATHER and "nvfp4" in source.peaks:
        fixed["head_block"] = BLACKWELL_HEADS
    if part.form is decode_scores:
        fixed["memory_efficiency"] = passes["memory_efficiency"]

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...]) -> Array:
        return np.asarray(
            part.form(shape, chip, SparseFit(**{**entry, **fixed}, tables=tables)), float
        )

    entry = fr.fit_constants(part.start, seconds, calls)
    plain = seconds(entry, calls.shape, ())
    tables = fk.fit_tables(plain, calls, [(part.grid, part.at(calls.shape))])
    final = seconds(entry, calls.shape, tuple(kernels.correction_table(t) for t in tables))
    if fr.mean_error(final, calls) >= 0.95 * fr.mean_error(plain, calls):
        final, tables = plain, []
    batch, new, past = calls.shape
    return {
        "kernel": calls.kernel,
        "table": "/".join(part.folder.split("/")[1:]),
        "peak_flops_per_s": chip.peak,
        **entry,
        **fixed,
        **fk.quality(final, calls),
        "left_out": int((~calls.fitted).sum()),
        "range": fk.extent(new, new + past, batch),
        "tables": tables,
    }


def latent_bytes(shape: Array, kv: str) -> Array:
    """Of the latents that a decode reads."""
    return np.asarray(shape[0] * (shape[1] + 1) * (LATENT * MLA[kv][1]), float)


def mla_calls(base: Path, source: fk.Source, kv: str) -> Calls | None:
    """(sequences, keys before, heads) of each decode of latents, every fifth left out."""
    path = base / MLA_FOLDER / "generation_mla_perf.parquet"
    if not path.exists():
        return None
    calls = fk.read(path, ["batch_size", "step", "num_heads"], {"kv_cache_dtype": kv})
    kept = ~fr.cached(calls, latent_bytes(calls.shape, kv), source.bandwidth)
    return fr.every_fifth_left_out(fk.chosen(calls, kept))


def fit_mla(base: Path, source: fk.Source, kv: str) -> Entry | None:
    """Decode of multi-head latent attention: one latent per key, which all heads read. In the products'
    share of the 16-bit peak an 8-bit cache's kernel may pass 1."""
    calls = mla_calls(base, source, kv)
    if calls is None:
        return None
    chip = Chip(source.sms, source.peaks["bf16"], source.bandwidth)

    def seconds(entry: Entry, shape: Array, tables: tuple[CorrectionTable, ...]) -> Array:
        share = entry["efficiency"]
        fit = AttentionFit(**{**entry, "efficiency": (share,)}, tables=tables)
        batch, past, heads = shape
        found = kernels.decode_seconds(
            *(past + 1, batch, heads, np.ones_like(heads), (LATENT + LATENT_VALUES) / 2),
            2.0 * batch * heads * (LATENT + LATENT_VALUES),
            latent_bytes(shape, kv),
            chip,
            fit,
        )
        return np.asarray(found, float)

    entry = fr.fit_constants(MLA_START, seconds, calls, ())
    batch, past, heads = calls.shape
    at = (past + 1, batch, heads)
    tables = fk.fit_tables(seconds(entry, calls.shape, ()), calls, [(MLA_GRID, at)])
    final = seconds(entry, calls.shape, tuple(kernels.correction_table(t) for t in tables))
    errors = fk.quality(final, calls)
    if errors["p90_error"] > ROUGH:
        return None
    return {
        "kernel": calls.kernel,
        "table": "/".join(MLA_FOLDER.split("/")[1:]),
        "peak_flops_per_s": chip.peak,
        **entry,
        "efficiency": [entry["efficiency"]],
        **errors,
        "left_out": int((~calls.fitted).sum()),
        "range": fk.extent(past + 1, batch, heads),
        "tables": tables,
    }


def sections(root: Path, device: str) -> dict[str, Entry]:
    """The sections of a device."""
    source = fk.DEVICES[device]
    base = root / fk.DATA / source.folder
    passes = tomllib.loads((fk.CATALOG / f"{device}.toml").read_text())["roofline"]
    found = {}
    for name, part in PARTS.items():
        entry = fit_part(base, source, part, passes)
        if entry:
            found[f"sparse.{name}"] = entry
    for kv, (name, _) in MLA.items():
        entry = fit_mla(base, source, kv)
        if entry:
            found[f"attention.{name}"] = entry
    return found


def sample(root: Path, path: Path) -> None:
    """Calls left out of the fits, for the tests."""
    lines = ["device,part,shape,seconds"]
    for device in fk.SAMPLED:
        source = fk.DEVICES[device]
        base = root / fk.DATA / source.folder
        found = {f"sparse.{name}": used_calls(base, source, part) for name, part in PARTS.items()}
        found |= {f"attention.{name}": mla_calls(base, source, kv) for kv, (name, _) in MLA.items()}
        there = (fk.CATALOG / f"{device}.toml").read_text()
        for name, calls in found.items():
            if calls is not None and f"[{name}]" in there:
                lines += fr.sampled(device, name, calls)
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    fr.fit("sparse attention", r"(?:sparse|attention\.mla)", sections, sample)
