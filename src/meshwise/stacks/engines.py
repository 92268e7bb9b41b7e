"""Switches of software that serves: by which rules it fills its iterations, how it sizes its KV cache, and
kernels of its own for products of a few rows."""

# no `from __future__ import annotations`: the annotations are read by `fields`
from typing import Annotated, Literal

from meshwise.dtypes import STATED_WEIGHT
from meshwise.stacks.fields import OneOf, Range, SwitchGroup
from meshwise.stacks.words import Generation
from meshwise.workloads.workload import MAX_SEQ

_Tokens = Annotated[int, Range(1, MAX_SEQ, "tokens")]
_Count = Annotated[int, Range(1, 1 << 20)]
_Bytes = Annotated[float, Range(0.0, 1e11, "bytes")]
_Sequences = Annotated[int, Range(0, 1 << 20, "sequences")]


class Scheduler(SwitchGroup, frozen=True, kw_only=True):
    """What a serving engine puts into one iteration."""

    max_batched_tokens: Annotated[
        _Tokens, "The most tokens that one iteration works on; longer prompts are cut into chunks."
    ] = 8192
    max_batched_tokens_small: Annotated[
        _Tokens, "The same on devices of less than 70 GiB, and of `small_generations`."
    ] = 8192
    small_generations: Annotated[
        tuple[Generation, ...],
        "Generations of devices that it counts among those of less than 70 GiB.",
    ] = ()
    mixes_prefill: Annotated[
        bool,
        "A prompt's chunk and the running sequences' next tokens share an iteration. Otherwise "
        "prompts go first and decoding waits.",
    ] = True
    shares_prefill: Annotated[
        bool,
        "Prompts that wait together share an iteration, up to `max_batched_tokens`. Otherwise an "
        "iteration has one prompt.",
    ] = True
    whole_prompts: Annotated[
        bool,
        "Prompts beside decodes are not cut: one that does not fit into what is left of "
        "`max_batched_tokens` waits. Otherwise its beginning fills the iteration.",
    ] = False
    max_sequences: Annotated[
        _Count, "The most requests that run at once; others wait for one to end."
    ] = 1024
    max_sequences_small: Annotated[
        _Count, "The same on devices of less than 70 GiB, and of `small_generations`."
    ] = 4096
    works_ahead: Annotated[
        bool,
        "An iteration is made up when the one before begins, beside the device's work: who arrives "
        "waits for one more, and tokens leave when the next one ends.",
    ] = False
    poll_iterations: Annotated[
        int, Range(1, 1000, "iterations"), "Requests that have arrived are taken up so often."
    ] = 1
    graph_multiple: Annotated[
        _Count,
        "Decodes are replayed from CUDA graphs of so many sequences, its multiples, and the powers of "
        "two below: other numbers are padded. 1: of any number.",
    ] = 1
    padding_experts: Annotated[
        Literal["routed", "routed_without_ep", "skipped"],
        "Rows that pad decodes to a graph's size in layers of routed experts: they are routed as any token, are "
        "so except under expert parallelism, or are left out.",
    ] = "routed"
    eager: Annotated[
        bool,
        "Decodes are launched kernel by kernel (vLLM's `enforce_eager`): no padding, and `eager_layer_s` of the "
        "host for each layer. Otherwise CUDA graphs replay them.",
    ] = False
    dp_gather_iterations: Annotated[
        int,
        Range(0, 10000, "iterations"),
        "Attention data parallelism: so long prompts wait until every rank has one, so that all compute "
        "theirs in one iteration.",
    ] = 0
    graphs: Annotated[
        bool,
        "Whether the engine has CUDA graphs, which `eager` turns off; otherwise it refuses that.",
    ] = True
    kv_block_tokens: Annotated[_Tokens, "Tokens of a block of the KV cache."] = 16
    reserved_output: Annotated[
        float,
        Range(0.0, 1.0),
        "Share of the longest answer that the KV cache must have room for before a request runs. Where "
        "it fills all the same, the request that came last is stopped and computed again.",
    ] = 0.0
    dp_balance: Annotated[
        Literal["round_robin", "least_requests", "least_tokens"],
        "Which of the attention replicas that share their experts gets a request: each in turn, the one "
        "with the fewest requests (those that wait count four times), or that with the fewest tokens.",
    ] = "round_robin"


