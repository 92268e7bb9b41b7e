"""By which software: switches that change what is executed, and what hides under what."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from meshwise import catalog, dtypes
from meshwise.checks import (
    Check,
    among,
    check_fields,
    flag,
    name_of,
    number,
    optional,
    text,
    texts,
    tuple_of,
    whole,
)
from meshwise.errors import InputError
from meshwise.stacks import schedules
from meshwise.strict_tables import check_keys
from meshwise.workloads.workload import MAX_SEQ, OVERLAP_MODES

MOMENTS = ("fp32", "bf16", "fp16", "fp8")
# alltoall sends a token once per expert; the others once per node, whose ranks pass it on
DISPATCHERS = ("alltoall", "deepep", "hybridep")
# What the switches may be; those that are true or false need no entry.
WORDS: dict[str, tuple[str, ...]] = {
    "attention": ("flash", "unfused"),
    "collectives": ("nccl", "vllm", "sglang", "trtllm"),
    "overlap": OVERLAP_MODES,
    "schedule": schedules.SCHEDULE_NAMES,
    "selective_recompute": ("attention", "products"),
    "stage_balance": ("layers", "cost"),
    "gradient_dtype": dtypes.GRADIENT,  # or none
    "moments_dtype": MOMENTS,
    "dispatcher": DISPATCHERS,
}
# switches that a command line, a launch command and a table's row state too
STATED = ("loss_chunks", "dispatcher", "overlap_experts", "moments_dtype", "recompute_modules")
# parts of a layer that selective recomputation may do again (Megatron-Core's words)
MODULES = ("core_attn", "layernorm", "moe_act", "shared_experts", "mla_up_proj", "mlp", "moe")
SHARDS = ("none", "zero1", "zero2", "zero3")
RUNS = ("training", "inference", "collectives")
LISTS = {  # some of them
    "runs": RUNS,
    "shards": SHARDS,
    "pipelined_shards": SHARDS,
    "recompute_modules": MODULES,
}
WHOLE = {  # lowest, highest
    "flash_version": (1, 3),
    "custom_all_reduce_pcie_ranks": (0, 1024),
    "vocab_multiple": (1, 1 << 20),
    "max_batched_tokens": (1, MAX_SEQ),
    "max_batched_tokens_small": (1, MAX_SEQ),
    "loss_chunks": (1, 1 << 20),
}
_SECONDS, _TRAFFIC = (0.0, 1e3), (0.0, 1e6)  # s; bytes per logit or weight
RANGES = {
    "loss_bytes": _TRAFFIC,
    "accumulation_bytes": _TRAFFIC,
    "jitter": (0.0, 1.0),
    "host_s": _SECONDS,
    "host_layer_s": _SECONDS,
    "host_launch_s": _SECONDS,
    "collective_wait_s": _SECONDS,
    "prefill_layer_s": _SECONDS,
    "iteration_s": _SECONDS,
    "sequence_s": _SECONDS,
    "logit_bytes": _TRAFFIC,
    "loss_peak_bytes": _TRAFFIC,
    "loss_peak_bytes_tp": _TRAFFIC,  # or none
    "memory_reserve": (0.0, 0.95),
}


class Stack(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A software stack: what it executes, and what hides under what.

    Made by :func:`meshwise.stack`, which takes the switches as keywords. Every switch, its unit and
    its values are documented in ``docs/reference/stacks``; ``sources`` says where each is from.

    :param name: the only field that has to be said; the others are switches.
    :raises InputError: for a value that a switch does not take; ``field`` is its name.

    >>> import meshwise as mw
    >>> mw.stack("vllm", custom_all_reduce=False).custom_all_reduce
    False
    """

    name: str
    title: str = ""
    runs: tuple[str, ...] = RUNS  # what it is made for
    ideal: bool = False  # a definition: peak FLOP/s, wire bandwidth, in decode memory bandwidth
    attention: str = "flash"  # flash: fused and causal; unfused: full scores through memory
    flash_version: int = 3  # of the fused kernels: 1, 2 (FlashAttention-1, -2), 3 (-3, cuDNN)
    fused_elementwise: bool = True  # activation, and residual with its dropout, in one pass each
    fused_norm: bool = True  # norms and rotary in one pass each, not as a chain of fp32 passes
    loss_bytes: float = 52.0  # memory traffic of the loss per logit, forward and backward
    whole_logits: bool = False  # every TP rank gathers all logits and takes their loss by itself
    loss_chunks: int = 1  # head and loss on one part of a microbatch's tokens at a time
    accumulation_bytes: float = 0.0  # traffic per weight and microbatch of adding up gradients
    fused_add_norm: bool = False  # norm in the same pass as the residual addition before it
    collectives: str = "nccl"  # library whose measured constants price the collectives
    custom_all_reduce: bool = False  # one-shot and two-shot kernels for small messages
    custom_all_reduce_pcie_ranks: int = 2  # most ranks for which those kernels run over PCIe
    in_switch: bool = True  # NVLS / SHARP where the fabric has it
    overlap: str = "none"  # of the TP collectives: none, split, decomposed
    overlap_input_gradient: bool = False  # backward all-reduce beside the weight gradient
    schedule: str = schedules.USUAL  # of the pipeline; see stacks.schedules
    dispatcher: str = "alltoall"  # of tokens to their experts: alltoall, deepep, hybridep
    overlap_experts: bool = False  # the dispatch beside another microbatch's compute
    overlap_grad_reduce: bool = False  # gradient reduction beside the last microbatch's backward
    overlap_param_gather: bool = False  # ZeRO's gathers of weights beside compute
    scatter_gather: bool = False  # pipeline transfers in shares of the TP ranks, gathered after
    overlap_pipeline: bool = False  # transfers between stages, where stages are interleaved
    selective_recompute: str = "attention"  # or "products": every second product, all passes
    recompute_modules: tuple[str, ...] = ("core_attn",)  # of "attention": what else it does again
    stage_balance: str = "layers"  # of pipeline stages; or "cost": the ends count by their FLOPs
    recompute_early_stop: bool = False  # full recomputation never redoes a layer's last collective
    parallel_block_one_all_reduce: bool = True  # parallel blocks add partial sums before reducing
    copies_kv_heads: bool = True  # runs with more ranks than KV heads
    vocab_multiple: int = 1  # the vocabulary is rounded up to it, before TP ranks share it evenly
    vocab_multiple_per_rank: bool = False  # … to it times the TP degree
    shards: tuple[str, ...] = SHARDS  # what it can shard
    pipelined_shards: tuple[str, ...] = SHARDS  # … beside pipelines
    pipelines: bool = True  # runs pipeline stages
    virtual_stages: bool = True  # runs several chunks of layers per stage, interleaved
    context_parallel: bool = True  # divides sequences over ranks
    expert_parallel: bool = True  # keeps experts whole on ranks
    attention_dp: bool = True  # serves replicas of attention that share their experts
    unsplit_experts: bool = True  # trains experts beside TP without sequence parallelism
    decode_context: bool = True  # divides the context of a KV head's copies in decode
    jitter: float = 0.0125  # standard deviation of a rank's time in training, over its mean
    host_s: float = 0.0  # host time per step that no device work hides
    host_layer_s: float = 0.0  # host time to launch a layer's forward pass, without CUDA graphs
    host_launch_s: float = 0.0  # host time per kernel that an eager training step starts
    collective_wait_s: float = 0.0  # of a collective for its ranks, launched outside CUDA graphs
    fused_qk_norm: bool = False  # norms of queries and keys in the rotary's pass, in inference
    fuses_shared_expert: bool = False  # it is one more routed expert where ranks hold all of them
    static_scales: bool = False  # narrow activations by fixed scales, in the pass before
    max_batched_tokens: int = 8192  # most tokens of one iteration of a serving engine
    max_batched_tokens_small: int = 8192  # the same on devices of less than 70 GiB
    mixes_prefill: bool = True  # prompts' chunks and decodes share an iteration, else prompts first
    shares_prefill: bool = True  # prompts that wait together share an iteration
    prefill_layer_s: float = 0.0  # host time to launch a layer of an iteration outside CUDA graphs
    iteration_s: float = 0.0  # host time per iteration that no device work hides
    sequence_s: float = 0.0  # the same per iteration and sequence
    logit_bytes: float = 0.0  # memory traffic per logit of choosing the next token
    loss_peak_bytes: float = 6.0  # memory per logit at the loss's peak
    loss_peak_bytes_tp: float | None = None  # the same over TP ranks, where it differs
    expands_kv_heads: bool = False  # keys and values are copied to every head before attention
    packed_qkv: bool = False  # the packed projection stays alive beside rotated queries and keys
    keeps_gathered_inputs: bool = False  # sequence parallelism's gathered inputs, for backward
    fp32_parameters: bool = False  # weights are fp32 and cast for products: no other master copy
    gradient_dtype: str | None = None  # of sums and reductions; None: as the products' results
    moments_dtype: str = "fp32"  # of Adam's two moments
    gradient_buckets: bool = False  # the reducer's 16-bit copies of gradients, beside their sums
    autograd_gradients: bool = False  # all weights' 16-bit gradients at once, before they are added
    memory_reserve: float = 0.0  # share of device memory that is not the model's to use
    sources: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_fields(self, RULES, "stack")


