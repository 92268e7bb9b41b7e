"""A run as one rank performs it: a model built, some steps timed, what it did gathered on rank 0."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.errors import InputError
from meshwise.runtime.collectives.peers import Peers, sent_to
from meshwise.runtime.measure import host
from meshwise.runtime.measure import record as recording
from meshwise.runtime.measure.accuracy import narrow_error
from meshwise.runtime.mesh import mesh
from meshwise.runtime.mesh.pipeline import bounds
from meshwise.runtime.model import families as plans
from meshwise.runtime.options import Options
from meshwise.runtime.ranks import watch
from meshwise.runtime.ranks.agree import agree
from meshwise.runtime.weights import build
from meshwise.runtime.weights.checkpoint import Checkpoint

DETAILED = 3  # steps at most in which every part is timed


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is run: ``model`` is the content of a ``config.json``; ``batch`` sequences of ``seq`` tokens
    (train: per step over all replicas, else per replica) in microbatches of ``micro_batch``."""

    model: dict[str, Any]
    tp: int = 1
    pp: int = 1
    dp: int = 1
    phase: str = "train"
    batch: int = 1
    seq: int = 128
    new_tokens: int = 16
    micro_batch: int | None = None
    steps: int = 10
    warmup: int = 2
    dtype: str = "fp32"
    options: Options = Options()
    shard: str = "none"
    schedule: str = "1f1b"
    checkpoint: str | None = None
    seed: int = 0
    measure_host: bool = True
    timeout_s: float = 120.0

    @property
    def ranks(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def micro(self) -> int:
        """Sequences per microbatch: as given, the replica's batch, or with stages a divisor of it that
        gives each stage one."""
        if self.micro_batch is not None:
            return self.micro_batch
        own = self.batch // self.dp
        most = max(own // self.pp, 1)
        return next(m for m in range(most, 0, -1) if own % m == 0)


def checked_config(task: Task) -> Any:
    """The model's configuration; raise :class:`InputError` for what no run can be made of."""
    config = build.config(task.model)
    plans.rank_sizes(config, task.tp, 0)
    bounds(config.num_hidden_layers, task.pp)
    build.dtype(task.dtype)
    if task.checkpoint is not None:
        Checkpoint(task.checkpoint)  # its headers
    refused: tuple[str, Any, str, Any] | None = None
    if task.phase != "train" and task.pp > 1:
        refused = "pp", task.pp, "pipeline stages are performed in training only", 1
    elif task.phase != "train" and task.options.sequence_parallel:
        refused = "sequence_parallel", True, "is performed in training only", False
    elif task.phase != "train" and task.shard != "none":
        refused = "shard", task.shard, "is performed in training only", "none"
    elif task.shard != "none" and task.pp > 1:
        refused = "shard", task.shard, "is not performed over pipeline stages", "none"
    elif task.options.sequence_parallel and task.seq % task.tp:
        near = max(task.seq // task.tp, 1) * task.tp
        refused = "seq", task.seq, f"sequence parallelism splits it over {task.tp} ranks", near
    elif task.phase == "train" and task.batch % task.dp:
        near = max(task.batch // task.dp, 1) * task.dp
        refused = "batch", task.batch, f"is not divided by {task.dp} replicas", near
    elif task.phase == "train" and task.batch // task.dp % task.micro:
        own = task.batch // task.dp
        refused = "micro_batch", task.micro, f"does not divide the {own} of a replica", own
    longest = getattr(config, "max_position_embeddings", None)
    steps = task.steps + task.warmup + DETAILED
    tokens = task.seq + (task.new_tokens if task.phase == "generate" else steps)
    tokens = task.seq if task.phase in ("train", "prefill") else tokens
    if refused is None and longest and tokens > longest:
        refused = "seq", task.seq, f"with what follows, passes {longest} positions", longest
    if refused is not None:
        field, value, why, near = refused
        raise InputError(f"{field}={value}: {why}", field=field, value=value, nearest=near)
    return config


def perform_run(**task: Any) -> dict[str, Any] | None:
    """Perform a :class:`Task`, given by its fields; rank 0 returns the record."""
    asked = msgspec.convert(task, Task)
    agree("run", msgspec.to_builtins(asked), asked.timeout_s)
    config = checked_config(asked)
    device = torch.device("cpu")
    if dist.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())
    place = mesh.make(asked.tp, asked.dp, asked.pp, device)
    kind = build.dtype(asked.dtype)
    micro = None
    if asked.measure_host:
        group = place.tp if asked.tp > 1 else Peers.of(None)
        micro = host.measure(group, kind, device, asked.options)
    torch.manual_seed(asked.seed + place.dp_rank)  # what TP ranks hold alike is dropped alike
    model = build.build(
        config,
        place.tp,
        asked.options,
        kind=kind,
        device=device,
        checkpoint=asked.checkpoint,
        seed=asked.seed,
        timeout_s=asked.timeout_s,
    )
    performer = (
        _Train(asked, place, model) if asked.phase == "train" else _Infer(asked, place, model)
    )
    try:
        return _measure(asked, place, performer, micro)
    finally:
        performer.state.group.close()


def _ids(task: Task, config: Any, place: mesh.Mesh, step: int) -> Tensor:
    """Words of this rank's replica, the same on all its ranks: random, or of a known seed."""
    draw = torch.Generator().manual_seed(task.seed + 1000 * step + 1)
    batch = task.batch if task.phase == "train" else task.batch * place.dp
    ids = torch.randint(0, config.vocab_size, (batch, task.seq), generator=draw)
    return ids.chunk(place.dp)[place.dp_rank].to(place.device)


class _Train:
    def __init__(self, task: Task, place: mesh.Mesh, model: Any) -> None:
        self.task, self.place, self.config = task, place, model.config
        self.state = model.tensor_parallel
        own = task.batch // task.dp
        self.trainer = mesh.Trainer(
            model,
            place,
            microbatches=own // task.micro,
            schedule=task.schedule,
            shard=task.shard,
        )
        self.optimizer = torch.optim.AdamW(self.trainer.trained.parameters(), lr=1e-4, fused=True)
        self.losses: list[float] = []

    def step(self, number: int) -> None:
        ids = _ids(self.task, self.config, self.place, number)
        loss = self.trainer.step(ids, ids)
        with self.state.ledger.scope("optimizer.adam", "optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
        if loss is not None:
            self.losses.append(float(loss))

    @property
    def tokens(self) -> int:
        """Of a step, over all replicas."""
        return self.task.batch * self.task.seq


class _Infer:
    def __init__(self, task: Task, place: mesh.Mesh, model: Any) -> None:
        self.task, self.place, self.model, self.config = task, place, model.eval(), model.config
        self.state = model.tensor_parallel
        self.losses: list[float] = []
        self.cache: Any = None
        self.ttft: list[float] = []
        self.tpot: list[float] = []

    @torch.no_grad()
    def step(self, number: int) -> None:
        task = self.task
        if task.phase == "generate":
            self._generate(number)
        elif task.phase == "prefill":
            ids = _ids(task, self.config, self.place, number)
            self.model(ids, logits_to_keep=1, use_cache=True)
        else:
            self._decode(number)

    def prepare(self) -> None:
        """Decode: fill the cache, which is not timed."""
        if self.task.phase == "decode":
            with torch.no_grad():
                ids = _ids(self.task, self.config, self.place, 0)
                output = self.model(ids, logits_to_keep=1, use_cache=True)
            self.cache = output.past_key_values

    def _decode(self, number: int) -> None:
        words = _ids(self.task, self.config, self.place, number)[:, :1]
        output = self.model(words, past_key_values=self.cache, use_cache=True)
        self.cache = output.past_key_values

    def _generate(self, number: int) -> None:
        ids = _ids(self.task, self.config, self.place, number)
        stamps = [time.perf_counter()]

        def stamp(_: Tensor, scores: Tensor) -> Tensor:
            if scores.is_cuda:
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())
            return scores

        self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self.task.new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            logits_processor=[stamp],
        )
        self.ttft.append(stamps[1] - stamps[0])
        if len(stamps) > 2:
            self.tpot.append((stamps[-1] - stamps[1]) / (len(stamps) - 2))

    @property
    def tokens(self) -> int:
        task = self.task
        per_sequence = {"prefill": task.seq, "decode": 1, "generate": task.new_tokens}[task.phase]
        return task.batch * task.dp * per_sequence


def _timed(
    steps: int, first: int, device: torch.device, step: Callable[[int], None]
) -> list[float]:
    """Seconds of each step on the slowest rank, all ranks starting together."""
    seconds = []
    for i in range(steps):
        with watch.waiting(f"the start of step {first + i}"):
            dist.barrier()
        begin = time.perf_counter()
        step(first + i)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    found = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return [float(s) for s in found]


def _measure(
    task: Task, place: mesh.Mesh, performer: _Train | _Infer, micro: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Warm-up, timed steps, then a few in which every part is timed."""
    ledger = performer.state.ledger
    if isinstance(performer, _Infer):
        performer.prepare()
    _timed(task.warmup, 0, place.device, performer.step)
    performer.losses.clear()
    if isinstance(performer, _Infer):
        performer.ttft.clear()
        performer.tpot.clear()
    seconds = _timed(task.steps, task.warmup, place.device, performer.step)
    again = max(1, min(DETAILED, task.steps // 2))
    ledger.detailed = True
    ledger.clear()
    before = sent_to(place.tp)
    # decode goes on in the cache; training and prefill draw words of their own
    apart = _timed(again, task.warmup + task.steps, place.device, performer.step)
    ledger.settle()
    sent = {to: size - before.get(to, 0) for to, size in sent_to(place.tp).items()}
    own = recording.of_rank(ledger, again, sent, place.device, performer.losses[: task.steps])
    own |= {"ttft_s": getattr(performer, "ttft", []), "tpot_s": getattr(performer, "tpot", [])}
    narrow = None
    if task.options.comm_dtype is not None and task.pp == 1 and task.shard == "none":
        ids = _ids(task, performer.config, place, 0)
        narrow = narrow_error(performer.state, ids, training=task.phase == "train")
    every: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    with watch.waiting("the gathering of results"):
        dist.gather_object(own, every)
    if every is None:
        return None
    record = recording.record(place, performer.tokens, seconds, apart, every, micro)
    return {**record, "comm_error": narrow}
