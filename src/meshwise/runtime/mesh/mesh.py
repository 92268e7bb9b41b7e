"""TP × DP × PP on one DeviceMesh: tp innermost, data-parallel gradients by DDP or FSDP2, stages by
``torch.distributed.pipelining``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from meshwise.errors import InputError
from meshwise.runtime.collectives.peers import Peers, new_group
from meshwise.runtime.measure.ledger import CollectiveCall
from meshwise.runtime.mesh import counted
from meshwise.runtime.mesh.pipeline import Stage
from meshwise.runtime.model.parallelize import Parallel
from meshwise.runtime.ranks import watch


class Mesh(NamedTuple):
    """The ranks of a run: ``tp``, ``dp`` and ``pp`` of this rank, and their groups."""

    device: torch.device
    mesh: DeviceMesh
    tp: Peers
    dp: int
    pp: int
    dp_rank: int
    pp_rank: int

    @property
    def last(self) -> bool:
        return self.pp_rank == self.pp - 1


def make(tp: int, dp: int, pp: int, device: torch.device) -> Mesh:
    """Ranks in the order tp, dp, pp, neighbours first. Raises :class:`InputError` where they are not as
    many as the run has."""
    world = dist.get_world_size()
    if tp * dp * pp != world:
        raise InputError(
            f"tp {tp} · dp {dp} · pp {pp} = {tp * dp * pp} ranks: the run has {world}",
            field="tp",
            value=tp,
            legal=f"degrees whose product is {world}",
        )
    grid = torch.arange(world).reshape(pp, dp, tp)
    axes = [
        Peers.build(grid.movedim(axis, -1).reshape(-1, size).tolist())
        for axis, size in enumerate((pp, dp, tp))
    ]
    groups: list[Any] = [p.group if p.group is not None else dist.group.WORLD for p in axes]
    mesh = DeviceMesh.from_group(
        groups,
        device.type,
        mesh=grid,
        mesh_dim_names=("pp", "dp", "tp"),
    )
    peers = axes[-1]
    return Mesh(device, mesh, peers, dp, pp, mesh.get_local_rank("dp"), mesh.get_local_rank("pp"))


class Trainer:
    """One training step of the mesh: forward and backward of the microbatches, gradients reduced.

    ``step(ids, labels)`` takes the replica's batch (B, S) on every rank and returns the mean loss
    over all replicas on the ranks of the last stage, None elsewhere.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        *,
        microbatches: int = 1,
        schedule: str = "1f1b",
        shard: str = "none",
    ) -> None:
        self.mesh, self.model, self.microbatches = mesh, model, microbatches
        self.state: Parallel = model.tensor_parallel  # type: ignore[assignment]
        self.state.deferred = True
        self._loss: Callable[..., Tensor] = model.loss_function  # type: ignore[assignment]
        self._tied = _tied(model) if mesh.pp > 1 else None
        self._ends = _ends_group(mesh) if self._tied is not None else None
        self.schedule_name = schedule
        self._schedule: Any = None
        self.trained: nn.Module = Stage(model, mesh.pp_rank, mesh.pp) if mesh.pp > 1 else model
        self._replicas = mesh.mesh["dp"].get_group()
        if mesh.dp > 1:
            self.trained = self._replicated(shard)
        self._shape: tuple[int, ...] = ()

    def _replicated(self, shard: str) -> nn.Module:
        ledger, group = self.state.ledger, self._replicas
        if shard == "zero3":
            self._shard(self.mesh.mesh["dp"])
            return self.trained
        ddp = nn.parallel.DistributedDataParallel
        known = inspect.signature(ddp).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        settings: dict[str, Any] = {buffers: False}  # they are constants
        wrapped = ddp(self.trained, process_group=group, **settings)
        buckets = counted.Buckets(
            ledger, group, self.mesh.dp, counted.expert_parameters(self.state)
        )

        def hook(state: Any, bucket: Any) -> Any:
            return buckets(state, bucket)

        hook.__annotations__.clear()  # DDP compares them, and does not know them as strings
        wrapped.register_comm_hook(None, hook)
        return wrapped

    def _shard(self, mesh: DeviceMesh) -> None:
        """ZeRO-3 by FSDP2: experts, layers and the rest gather and scatter apart."""
        from torch.distributed.fsdp import fully_shard

        state, ledger = self.state, self.state.ledger
        for layer in state.layers:
            for experts in layer.modules():
                if getattr(experts, "split_over_ranks", False):
                    fully_shard(experts, mesh=mesh)
                    counted.count_sharded(experts, ledger, "layer.", counted.EXPERTS)
            fully_shard(layer, mesh=mesh)
            counted.count_sharded(layer, ledger, "layer.")
        fully_shard(self.trained, mesh=mesh, reshard_after_forward=True)
        counted.count_sharded(self.trained, ledger, "")

    def step(self, ids: Tensor, labels: Tensor) -> Tensor | None:
        loss = self._pipelined(ids, labels) if self.mesh.pp > 1 else self._accumulated(ids, labels)
        self.state.sum_shared()
        if self._tied is not None and self._ends is not None:
            size, ledger = self._tied.nbytes, self.state.ledger
            call = CollectiveCall(
                "gradients.embedding", "all_reduce", "pp", 2, size, "grad_reduce", "backend"
            )
            ledger.count(call)
            begin = ledger.now()
            with watch.waiting("all_reduce gradients.embedding, first and last stage"):
                dist.all_reduce(self._tied.grad, group=self._ends)
            ledger.waited(call, begin)
        if loss is not None and self.mesh.dp > 1:
            with watch.waiting("all_reduce of the replicas' losses"):
                dist.all_reduce(loss, group=self._replicas)
            loss /= self.mesh.dp
        return loss

    def _accumulated(self, ids: Tensor, labels: Tensor) -> Tensor:
        total = ids.new_zeros((), dtype=torch.float32)
        pieces = list(
            zip(ids.chunk(self.microbatches), labels.chunk(self.microbatches), strict=True)
        )
        for i, (x, y) in enumerate(pieces):
            last = i == len(pieces) - 1
            no_sync = getattr(self.trained, "no_sync", None)
            with no_sync() if no_sync is not None and not last else nullcontext():
                loss = self.trained(input_ids=x, labels=y, use_cache=False).loss / len(pieces)
                loss.backward()
            total += loss.detach()
        return total

    def _pipelined(self, ids: Tensor, labels: Tensor) -> Tensor | None:
        if self._schedule is None or self._shape != tuple(ids.shape):
            self._schedule = self._plan(ids)
            self._shape = tuple(ids.shape)
        losses: list[Tensor] = []
        if self.mesh.pp_rank == 0:
            self._schedule.step(ids, target=labels if self.mesh.last else None)
        elif self.mesh.last:
            self._schedule.step(target=labels, losses=losses)
        else:
            self._schedule.step()
        return torch.stack(losses).mean().detach().float() if losses else None

    def _plan(self, ids: Tensor) -> Any:
        """The schedule for a batch's shape; what stages exchange is known, so that nothing is tried."""
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

        mesh = self.mesh
        config: Any = self.model.config
        state = self.state
        micro, length = ids.shape[0] // self.microbatches, ids.shape[1]
        kind = next(self.model.parameters()).dtype
        split = state.group.size if state.group.options.sequence_parallel else 1
        hidden = torch.empty(
            (micro, length // split, config.hidden_size),  # type: ignore[union-attr]
            dtype=kind,
            device="meta",
            requires_grad=True,  # so that its gradient is sent back
        )
        words = torch.empty((micro, length), dtype=ids.dtype, device="meta")
        head = state.cuts[f"{state.plan.base}.{state.plan.embedding}.weight"].size
        logits = torch.empty((micro, length, head), dtype=kind, device="meta", requires_grad=True)
        stage = PipelineStage(
            self.trained,
            mesh.pp_rank,
            mesh.pp,
            mesh.device,
            input_args=(words if mesh.pp_rank == 0 else hidden,),
            output_args=(logits if mesh.last else hidden,),
            group=mesh.mesh["pp"].get_group(),
        )
        counted.count_messages(stage, state.ledger, mesh.pp)
        made = Schedule1F1B if self.schedule_name == "1f1b" else ScheduleGPipe

        def loss(output: Tensor, target: Tensor) -> Tensor:
            return self._loss(output, target)

        return made(stage, self.microbatches, loss_fn=loss)


def _tied(model: nn.Module) -> nn.Parameter | None:
    """The embedding's weight where the head shares it: the first and the last stage hold it."""
    state: Parallel = model.tensor_parallel  # type: ignore[assignment]
    embedding: Any = state.base.get_submodule(state.plan.embedding)
    head: Any = model.get_submodule("lm_head")
    return embedding.weight if embedding.weight is head.weight else None


def _ends_group(mesh: Mesh) -> Any:
    """This rank's group of first and last stage; None on the stages between."""
    ranks = mesh.mesh.mesh
    own = None
    for pair in ranks[[0, -1]].reshape(2, -1).t().tolist():
        group = new_group(pair)
        if dist.get_rank() in pair:
            own = group
    return own
