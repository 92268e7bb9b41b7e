"""What a stack can be asked to do otherwise: its switches, in groups, each with its legal values, its
unit and its meaning where it stands. ``docs/reference/stacks`` is made of these words.

A new switch is one field here and one line in :class:`meshwise.stacks.stack.Stack`.
"""

# no `from __future__ import annotations`: the annotations are read below
from typing import Annotated, Literal

from meshwise import dtypes
from meshwise.stacks import schedules
from meshwise.stacks.engines import Cache, FewRows, Scheduler
from meshwise.stacks.fields import OneOf, Range, SwitchField, SwitchGroup, switches_of
from meshwise.stacks.training_state import TrainingState
from meshwise.stacks.words import (
    RUNS,
    SHARDS,
    Dispatcher,
    Generation,
    Module,
    Moments,
    QuantMethod,
    Run,
    Sharding,
    Toolchain,
)
from meshwise.workloads.workload import OVERLAP_MODES

_Seconds = Annotated[float, Range(0.0, 1e3, "s")]
_Traffic = Annotated[float, Range(0.0, 1e6, "B")]  # per logit, or per weight
_Count = Annotated[int, Range(1, 1 << 20)]


class Executed(SwitchGroup, frozen=True, kw_only=True):
    """What is executed."""

    attention: Annotated[
        Literal["flash", "unfused"],
        "`flash`: fused and causal, half of the scores are computed and none are kept. "
        "`unfused`: the full square of scores goes through memory.",
    ] = "flash"
    flash_version: Annotated[
        int,
        Range(1, 4),
        "Of the fused attention kernels: 1 and 2 are FlashAttention's (held to what they reach on "
        "Hopper; unasked, 2 is cuDNN's on Blackwell), 3 and 4 those, cuDNN's and the engines' own.",
    ] = 3
    fused_elementwise: Annotated[
        bool,
        "The activation function, and the residual addition with its dropout, in one pass each.",
    ] = True
    fused_softmax: Annotated[
        bool, "Unfused attention masks and softmaxes in one pass. Otherwise passes, in fp32."
    ] = True
    fused_norm: Annotated[
        bool, "Norms and rotary embedding in one pass each. Otherwise chains of fp32 passes."
    ] = True
    fused_add_norm: Annotated[
        bool, "The norm in the same pass as the residual addition before it."
    ] = False
    fused_qk_norm: Annotated[
        bool, "Inference: norms of queries and keys (Qwen3) in the rotary embedding's pass."
    ] = False
    fuses_shared_expert: Annotated[
        bool,
        "A shared expert as wide as the routed ones is one more of their grouped products, where "
        "no expert parallelism divides them.",
    ] = False
    static_scales: Annotated[
        bool,
        "Narrow (fp8, int8) activations are quantised by fixed scales in the pass that makes them. "
        "Otherwise a pass of its own finds each token's scale.",
    ] = False
    loss_bytes: Annotated[
        _Traffic, "Memory traffic per logit of the loss, forward and backward."
    ] = 52.0
    loss_chunks: Annotated[
        _Count,
        "Head and loss work on so many parts of a microbatch's tokens, one at a time: logits and "
        "their gradient exist for one part only. Its option overrides it.",
    ] = 1
    whole_logits: Annotated[
        bool,
        "Every TP rank gathers all logits and takes their loss by itself. Otherwise the ranks share "
        "the vocabulary and reduce three values per token.",
    ] = False
    logit_bytes: Annotated[
        _Traffic, "Serving: memory traffic per logit of choosing the next token."
    ] = 0.0
    accumulation_bytes: Annotated[
        _Traffic,
        "Memory traffic per weight and microbatch of a pass that adds gradients to their sums.",
    ] = 0.0
    vocab_multiple: Annotated[
        _Count,
        "The vocabulary is rounded up to a multiple of it before the TP ranks share it evenly.",
    ] = 1
    vocab_multiple_per_rank: Annotated[
        bool, "The multiple is `vocab_multiple` times the TP degree."
    ] = False


