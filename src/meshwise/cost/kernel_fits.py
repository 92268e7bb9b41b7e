"""Measured constants of kernels, from the catalog's fits; nothing is invented here.

A device without a fit of its own inherits that of the nearest generation, and its source says so.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from meshwise.spec import catalog
from meshwise.spec.cluster import Device

# Device whose kernel fit stands for a whole generation.
_GENERATION = {
    "volta": "a100-80gb-sxm",
    "turing": "a100-80gb-sxm",
    "ampere": "a100-80gb-sxm",
    "ada": "l40s",
    "hopper": "h100-80gb-sxm",
    "blackwell": "b200",
}
_ANY_DEVICE = "h100-80gb-sxm"


class Kernel(NamedTuple):
    """``t = launch + max(flops / (efficiency · peak), bytes / (memory_efficiency · bandwidth))``."""

    efficiency: float
    memory_efficiency: float
    launch_s: float
    source: str


class Kernels(NamedTuple):
    """A device's kernel constants by operand format, and its attention constants."""

    gemm: dict[str, Kernel]
    prefill: Kernel
    decode: Kernel
    memory_efficiency: float
    inherited: bool


@functools.cache
def _kernel_table(name: str) -> dict[str, Any]:
    return catalog.load("kernels", name, "kernels")[1]


def kernels(device: Device) -> Kernels:
    """Kernel constants of a device: its own fit, or that of the nearest generation."""
    own = catalog.canonical("kernels", device.name) or _family_fit(device.name)
    name = own or _GENERATION.get(device.generation, _ANY_DEVICE)
    table = _kernel_table(name)
    source = f"kernels/{name}" + ("" if own else f" (inherited by {device.name})")

    def kernel(entry: dict[str, Any], fallback: dict[str, Any]) -> Kernel:
        return Kernel(
            efficiency=entry.get("efficiency", fallback.get("efficiency", 1.0)),
            memory_efficiency=entry.get(
                "memory_efficiency", fallback.get("memory_efficiency", 1.0)
            ),
            launch_s=entry["launch_s"],
            source=source,
        )

    base = table["gemm"]["bf16"]
    gemm = {k: kernel(v, base) for k, v in table["gemm"].items()}
    attention = table["attention"]
    return Kernels(
        gemm=gemm,
        prefill=kernel(attention["prefill"], base),
        decode=kernel(attention["decode"], base),
        memory_efficiency=base["memory_efficiency"],
        inherited=own is None,
    )


def _family_fit(name: str) -> str | None:
    """A fit under the device family's short name (``h200`` for ``h200-141gb-sxm``)."""
    family = name.split("-")[0]
    return family if family in catalog.names("kernels") else None
