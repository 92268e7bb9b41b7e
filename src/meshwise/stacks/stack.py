"""By which software: groups of switches that say what is executed, and what hides under what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec

from meshwise.checks import flag, text, texts
from meshwise.errors import InputError
from meshwise.stacks.engines import Cache, FewRows, Scheduler
from meshwise.stacks.switches import (
    GROUPS,
    HOME,
    Can,
    Communication,
    Executed,
    Host,
    Memory,
    Overlaps,
    Pipeline,
)
from meshwise.stacks.training_state import TrainingState
from meshwise.stacks.words import TOOLCHAIN_OF
from meshwise.strict_tables import check_keys

if TYPE_CHECKING:
    from types import MemberDescriptorType

T = TypeVar("T")
# switches that a command line, a launch command and a table's row state too
STATED = (
    *("loss_chunks", "dispatcher", "overlap_experts", "moments_dtype", "recompute_modules"),
    *("optimizer", "master_weights", "offload_optimizer", "offload_layers", "recompute_layers"),
    "cuda_graphs",
)


class ByName(Generic[T]):
    """A switch of a group, read from the stack under its own name."""

    def __init__(self, member: T) -> None:
        """``member``: the group's field, such as ``Memory.fp32_parameters``."""
        self.name = cast("MemberDescriptorType", member).__name__
        self.group = HOME[self.name]

    @overload
    def __get__(self, stack: None, owner: type[Stack]) -> ByName[T]: ...
    @overload
    def __get__(self, stack: Stack, owner: type[Stack]) -> T: ...
    def __get__(self, stack: Stack | None, owner: type[Stack]) -> ByName[T] | T:
        return self if stack is None else cast(T, getattr(getattr(stack, self.group), self.name))


