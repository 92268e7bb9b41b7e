"""What a prediction is asked: the hardware, the software, and what of the regime decides how sure it is.

One function for tables and command lines: everything is taken from the priced estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.axes import SHARD_STAGES
from meshwise.clusters.load import Cluster
from meshwise.cost.collectives.algorithms import ROOTED
from meshwise.cost.collectives.collective import Priced
from meshwise.cost.collectives.fits import lent_levels
from meshwise.cost.doubt.exposed import crosses_network, exposed_comm
from meshwise.cost.estimate import Estimate
from meshwise.cost.kernels.fits import kernels
from meshwise.dtypes import ELEMENT_BYTES
from meshwise.layouts.placement import Group
from meshwise.stacks.stack import Stack

# What of a regime makes a question another one, in words. A trait holds or does not, per layout.
TRAITS = {
    "moe": "mixture of experts",
    "mla": "latent attention",
    "recurrent": "linear attention or state-space layers",
    "fp8": "8-bit products",
    "fp4": "4-bit products or weights",
    "ep_network": "experts over nodes",
    "tp_network": "tensor parallelism over nodes",
    "context_parallel": "context parallelism",
    "pcie": "PCIe inside the node",
    "fsdp": "weights sharded over data parallel ranks",
    "many_nodes": "more than 8 nodes",
    "over_memory": "ran though it does not fit",
    # of collectives
    "links": "over a node's own links",
    "network": "over a network",
    "network_small": "up to 32 KiB over a network",
    "network_medium": "up to a mebibyte over a network",
    "network_all_to_all": "all-to-all over a network",
    "open_rate": "a network whose rate is not stated",
    "lanes": "PCIe with peer access",
    "host": "through the host's memory",
    "all_to_all": "all-to-all",
    "one_shot": "an engine's own kernels",
    "rooted": "scatter or gather",
    "send_recv": "send and receive",
    "small": "up to a mebibyte inside a node",
}
MANY_NODES = 8
ZERO3 = SHARD_STAGES.index("zero3")
SMALL_BYTES, MEDIUM_BYTES = 1 << 15, 1 << 20
LIBRARY = "nccl"  # what runs a collective that no engine's own kernel does
_PCIE = ("pcie", "pcie-host", "socket")  # kinds of levels


class Question(NamedTuple):
    """A prediction's hardware, software, traits of its regime (0 or 1) and shares of what it is made of
    (0 to 1, or more where constants that stand in say less than another fabric's do)."""

    kind: str  # training, serving or collectives: whose published runs count
    device: str
    software: str
    release: str
    traits: Mapping[str, Array]
    shares: Mapping[str, Array]
    own_kernels: bool = True  # the device's products were measured
    assumed: bool = False  # the software is not the one that ran

    def at(self, index: int) -> Question:
        """That of one layout of a column."""

        def one(values: Mapping[str, Array]) -> dict[str, Array]:
            return {k: np.ravel(v)[index if np.size(v) > 1 else 0] for k, v in values.items()}

        return self._replace(traits=one(self.traits), shares=one(self.shares))

    def having(self) -> tuple[str, ...]:
        """The traits of one layout."""
        return tuple(name for name in TRAITS if np.any(self.traits.get(name, 0.0)))


def inherited_share(e: Estimate) -> Array:
    """Share of the step's compute and exposed communication that rests on inherited constants: 0 to 1, more
    where what stands in says less than another fabric's constants do.
    """
    return e.sum_over_step(
        lambda c: (
            (c.exposed / np.maximum(c.op.count, 1) if c.priced else c.seconds)
            * e.pricer.inherited_share(c)
        )
    ) / np.maximum(e.step_s, 1e-30)


def step_question(e: Estimate, assumed: bool = False, ran: bool = False) -> Question:
    """The question of a step of ``e`` and of its memory, per layout; ``assumed``: its software only stands in;
    ``ran``: somebody ran it, so that memory which says no is wrong, or the run another."""
    step = np.maximum(e.step_s, 1e-30)
    shares = {"host_share": e.host_s / step, "inherited": inherited_share(e)}
    if e.program.ctx.training:
        shares["network_share"] = exposed_comm(e).network_s / step
    elif any(block.moe is not None for block in e.model.blocks):
        # a layer of experts has many small launches, and which experts few tokens draw is chance
        shares["routed_host_share"] = shares.pop("host_share")
        shares["few_routed"] = 1.0 / np.sqrt(np.maximum(e.program.ctx.tokens, 1.0))
    held = footprint_question(e, assumed, ran)
    return held._replace(shares={**held.shares, **shares})


def footprint_question(e: Estimate, assumed: bool = False, ran: bool = False) -> Question:
    """The question of the memory of ``e``, per layout: no operation is priced. The rest as
    :func:`step_question`."""
    training, formats, layout = e.program.ctx.training, e.program.ctx.widths, e.layout
    nodes = layout.devices / e.cluster.node_devices
    network = any(level.kind == "network" for level in e.cluster.levels)
    groups = e.pricer.groups
    narrow = min(ELEMENT_BYTES[formats.dtype], ELEMENT_BYTES[formats.weight_dtype])
    routed = any(block.moe is not None for block in e.model.blocks)
    traits: dict[str, Array] = {
        "moe": routed,
        "mla": any(b.attention is not None and b.attention.mla for b in e.model.blocks),
        "recurrent": any(b.recurrent is not None for b in e.model.blocks),
        "fp8": 0.75 < narrow < 1.5,
        "fp4": narrow <= 0.75,
        "ep_network": crosses_network(e.cluster, groups["ep"]),
        "tp_network": crosses_network(e.cluster, groups["tp"]),
        "context_parallel": layout.cp > 1,
        "pcie": e.cluster.levels[0].kind in _PCIE and layout.devices > 1,
        "fsdp": layout.shard == ZERO3 if training else False,
        "many_nodes": network & (nodes > MANY_NODES),
        "over_memory": ran & ~np.asarray(e.fits),
    }
    held = {k: v / np.maximum(e.memory_bytes, 1.0) for k, v in e.memory.items()}
    working: Array = 0.0
    for part in ("activations_bytes", "workspace_bytes"):
        working = working + held.get(part, 0.0)
    return Question(
        kind="training" if training else "serving",
        device=e.cluster.device.name,
        software=e.stack.software,
        release=e.stack.name,
        traits={k: np.asarray(v, dtype=np.float64) for k, v in traits.items()},
        shares={"working_share": working},
        own_kernels=not kernels(e.cluster.device).inherited,
        assumed=assumed,
    )


def collective_question(
    op: str,
    payload: float,
    group: Group,
    cluster: Cluster,
    stack: Stack,
    best: Priced,
    open_rate: bool = False,
) -> Question:
    """The question of one collective, whose quickest algorithm is ``best``; ``open_rate``: its network's
    rate is not stated."""
    crossed = [
        i
        for i, (level, ranks) in enumerate(zip(cluster.levels, group.ranks, strict=True))
        if np.max(ranks) > 1 or level is cluster.levels[0]
    ]
    inside, outer = cluster.levels[0], cluster.levels[crossed[-1]]
    network = any(cluster.levels[i].kind == "network" for i in crossed)
    pcie = not network and inside.kind in _PCIE
    one_shot = not network and stack.communication.custom_all_reduce
    # priced by the constants of all_to_all, which no log of their own has shown to hold
    like_another = op in (*ROOTED, "send_recv")
    nodes = float(np.max(group.size)) / cluster.node_devices
    source = best.sources[crossed[-1]]
    traits = {
        "network": network,
        "network_small": network and payload <= SMALL_BYTES,
        "network_medium": network and SMALL_BYTES < payload <= MEDIUM_BYTES,
        "network_all_to_all": network and op == "all_to_all",
        "many_nodes": network and nodes > MANY_NODES,
        "open_rate": network and (open_rate or outer.assumed),
        "pcie": pcie,
        "links": not network and not pcie,
        "lanes": pcie and inside.kind == "pcie",
        "host": pcie and inside.kind != "pcie",
        "all_to_all": not network and op == "all_to_all",
        "small": not network and payload <= MEDIUM_BYTES,
        "one_shot": one_shot,
        "rooted": op in ROOTED,
        "send_recv": op == "send_recv",
    }
    return Question(
        kind="collectives",
        device=cluster.device.name,
        software=stack.communication.collectives if one_shot else LIBRARY,
        # the fabric whose constants hold; its own name where it has none
        release=outer.fabric if source.inherited_by else source.file,
        traits={k: np.float64(v) for k, v in traits.items()},
        shares={"inherited": np.hypot(lent_levels(best.lent, group.ranks), float(like_another))},
        own_kernels=not source.inherited_by,
    )
