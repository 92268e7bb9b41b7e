"""What a target would say of a command: that it does not start, that it stops later, that a flag does
nothing, that a layout is slow. Degrees that no software runs are refused elsewhere
(:mod:`meshwise.layouts.rules`); here are rules of one target's own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from meshwise.clusters.load import Cluster
from meshwise.launch.account.launch_warning import LaunchWarning
from meshwise.launch.parsed import Parsed
from meshwise.launch.settings.serving import sequences_per_replica
from meshwise.launch.table import target
from meshwise.models.shapes import Model

_OFF = ("false", "0", "no", "off")
_MEGATRON = ("megatron-lm", "megatron-bridge")
MOST_PADDED = 0.01  # of a vocabulary: more rows of zeros than that are said


def launch_warnings(p: Parsed, model: Model, cluster: Cluster) -> tuple[LaunchWarning, ...]:
    """All of them, what keeps the target from starting first."""
    found = [*_scheduler(p, model), *_megatron(p, model), *_exchange(p, model)]
    found += [*_pipeline(p), *_network(p, cluster)]
    order = {"refused": 0, "fails": 1, "slow": 2, "ignored": 3}
    return tuple(sorted(found, key=lambda w: order[w.severity]))


def _says(p: Parsed, setting: str) -> bool:
    """Whether a flag turns a setting on."""
    words = [f.origin.word for f in p.flags if f.setting == setting]
    return bool(words) and re.split(r"[=\s]", words[-1])[-1].lower() not in _OFF


def _names(p: Parsed, *settings: str) -> bool:
    """Whether a flag gives one of the settings."""
    return any(f.setting in settings for f in p.flags)


# what a checkpoint's name may have beside its model's, and have as many positions
_SAME = re.compile(
    r"(instruct|it|chat|base|hf|bf16|fp8|fp4|nvfp4|mxfp4|awq|gptq|int[48]|w\da\d+|[48]bit|dynamic|quantized|meta)"
)


def _is_same(said: str, name: str) -> bool:
    """Whether a checkpoint is the model of a name, not a later release of it with other positions."""
    own = set(re.split(r"[-_/]", name.rpartition("/")[2].lower()))
    parts = set(re.split(r"[-_]", said.rstrip("/").rpartition("/")[2].lower()))
    if not own <= parts:  # the caller says which model it is
        return True
    return all(_SAME.fullmatch(part) for part in parts - own)


def _scheduler(p: Parsed, model: Model) -> Iterator[LaunchWarning]:
    """vLLM's ``SchedulerConfig`` (vllm/config/scheduler.py) and the longest sequence that engines take."""
    job = p.job
    if job.phase != "serve":
        return
    longest = job.max_len or model.max_positions
    if p.target == "vllm" and job.chunk is not None:
        seqs = sequences_per_replica(job)
        if job.chunked_prefill is False and longest is not None and job.chunk < longest:
            yield LaunchWarning(
                "refused",
                "tokens_below_length",
                f"--max-num-batched-tokens {job.chunk} is less than the longest sequence, {longest}, and "
                "prompts are not cut",
                ("chunk", "max_len"),
            )
        if seqs is not None and _says(p, "max_seqs") and job.chunk < seqs:
            yield LaunchWarning(
                "refused",
                "tokens_below_sequences",
                f"--max-num-batched-tokens {job.chunk} is less than the {seqs} sequences that run at once",
                ("chunk", "concurrency"),
            )
    most, said = model.max_positions if _is_same(job.model, model.name) else None, job.max_len
    if p.target in ("vllm", "sglang") and said is not None and most is not None and said > most:
        yield LaunchWarning(
            "refused",
            "longer_than_positions",
            f"a longest sequence of {said} is more than the model's {most} positions",
            ("max_len",),
        )