@dataclass(frozen=True, init=False)
class Stack:
    """A software stack: what it executes, and what hides under what.

    Made by :func:`meshwise.stack`, which takes the switches as keywords. Every switch, its unit and
    its values are documented in ``docs/reference/stacks``; ``sources`` says where each is from. They
    are in groups (``stack.kernels.attention``), and each is there under its own name too. ``software``
    is the stack of the catalog whose kernels and published runs it has: that of a version, for example.

    :param name: the only field that has to be said; the others are switches.
    :raises InputError: for a value that a switch does not take; ``field`` is its name.

    >>> import meshwise as mw
    >>> mw.stack("vllm", custom_all_reduce=False).custom_all_reduce
    False
    """

    name: str
    title: str
    ideal: bool  # a definition: peak FLOP/s, wire bandwidth, in decode memory bandwidth
    kernels: Executed
    overlaps: Overlaps
    communication: Communication
    pipeline: Pipeline
    memory: Memory
    state: TrainingState
    few_rows: FewRows
    host: Host
    scheduler: Scheduler
    cache: Cache
    can: Can
    sources: dict[str, str]
    software: str
    asked: frozenset[str] = field(compare=False)  # switches that someone set in place of its own

    def __init__(
        self,
        *,
        name: str,
        title: str = "",
        ideal: bool = False,
        sources: Mapping[str, str] | None = None,
        **switches: object,
    ) -> None:
        check_keys(switches, FIELDS, "stack")
        _set(self, "name", text(name, "stack.name"))
        _set(self, "title", text(title, "stack.title"))
        _set(self, "ideal", flag(ideal, "stack.ideal"))
        for group, struct in GROUPS.items():
            own = {k: v for k, v in switches.items() if HOME[k] == group}
            _set(self, group, struct(**own))
        _set(self, "sources", texts({} if sources is None else sources, "stack.sources"))
        _set(self, "software", name)
        _set(self, "asked", frozenset(switches))

    # every switch under its own name, in the order of records
    runs = ByName(Can.runs)
    attention = ByName(Executed.attention)
    flash_version = ByName(Executed.flash_version)
    fused_elementwise = ByName(Executed.fused_elementwise)
    fused_softmax = ByName(Executed.fused_softmax)
    fused_norm = ByName(Executed.fused_norm)
    loss_bytes = ByName(Executed.loss_bytes)
    whole_logits = ByName(Executed.whole_logits)
    loss_chunks = ByName(Executed.loss_chunks)
    accumulation_bytes = ByName(Executed.accumulation_bytes)
    fused_add_norm = ByName(Executed.fused_add_norm)
    collectives = ByName(Communication.collectives)
    custom_all_reduce = ByName(Communication.custom_all_reduce)
    custom_all_reduce_pcie_ranks = ByName(Communication.custom_all_reduce_pcie_ranks)
    in_switch = ByName(Communication.in_switch)
    overlap = ByName(Overlaps.overlap)
    overlap_input_gradient = ByName(Overlaps.overlap_input_gradient)
    schedule = ByName(Pipeline.schedule)
    dispatcher = ByName(Communication.dispatcher)
    overlap_experts = ByName(Overlaps.overlap_experts)
    overlap_grad_reduce = ByName(Overlaps.overlap_grad_reduce)
    overlap_param_gather = ByName(Overlaps.overlap_param_gather)
    narrow_param_gather = ByName(Communication.narrow_param_gather)
    cp_load_balance = ByName(Communication.cp_load_balance)
    scatter_gather = ByName(Communication.scatter_gather)
    overlap_pipeline = ByName(Overlaps.overlap_pipeline)
    selective_recompute = ByName(Memory.selective_recompute)
    recompute_modules = ByName(Memory.recompute_modules)
    stage_balance = ByName(Pipeline.stage_balance)
    recompute_early_stop = ByName(Memory.recompute_early_stop)
    parallel_block_one_all_reduce = ByName(Communication.parallel_block_one_all_reduce)
    copies_kv_heads = ByName(Can.copies_kv_heads)
    unread_methods = ByName(Can.unread_methods)
    families = ByName(Can.families)
    no_int8_products = ByName(Can.no_int8_products)
    vocab_multiple = ByName(Executed.vocab_multiple)
    vocab_multiple_per_rank = ByName(Executed.vocab_multiple_per_rank)
    shards = ByName(Can.shards)
    pipelined_shards = ByName(Can.pipelined_shards)
    pipelines = ByName(Can.pipelines)
    virtual_stages = ByName(Can.virtual_stages)
    context_parallel = ByName(Can.context_parallel)
    expert_parallel = ByName(Can.expert_parallel)
    attention_dp = ByName(Can.attention_dp)
    attention_dp_beside_tp = ByName(Can.attention_dp_beside_tp)
    expert_grid = ByName(Can.expert_grid)
    unsplit_experts = ByName(Can.unsplit_experts)
    decode_context = ByName(Can.decode_context)
    jitter = ByName(Host.jitter)
    host_s = ByName(Host.host_s)
    host_layer_s = ByName(Host.host_layer_s)
    host_layer_network_share = ByName(Host.host_layer_network_share)
    host_launch_s = ByName(Host.host_launch_s)
    cuda_graphs = ByName(Host.cuda_graphs)
    collective_wait_s = ByName(Host.collective_wait_s)
    fused_qk_norm = ByName(Executed.fused_qk_norm)
    fuses_shared_expert = ByName(Executed.fuses_shared_expert)
    static_scales = ByName(Executed.static_scales)
    max_batched_tokens = ByName(Scheduler.max_batched_tokens)
    max_batched_tokens_small = ByName(Scheduler.max_batched_tokens_small)
    mixes_prefill = ByName(Scheduler.mixes_prefill)
    shares_prefill = ByName(Scheduler.shares_prefill)
    whole_prompts = ByName(Scheduler.whole_prompts)
    max_sequences = ByName(Scheduler.max_sequences)
    small_generations = ByName(Scheduler.small_generations)
    max_sequences_small = ByName(Scheduler.max_sequences_small)
    works_ahead = ByName(Scheduler.works_ahead)
    poll_iterations = ByName(Scheduler.poll_iterations)
    graph_multiple = ByName(Scheduler.graph_multiple)
    padding_experts = ByName(Scheduler.padding_experts)
    kv_block_tokens = ByName(Scheduler.kv_block_tokens)
    reserved_output = ByName(Scheduler.reserved_output)
    dp_balance = ByName(Scheduler.dp_balance)
    dp_gather_iterations = ByName(Scheduler.dp_gather_iterations)
    eager = ByName(Scheduler.eager)
    graphs = ByName(Scheduler.graphs)
    prefill_layer_s = ByName(Host.prefill_layer_s)
    prefill_kernel_s = ByName(Host.prefill_kernel_s)
    eager_layer_s = ByName(Host.eager_layer_s)
    eager_kernel_s = ByName(Host.eager_kernel_s)
    expert_layer_s = ByName(Host.expert_layer_s)
    iteration_s = ByName(Host.iteration_s)
    sequence_s = ByName(Host.sequence_s)
    logit_bytes = ByName(Executed.logit_bytes)
    loss_peak_bytes = ByName(Memory.loss_peak_bytes)
    loss_peak_bytes_tp = ByName(Memory.loss_peak_bytes_tp)
    expands_kv_heads = ByName(Memory.expands_kv_heads)
    packed_qkv = ByName(Memory.packed_qkv)
    keeps_gathered_inputs = ByName(Memory.keeps_gathered_inputs)
    keeps_narrow_inputs = ByName(Memory.keeps_narrow_inputs)
    fp32_parameters = ByName(Memory.fp32_parameters)
    gradient_dtype = ByName(Memory.gradient_dtype)
    moments_dtype = ByName(Memory.moments_dtype)
    gradient_buckets = ByName(Memory.gradient_buckets)
    autograd_gradients = ByName(Memory.autograd_gradients)
    memory_reserve = ByName(Memory.memory_reserve)
    kv_budget = ByName(Cache.kv_budget)
    context_bytes = ByName(Cache.context_bytes)
    runtime_bytes = ByName(Cache.runtime_bytes)
    communicator_bytes = ByName(Cache.communicator_bytes)
    switched_bytes = ByName(Cache.switched_bytes)
    expert_multiple = ByName(Cache.expert_multiple)
    profile_bytes = ByName(Cache.profile_bytes)
    sampler_bytes = ByName(Cache.sampler_bytes)
    graph_layer_bytes = ByName(Cache.graph_layer_bytes)
    reserve_fixed_bytes = ByName(Cache.reserve_fixed_bytes)
    reserve_token_bytes = ByName(Cache.reserve_token_bytes)
    reserve_sequence_bytes = ByName(Cache.reserve_sequence_bytes)
    reserve_rank_bytes = ByName(Cache.reserve_rank_bytes)
    reserve_least_bytes = ByName(Cache.reserve_least_bytes)
    graph_sequences = ByName(Cache.graph_sequences)
    graph_sequences_small = ByName(Cache.graph_sequences_small)
    unified_pages = ByName(Cache.unified_pages)
    window_chunk = ByName(Cache.window_chunk)
    window_share = ByName(Cache.window_share)
    state_pages = ByName(Cache.state_pages)
    logs_concurrency = ByName(Cache.logs_concurrency)
    optimizer = ByName(TrainingState.optimizer)
    master_weights = ByName(TrainingState.master_weights)
    offload_optimizer = ByName(TrainingState.offload_optimizer)
    offload_layers = ByName(TrainingState.offload_layers)
    recompute_layers = ByName(TrainingState.recompute_layers)
    divides_residual = ByName(TrainingState.divides_residual)
    shards_by_tensor = ByName(TrainingState.shards_by_tensor)
    shards_towers = ByName(Memory.shards_towers)
    row_memory_share = ByName(FewRows.row_memory_share)
    row_sm_bytes_per_s = ByName(FewRows.row_sm_bytes_per_s)
    row_product_s = ByName(FewRows.row_product_s)
    marlin_experts = ByName(FewRows.marlin_experts)
    cutlass_experts = ByName(FewRows.cutlass_experts)
    deep_gemm_experts = ByName(FewRows.deep_gemm_experts)
    deep_gemm_tp = ByName(FewRows.deep_gemm_tp)
    four_bit = ByName(FewRows.four_bit)


