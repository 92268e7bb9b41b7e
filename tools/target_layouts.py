"""Layouts that plans for a target's stack look at, as jobs; and a model in Megatron-LM's flags."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

import meshwise as mw
from meshwise import launch
from meshwise.axes import RECOMPUTE_CODE, SHARD_CODE
from meshwise.errors import MeshwiseError
from meshwise.launch.job import Job
from meshwise.launch.settings.switches import as_said
from meshwise.launch.table import Target
from meshwise.search.serving.space import serving_space
from meshwise.search.training.space import space

DEGREES = {"pp", "cp", "ep", "dcp"}  # of which a target that cannot say one refuses every layout
CODE_RECOMPUTE = {code: name for name, code in RECOMPUTE_CODE.items()}
CODE_SHARD = {code: name for name, code in SHARD_CODE.items()}
TRAINED = (("llama-3.1-8b", (8, 32)), ("mixtral-8x7b", (16, 64)), ("deepseek-v2-lite", (16,)),
           ("gpt3-13b", (12, 128)), ("qwen3-next-80b-a3b", (32,)))  # fmt: skip
SERVED = (("llama-3.1-70b", (4, 8, 16)), ("mixtral-8x7b", (8, 32)), ("deepseek-v3", (16, 32)),
          ("qwen3-30b-a3b", (6, 8)), ("qwen3-next-80b-a3b", (8,)), ("gpt-oss-120b", (8,)))  # fmt: skip
FORMATS: dict[str, tuple[dict[str, Any], ...]] = {
    "train": ({}, {"dtype": "fp16"}, {"dtype": "fp8"}, {"grad_dtype": "fp32"}),
    "serve": ({}, {"kv_dtype": "fp8"}, {"weight_dtype": "fp8"}, {"chunked_prefill": False}),
}


def jobs(chosen: Target, each: int) -> Iterator[Job]:
    """``each`` layouts of every model and number of GPUs that a plan for the target's stack looks at."""
    for model, counts in TRAINED if chosen.phase == "train" else SERVED:
        for gpus in counts:
            node = next(d for d in (8, 6, 4) if gpus % d == 0 or gpus < d)
            find = trained if chosen.phase == "train" else served
            try:
                rows = find(mw.model(model), mw.stack(chosen.stack), gpus, node)
            except MeshwiseError as error:
                print(f"  no layout of {model} on {gpus}: {error}", file=sys.stderr)
                continue
            rows = [
                r for r in rows if all(r.get(f, 1) == 1 for f in DEGREES & chosen.cannot.keys())
            ]
            picked = random.Random(f"{model}{gpus}").sample(rows, min(each, len(rows)))
            for row, formats in zip(picked, itertools.cycle(FORMATS[chosen.phase]), strict=False):
                more = {"dtype": "bf16"} | formats if chosen.phase == "train" else formats
                job = launch.job_of(model, chosen.phase, row, **more)
                yield as_said(msgspec.structs.replace(job, gpus_per_node=node), chosen.name)


def served(model: mw.Model, stack: mw.Stack, gpus: int, node: int) -> list[dict[str, Any]]:
    del node
    found, _ = serving_space(model, stack, gpus, {})
    axes = ("tp", "pp", "dp", "ep", "etp", "dcp")
    rows = [{a: int(getattr(found, a)[i]) for a in axes} for i in range(len(found.tp))]
    return [
        row | {"etp": row["etp"] or row["tp"], "max_len": 1280, "concurrency": 64} for row in rows
    ]


def trained(model: mw.Model, stack: mw.Stack, gpus: int, node: int) -> list[dict[str, Any]]:
    """A draw of the switches for each column of degrees."""
    where = mw.cluster("hgx-h200", nodes=-(-gpus // node))
    work = mw.Training(batch=4 * gpus, seq=4096)
    found = space(model, where, work, stack, gpus, {})
    draw, rows = random.Random(gpus), []
    for i in range(len(found.columns["tp"])):
        row = {k: int(v[i]) for k, v in found.columns.items() if k not in ("placement", "dense")}
        split = draw.choice([s for s in (True, False) if (found.split if s else found.unsplit)[i]])
        stages = found.piped if row["pp"] > 1 else found.shard
        rows.append(row | {
            "etp": row["etp"] or row["tp"],
            "vp": draw.choice([int(v) for v in found.vps[:, i] if v]),
            "sequence_parallel": split,
            "overlap": "decomposed" if split and draw.choice(found.decomposed) else "none",
            "recompute": CODE_RECOMPUTE[draw.choice(found.recompute)],
            "shard": CODE_SHARD[draw.choice(stages) if found.sharded[i] else 0],
            "global_batch": work.batch, "seq": work.seq,
        })  # fmt: skip
    return rows


def model_args(job: Job) -> str:
    """Megatron-LM's flags of a model."""
    if job.phase != "train":
        return ""
    m = mw.model(job.model)
    block = m.blocks[m.pattern[-1]]
    a = next((b.attention for b in m.blocks if b.attention is not None), None)
    assert a is not None
    wide = (block.mlp or next((b.mlp for b in m.blocks if b.mlp), None)) or block.moe.expert  # type: ignore[union-attr]
    said: dict[str, Any] = {
        "--num-layers": len(m.pattern), "--hidden-size": m.hidden, "--num-attention-heads": a.heads,
        "--ffn-hidden-size": wide.width, "--kv-channels": a.value_head_dim, "--vocab-size": m.vocab,
        "--max-position-embeddings": max(m.max_positions or 0, job.seq or 1),
        "--tokenizer-type": "NullTokenizer", "--train-iters": 10, "--lr": 0.0001,
    }  # fmt: skip
    bare = ["--disable-bias-linear", "--untie-embeddings-and-output-weights"]
    bare += ["--swiglu"] * wide.gated
    if a.kv_lora_rank:
        bare.append("--multi-latent-attention")
        said |= {"--kv-lora-rank": a.kv_lora_rank, "--qk-pos-emb-head-dim": a.rope_head_dim}
        said |= {"--qk-head-dim": a.head_dim - a.rope_head_dim, "--v-head-dim": a.value_head_dim}
        said |= {"--q-lora-rank": a.q_lora_rank} if a.q_lora_rank else {}
    elif a.kv_heads != a.heads:
        bare.append("--group-query-attention")
        said["--num-query-groups"] = a.kv_heads
    if block.moe is not None:
        said |= {"--num-experts": block.moe.experts, "--moe-router-topk": block.moe.top_k}
        said["--moe-ffn-hidden-size"] = block.moe.expert.width
        bare.append("--moe-grouped-gemm")
    return " ".join([*(f"{k} {v}" for k, v in said.items()), *bare])
