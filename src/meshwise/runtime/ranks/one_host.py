"""The rendezvous of torch's elastic agent where all ranks are on this machine: nothing to wait for, and
no port is opened.

torch's own rendezvous and its TCP stores listen on every interface, ask for no password and unpickle
what they hold: whoever reaches the port runs code as the user. Here the agent's store is in its own
memory, and the ranks meet in a file of the run's private folder.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

_NAME = "meshwise-one-host"


class OneHost(RendezvousHandler):
    """An agent that is alone: rank 0 of one node."""

    def __init__(self, parameters: RendezvousParameters) -> None:
        self._run_id = parameters.run_id
        self._closed = False
        self._store = dist.HashStore()  # type: ignore[attr-defined]

    def get_backend(self) -> str:
        return _NAME

    def next_rendezvous(self) -> RendezvousInfo:
        # no rank asks for the address: they have the path of a file
        return RendezvousInfo(self._store, 0, 1, RendezvousStoreInfo("127.0.0.1", 0))

    def is_closed(self) -> bool:
        return self._closed

    def set_closed(self) -> None:
        self._closed = True

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        self._closed = True
        return True


def register() -> str:
    """The name by which the agent finds :class:`OneHost`."""
    registry: Any = rendezvous_handler_registry
    registry.register(_NAME, OneHost)  # a second time with the same creator does nothing
    return _NAME
