"""Tensor parallelism of the runtime beside a hand-written Megatron form and torch's DTensor.

    python benchmarks/runtime.py                     # all shapes, one run
    python benchmarks/runtime.py --runs 3 --markdown # the table of the docs

Two gloo ranks on this machine, one thread each; transformers' own Llama layers in every variant, so
that only the parallelisation differs. *large*: 2 layers, batch 4 × 256 tokens; *small*: 4 layers,
2 × 32; hidden 1024, 16 heads, FFN 2816, no embedding or head. Variants run in shuffled order in every
round; a round's time is the slower rank's; figures are medians of the rounds' paired ratios.

hand-written   column and row products with one all_reduce per block and pass (Shoeybi et al. 2019)
DTensor        torch's parallelize_module with PrepareModuleInput, 8 all-reduces for 2 layers (the plan
               without it does 14)
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HIDDEN, HEADS, FFN = 1024, 16, 2816
SHAPES = {"large": (2, 4, 256), "small": (4, 2, 32)}
REFERENCE = "hand-written"


def whole(layers: int, dtype: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
    )
    return LlamaForCausalLM(config).to(dtype)


def handwritten(model: Any, rank: int, size: int) -> Any:
    """Megatron's column and row linears, one f and one g per block."""
    import torch
    import torch.distributed as dist
    from torch import nn

    class Copy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            g = g.contiguous()
            dist.all_reduce(g)
            return g

    class Reduce(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            dist.all_reduce(x)
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g

    def share(module: Any, dim: int) -> None:
        weight = module.weight.detach().chunk(size, dim)[rank].clone()
        module.weight = nn.Parameter(weight)

    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj):
            share(linear, 0)
        for linear in (mlp.gate_proj, mlp.up_proj):
            share(linear, 0)
        for linear in (attention.o_proj, mlp.down_proj):
            share(linear, 1)
            linear.register_forward_hook(lambda m, a, y: Reduce.apply(y))
        attention.register_forward_pre_hook(
            lambda m, a, k: (a, {**k, "hidden_states": Copy.apply(k["hidden_states"])}),
            with_kwargs=True,
        )
        mlp.register_forward_pre_hook(lambda m, a: (Copy.apply(a[0]),))
    return model


def dtensor(model: Any, size: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (size,))
    for layer in model.model.layers:
        plan = {
            "self_attn": PrepareModuleInput(
                input_kwarg_layouts={"hidden_states": Replicate()},
                desired_input_kwarg_layouts={"hidden_states": Replicate()},
            ),
            "mlp": PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Replicate()),
            **{f"self_attn.{n}_proj": ColwiseParallel() for n in "qkv"},
            **{f"mlp.{n}_proj": ColwiseParallel() for n in ("gate", "up")},
            "self_attn.o_proj": RowwiseParallel(),
            "mlp.down_proj": RowwiseParallel(),
        }
        parallelize_module(layer, mesh, plan)
    return model


def variants(
    layers: int, dtype: Any, rank: int, size: int, chosen: list[str] | None
) -> dict[str, Any]:
    from meshwise.runtime import Options, parallelize

    model = whole(layers, dtype)
    made: dict[str, Any] = {"one thread": copy.deepcopy(model)} if rank == 0 else {}
    made[REFERENCE] = handwritten(copy.deepcopy(model), rank, size)
    ours: dict[str, Any] = {}
    made["DTensor"] = dtensor(copy.deepcopy(model), size)
    for transport, algorithm in (("gloo", "backend"), ("shared memory", "shared_memory")):
        for how, switches in {
            "": {},
            ", sequence parallel": {"sequence_parallel": True},
            ", sequence parallel, no overlap": {"sequence_parallel": True, "overlap": "none"},
            ", sequence parallel, decomposed": {"sequence_parallel": True, "overlap": "decomposed"},
            ", batch split": {"overlap": "split"},
            ", decomposed": {"overlap": "decomposed"},
            ", int8": {"comm_dtype": "int8"},
        }.items():
            if transport == "gloo" or "comm_dtype" not in switches:
                ours[f"ours ({transport}){how}"] = Options(algorithm=algorithm, **switches)
    for name, options in ours.items():
        made[name] = parallelize(copy.deepcopy(model), options=options)
    return {n: m for n, m in made.items() if not chosen or n in (*chosen, REFERENCE, "DTensor")}


