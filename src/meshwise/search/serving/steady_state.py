"""Serving in steady state: TPOT, TTFT and throughput at a fixed concurrency; static batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.clusters.load import Cluster
from meshwise.cost.doubt.question import Question, step_question
from meshwise.cost.doubt.spread import within_memory_error
from meshwise.cost.estimate import Estimate
from meshwise.cost.memory.server import most_sequences
from meshwise.cost.uncertainty import even_draws_s, memory_sd, step_sd
from meshwise.layouts.layout import Layouts
from meshwise.models.shapes import Model
from meshwise.simulate import iteration
from meshwise.simulate.iteration import Engine, draft_s
from meshwise.simulate.rules import capacity, together_at_most, tokens_per_iteration
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import Formats


class Steady(NamedTuple):
    """Steady state of layouts (arrays over their axes). Seconds, bytes, requests, tokens."""

    tpot_s: Array  # mean time per output token after the first
    ttft_s: Array  # from a request's admission to its first token
    queue_s: Array  # what it waits before, where the KV cache holds fewer than are in flight
    decode_s: Array  # an iteration of decodes alone, drafts included
    prefill_s: Array  # a prompt by itself
    tokens_per_iteration: float  # of each sequence
    requests_per_s: Array
    tokens_per_s: Array  # output tokens of all replicas
    tokens_per_s_per_device: Array
    running: Array  # requests in flight that the caches hold, over all replicas
    max_concurrency: Array  # the most that they hold
    memory_bytes: Array
    memory_limit_bytes: Array  # what the engine has for them
    fits: Array
    tight: Array  # the limit lies within the memory's error
    even_s: Array  # more of TPOT if experts are drawn evenly, where their skew is an assumption
    sd: Array  # standard deviation of ln(measured / predicted) of TPOT


class _Prompt(NamedTuple):
    """How prompts are cut: ``chunks`` of ``chunk`` tokens after ``cached`` (of the middle chunk: time
    is affine in it); ``together`` prompts in an iteration, of a ``group`` that begins at once."""

    chunks: int
    chunk: int
    cached: int
    together: Array
    group: Array


def _prompt(engine: Engine, w: Serving, running: Array) -> _Prompt:
    budget, stack = tokens_per_iteration(engine, w), engine.stack
    chunks = -(-w.computed // budget)
    chunk = -(-w.computed // chunks)
    # In a closed loop requests that end together begin together; groups of about √n have the time
    # to first token of the published rows (vLLM: 2.8 prompts at 8 requests, 7 at 64).
    group: Array = np.float64(1.0)
    if stack.scheduler.shares_prefill:
        group = np.sqrt(running) if stack.scheduler.mixes_prefill else 1.0 * running
    together: Array = np.int64(1)
    if chunks == 1:
        together = np.minimum(together_at_most(engine, w), np.ceil(group)).astype(np.int64)
    cached = w.isl - w.computed + (chunks - 1) * chunk // 2
    return _Prompt(chunks, chunk, cached, together, group)


def steady(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layouts: Layouts,
    w: Serving,
    concurrency: Array | None = None,
    doubted: bool = True,
) -> Steady:
    """Continuous batching at a fixed concurrency (``concurrency`` per layout in place of the
    workload's), long after the first requests began. ``doubted``: with what its interval needs.

    A pipeline keeps up to pp groups of sequences in flight. A verification yields E tokens of a sequence,
    so a request lasts osl / E iterations, in which each of the others brings its prompt once.
    """
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    asked: Array = w.concurrency if concurrency is None else concurrency
    per_replica = -(-asked // layouts.dp)
    room = capacity(engine, w, per_replica)
    most, used, limit = room.most, room.used_bytes, room.limit_bytes
    running = np.minimum(per_replica, np.minimum(most, most_sequences(stack, cluster.device)))
    running = np.maximum(running, 1)
    batch = -(-running // layouts.pp)
    groups = -(-running // batch)
    decode = iteration.replayed_s(engine, batch, w.context, w.queries, groups)
    decode = decode + draft_s(engine, w, batch)
    prompt = _prompt(engine, w, batch)
    alone = iteration.prompt_alone(engine, prompt.chunk, prompt.cached).series_s(prompt.chunks)
    times = _mixed if stack.scheduler.mixes_prefill else _prompts_first
    tpot, ttft = times(engine, w, batch, decode, prompt, groups)
    service = ttft + (w.osl - 1) * tpot
    served = np.minimum(running * layouts.dp, asked)
    rate = served / service
    fits = per_replica <= most
    e = engine.decode(batch, w.context, w.queries)
    asked_of = step_question(e) if doubted else None
    return Steady(
        tpot_s=tpot,
        ttft_s=ttft,
        queue_s=np.maximum(per_replica / running - 1.0, 0.0) * service,
        decode_s=decode,
        prefill_s=alone,
        tokens_per_iteration=w.tokens_per_iteration,
        requests_per_s=rate,
        tokens_per_s=rate * w.osl,
        tokens_per_s_per_device=rate * w.osl / layouts.devices,
        running=served,
        max_concurrency=most * layouts.dp,
        memory_bytes=used,
        memory_limit_bytes=limit,
        fits=fits,
        tight=within_memory_error(used, limit, memory_sd(e, asked_of))
        if doubted
        else np.bool_(False),
        even_s=even_draws_s(e) / w.tokens_per_iteration if doubted else np.float64(0.0),
        sd=step_sd(e, asked_of) if doubted else np.float64(0.0),
    )


def steady_question(engine: Engine, w: Serving, running: Array, ran: bool = False) -> Question:
    """What decides how far a time per token may be off, per layout; ``running`` as :class:`Steady` has it,
    ``ran`` as :func:`~meshwise.cost.doubt.question.step_question`."""
    layouts = engine.layouts
    per_replica = -(-np.asarray(running) // layouts.dp)
    batch = -(-per_replica // layouts.pp)
    e = engine.decode(np.maximum(batch, 1).astype(np.int64), w.context, w.queries)
    return step_question(e, ran=ran)


def burst_s(model: Model, cluster: Cluster, stack: Stack, layouts: Layouts, w: Serving) -> Array:
    """Mean seconds to the first token where all requests begin at once, as a benchmark's first do: its
    prompts are computed one batch after the other."""
    engine = Engine(model, cluster, stack, layouts, w.formats, w.expert_imbalance, w.expert_skew)
    batch = -(-w.concurrency // layouts.dp)
    prompt = _prompt(engine, w, batch)
    most = together_at_most(engine, w) if stack.scheduler.shares_prefill else 1
    together = np.minimum(most, batch)
    batches = np.ceil(batch * prompt.chunks / together)
    ends = np.ceil(batch / together)  # of batches whose prompts are whole
    one = iteration.prefill(engine, together, prompt.chunk, prompt.cached)
    return one.series_s(batches) * (ends + 1.0) / (2.0 * ends)


def _mixed(
    engine: Engine, w: Serving, batch: Array, decode: Array, prompt: _Prompt, groups: Array
) -> tuple[Array, Array]:
    """(TPOT, TTFT) where a prompt's chunk rides in an iteration of decodes (Sarathi-Serve, arXiv
    2403.02310): the others' prompts lengthen that many of a request's iterations; where there are
    more of them than iterations, prompts wait."""
    pace = iteration.mixed(
        engine,
        batch=batch,
        context=w.context,
        queries=w.queries,
        prompts=prompt.together,
        chunk=prompt.chunk,
        cached=prompt.cached,
        groups=groups,
    )
    # a verification's drafts are made beside a prompt too
    drafts = draft_s(engine, w, batch)
    mixed = np.maximum(pace.iteration_s + drafts, decode)
    every = np.where(pace.every_s < pace.iteration_s, pace.every_s + drafts, mixed)
    iterations = max(w.osl / w.tokens_per_iteration, 1.0)
    per_prompt = prompt.chunks / prompt.together  # iterations
    with_prompts = (batch - prompt.group) * per_prompt
    slow = np.minimum(with_prompts, iterations)
    tpot = (iterations * decode + slow * (mixed - decode)) / w.osl
    waiting = np.maximum(with_prompts - iterations, 0.0) * mixed
    now = np.where(
        batch > 1, tpot * w.tokens_per_iteration / 2.0, 0.0
    )  # half of the iteration in progress
    own = np.maximum(prompt.group * per_prompt, prompt.chunks)
    return tpot, now + mixed + ((own + prompt.chunks) / 2.0 - 1.0) * every + waiting


def _prompts_first(
    engine: Engine, w: Serving, batch: Array, decode: Array, prompt: _Prompt, groups: Array
) -> tuple[Array, Array]:
    """(TPOT, TTFT) where prompts go before decodes: nothing decodes while there are prompts.

    Answers of equal length end together, and the next prompts meet in a wave; of other lengths they
    end one by one over the longest's last tokens, and as many prompts as are computed in that time
    meet no other.
    """
    tpot, ttft = _one_by_one(engine, w, batch, decode, prompt, groups)
    wave_tpot, wave_ttft, whole = _in_waves(engine, w, batch, decode, prompt, groups)
    window = w.length_spread * w.osl * decode / w.tokens_per_iteration
    meet = np.clip(1.0 - window / whole, 0.0, 1.0)
    return tpot + meet * (wave_tpot - tpot), ttft + meet * (wave_ttft - ttft)


def _one_by_one(
    engine: Engine, w: Serving, batch: Array, decode: Array, prompt: _Prompt, groups: Array
) -> tuple[Array, Array]:
    """Each prompt holds up the others' decodes for its own time, and comes after half of the iteration
    in progress, and after a prompt that came shortly before: a queue of constant service time."""
    own = iteration.prefill(engine, np.int64(1), prompt.chunk, prompt.cached, groups)
    prefill = own.series_s(prompt.chunks)
    others = (batch - 1) * prefill
    decodes = w.osl * decode / w.tokens_per_iteration
    queue = others * prefill / (2.0 * decodes)
    now = np.where(batch > 1, decode / 2.0, 0.0)
    return (decodes + others) / w.osl, prefill + now + queue


def _in_waves(
    engine: Engine, w: Serving, batch: Array, decode: Array, prompt: _Prompt, groups: Array
) -> tuple[Array, Array, Array]:
    """(TPOT, TTFT, a wave's prompts): prompts are computed batch after batch, and who is first waits
    for the others' before its second token. The scheduler works one batch ahead of the device, so that
    a batch's tokens leave when the next one is done: of n batches the j-th at min(j + 1, n). Of prompts
    that are cut each is a batch: its first token is its last chunk's.
    """
    batches = np.ceil(batch / prompt.together)
    one = iteration.prefill(engine, prompt.together, prompt.chunk, prompt.cached, groups)
    whole = one.series_s(batch * prompt.chunks / prompt.together)
    rest = (batches - 1) * np.maximum(batches - 2, 0) / (2.0 * batches * batches)
    tpot = decode / w.tokens_per_iteration + rest * whole / w.osl
    return tpot, whole * (1.0 - rest), whole


def static_batch_s(
    model: Model,
    cluster: Cluster,
    stack: Stack,
    layouts: Layouts,
    *,
    isl: int,
    osl: int,
    batch: int,
    formats: Formats,
) -> float:
    """Seconds from the first input of a static batch to its last output token: prefill, then osl − 1
    decode iterations whose context grows by one each (the mean context is priced: time is affine
    in it)."""
    engine = Engine(model, cluster, stack, layouts, formats)
    pp = int(layouts.pp)
    first = _pipelined(engine.prefill(np.int64(local_batch(batch, isl, pp)), isl), batch)
    if osl <= 1:
        return first
    local = np.int64(local_batch(batch, 1, pp))
    return first + (osl - 1) * _pipelined(engine.decode(local, isl + osl // 2), batch)


def local_batch(batch: int, seq: int, pp: int) -> int:
    """Sequences that a pipeline works on at a time: a stage's share if it divides, then halved while
    they have more than 1024 tokens (getLocalBatchSize of FasterTransformer)."""
    if pp == 1:
        return batch
    local = batch // pp if batch % pp == 0 else batch
    while local * seq > 1024 and local % 2 == 0:
        local //= 2
    return local


def _pipelined(e: Estimate, batch: int) -> float:
    """Seconds of ``batch`` sequences that follow each other through the pipeline, a local batch at a
    time: the first through all stages, the others one slowest stage apart."""
    parts = batch // int(e.program.ctx.sequences)
    return float(e.step_s) + (parts - 1) * float(e.microbatch.busy)