def _rule(name: str, kind: str) -> Check:
    own: Check = texts if name == "sources" else text
    if name in WORDS:
        own = among(*WORDS[name])
    elif name in LISTS:
        own = tuple_of(among(*LISTS[name]), "of the stack's words")
    elif name in WHOLE:
        own = whole(*WHOLE[name])
    elif name in RANGES:
        own = number(*RANGES[name])
    elif kind == "bool":
        own = flag
    return optional(own) if "None" in kind else own


RULES = {name: _rule(name, str(kind)) for name, kind in Stack.__annotations__.items()}


def legal(name: str) -> str:
    """What a switch may be, in words."""
    if name in WORDS:
        return ", ".join(WORDS[name])
    if name in LISTS:
        return "some of " + ", ".join(LISTS[name])
    bounds = WHOLE.get(name) or RANGES.get(name)
    if bounds:
        return f"{bounds[0]:g} to {bounds[1]:g}"
    return "true or false" if Stack.__annotations__[name] == "bool" else "text"


def replaced(stack: Stack, switches: dict[str, Any]) -> Stack:
    """The stack with switches replaced; an unknown one is refused."""
    check_keys(switches, Stack.__struct_fields__, "stack")
    return msgspec.structs.replace(stack, **switches)


def load_stack(name: str | os.PathLike[str] | Stack, field: str = "stack") -> Stack:
    """A stack of the catalog by name; a :class:`Stack` as it is."""
    if isinstance(name, Stack):
        return name
    name = name_of(name, field, "a stack's name, or a Stack")
    key, table = catalog.load("stacks", name, field)
    check_keys(table, [*Stack.__struct_fields__, "source"], f"stacks/{key}")
    return Stack(**{"name": key, "sources": table.pop("source", {}), **table})