class Overlaps(SwitchGroup, frozen=True, kw_only=True):
    """What hides under what."""

    overlap: Annotated[
        str,
        OneOf(OVERLAP_MODES),
        "Of the TP collectives. `none`; `split`: the batch in two halves, one computes while the "
        "other communicates; `decomposed`: the collective and its product in TP chunks.",
    ] = "none"
    overlap_input_gradient: Annotated[
        bool,
        "Backward's reduction of an input gradient runs beside the same layer's weight gradient.",
    ] = False
    overlap_experts: Annotated[
        bool,
        "The exchange of tokens runs beside another microbatch's passes, but for full recomputation "
        "and pipeline stages without virtual ones. Its option overrides it.",
    ] = False
    overlap_grad_reduce: Annotated[
        bool,
        "The data-parallel gradient reduction runs beside the last microbatch's backward pass.",
    ] = False
    overlap_param_gather: Annotated[
        bool, "The gathers of weights (ZeRO-1 to 3, FSDP) run beside compute."
    ] = False
    overlap_pipeline: Annotated[
        bool,
        "Transfers between stages run beside another virtual stage's work, where stages are "
        "interleaved.",
    ] = False


class Communication(SwitchGroup, frozen=True, kw_only=True):
    """Whose collectives, and which."""

    collectives: Annotated[
        Literal["nccl", "vllm", "sglang", "trtllm"],
        "Whose measured constants price the collectives: `nccl`, `vllm`, `sglang`, `trtllm`. An "
        "engine falls back to NCCL's where that is cheaper.",
    ] = "nccl"
    custom_all_reduce: Annotated[
        bool,
        "One-shot and two-shot kernels for small messages, on an innermost level with peer-to-peer "
        "access.",
    ] = False
    custom_all_reduce_pcie_ranks: Annotated[
        int,
        Range(0, 1024),
        "The most ranks for which those kernels run where the innermost level is PCIe.",
    ] = 2
    in_switch: Annotated[bool, "NVLS and multimem reduction where the innermost level has it."] = (
        True
    )
    dispatcher: Annotated[
        Dispatcher,
        "Of tokens to their experts: `alltoall` sends each to its experts, `deepep` and `hybridep` once "
        "per node that has one (in decode to each expert), `allgather` to all ranks, which sum and "
        "scatter what comes of it. Its option overrides it.",
    ] = "alltoall"
    narrow_param_gather: Annotated[
        bool, "ZeRO-3 and FSDP gather linear layers' weights in the 8 bit of their products."
    ] = False
    cp_load_balance: Annotated[
        bool, "Context parallelism gives a rank an early and a late chunk. Otherwise one chunk."
    ] = True
    scatter_gather: Annotated[
        bool,
        "Without sequence parallelism the TP ranks of a stage send a share each to the next stage, "
        "which gathers them.",
    ] = False
    parallel_block_one_all_reduce: Annotated[
        bool,
        "Parallel blocks (GPT-J, Falcon, Command-R) add their two partial sums before one reduction.",
    ] = True


class Pipeline(SwitchGroup, frozen=True, kw_only=True):
    """In which order stages work, and how layers are dealt out to them."""

    schedule: Annotated[
        str,
        OneOf(schedules.SCHEDULE_NAMES),
        "Of the pipeline: `1f1b` (interleaved where vp > 1), `gpipe`, `zb-1p` and `zb-2p` (zero "
        "bubble with the memory of 1F1B, and with twice that).",
    ] = schedules.USUAL
    stage_balance: Annotated[
        Literal["layers", "cost"],
        "`layers`: pipeline stages of as many layers each; `cost`: layers and head are dealt out by "
        "the weights that they multiply with.",
    ] = "layers"


