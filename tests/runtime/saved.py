"""Bytes that a forward pass keeps for its backward on a rank."""

from __future__ import annotations

from typing import Any

import torch
from tests.runtime import exact, tiny

from meshwise.runtime.model.parallelize import parallelize
from meshwise.runtime.options import Options

SHAPE = (2, 64)


def kept(changes: dict[str, Any], tp: int, sequence_parallel: bool, layers: int) -> int:
    """Of the storages that autograd saves, once each, parameters left out."""
    model = tiny.build("llama", **changes, num_hidden_layers=layers).train()
    group = exact.peers(tp)
    switches = Options(sequence_parallel=sequence_parallel, algorithm="backend")
    parallelize(model, group, switches)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # so that no other takes its place
        return x

    ids = torch.randint(3, tiny.VOCABULARY, SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    model.tensor_parallel.group.close()
    return sum(found.values())
