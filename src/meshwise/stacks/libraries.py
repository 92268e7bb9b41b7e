"""Which library's collectives a device runs where nobody names software: its maker's."""

from __future__ import annotations

from typing import NamedTuple

from meshwise.clusters.cluster import Device


class Library(NamedTuple):
    """A maker's library: the stack that prices it, and what is to be known of that."""

    title: str
    stack: str
    remark: str = ""


_NCCL = Library("NCCL", "nccl")
# Beginning of a device's generation → its maker's library. NCCL's constants stand in for those of which
# no log is at hand.
_LIBRARIES = {
    "cdna": Library("RCCL", "rccl", "NCCL's constants stand in for RCCL: few logs of it are known"),
    "gaudi": Library("HCCL", "nccl", "NCCL's constants stand in for HCCL: no log of it is known"),
    "tpu": Library(
        "XLA's collectives", "nccl", "NCCL's constants stand in for XLA's: no log of them is known"
    ),
    "cpu": Library(
        "Gloo", "nccl", "NCCL's constants stand in for Gloo's: `meshwise run` measures them"
    ),
}


def library_of(device: Device) -> Library:
    """The library that a device's maker has for it; NCCL where the maker is not known."""
    every = _LIBRARIES.items()
    return next((lib for begins, lib in every if device.generation.startswith(begins)), _NCCL)
