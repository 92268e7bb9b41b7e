"""Measured constants of kernels, from the catalog's fits; nothing is invented here.

A device without a fit of its own inherits that of the nearest generation, and its source says so.
Every constant is relative to the device's peak, memory bandwidth and number of multiprocessors
(``multiprocessors`` of the device's file; the fitted device's where it has none), and is scaled by
them; launches, in seconds, are taken as they are, and so are the tables of corrections.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from meshwise import catalog
from meshwise.clusters.load import Device
from meshwise.cost.kernels.recurrence import DECAY, RecurrenceFit
from meshwise.cost.kernels.seconds import (
    AttentionFit,
    GemmFit,
    correction_table,
    gemm_fit,
    grouped_fit,
    weight_only_fit,
)
from meshwise.cost.kernels.sparse import SparseFit
from meshwise.cost.sources import Source

STATIC_SCALES = "static"  # in place of an engine: activations arrive narrow
# Formats with a scale per block of an activation, which is found in each pass: no checkpoint fixes them.
SCALED_IN_PASSES = ("fp8_block", "nvfp4")
# whose products run alike where one has no table
_ALSO = {"int8": ("fp8",), "fp8": ("int8",), "fp8_block": ("fp8", "int8")}
_QUALITY = (
    *("kernel", "peak_flops_per_s", "points", "median_error", "mean_error", "p90_error", "bias"),
    *("head_128", "range", "tables", "table", "left_out"),
)
Ranges = tuple[tuple[float, float], ...]
UNMEASURED: Ranges = ((float("inf"), float("inf")),)  # no shape lies in it


class Kernels(NamedTuple):
    """A device's kernel constants. ``name`` is the file, of which fits are made when asked for."""

    name: str
    source: Source
    inherited: bool
    sms: float
    # of passes over memory, and of attention that is not fused: launch + max(arithmetic, memory)
    efficiency: float
    memory_efficiency: float
    launch_s: float

    def gemm(
        self,
        dtype: str,
        engine: str,
        weight_bytes: float | None = None,
    ) -> tuple[GemmFit, Ranges]:
        """Constants of products that run at the rate of ``dtype``, and the measured shapes;
        ``weight_bytes`` where weights are narrower than the operands, and expanded in the kernel."""
        return _gemm(self.name, dtype, engine, self.inherited, weight_bytes)

    def weight_only(self, dtype: str, engine: str, weight_bytes: float) -> GemmFit | None:
        """Constants of an engine's products that expand weights of ``weight_bytes`` to 16 bit; None where
        none were measured."""
        if dtype != "bf16":
            return None
        return _weight_only(self.name, engine, weight_bytes)

    def experts(
        self, dtype: str, engine: str, weight_bytes: float | None = None, *, kernel: str = ""
    ) -> GemmFit | None:
        """Constants of an engine's grouped products of experts, of those whose ``kernel`` is asked for where
        they were measured; None where none were."""
        return _experts(self.name, dtype, engine, self.inherited, weight_bytes, kernel)

    def measures(self, dtype: str, kernel: str) -> bool:
        """Whether experts were measured on a kernel that is asked for."""
        return _on_kernel(_section(self.name, "moe"), dtype, "", None, kernel) is not None

    def expands(self, dtype: str, engine: str, weight_bytes: float) -> bool:
        """Whether an engine's own products of experts were measured with weights of ``weight_bytes`` that
        are expanded for operands of ``dtype``."""
        own = _section(self.name, "moe").get(engine, {})
        return weight_bytes < _FOUR_BIT and _under(own, dtype) != []

    def attention(self, kind: str, kv_element: float) -> tuple[AttentionFit, Ranges]:
        """Constants of ``prefill``, ``decode`` or ``mla_decode`` with a cache of ``kv_element`` bytes per
        value; of latents those of heads where none were measured."""
        return _attention(self.name, kind, kv_element)

    def recurrence(
        self, rule: str, engine: str, *, decode: bool
    ) -> tuple[RecurrenceFit, Ranges] | None:
        """Constants of an engine's scans, updates or convolutions; of a rule that was not measured those of
        the gated delta rule, and :data:`UNMEASURED`. None where none were measured."""
        found = _recurrence(self.name, rule, "decode" if decode else "prefill", engine)
        if found is None:
            return None
        fit, ranges = found
        return fit._replace(peak_share=self.efficiency), ranges

    def sparse(self, kind: str) -> tuple[SparseFit, Ranges] | None:
        """Constants of an operation of sparse attention (``scores.decode``, ``choice.any``, …); None where
        it was not measured."""
        return _sparse(self.name, kind)