def once(model: Any, x: Any, backward: bool) -> None:
    import torch

    state = getattr(model, "tensor_parallel", None)
    with torch.set_grad_enabled(backward):
        if state is None:
            y = model.model(inputs_embeds=x, use_cache=False).last_hidden_state
        else:
            split = state.group.options.sequence_parallel
            from meshwise.runtime.products.sequence import Own, Padded

            with state.passing(x):
                inputs = Padded.apply(state.group, Own.apply(state.group, x)) if split else x
                y = state.base(inputs_embeds=inputs, use_cache=False).last_hidden_state
        if backward:
            y.backward(torch.ones_like(y))


def measure(
    shape: str, dtype_name: str, rounds: int, rank: int, size: int, chosen: list[str] | None
) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    layers, batch, seq = SHAPES[shape]
    dtype = getattr(torch, dtype_name)
    made = variants(layers, dtype, rank, size, chosen)
    alone = not chosen or "one thread" in chosen
    names = list(made) if rank == 0 or not alone else ["one thread", *made]
    x = torch.randn(batch, seq, HIDDEN, dtype=dtype, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    times: dict[str, dict[str, list[float]]] = {}
    order = random.Random(0)
    for kind in ("forward", "forward + backward"):
        found: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds + 3):
            order.shuffle(names)
            for name in names:
                x.grad = None
                dist.barrier()
                begin = time.perf_counter()
                if name in made:
                    once(made[name], x, kind != "forward")
                took = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
                dist.all_reduce(took, op=dist.ReduceOp.MAX)
                if turn >= 3:
                    found[name].append(float(took))
                for p in made[name].parameters() if name in made else ():
                    p.grad = None
        times[kind] = found
    return times


def worker(rank: int, size: int, port: int, arguments: argparse.Namespace) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=size)
    result = {
        f"{shape}, {dtype}": measure(shape, dtype, arguments.rounds, rank, size, arguments.variant)
        for shape, dtype in (("large", "float32"), ("large", "bfloat16"), ("small", "float32"))
        if f"{shape}, {dtype}" in arguments.only
    }
    if rank == 0:
        with open(arguments.into, "w") as file:
            json.dump(result, file)
    dist.destroy_process_group()


def ratios(times: dict[str, list[float]], name: str, to: str) -> list[float]:
    return [a / b for a, b in zip(times[name], times[to], strict=True)]


def report(runs: list[dict[str, Any]], markdown: bool) -> None:
    for case in runs[0]:
        for kind in ("forward", "forward + backward"):
            print(f"\n{case}, {kind}" if not markdown else f"\n**{case}, {kind}**\n")
            if markdown:
                print("| variant | ms | / hand-written | / DTensor | speed-up over one thread |")
                print("|---|---|---|---|---|")
            for name in runs[0][case][kind]:
                cells = [f"{1e3 * statistics.median(runs[0][case][kind][name]):.0f}"]
                for to, inverse in ((REFERENCE, False), ("DTensor", False), ("one thread", True)):
                    if to not in runs[0][case][kind]:
                        continue
                    per_run = []
                    for run in runs:
                        values = ratios(run[case][kind], name, to)
                        per_run.append(statistics.median(values))
                    middle = statistics.median(per_run)
                    spread = f"{min(per_run):.3f}-{max(per_run):.3f}"
                    if inverse:
                        middle = 1 / middle
                        spread = f"{1 / max(per_run):.2f}-{1 / min(per_run):.2f}"
                    cells.append(f"{middle:.3f} [{spread}]")
                line = " | ".join([name, *cells])
                print(f"| {line} |" if markdown else f"  {name:42s}" + "  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--markdown", action="store_true")
    cases = ["large, float32", "large, bfloat16", "small, float32"]
    parser.add_argument("--only", action="append", choices=cases)
    parser.add_argument("--variant", action="append", help="default: all")
    arguments = parser.parse_args()
    arguments.only = arguments.only or cases
    import tempfile

    import torch.multiprocessing as mp

    runs = []
    for _ in range(arguments.runs):
        with tempfile.NamedTemporaryFile(suffix=".json") as file, socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
            s.close()
            arguments.into = file.name
            mp.spawn(worker, args=(2, port, arguments), nprocs=2)
            runs.append(json.loads(Path(file.name).read_text()))
    report(runs, arguments.markdown)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"\n{arguments.runs} runs of {arguments.rounds} rounds; load {load:.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