class Memory(SwitchGroup, frozen=True, kw_only=True):
    """What is kept, in which format, what is computed again, and what is not the model's to use."""

    selective_recompute: Annotated[
        Literal["attention", "products", "passes"],
        "Selective recomputation redoes: `attention` its core; `products` every second product and all "
        "passes (torchtitan's, by operation); `passes` these alone (JAX's checkpoint_dots).",
    ] = "attention"
    recompute_modules: Annotated[
        tuple[Module, ...],
        "What selective recomputation by `attention` does again, in Megatron-Core's words: "
        "`core_attn` (where it is not fused), `layernorm`, `moe_act`, `shared_experts`, "
        "`mla_up_proj`, `mlp`, `moe`. Its option overrides it.",
    ] = ("core_attn",)
    recompute_early_stop: Annotated[
        bool, "Full recomputation leaves out a layer's last product and its collective."
    ] = False
    loss_peak_bytes: Annotated[
        _Traffic,
        "Memory per logit at the loss's peak: 16-bit logits, fp32 copies, softmax, gradients.",
    ] = 6.0
    loss_peak_bytes_tp: Annotated[
        float | None, Range(0.0, 1e6, "B"), "The same where TP divides the vocabulary."
    ] = None
    expands_kv_heads: Annotated[
        bool,
        "Grouped-query attention copies keys and values to every query head, kept for backward.",
    ] = False
    packed_qkv: Annotated[
        bool,
        "Without grouped queries the packed projection stays alive beside rotated queries and keys.",
    ] = False
    keeps_gathered_inputs: Annotated[
        bool,
        "Sequence parallelism keeps the inputs that it gathers. Otherwise it gathers again.",
    ] = False
    keeps_narrow_inputs: Annotated[
        bool, "Products of 8 bits and fewer keep narrow inputs for backward, not 16-bit ones."
    ] = False
    fp32_parameters: Annotated[
        bool,
        "Weights are fp32 and cast to 16 bit for the products (FSDP2): there is no other master "
        "copy. Otherwise weights are 16-bit with an fp32 master copy.",
    ] = False
    gradient_dtype: Annotated[
        str | None,
        OneOf(dtypes.GRADIENT),
        "Format in which gradients are added up and reduced; without one that of the products' "
        "results. `grad_dtype` overrides it.",
    ] = None
    moments_dtype: Annotated[
        Moments,
        "Format of Adam's two moments, beside fp32 master weights. Its option overrides it.",
    ] = "fp32"
    gradient_buckets: Annotated[
        bool, "The reducer has 16-bit buckets of all gradients beside their fp32 sums."
    ] = False
    autograd_gradients: Annotated[
        bool,
        "Every weight has a 16-bit gradient until its microbatch ends, beside the fp32 sums.",
    ] = False
    shards_towers: Annotated[
        bool,
        "Inference: TP divides the layers of a multimodal model's encoders of images and sounds, where it "
        "divides their heads. Otherwise, and in training, every rank keeps them whole.",
    ] = False
    memory_reserve: Annotated[
        float,
        Range(0.0, 0.95),
        "Share of the device's memory that is not the model's to use.",
    ] = 0.0


class Host(SwitchGroup, frozen=True, kw_only=True):
    """Seconds that a device waits: for its host, and for the other ranks."""

    host_s: Annotated[_Seconds, "Host time per step that no device work hides."] = 0.0
    host_layer_s: Annotated[
        _Seconds,
        "Host time to launch one layer forward, backward twice that: a stage is never quicker.",
    ] = 0.0
    host_layer_network_share: Annotated[
        float,
        Range(0.0, 10.0),
        "Training: by how much that grows for each TP rank where the pipeline's messages cross a "
        "network (of a node, where only TP's do).",
    ] = 0.0
    host_launch_s: Annotated[
        _Seconds, "Training: host time to start one kernel, counted by operation."
    ] = 0.0
    cuda_graphs: Annotated[
        bool,
        "Training: CUDA graphs start a microbatch's kernels, the host none. Its option overrides it.",
    ] = False
    collective_wait_s: Annotated[
        _Seconds, "What a collective's kernels, launched by every rank's host, wait for each other."
    ] = 0.0
    jitter: Annotated[
        float,
        Range(0.0, 1.0),
        "Training: a rank's deviation over its mean; the slowest of N is σ·√(2 ln N) late.",
    ] = 0.01
    prefill_layer_s: Annotated[
        _Seconds,
        "Serving: host time to launch one layer of an iteration with prompts, which no CUDA graph "
        "replays. Hidden beside the device's work.",
    ] = 0.0
    prefill_kernel_s: Annotated[
        _Seconds,
        "Serving: host time to launch each kernel that a layer of routed experts has beyond a dense one in "
        "an iteration with prompts, beside `prefill_layer_s`. Hidden beside the device's work.",
    ] = 0.0
    expert_layer_s: Annotated[
        _Seconds,
        "Serving: host time to launch a layer's experts in an iteration that no CUDA graph replays "
        "(prompts, `eager` decodes), that no device work hides.",
    ] = 0.0
    eager_layer_s: Annotated[
        _Seconds, "As `prefill_layer_s`, of decodes without CUDA graphs (`eager`)."
    ] = 0.0
    eager_kernel_s: Annotated[
        _Seconds, "As `prefill_kernel_s`, of decodes without CUDA graphs."
    ] = 0.0
    iteration_s: Annotated[
        _Seconds, "Serving: host time per iteration that no device work hides."
    ] = 0.0
    sequence_s: Annotated[
        _Seconds, "Serving: host time per iteration and sequence that no device work hides."
    ] = 0.0