def _section(name: str, key: str = "") -> dict[str, Any]:
    """A part of a device's file; by default what is said of the device."""
    return catalog.section("kernels", name, key, "kernels")


def _ranges(entry: dict[str, Any]) -> Ranges:
    return tuple((low, high) for low, high in entry["range"])


@functools.cache
def _gemm(
    name: str,
    dtype: str,
    engine: str,
    inherited: bool,
    weight_bytes: float | None,
) -> tuple[GemmFit, Ranges]:
    formats = _section(name, "gemm")
    dtype = next(d for d in (dtype, *_ALSO.get(dtype, ()), "bf16") if d in formats)
    entry = formats[dtype]
    where: dict[str, Any] = {
        "elsewhere": inherited or weight_bytes is not None,
        "weight_bytes": weight_bytes,
    }
    static = engine == STATIC_SCALES and dtype not in SCALED_IN_PASSES
    tables = tuple(correction_table(t) for t in entry["tables"])
    fit = gemm_fit(entry, tables, **where)
    if static:
        return fit._replace(quantise_bytes=0.0), _ranges(entry)
    # An engine that is not in the table quantises in the pass before: the shortest of the measured
    # ones.
    passes = entry.get("quantise_s", {})
    more = passes.get(engine, min(passes.values(), default=0.0))
    return fit._replace(launch_s=fit.launch_s + more), _ranges(entry)


@functools.cache
def _weight_only(name: str, engine: str, weight_bytes: float) -> GemmFit | None:
    entries = _section(name, "weight_only").get(engine, {}).values()
    near = [e for e in entries if abs(e["weight_bytes"] - weight_bytes) < _SCALES]
    if not near:
        return None
    entry = near[0]
    dense = gemm_fit(_section(name, "gemm")["bf16"], elsewhere=True, weight_bytes=weight_bytes)
    return weight_only_fit(dense, entry, tuple(correction_table(t) for t in entry["tables"]))


@functools.cache
def _experts(
    name: str, dtype: str, engine: str, inherited: bool, weight_bytes: float | None, kernel: str
) -> GemmFit | None:
    """Constants of an engine's grouped products; None where nothing of the kind was measured."""
    engines = _section(name, "moe")
    asked = _on_kernel(engines, dtype, engine, weight_bytes, kernel) if kernel else None
    entry = asked or _expert_entry(engines, dtype, engine, weight_bytes)
    if entry is None:
        return None
    narrow = weight_bytes is not None
    # those with scales per block run on the tiles of whole tensors' products
    dense = _section(name, "gemm")["fp8" if dtype == "fp8_block" else dtype]
    tiles = gemm_fit(dense, elsewhere=inherited or narrow, weight_bytes=weight_bytes)
    return grouped_fit(tiles, entry, tuple(correction_table(t) for t in entry["tables"]))


# Whose kernels stand in for a stack's own: TensorRT-LLM's CUTLASS ones, which training's grouped
# products are too. The others', Triton's and generated ones, are for four-bit weights alone.
_EXPERTS_OF = "trtllm"
_FOUR_BIT = 0.75  # bytes, below which a weight is one
_SCALES = 0.15  # bytes that scales add to a weight at most, of the same kernel
_SAME = 0.01  # bytes, within which two formats of them are one: their scales tell them apart
_UNDER = {"bf16": "w4a16", "fp8": "w4a8"}  # sections of four-bit weights, by what multiplies


def _expert_entry(
    engines: dict[str, Any], dtype: str, engine: str, weight_bytes: float | None
) -> dict[str, Any] | None:
    own, shared = engines.get(engine, {}), engines.get(_EXPERTS_OF, {})
    if weight_bytes is None or weight_bytes >= _FOUR_BIT:
        return _first([own.get(dtype), shared.get(dtype)])
    found = [
        entry for formats in (own, shared, *engines.values()) for entry in _under(formats, dtype)
    ]
    same = [entry for entry in found if abs(entry["weight_bytes"] - weight_bytes) < _SAME]
    return _first([*same, *found])


