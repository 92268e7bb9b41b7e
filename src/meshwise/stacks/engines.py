"""Switches of software that serves: by which rules it fills its iterations, and kernels of its own for
products of a few rows."""

# no `from __future__ import annotations`: the annotations are read by `fields`
from typing import Annotated, Literal

from meshwise.dtypes import STATED_WEIGHT
from meshwise.stacks.fields import OneOf, Range, SwitchGroup
from meshwise.stacks.words import Generation
from meshwise.workloads.workload import MAX_SEQ

_Tokens = Annotated[int, Range(1, MAX_SEQ, "tokens")]
_Count = Annotated[int, Range(1, 1 << 20)]


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
    eager: Annotated[
        bool,
        "Decodes are launched kernel by kernel (`--enforce-eager`, `--disable-cuda-graph`): no padding, and "
        "`eager_layer_s` of the host for each layer. Otherwise CUDA graphs replay them.",
    ] = False
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
    four_bit: Annotated[
        str | None,
        OneOf(STATED_WEIGHT),
        "Weights that a table of its runs calls 4-bit or int4. Without one `int4`: 4 bits and a scale per 128.",
    ] = None
