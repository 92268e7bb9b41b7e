"""By which software: switches that change what is executed, and what hides under what."""

from __future__ import annotations

import msgspec

from meshwise.errors import InputError
from meshwise.spec import catalog
from meshwise.spec.reading import check_keys


class Stack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A software stack. Every switch is documented in ``docs/reference/stacks``."""

    name: str
    title: str = ""
    ideal: bool = False  # peak FLOP/s and wire bandwidth for products and collectives, nothing else
    attention: str = "flash"  # flash: fused and causal; unfused: full scores through memory
    fused_elementwise: bool = True  # activation, and residual with its dropout, in one pass each
    fused_add_norm: bool = False  # norm in the same pass as the residual addition before it
    collectives: str = "nccl"  # library whose measured constants price the collectives
    custom_all_reduce: bool = False  # one-shot and two-shot kernels for small messages
    custom_all_reduce_pcie_ranks: int = 2  # most ranks for which those kernels run over PCIe
    in_switch: bool = True  # NVLS / SHARP where the fabric has it
    overlap: str = "none"  # of the TP collectives: none, split, decomposed
    overlap_input_gradient: bool = False  # backward all-reduce beside the weight gradient
    schedule: str = "1f1b"  # of the pipeline: 1f1b, gpipe, zb-1p, zb-2p
    overlap_grad_reduce: bool = False  # gradient reduction beside the last microbatch's backward
    recompute_early_stop: bool = False  # full recomputation never redoes a layer's last collective
    parallel_block_one_all_reduce: bool = True  # parallel blocks add partial sums before reducing
    copies_kv_heads: bool = True  # runs with more ranks than KV heads
    host_s: float = 0.0  # host time per step that no device work hides
    memory_reserve: float = 0.0  # share of device memory that is not the model's to use
    sources: dict[str, str] = {}


def load_stack(name: str, field: str = "--stack") -> Stack:
    """A stack of the catalog."""
    key, table = catalog.load("stacks", name, field)
    check_keys(table, [*Stack.__struct_fields__, "source"], f"stacks/{key}")
    try:
        return msgspec.convert({"name": key, "sources": table.pop("source", {}), **table}, Stack)
    except msgspec.ValidationError as error:
        raise InputError(f"stacks/{key}: {error}", field=field, value=name) from None


DEFAULT = {"train": "megatron-core", "prefill": "vllm", "decode": "vllm"}