def stated(stack: Stack, switch: str) -> bool:
    """Whether a switch is another than in the catalog's stack of that name: what a stack does by itself
    it does where a layout can, what someone asked of it has to be possible."""
    known = catalog.canonical("stacks", stack.name)
    return known is None or getattr(load_stack(known), switch) != getattr(stack, switch)


def kind_of(phase: str) -> str:
    """Training or inference: what a stack is asked to run."""
    return "training" if phase == "train" else "inference"


def must_run_models(stack: Stack, phase: str) -> None:
    """Refuse a stack of collectives alone."""
    if stack.runs != ("collectives",):
        return
    tables = {name: load_stack(name) for name in catalog.names("stacks")}
    legal = ", ".join(name for name, s in tables.items() if kind_of(phase) in s.runs)
    raise InputError(
        f"stack={stack.name} runs no model: collectives alone",
        field="stack",
        value=stack.name,
        legal=f"{legal}; or `meshwise collective`",
        nearest=DEFAULT[phase],
    )


def not_made_for(stack: Stack, phase: str) -> list[str]:
    """That a stack is asked for what it does not do: a phase on another's kernels is a comparison that
    its figures do not say."""
    if kind_of(phase) in stack.runs:
        return []
    name, made = stack.title or stack.name, " and ".join(stack.runs)
    return [f"priced as if {name}, which is made for {made}, ran {kind_of(phase)}"]


DEFAULT = {"train": "megatron-core", "prefill": "vllm", "decode": "vllm"}


def taking(stack: Stack, share: float | None) -> Stack:
    """The stack whose engine takes this share of a GPU's memory, where one is said."""
    if share is None or stack.ideal:
        return stack
    return msgspec.structs.replace(stack, memory_reserve=round(1.0 - share, 9))
