"""What ranks do in the tests of the launcher."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.runtime import tiny

from meshwise.errors import InputError
from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.model.parallelize import parallelize
from meshwise.runtime.options import Options
from meshwise.runtime.ranks import watch
from meshwise.runtime.ranks.agree import agree


def total(value: int) -> dict[str, Any]:
    """The sum over the ranks of value + rank."""
    x = torch.tensor([float(value + dist.get_rank())])
    dist.all_reduce(x)
    return {"total": float(x), "threads": torch.get_num_threads()}


def troubled(rank: int, how: str, algorithm: str = "backend", ready: str = "") -> None:
    """All-reduce for ever; ``rank`` gets into trouble after a few; by then there is a file ``ready``."""
    group = TPGroup(Peers.of(), Options(algorithm=algorithm))
    for i in range(10**9):
        if i == 5 and ready:
            Path(ready).touch()
        if i == 5 and dist.get_rank() == rank:
            _trouble(how)
        pending = group.reduction((4,), torch.ones(4), "layer.attention.output", "forward")
        pending.tensor.fill_(1.0)
        pending.start()
        pending.result()


def _trouble(how: str) -> None:
    if how == "raise":
        raise ValueError("the toy broke")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "input":
        raise InputError("--toy=1: is no toy", field="--toy", value=1, legal="2", nearest=2)
    watch.board().note("sleeps")
    time.sleep(10**6)


def computing(rank: int) -> None:
    """``rank`` is killed while the others compute without a collective."""
    if dist.get_rank() == rank:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    x = torch.ones(256, 256)
    while True:
        x = x @ x * 0


def replicated(rank: int) -> None:
    """Replicas train; ``rank`` does not come to a reduction that torch waits in, not we."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    for i in range(10**9):
        with watch.waiting(f"the start of step {i}"):
            dist.barrier()
        if i == 2 and dist.get_rank() == rank:
            time.sleep(10**6)
        model(torch.ones(2, 4)).sum().backward()


def disagreeing(members: list[int] | None = None) -> None:
    options = {"tp": 2, "options": {"sequence_parallel": dist.get_rank() == 1}}
    agree("options", options, 20.0, members)


def absent() -> None:
    if dist.get_rank() == 1:
        time.sleep(10**6)
    agree("options", {"tp": 2}, 1.0)


def dropping(family: str, alike: bool, sequence_parallel: bool) -> list[float]:
    """Losses of a model with dropout on this rank of four; raises where seeds differ."""
    torch.manual_seed(7 if alike else dist.get_rank())
    changes = {"gpt2": {"resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}}
    model = tiny.build(family, **changes.get(family, {"dropout": 0.2})).train()
    torch.manual_seed(7 if alike else dist.get_rank())
    parallelize(model, None, Options(sequence_parallel=sequence_parallel))
    ids = torch.arange(3, 19).view(2, 8)
    losses = []
    for _ in range(3):
        loss = model(ids, labels=ids).loss
        loss.backward()
        losses.append(float(loss.detach()))
    model.tensor_parallel.group.close()
    return losses


def checkpointing() -> str:
    model = tiny.build("llama").train()
    model.gradient_checkpointing_enable()
    parallelize(model, None, Options())
    ids = torch.arange(3, 19).view(2, 8)
    try:
        model(ids, labels=ids)
    except InputError as error:
        return error.field
    return ""