# in the order of records
NAMES: tuple[str, ...] = tuple(k for k, v in vars(Stack).items() if isinstance(v, ByName))
FIELDS = ("name", "title", NAMES[0], "ideal", *NAMES[1:], "sources")
_set = object.__setattr__


def switch_values(stack: Stack) -> dict[str, Any]:
    """Every switch with its value, in the order of records."""
    return {name: getattr(stack, name) for name in NAMES}


def replaced(stack: Stack, changes: Mapping[str, object]) -> Stack:
    """The stack with fields of :data:`FIELDS` replaced; an unknown one is refused."""
    check_keys(dict(changes), FIELDS, "stack")
    groups: dict[str, dict[str, object]] = {}
    for name, value in changes.items():
        if name in HOME:
            groups.setdefault(HOME[name], {})[name] = value
    new = object.__new__(Stack)
    vars(new).update(vars(stack))
    for group, own in groups.items():
        _set(new, group, msgspec.structs.replace(getattr(stack, group), **own))
    for name, rule in (("name", text), ("title", text), ("ideal", flag), ("sources", texts)):
        if name in changes:
            _set(new, name, rule(changes[name], f"stack.{name}"))
    others = {k for own in groups.values() for k in own if getattr(new, k) != getattr(stack, k)}
    _set(new, "asked", stack.asked | others)
    return new