class FewRows(SwitchGroup, frozen=True, kw_only=True):
    """Products of a few rows on the software's own kernels, of which nobody measured single calls: a
    share of the memory's rate, what a multiprocessor draws, and a time per product."""

    row_memory_share: Annotated[
        float | None,
        Range(0.05, 1.0),
        "Inference: products of a few rows read their weights at this share of the memory's datasheet "
        "rate. Without one at the rates of the device's measured kernels.",
    ] = None
    row_sm_bytes_per_s: Annotated[
        float | None,
        Range(1e9, 5e11, "B/s"),
        "The most that one multiprocessor draws in them.",
    ] = None
    row_product_s: Annotated[
        float,
        Range(0.0, 1.0, "s"),
        "What such a product takes beside reading: its start and its end.",
    ] = 0.0
    marlin_experts: Annotated[
        bool,
        "Four-bit experts under 16-bit activations run on Marlin's kernels (vLLM's "
        "`VLLM_MXFP4_USE_MARLIN`), where the device's were measured. Otherwise on the engine's choice.",
    ] = False
    cutlass_experts: Annotated[
        tuple[Generation, ...],
        "Generations of devices on which FP8 experts with a scale per block run on TensorRT-LLM's CUTLASS "
        "kernels, which FlashInfer has too, where they were measured. On others on the engine's own.",
    ] = ()
    deep_gemm_experts: Annotated[
        tuple[Generation, ...],
        "Generations on which they run on DeepGEMM's, in blocks of rows, at degrees below `deep_gemm_tp`. Where "
        "those were not measured they read every expert of the rank, at the rate of the engine's own kernels.",
    ] = ()
    deep_gemm_tp: Annotated[
        int,
        Range(1, 1 << 20, "ranks"),
        "The same: experts that are split over as many ranks and more run on the engine's own kernels.",
    ] = 1 << 20
    four_bit: Annotated[
        str | None,
        OneOf(STATED_WEIGHT),
        "Weights that a table of its runs calls 4-bit or int4. Without one `int4`: 4 bits and a scale per 128.",
    ] = None


class Cache(SwitchGroup, frozen=True, kw_only=True):
    """How a serving engine sizes its KV cache, and in which pages it keeps it."""

    kv_budget: Annotated[
        Literal["device", "static", "free"],
        "Of what the share that is not reserved (`memory_reserve`) is. `device`: of the device's memory; the "
        "cache has what weights, activations and all else leave of it. `static`: of the memory that is free "
        "before the weights, for weights and cache alone; the rest is for what else there is. `free`: of the "
        "memory that weights, activations and all else leave, for the cache alone.",
    ] = "device"
    context_bytes: Annotated[
        _Bytes, "The process' own on a device before it loads a model, where `kv_budget` counts it."
    ] = 0.0
    runtime_bytes: Annotated[
        _Bytes, "What libraries take outside the framework's allocator when memory is profiled."
    ] = 0.0
    communicator_bytes: Annotated[
        _Bytes, "What communicators and their buffers take, where a replica has several ranks."
    ] = 0.0
    switched_bytes: Annotated[
        _Bytes, "What their buffers take beside that where a switch joins the ranks (NVSwitch)."
    ] = 0.0
    expert_multiple: Annotated[
        int,
        Range(1, 1 << 16),
        "MXFP4 experts' widths, of a rank's part, are padded to a multiple of it.",
    ] = 1
    profile_bytes: Annotated[
        _Bytes, "Buffers of an iteration beside its activations, at the profile's peak."
    ] = 0.0
    sampler_bytes: Annotated[
        float,
        Range(0.0, 1e3, "bytes"),
        "Peak of sampling when memory is profiled, per sequence that may run and entry of the vocabulary.",
    ] = 0.0
    graph_layer_bytes: Annotated[
        _Bytes,
        "All CUDA graphs, per layer, where the cache is sized after them (0: it is not); as many of them as "
        "sequences may run.",
    ] = 0.0
    reserve_fixed_bytes: Annotated[
        _Bytes,
        "Where `memory_reserve` is 0, and not asked for, it is computed of what these five say: so much in any case.",
    ] = 0.0
    reserve_token_bytes: Annotated[
        _Bytes, "The same: so much per token of an iteration, 2,048 at least."
    ] = 0.0
    reserve_sequence_bytes: Annotated[
        _Bytes, "The same: so much per sequence of the largest CUDA graph."
    ] = 0.0
    reserve_rank_bytes: Annotated[_Bytes, "The same: so much per rank of a replica."] = 0.0
    reserve_least_bytes: Annotated[
        _Bytes, "The same: at least so much on devices above 60 GiB."
    ] = 0.0
    graph_sequences: Annotated[
        _Sequences, "Sequences of the largest CUDA graph; four ranks and more have twice as many."
    ] = 0
    graph_sequences_small: Annotated[_Sequences, "The same on devices below 35 GiB."] = 0
    unified_pages: Annotated[
        bool,
        "Layers of several kinds share pages of one size: groups of equally many layers of one kind, padded "
        "where they do not divide, a recurrent layer's state in one page and attention's as large as it.",
    ] = False
    window_chunk: Annotated[
        bool,
        "A window's layer keeps an iteration's tokens beside the window's keys, for every request.",
    ] = False
    window_share: Annotated[
        float,
        Range(0.0, 1.0),
        "Windows' layers have a pool of so many tokens for each of the other layers' (0: as many as a "
        "request's window holds).",
    ] = 0.0
    state_pages: Annotated[
        int,
        Range(1, 16, "pages"),
        "Pages of a recurrent layer's state that a request holds: more where states are cached.",
    ] = 1
    logs_concurrency: Annotated[
        bool,
        "Its log's tokens are the longest requests that fit times their length; otherwise the pages of a "
        "group times a page's tokens.",
    ] = False