def _on_kernel(
    engines: dict[str, Any], dtype: str, engine: str, weight_bytes: float | None, kernel: str
) -> dict[str, Any] | None:
    """The section of a kernel by its name: of four-bit weights the engine's own, else any engine's, since
    they share the libraries that these are of."""
    if weight_bytes is not None and weight_bytes < _FOUR_BIT:
        found = _under(engines.get(engine, {}), dtype)
    else:
        found = [formats[dtype] for formats in engines.values() if dtype in formats]
    return _first([e for e in found if all(kernel in name for name in e["kernel"].split(", "))])


def _under(formats: dict[str, Any], dtype: str) -> list[dict[str, Any]]:
    """Sections of an engine for four-bit weights under operands of ``dtype``."""
    return [e for key, e in formats.items() if key.startswith(_UNDER.get(dtype, "no section"))]


def experts_of(device: Device, engine: str) -> str | None:
    """Library and version whose layers of experts were measured for an engine; None for other stacks."""
    found = _section(kernels(device).name, "moe").get(engine, {})
    return next((str(entry["table"]).replace("/", " ") for entry in found.values()), None)


def _first(entries: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    return next(filter(None, entries), None)


@functools.cache
def _attention(name: str, kind: str, kv_element: float) -> tuple[AttentionFit, Ranges]:
    entries = _section(name, "attention")
    kind = kind if kind in entries else kind.removeprefix("mla_")
    narrow = f"{kind}_fp8"
    entry = entries[narrow if kv_element < 2 and narrow in entries else kind]
    return AttentionFit(**_constants(entry)), _ranges(entry)


def _constants(entry: dict[str, Any]) -> dict[str, Any]:
    """The constants of a section and its corrections."""
    tables = tuple(correction_table(t) for t in entry.get("tables", ()))
    return {key: value for key, value in entry.items() if key not in _QUALITY} | {"tables": tables}


# Whose kernels stand in for a stack's own: those of flash-linear-attention, which training runs too,
# for prompts; for updates the ones whose states' width is known.
_RECURRENCES_OF = {
    "prefill": ("trtllm", "sglang", "vllm"),
    "decode": ("vllm", "sglang", "trtllm"),
}


def _recurrence_entries(name: str, rule: str, phase: str, engine: str) -> list[dict[str, Any]]:
    """Sections of a rule in a device's file, the engine's own first."""
    engines = _section(name, "recurrence")
    order = dict.fromkeys((engine, *_RECURRENCES_OF[phase]))
    found = [engines.get(e, {}).get(rule, {}).get(phase) for e in order]
    return [entry for entry in found if entry is not None]


@functools.cache
def _recurrence(
    name: str, rule: str, phase: str, engine: str
) -> tuple[RecurrenceFit, Ranges] | None:
    # a device whose table is short says whose file has the rest
    elsewhere = _section(name, "recurrence_elsewhere").get("kernels")
    files = (name,) if elsewhere is None else (name, elsewhere)
    own = _first([e for f in files for e in _recurrence_entries(f, rule, phase, engine)])
    if own is not None:
        return RecurrenceFit(**_constants(own)), _ranges(own)
    like = [e for f in files for e in _recurrence_entries(f, "gated_delta", phase, engine)]
    if rule in DECAY and phase == "prefill":  # no kernel runs a head's whole chain
        like = [e for e in like if e.get("staged")]
    found = _first(like)
    if found is None:
        return None
    # what a table corrects is the measured rule's own
    return RecurrenceFit(**{**_constants(found), "tables": ()}), UNMEASURED


@functools.cache
def _sparse(name: str, kind: str) -> tuple[SparseFit, Ranges] | None:
    operation, variant = kind.split(".")
    entry = _section(name, "sparse").get(operation, {}).get(variant)
    return None if entry is None else (SparseFit(**_constants(entry)), _ranges(entry))


def kernels(device: Device) -> Kernels:
    """Kernel constants of a device: its own fit, the one that its file names, or its generation's."""
    own = catalog.canonical("kernels", device.name)
    if device.kernels and device.name in _section(device.kernels).get("devices", ()):
        own = device.kernels  # more than one card of a chip
    name = own or catalog.load("kernels", device.kernels or device.generation, "generation")[0]
    table = _section(name)
    return Kernels(
        name=name,
        source=Source(f"kernels/{name}", "" if own else device.name),
        inherited=own is None,
        sms=float(device.multiprocessors or table["sms"]),
        **table["roofline"],
    )