class Can(SwitchGroup, frozen=True, kw_only=True):
    """What it can run; other layouts are refused under it."""

    runs: Annotated[
        tuple[Run, ...],
        "What the software is made for. Another's kernels price a phase that it does not run all "
        "the same, and the answer says so; one of collectives alone runs no model.",
    ] = RUNS
    shards: Annotated[
        tuple[Sharding, ...], "What the software can shard over data-parallel ranks."
    ] = SHARDS
    pipelined_shards: Annotated[tuple[Sharding, ...], "The same beside pipeline stages."] = SHARDS
    pipelines: Annotated[bool, "Whether it runs pipeline stages."] = True
    virtual_stages: Annotated[
        bool, "Whether it runs several chunks of layers per stage, interleaved."
    ] = True
    context_parallel: Annotated[bool, "Whether it divides sequences over ranks."] = True
    expert_parallel: Annotated[bool, "Whether it keeps experts whole on ranks."] = True
    attention_dp: Annotated[bool, "Whether replicas of attention share their experts."] = True
    attention_dp_beside_tp: Annotated[
        bool, "Whether such a replica may have several ranks, by tensor parallelism."
    ] = True
    expert_grid: Annotated[
        Literal["any", "group", "one"],
        "How it serves experts over the ranks of a group, those of `tp` or, where replicas share their "
        "experts, of `tp` · `dp`. `any`: on some of them. `group`: each expert whole or in parts, "
        "over all of them (`ep` · `etp` is the group). `one`: every expert whole on one rank, or in "
        "parts on all (`ep` or `etp` is the group).",
    ] = "any"
    unsplit_experts: Annotated[
        bool, "Whether it trains experts beside TP without sequence parallelism."
    ] = True
    decode_context: Annotated[bool, "Whether decode divides a KV head's context."] = True
    copies_kv_heads: Annotated[bool, "Whether it runs with more ranks than KV heads."] = True
    unread_methods: Annotated[
        tuple[QuantMethod, ...], "Methods (`quant_method`) whose checkpoints it does not load."
    ] = ()
    families: Annotated[
        tuple[Toolchain, ...],
        "Devices that it runs on; none: not known. On others the answer says so.",
    ] = ()
    no_int8_products: Annotated[
        tuple[Generation, ...], "Generations of devices where it has no W8A8 products of integers."
    ] = ()


# attribute of a stack, and table of its file
GROUPS: dict[str, type[SwitchGroup]] = {
    "kernels": Executed,
    "few_rows": FewRows,
    "overlaps": Overlaps,
    "communication": Communication,
    "pipeline": Pipeline,
    "memory": Memory,
    "state": TrainingState,
    "host": Host,
    "scheduler": Scheduler,
    "cache": Cache,
    "can": Can,
}

# the group that each switch is in
HOME: dict[str, str] = {
    name: group for group, struct in GROUPS.items() for name in struct.__struct_fields__
}


def switch_named(switch: str) -> SwitchField:
    """What the field of a switch states."""
    return switches_of(GROUPS[HOME[switch]])[switch]


def words_of(switch: str) -> tuple[str, ...]:
    """What a switch may be, where that is one of some words."""
    return switch_named(switch).words
