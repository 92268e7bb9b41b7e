"""What a rank does in the tests of several axes: the loss curve of a tiny model, split and whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.runtime import tiny

from meshwise.runtime.mesh import mesh as meshes
from meshwise.runtime.model.parallelize import parallelize
from meshwise.runtime.options import Options

STEPS, BATCH, SEQ, RATE = 4, 8, 8, 0.1


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(ids, labels) of the global batch of every step."""
    draw = torch.Generator().manual_seed(5)
    ids = [torch.randint(3, tiny.VOCABULARY, (BATCH, SEQ), generator=draw) for _ in range(STEPS)]
    return [(x, x.clone()) for x in ids]


def alone(family: str, **changes: Any) -> list[float]:
    """Losses of the whole model on this rank."""
    model = tiny.build(family, **changes).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses = []
    for ids, labels in batches():
        loss = model(ids, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def together(
    family: str,
    degrees: tuple[int, int, int],
    switches: dict[str, Any],
    settings: dict[str, Any],
    changes: dict[str, Any],
) -> tuple[list[float | None], list[tuple[Any, int]]]:
    """Losses of the same model on tp · dp · pp ranks, and the collectives of the last step."""
    tp, dp, pp = degrees
    mesh = meshes.make(tp, dp, pp, torch.device("cpu"))
    model = tiny.build(family, **changes).train()
    parallelize(model, mesh.tp, Options(**switches))
    trainer = meshes.Trainer(model, mesh, **settings)
    optimizer = torch.optim.SGD(trainer.trained.parameters(), lr=RATE)
    losses: list[float | None] = []
    for ids, labels in batches():
        trainer.state.ledger.clear()
        mine = slice(mesh.dp_rank * BATCH // dp, (mesh.dp_rank + 1) * BATCH // dp)
        loss = trainer.step(ids[mine], labels[mine])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(None if loss is None else float(loss))
    calls = sorted(trainer.state.ledger.collectives().items())
    trainer.state.group.close()
    dist.barrier()
    return losses, calls
