"""What torch's own parallelisms send, in the ledger under ``explain``'s names: DDP's buckets, FSDP2's
shards, the messages of a pipeline. When they are waited for is torch's to know."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from meshwise.runtime.measure.ledger import CollectiveCall, Ledger
from meshwise.runtime.model.parallelize import Parallel

_DENSE, EXPERTS = "dense", "experts"
_AXES = {_DENSE: "dp_cp", EXPERTS: "expert_dp"}


def expert_parameters(state: Parallel) -> dict[int, str]:
    """By id: the parameters of experts, which explain lists apart."""
    return {
        id(p): EXPERTS
        for m in state.model.modules()
        if getattr(m, "split_over_ranks", False)
        for p in m.parameters()
    }


class Buckets:
    """DDP's hook: the mean over ``ranks`` replicas."""

    def __init__(self, ledger: Ledger, group: Any, ranks: int, kind: dict[int, str]) -> None:
        self.ledger, self.group, self.ranks, self.kind = ledger, group, ranks, kind
        self._bytes: Counter[str] = Counter()

    def __call__(self, _: Any, bucket: Any) -> torch.futures.Future[Tensor]:
        for p in bucket.parameters():
            self._bytes[self.kind.get(id(p), _DENSE)] += p.nbytes
        if bucket.is_last():
            for kind, size in self._bytes.items():
                name, axis = f"gradients.{kind}", _AXES[kind]
                self.ledger.count(
                    CollectiveCall(
                        name, "all_reduce", axis, self.ranks, size, "grad_reduce", "backend"
                    )
                )
            self._bytes.clear()
        buffer = bucket.buffer()
        buffer.div_(self.ranks)
        work = dist.all_reduce(buffer, group=self.group, async_op=True)
        future: torch.futures.Future[Tensor] = work.get_future().then(lambda r: r.value()[0])
        return future


class _Shards:
    """A collective of FSDP2 as torch lets it be replaced: what it does itself, counted."""

    def __init__(self, ledger: Ledger, unit: str, kind: str) -> None:
        self.ledger, self.unit, self.axis, self.kind = ledger, unit, _AXES[kind], kind

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def count(self, what: str, kind: str, group: Any, payload: int, phase: str) -> None:
        name = f"{self.unit}{what}.{self.kind}"
        ranks = dist.get_world_size(group)
        self.ledger.count(CollectiveCall(name, kind, self.axis, ranks, payload, phase, "backend"))


class _Gather(_Shards):
    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: Any, async_op: bool = False
    ) -> Any:
        backward = torch._C._current_graph_task_id() != -1
        phase = "dgrad" if backward else "forward"
        self.count("weights", "all_gather", group, output_tensor.nbytes, phase)
        return dist.all_gather_into_tensor(
            output_tensor, input_tensor, group=group, async_op=async_op
        )


class _Scatter(_Shards):
    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: Any,
        op: Any,
        async_op: bool = False,
    ) -> Any:
        self.count("gradients", "reduce_scatter", group, input_tensor.nbytes, "grad_reduce")
        return dist.reduce_scatter_tensor(
            output_tensor, input_tensor, op=op, group=group, async_op=async_op
        )


def count_sharded(module: Any, ledger: Ledger, unit: str, kind: str = _DENSE) -> None:
    """Count the collectives of a module that FSDP2 has sharded. ``unit``: "layer.", or nothing for what
    is no layer. Older torch does not let them be replaced."""
    if hasattr(module, "set_custom_all_gather"):
        module.set_custom_all_gather(_Gather(ledger, unit, kind))
        module.set_custom_reduce_scatter(_Scatter(ledger, unit, kind))


def count_messages(stage: Any, ledger: Ledger, ranks: int) -> None:
    """Count what a pipeline stage sends."""
    for method, name, phase in (
        ("get_fwd_send_ops", "activation", "forward"),
        ("get_bwd_send_ops", "gradient", "dgrad"),
    ):
        inner = getattr(stage, method)

        def counted(
            *chunk: Any, inner: Any = inner, name: str = name, phase: str = phase
        ) -> list[Any]:
            ops: list[Any] = inner(*chunk)
            for op in ops:
                size = op.tensor.nbytes
                ledger.count(
                    CollectiveCall(
                        f"pipeline.{name}", "send_recv", "pp", ranks, size, phase, "backend"
                    )
                )
            return ops

        setattr(stage, method, counted)