def as_own(stack: Stack, name: str, title: str, software: str) -> Stack:
    """The stack under another name, whose switches are all its own."""
    new = replaced(stack, {"name": name, "title": title})
    _set(new, "software", software)
    _set(new, "asked", frozenset())
    return new


def stated(stack: Stack, switch: str) -> bool:
    """Whether someone set a switch in place of the stack's own: what a stack does by itself it does
    where a layout can, what someone asked of it has to be possible."""
    return switch in stack.asked


def kind_of(phase: str) -> str:
    """Training or inference: what a stack is asked to run."""
    return "training" if phase == "train" else "inference"


def not_made_for(stack: Stack, phase: str) -> list[str]:
    """That a stack is asked for what it does not do: a phase on another's kernels is a comparison that
    its figures do not say."""
    if kind_of(phase) in stack.can.runs:
        return []
    name, made = stack.title or stack.name, " and ".join(stack.can.runs)
    return [f"priced as if {name}, which is made for {made}, ran {kind_of(phase)}"]


def not_made_on(stack: Stack, generation: str, device: str) -> list[str]:
    """That a stack is asked for on a device whose family it does not run on."""
    made, family = stack.can.families, TOOLCHAIN_OF.get(generation)
    if not made or family is None or family in made or stack.ideal:
        return []
    names = {"cuda": "CUDA", "rocm": "ROCm", "gaudi": "Gaudi", "tpu": "TPU", "cpu": "CPU"}
    on = " and ".join(names[name] for name in made)
    return [
        f"priced as if {stack.title or stack.name}, which runs on {on} devices, ran on {device}"
    ]


def check_eager(stack: Stack) -> None:
    """:class:`InputError` where someone turned off CUDA graphs of an engine that has none."""
    if stack.scheduler.eager and stated(stack, "eager") and not stack.scheduler.graphs:
        raise InputError(
            f"eager: {stack.title or stack.name} has no CUDA graphs that it turns off",
            field="eager",
            value=True,
            legal="leave `eager` out, or an engine that has them, such as vllm",
        )


DEFAULT = {"train": "megatron-core", "prefill": "vllm", "decode": "vllm"}


def taking(stack: Stack, share: float | None) -> Stack:
    """The stack whose engine takes this share of a GPU's memory, where one is said."""
    if share is None or stack.ideal:
        return stack
    return replaced(stack, {"memory_reserve": round(1.0 - share, 9)})
