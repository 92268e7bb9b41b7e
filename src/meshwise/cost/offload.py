"""What a training step waits for state and activations that its software keeps in the host's memory."""

from __future__ import annotations

import functools
import json

import numpy as np

from meshwise import catalog
from meshwise.arrays import Array
from meshwise.clusters.load import Cluster, Device
from meshwise.cost.memory.activations import layer_activation_bytes
from meshwise.program.step import Program
from meshwise.program.update import offloaded_share, sharded_weights, stage_weights
from meshwise.units import BANDWIDTH, parse_quantity

# Seconds per weight of Adam on the cores of one host: 2.57 s for 10 billion weights, Ren et al. 2021,
# arXiv 2101.06840 (ZeRO-Offload), its latencies of CPU-Adam on the two sockets of a DGX-2. Two hosts of
# 2024 took 2.1 s for 8 billion (published training rows mleng-8b at 8,192 tokens).
HOST_ADAM_S = 2.57 / 10e9
# What copies from pinned memory reach of the link: an assumption, after 12 to 13 of the 15.75 GB/s of
# PCIe 3.0 x16 that CUDA's bandwidthTest prints.
LINK_SHARE = 0.78


@functools.cache
def _links() -> dict[str, str | float]:
    text = (catalog.ROOT / "host_links.json").read_text(encoding="utf-8")
    found: dict[str, str | float] = json.loads(text)
    return found


def host_link_bytes_per_s(device: Device) -> float:
    """Bytes per second and direction between a device and its host's memory, as copies reach them."""
    links = _links()
    link = links.get(device.name, links.get(device.generation, links["unknown"]))
    if isinstance(link, str):
        table = catalog.load("fabrics", link, "fabric")[1]
        link = parse_quantity(table["bandwidth"], BANDWIDTH, "bandwidth")
    return LINK_SHARE * link


def offloaded_update_s(program: Program, cluster: Cluster) -> Array:
    """Seconds per step of an update on the host: gradients there, Adam over the weights of all ranks of a
    host, 16-bit weights back. 0 where the optimizer stays on the device."""
    ctx = program.ctx
    if not ctx.training or not ctx.stack.state.offload_optimizer or ctx.stack.ideal:
        return 0.0
    layout, w = ctx.layout, ctx.widths
    link = host_link_bytes_per_s(cluster.device)
    longest: Array = 0.0
    for role in program.roles:
        own = sharded_weights(stage_weights(ctx, role), layout, layout.shard >= 1)
        moved = own * (w.gradient + w.plain_weight) / link
        worked = own * np.minimum(layout.devices, cluster.node_devices) * HOST_ADAM_S
        longest = np.maximum(longest, (moved + worked) * role.exists)
    return longest


def microbatch_wait_s(
    program: Program, cluster: Cluster, forward_s: Array, backward_s: Array
) -> Array:
    """Seconds of a microbatch that a stage waits for activations on their way: they leave beside its
    forward pass and come back beside its backward pass, and what the link takes longer than these shows."""
    ctx = program.ctx
    if not ctx.training or not ctx.stack.state.offload_layers or ctx.stack.ideal:
        return 0.0
    link = host_link_bytes_per_s(cluster.device)
    longest: Array = 0.0
    for role in program.roles:
        moved: Array = 0.0
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            moved = moved + count * layer_activation_bytes(ctx, block)
        moved = moved * offloaded_share(ctx, role) / link
        wait = np.maximum(moved - forward_s, 0.0) + np.maximum(moved - backward_s, 0.0)
        longest = np.maximum(longest, wait * role.exists)
    return longest
