"""How much of a tensor-parallel step's communication hides over a slow link; needs root and iproute2.

    python benchmarks/overlap.py

TP=2, one rank in each of two network namespaces (200 Mbit/s), one thread each; transformers' Llama
layers, forward and backward, no embedding or head. Variants run in shuffled order in every round, a
round's time is the slower rank's. Beside them stands what the step's dependencies allow: the same
compute and the same seconds on the wire, both measured in the steps without overlap, laid out by the
order of that overlap with the link always busy when something waits for it. Printed: the share of what
could be hidden that was, (none − measured) / (none − allowed), median of the rounds. Then every
variant's time against the same without overlap.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
OVERLAPS = ("none", "wgrad", "split")  # those whose order the bound below lays out
SPLIT = "sequence parallel, "
VARIANTS: dict[str, dict[str, Any]] = {
    **{how: {"overlap": how} for how in (*OVERLAPS, "decomposed")},
    **{
        SPLIT + how: {"overlap": how, "sequence_parallel": True}
        for how in (*OVERLAPS, "decomposed")
    },
}


def parts_of(model: Any, took: dict[str, float]) -> dict[str, dict[str, float]]:
    """Of a block (attention or MLP), forward and backward, in a step without overlap: compute, its
    weight gradient that may follow the reduction's begin, and the reduction."""
    ledger = model.tensor_parallel.ledger
    blocks = 2 * len(model.tensor_parallel.layers)
    found = {}
    for phase, key in (("forward", "forward"), ("backward", "dgrad")):
        sent = sum(s for call, s in ledger.call_s.items() if call.phase == key)
        late = sum(
            s
            for (name, what), s in ledger.scope_s.items()
            if phase == "backward" and what == "wgrad" and name.endswith(("qkv", "gate_up"))
        )
        found[phase] = {
            "wire": sent / blocks,
            "compute": (took[phase] - sent) / blocks,
            "late": late / blocks,
        }
    return found


def allowed(phase: dict[str, float], blocks: int, how: str) -> float:
    """Seconds of a pass by the order of an overlap: one processor, one link, nothing else in the way.

    A block's compute is early (before its reduction begins) and late (after); the block after it
    waits for the reduction. In halves each part takes half, and halves take turns."""
    halves = 2 if how == "split" else 1
    late = phase["late"] / halves if how != "none" else 0.0
    early = phase["compute"] / halves - late
    wire = phase["wire"] / halves
    now = link = 0.0
    ready = [0.0] * halves
    for _ in range(blocks):
        for half in range(halves):
            now = max(now, ready[half]) + early
            link = max(link, now) + wire
            ready[half] = link
            now += late
    return max(now, link)


def rank(arguments: argparse.Namespace) -> None:
    import os

    import torch
    import torch.distributed as dist
    from transformers import LlamaConfig, LlamaForCausalLM

    from meshwise.runtime import Options, parallelize
    from meshwise.runtime.collectives.peers import Peers
    from meshwise.runtime.products.sequence import Own, Padded

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=arguments.layers,
        num_attention_heads=16,
        num_key_value_heads=16,
    )
    peers = Peers.of(None)
    made = {}
    for name, switches in VARIANTS.items():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        made[name] = parallelize(model, peers, Options(algorithm="backend", **switches))
    x = torch.randn(arguments.batch, arguments.seq, 1024).requires_grad_()

    def slowest(seconds: float) -> float:
        took = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(took, op=dist.ReduceOp.MAX)
        return float(took)

    def once(model: Any) -> dict[str, float]:
        x.grad = None
        for p in model.parameters():
            p.grad = None
        state = model.tensor_parallel
        dist.barrier()
        begin = time.perf_counter()
        with state.passing(x):
            inputs = x
            if state.group.sequence:
                inputs = Padded.apply(state.group, Own.apply(state.group, x))
            y = state.base(inputs_embeds=inputs, use_cache=False).last_hidden_state
        middle = time.perf_counter()
        y.backward(torch.ones_like(y))
        end = time.perf_counter()
        return {"forward": slowest(middle - begin), "backward": slowest(end - middle)}

    for model in made.values():
        once(model)
    order, names = random.Random(0), list(VARIANTS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    parts = []
    for _ in range(arguments.rounds):
        order.shuffle(names)
        for name in names:
            made[name].tensor_parallel.ledger.clear()
            found[name].append(once(made[name]))
            if name == "none":
                parts.append(parts_of(made[name], found[name][-1]))
    blocks = {
        phase: {k: statistics.median(p[phase][k] for p in parts) for k in parts[0][phase]}
        for phase in ("forward", "backward")
    }
    if dist.get_rank() == 0:
        Path(arguments.into).write_text(json.dumps({"steps": found, "blocks": blocks}))
    dist.barrier()
    dist.destroy_process_group()
    for model in made.values():
        model.tensor_parallel.group.close()
    os._exit(0)


def report(found: dict[str, Any], layers: int) -> None:
    blocks = found["blocks"]
    for phase, own in blocks.items():
        words = ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in own.items())
        print(f"a block's {phase}: {words}")
    print(f"{'overlap':10s}{'phase':10s}{'ms':>9s}{'allowed':>9s}  hidden of what could be")
    for how in OVERLAPS[1:]:
        for phase in ("forward", "backward"):
            best = allowed(blocks[phase], 2 * layers, how)
            # as measured, not as laid out: both sides of the ratio have the same steps without overlap
            none = [s[phase] for s in found["steps"]["none"]]
            took = [s[phase] for s in found["steps"][how]]
            room = allowed(blocks[phase], 2 * layers, "none") - best
            if room < 0.02 * statistics.median(none):
                continue  # nothing to hide by this order
            shares = [(a - b) / room for a, b in zip(none, took, strict=True)]
            low, middle, high = np.percentile(shares, [25, 50, 75])
            took_ms = 1e3 * statistics.median(took)
            print(
                f"{how:10s}{phase:10s}{took_ms:9.0f}{1e3 * best:9.0f}  "
                f"{middle:.0%} [{low:.0%} {high:.0%}]"
            )
    print(f"{'variant':32s}{'phase':10s}{'ms':>7s}  of the same without overlap")
    for name, steps in found["steps"].items():
        base = found["steps"][SPLIT + "none" if name.startswith(SPLIT) else "none"]
        for phase in ("forward", "backward"):
            ratios = [a[phase] / b[phase] for a, b in zip(steps, base, strict=True)]
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            took_ms = 1e3 * statistics.median(s[phase] for s in steps)
            print(f"{name:32s}{phase:10s}{took_ms:7.0f}  {middle:.2f} [{low:.2f} {high:.2f}]")
    none = [sum(s.values()) for s in found["steps"]["none"]]
    print(f"without overlap {1e3 * statistics.median(none):.0f} ms, {len(none)} rounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=128)
    parser.add_argument("--rate", default="200mbit", help="of the link")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into:
        rank(arguments)
        return
    sys.path.insert(0, str(ROOT / "tools"))
    import two_nodes

    reason = two_nodes.available()
    if reason:
        sys.exit(f"no two nodes here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        into = str(Path(folder, "found.json"))
        words = [sys.executable, __file__, "--into", into]
        for name in ("rounds", "layers", "batch", "seq"):
            words += [f"--{name}", str(getattr(arguments, name))]
        with two_nodes.TwoNodes(arguments.rate) as nodes:
            nodes.run(words, per_node=1, stderr=subprocess.DEVNULL)
        report(json.loads(Path(into).read_text()), arguments.layers)


if __name__ == "__main__":
    main()