def _megatron(p: Parsed, model: Model) -> Iterator[LaunchWarning]:
    """``validate_args`` of megatron/training/arguments.py; Megatron-Bridge turns off what does not go."""
    if p.target not in _MEGATRON:
        return
    job, strict = p.job, p.target == "megatron-lm"
    hard = "refused" if strict else "ignored"
    if _says(p, "sequence_parallel") and job.tp == 1:
        yield LaunchWarning(
            "ignored",
            "sequence_parallel_alone",
            "sequence parallelism at TP 1",
            ("sequence_parallel",),
        )
    if _says(p, "tp_overlap") and not (job.sequence_parallel and job.tp > 1):
        why = "at TP 1" if job.tp == 1 else "without sequence parallelism"
        yield LaunchWarning(
            hard,
            "overlap_without_sequence_parallel",
            f"overlap of TP's communication {why}",
            ("overlap", "sequence_parallel"),
        )
    whole = _names(p, "granularity") and job.recompute == "full"
    if strict and whole and not _names(p, "recompute_method"):
        yield LaunchWarning(
            "refused",
            "recompute_without_method",
            "--recompute-granularity full without --recompute-method block or uniform",
            ("recompute",),
        )
    elif strict and whole and not _names(p, "recompute_layers"):
        yield LaunchWarning(
            "refused",
            "recompute_without_layers",
            "--recompute-granularity full without --recompute-num-layers",
            ("recompute",),
        )
    if strict and _says(p, "param_overlap"):
        sharded = ("distributed_optimizer", "fsdp")
        if not any(_says(p, name) for name in sharded):
            yield LaunchWarning(
                "refused",
                "gather_without_sharding",
                "--overlap-param-gather without a distributed optimizer",
                ("shard",),
            )
        elif not _says(p, "grad_overlap"):
            yield LaunchWarning(
                "refused",
                "gather_without_reduce",
                "--overlap-param-gather without --overlap-grad-reduce",
                ("shard",),
            )
    multiple = _vocab_multiple(p) * job.tp
    padded = -(-model.vocab // multiple) * multiple
    if padded > model.vocab * (1.0 + MOST_PADDED):
        yield LaunchWarning(
            "slow",
            "vocabulary_padding",
            f"the vocabulary of {model.vocab:,} is padded to {padded:,}, a multiple of {multiple // job.tp} · "
            f"TP {job.tp}",
            ("tp",),
        )


def _vocab_multiple(p: Parsed) -> int:
    """``--make-vocab-size-divisible-by``, 128 by itself."""
    for flag in p.flags:
        found = re.fullmatch(
            r"(?:--make-vocab-size-divisible-by|model\.make_vocab_size_divisible_by)[=\s](\d{1,6})",
            flag.origin.word,
        )
        if found is not None:
            return max(int(found[1]), 1)
    return 128


def _exchange(p: Parsed, model: Model) -> Iterator[LaunchWarning]:
    """Context parallelism by an exchange of heads gives each rank whole ones, of keys and values too."""
    job = p.job
    kinds = [f.origin.word.lower() for f in p.flags if re.match(r"--cp-comm-type\b", f.origin.word)]
    if job.cp == 1 or not any(re.search(r"a2a\b(?!\+)", word) for word in kinds):
        return
    heads = {b.attention.heads for b in model.blocks if b.attention is not None}
    heads |= {b.attention.kv_heads for b in model.blocks if b.attention is not None}
    few = [h for h in heads if (h // job.tp) % job.cp or h < job.tp]
    if few:
        yield LaunchWarning(
            "fails",
            "heads_over_context_ranks",
            f"--cp-comm-type a2a cuts heads over CP {job.cp}, which does not divide the {max(min(few) // job.tp, 1)} "
            f"of a TP rank (of {min(few)} at TP {job.tp})",
            ("cp",),
        )


def _pipeline(p: Parsed) -> Iterator[LaunchWarning]:
    """Stages wait for each other: a step of m microbatches over p stages idles (p − 1) of (m + p − 1)."""
    job = p.job
    batch = dict(p.instead).get("global_batch", job.global_batch)
    if job.phase != "train" or job.pp == 1 or batch is None or job.micro_batch is None:
        return
    many = batch // (job.dp * job.micro_batch)
    if 0 < many < job.pp:
        idle = (job.pp - 1) / (many * job.vp + job.pp - 1)
        yield LaunchWarning(
            "slow",
            "fewer_microbatches_than_stages",
            f"{many} microbatches over {job.pp} stages: they stand idle for {idle:.0%} of a step",
            ("global_batch", "pp", "micro_batch"),
        )


def _network(p: Parsed, cluster: Cluster) -> Iterator[LaunchWarning]:
    """A TP group that no node holds: its collectives, several in each layer, cross the network."""
    tp, inside = p.job.tp, cluster.node_devices
    if tp <= inside or cluster.devices <= inside:
        return
    level = next((x for x in cluster.levels if x.kind == "network"), None)
    if level is None:
        return
    rate = level.per_device_bytes_per_s(inside) / 1e9
    title = target(p.target).title
    yield LaunchWarning(
        "slow",
        "tp_over_nodes",
        f"TP {tp} is more than the {inside} GPUs of a node: {title} starts, and every layer's all-reduce "
        f"crosses the network at {rate:.0f} GB/s a GPU",
        ("tp",),
    )
