"""Second derivation of the FLOPs: torch's own counter over transformers' own models.

``FlopCounterMode`` counts the matrix products that the eager model really dispatches: on the meta
device at the published widths (a few layers), and on real CPU tensors with the eager experts, whose
row counts depend on the data. Equality is exact everywhere; where transformers computes something
else than an engine would, the difference is a formula, never a tolerance.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import random
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meshwise.layouts.layout import Layouts
from meshwise.models.families.config import model_from_config
from meshwise.models.load import load_model
from meshwise.models.shapes import Model
from meshwise.program.step import program
from meshwise.stacks.stack import Stack
from meshwise.workloads.workload import Decode, Prefill, Training

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache  # noqa: E402

BATCH, SEQ = 2, 64
TOKENS = BATCH * SEQ
EAGER = Stack(name="eager", attention="unfused")
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
PER_LAYER = ("layer_types", "no_rope_layers", "moe_layers", "mlp_layer_types")
MODELS = Path(__file__).parents[2] / "src/meshwise/catalog/models"

# Presets at their published widths, one of each family that transformers has a class for.
DENSE = (
    "gpt2", "llama-3-8b", "qwen2-7b", "gemma-2-9b", "gpt-j-6b", "falcon-7b", "falcon-180b",
    "gpt-neox-20b", "command-r-plus", "gemma-2b", "gemma-3-12b", "glm-4-9b", "granite-3.1-8b",
    "mistral-7b", "mpt-30b", "nemotron3-22b", "olmo-7b", "olmo-2-13b", "phi-2", "phi-3-medium",
    "qwen3-8b", "smollm3-3b", "stablelm-2-12b", "starcoder-15b", "starcoder2-15b",
)  # fmt: skip
EXPERTS = (
    "mixtral-8x7b", "qwen3-30b-a3b", "qwen1.5-moe-a2.7b", "deepseek-v2-lite", "deepseek-v3",
    "gpt-oss-20b", "glm-4.5-air", "minimax-m2", "olmoe-1b-7b", "phi-3.5-moe",
)  # fmt: skip
SMALL = {"vocab_size": 1000, "hidden_size": 128, "num_attention_heads": 8, "num_hidden_layers": 2}
MANY = {"moe_intermediate_size": 64, "intermediate_size": 256, "num_experts_per_tok": 4}
LATENT = {"kv_lora_rank": 64, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32}
EAGER_EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_key_value_heads": 2, "intermediate_size": 256},
    "qwen2_moe": {**MANY, "num_experts": 16, "shared_expert_intermediate_size": 96},
    "qwen3_moe": {**MANY, "num_experts": 16, "head_dim": 32, "num_key_value_heads": 2},
    "olmoe": {"intermediate_size": 64, "num_experts": 16, "num_experts_per_tok": 4},
    "deepseek_v2": {
        **MANY, **LATENT, "n_routed_experts": 16, "n_shared_experts": 2,
        "first_k_dense_replace": 1, "q_lora_rank": None,
    },
    "deepseek_v3": {
        **MANY, **LATENT, "n_routed_experts": 16, "n_shared_experts": 1, "n_group": 4,
        "topk_group": 2, "first_k_dense_replace": 1, "q_lora_rank": 48,
    },
    "gpt_oss": {"intermediate_size": 64, "num_local_experts": 8, "head_dim": 32,
                "num_key_value_heads": 2, "num_experts_per_tok": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products: more threads only wait for each other
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def config_of(preset: str, layers: int, **changes: Any) -> tuple[Any, Model]:
    """(transformers' config, our Model) of a preset cut to ``layers``, from the same file."""
    table = json.loads((MODELS / f"{preset}.json").read_text())
    table = table.get("text_config", table)  # the language model of a multimodal one
    for key in LAYER_KEYS:
        if key in table:
            table[key] = layers
    for key in PER_LAYER:
        if isinstance(table.get(key), list):
            table[key] = table[key][:layers]
    for key in ("auto_map", "quantization_config", "_source", "architectures"):
        table.pop(key, None)
    table |= changes
    ours = model_from_config(table, name=preset)
    kind = table.pop("model_type")
    return AutoConfig.for_model(kind, **table), ours


def flops(model: Model, workload: Any, stack: Stack = EAGER, recompute: int = 0) -> dict[str, int]:
    """FLOPs of our program by phase, on one device; they are whole numbers."""
    layout = Layouts(
        tp=np.int64(1),
        micro_batch=np.int64(getattr(workload, "batch", 1)),
        recompute=np.int64(recompute),
    )
    built = program(model, stack, workload, layout)
    found = dict.fromkeys(("forward", "dgrad", "wgrad", "recompute"), 0.0)
    counts = (*model.kind_counts(), 1, 1)
    for ops, times in zip((*built.layers, built.embedding, built.head), counts, strict=True):
        for op in ops:
            if op.kind in ("gemm", "attention"):
                found[op.phase] += float(op.count * op.flops) * times
    assert all(value == int(value) for value in found.values())
    return {phase: int(value) for phase, value in found.items()}


def build(config: Any, experts: str = "batched_mm", device: str = "meta") -> Any:
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            config,
            attn_implementation="eager",
            experts_implementation=experts,
            dtype=torch.float32,
        )


def counted(run: Any) -> tuple[int, Any]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def step(model: Any, vocab: int, device: str = "meta") -> tuple[int, int]:
    """(forward, backward) FLOPs of a training step, by torch's counter."""
    torch.manual_seed(0)
    with torch.device(device):
        ids = torch.randint(0, vocab, (BATCH, SEQ))
        mask = torch.zeros(BATCH, 1, SEQ, SEQ)
    model.train()
    forward, out = counted(lambda: model(input_ids=ids, attention_mask=mask, use_cache=False))
    backward, _ = counted(lambda: out.logits.sum().backward())
    return forward, backward


@pytest.mark.parametrize("preset", [*DENSE, *EXPERTS])
def test_training_step_at_full_width(preset: str) -> None:
    config, model = config_of(preset, layers=3 if preset in EXPERTS else 2)
    forward, backward = step(build(config), model.vocab)
    ours = flops(model, Training(batch=BATCH, seq=SEQ))
    assert ours["forward"] == forward
    assert ours["dgrad"] + ours["wgrad"] == backward == 2 * forward


@pytest.mark.parametrize("kind", EAGER_EXPERTS)
def test_eager_experts(kind: str) -> None:
    """The real loop over experts on real tensors: its rows add up to tokens · top_k."""
    table = {**SMALL, **EAGER_EXPERTS[kind]}
    table.setdefault("num_key_value_heads", table["num_attention_heads"])
    config = AutoConfig.for_model(kind, **table)
    model = model_from_config(config.to_dict(), name=kind)
    assert any(b.moe for b in model.blocks)
    forward, backward = step(build(config, "eager", "cpu"), model.vocab, "cpu")
    ours = flops(model, Training(batch=BATCH, seq=SEQ))
    assert ours["forward"] == forward
    assert ours["dgrad"] + ours["wgrad"] == backward


def test_llama4_computes_every_expert_in_transformers() -> None:
    """Llama 4's eager module runs all experts on all tokens, with zeros for those not chosen."""
    config, model = config_of("llama-4-maverick", layers=2)
    forward, _ = step(build(config), model.vocab)
    extra = 0
    for block, count in zip(model.blocks, model.kind_counts(), strict=True):
        if block.moe is not None:
            idle = block.moe.experts - block.moe.top_k
            extra += count * idle * TOKENS * 2 * 3 * model.hidden * block.moe.expert.width
    assert extra > 0
    assert flops(model, Training(batch=BATCH, seq=SEQ))["forward"] + extra == forward


def test_window_smaller_than_the_sequence() -> None:
    """Eager attention computes the full square whatever the window is; our unfused core too, and
    the model's FLOPs count what the window lets through."""
    config, model = config_of("gemma-2-9b", layers=2, sliding_window=16)
    forward, _ = step(build(config), model.vocab)
    assert flops(model, Training(batch=BATCH, seq=SEQ))["forward"] == forward
    built = program(
        model,
        EAGER,
        Training(batch=BATCH, seq=SEQ),
        Layouts(tp=np.int64(1), micro_batch=np.int64(BATCH)),
    )
    per_pair = 2 * 2 * 256 * 16 * BATCH  # two products, head_dim 256, 16 heads
    cores = {b.attention.window: ops for b, ops in zip(model.blocks, built.layers, strict=True)}
    for window, ops in cores.items():
        (core,) = [op for op in ops if op.kind == "attention" and op.phase == "forward"]
        assert core.flops == per_pair * SEQ * SEQ
        assert core.model_flops == per_pair * SEQ * (window or SEQ)
    assert set(cores) == {16, None}


@pytest.mark.parametrize("preset", ["gpt2", "llama-3-8b", "gemma-2-9b", "mixtral-8x7b"])
def test_prefill_computes_one_row_of_logits(preset: str) -> None:
    config, model = config_of(preset, layers=2)
    built = build(config).eval()
    ids = torch.zeros(BATCH, SEQ, dtype=torch.long, device="meta")
    mask = torch.zeros(BATCH, 1, SEQ, SEQ, device="meta")
    forward, _ = counted(
        lambda: built(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    )
    assert flops(model, Prefill(batch=BATCH, seq=SEQ)) == {
        "forward": forward, "dgrad": 0, "wgrad": 0, "recompute": 0,
    }  # fmt: skip


def decode_flops(config: Any, vocab: int, context: int) -> int:
    """One more token after ``context - 1`` that are in transformers' own cache."""
    built = build(config, "eager", "cpu").eval()
    ids = torch.randint(0, vocab, (BATCH, context))
    cache = DynamicCache(config=config)
    with torch.no_grad():
        built(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True)
        forward, _ = counted(
            lambda: built(input_ids=ids[:, -1:], past_key_values=cache, use_cache=True)
        )
    return forward


NARROW: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 128, "n_head": 8, "vocab_size": 1000},
    "llama-3-8b": {},
    "qwen2-7b": {"head_dim": 16},
    "gemma-2-9b": {"head_dim": 32, "sliding_window": 16},
    "mixtral-8x7b": {"intermediate_size": 64},
    "falcon-7b": {},
    "gpt-j-6b": {"n_embd": 128, "n_head": 8, "rotary_dim": 8, "n_inner": None},
}


@pytest.mark.parametrize("preset", NARROW)
def test_decode_with_a_cache(preset: str) -> None:
    """One token per sequence: all keys of the cache, or as many as the window keeps."""
    table = json.loads((MODELS / f"{preset}.json").read_text())
    changes = {
        k: v
        for k, v in {**SMALL, "intermediate_size": 192, "num_key_value_heads": 2}.items()
        if k in table
    }
    changes.pop("num_hidden_layers", None)
    config, model = config_of(preset, 2, **(changes | NARROW[preset]))
    for context in (24, SEQ):
        forward = decode_flops(config, model.vocab, context)
        assert flops(model, Decode(batch=BATCH, context=context))["forward"] == forward


def test_latent_attention_decodes_absorbed() -> None:
    """Both cache the latent. transformers rebuilds the keys and values of the whole context at every
    step; an engine multiplies the up-projection into the query and the output, of the new token
    only, and attends to the latent itself (arXiv 2405.04434, section 2.1.2): latent + rope and
    latent wide per pair and head, instead of the key's and the value's width."""
    table = {**SMALL, **EAGER_EXPERTS["deepseek_v2"], "num_key_value_heads": 8}
    config = AutoConfig.for_model("deepseek_v2", **table)
    model = model_from_config(config.to_dict(), name="deepseek_v2")
    forward = decode_flops(config, model.vocab, SEQ)
    a = model.blocks[0].attention
    assert a is not None and a.kv_lora_rank is not None
    wider = 2 * (2 * a.kv_lora_rank + a.rope_head_dim - a.head_dim - a.value_head_dim)
    attends = wider * a.heads * BATCH * SEQ * model.layers
    up = 2 * a.kv_lora_rank * a.heads * (a.head_dim - a.rope_head_dim + a.value_head_dim)
    rebuilds = up * BATCH * (SEQ - 1) * model.layers
    ours = flops(model, Decode(batch=BATCH, context=SEQ))["forward"]
    assert ours - attends == forward - rebuilds


def checkpointed(config: Any, vocab: int, reentrant: bool) -> tuple[int, int]:
    model = build(config)
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    return step(model, vocab)


@pytest.mark.parametrize("preset", ["llama-3-8b", "gpt2", "mixtral-8x7b"])
def test_full_recomputation_repeats_the_forward(preset: str) -> None:
    """The reentrant checkpoint does the whole layer again: ours with recompute full, exactly."""
    config, model = config_of(preset, layers=2)
    forward, backward = checkpointed(config, model.vocab, reentrant=True)
    ours = flops(model, Training(batch=BATCH, seq=SEQ), recompute=2)
    assert ours["forward"] == forward
    assert ours["dgrad"] + ours["wgrad"] + ours["recompute"] == backward


def test_early_stop_skips_the_last_product() -> None:
    """The non-reentrant checkpoint stops once all that backward reads is there: it redoes neither
    the last reduction nor the product before it, which ``recompute_early_stop`` leaves out."""
    config, model = config_of("llama-3-8b", layers=2)
    _, backward = checkpointed(config, model.vocab, reentrant=False)
    stack = Stack(name="early", attention="unfused", recompute_early_stop=True)
    ours = flops(model, Training(batch=BATCH, seq=SEQ), stack, recompute=2)
    assert ours["dgrad"] + ours["wgrad"] + ours["recompute"] == backward


def families() -> Any:
    """The module that builds small random configurations of every family that we read."""
    path = Path(__file__).parents[1] / "models/test_families_transformers.py"
    spec = importlib.util.spec_from_file_location("families_oracle", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FAMILIES = families()
DSA = "test_sparse_attention_with_its_indexer"
# Their small random configurations do not run, or not alike: what is needed to make them do so.
RUNS: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 8, "n_embd": 96, "n_head": 4, "n_inner": 100},
    "gptj": {"rotary_dim": 8},
    "phimoe": {"num_experts_per_tok": 2},  # its sparse mixer always takes two
    "falcon": {"num_ln_in_parallel_attn": None},
    "stablelm": {"num_key_value_heads": 4, "num_attention_heads": 4, "hidden_size": 64},
}
NOT_COMPARED = {
    "llama4_text": "its eager module runs every expert: see above",
    "dbrx": "transformers 5.24 cannot run it without clip_qkv",
    "deepseek_v32": DSA,
    "glm_moe_dsa": DSA,
    "minimax_m3_vl_text": DSA,
    "deepseek_v4": "test_streams_that_mix",
    "gemma3n_text": "test_streams_that_mix",
    **dict.fromkeys(FAMILIES.LINEAR - {"minimax_m3_vl_text"}, "test_linear_attention_in_chunks"),
}


@pytest.mark.parametrize("kind", sorted(set(FAMILIES.ORACLE) - set(NOT_COMPARED)))
def test_every_family(kind: str) -> None:
    """Forward FLOPs of a small random configuration, on real tensors, all families that have a class."""
    rng = random.Random(kind)
    for _ in range(2):
        table = {**FAMILIES.small(kind, rng), **RUNS.get(kind, {})}
        if "kv_lora_rank" in table:
            table["num_key_value_heads"] = table["num_attention_heads"]
        config = FAMILIES.CONFIG_MAPPING[kind](**table)
        model = model_from_config(config.to_dict(), name=kind)
        if model.embedding_dim:
            continue  # test_narrow_table
        built = build(config, "eager", "cpu").eval()
        ids = torch.randint(1, model.vocab, (BATCH, 24))
        with torch.no_grad():
            forward, _ = counted(lambda b=built, i=ids: b(input_ids=i, use_cache=False))
        assert flops(model, Training(batch=BATCH, seq=24))["forward"] == forward


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text"])
def test_sparse_attention_with_its_indexer(kind: str) -> None:
    """DeepSeek sparse attention: up to ``index_topk`` keys its core is dense attention; beside it the
    indexer's projections, its scores of every pair and their sums over its heads."""
    table = {**FAMILIES.small(kind, random.Random(kind)), "num_hidden_layers": 2}
    table["num_key_value_heads"] = table["num_attention_heads"]
    for key in ("layer_types", "indexer_types"):
        if key in table:
            table[key] = table[key][:2]
    config = FAMILIES.CONFIG_MAPPING[kind](**table)
    model = model_from_config(config.to_dict(), name=kind)
    built = build(config, "eager", "cpu").eval()
    seq = 24
    ids = torch.randint(1, model.vocab, (BATCH, seq))
    with torch.no_grad():
        forward, _ = counted(lambda: built(input_ids=ids, use_cache=False))
    assert flops(model, Training(batch=BATCH, seq=seq))["forward"] == forward


@pytest.mark.parametrize("kind", ["deepseek_v32", "glm_moe_dsa", "gemma4_text"])
def test_training_step_of_shared_and_sparse_attention(kind: str) -> None:
    """Backward, too. In transformers the choice of keys has no gradient; a trainer has one of its own for
    the indexer (DeepSeek-V3.2's report, section 2.1), which is priced as twice its forward."""
    rng = random.Random(kind)
    for _ in range(2):
        table = FAMILIES.small(kind, rng)
        if "kv_lora_rank" in table:
            table["num_key_value_heads"] = table["num_attention_heads"]
        config = FAMILIES.CONFIG_MAPPING[kind](**table)
        model = model_from_config(config.to_dict(), name=kind)
        built = build(config, "eager", "cpu").train()
        ids = torch.randint(1, model.vocab, (BATCH, 24))
        forward, out = counted(lambda b=built, i=ids: b(input_ids=i, use_cache=False))
        backward, _ = counted(lambda o=out: o.logits.sum().backward())
        workload = Training(batch=BATCH, seq=24)
        ours = flops(model, workload)
        layout = Layouts(tp=np.int64(1), micro_batch=np.int64(BATCH))
        layers = program(model, EAGER, workload, layout).layers
        choice = sum(
            float(op.count * op.flops) * times
            for ops, times in zip(layers, model.kind_counts(), strict=True)
            for op in ops
            if op.name.startswith("attention.indexer") and op.phase in ("dgrad", "wgrad")
        )
        assert (choice > 0) == (kind != "gemma4_text")
        assert ours["forward"] == forward
        assert ours["dgrad"] + ours["wgrad"] - choice == backward


@pytest.mark.parametrize("kind", ["deepseek_v4", "gemma3n_text"])
def test_streams_that_mix(kind: str) -> None:
    """Copies of the residual: torch counts the products of a few coefficients with all streams, which move
    memory and are priced as that; our indexer adds up its heads' scores, which torch does not count."""
    rng = random.Random(kind)
    for _ in range(3):
        config = FAMILIES.CONFIG_MAPPING[kind](**FAMILIES.small(kind, rng))
        model = model_from_config(config.to_dict(), name=kind)
        seq = 24
        built = build(config, "eager", "cpu").eval()
        ids = torch.randint(1, model.vocab, (BATCH, seq))
        with torch.no_grad():
            forward, _ = counted(lambda b=built, i=ids: b(input_ids=i, use_cache=False))
        ours = flops(model, Training(batch=BATCH, seq=seq))["forward"]
        n, tokens = model.residual_streams, BATCH * seq
        coefficients = 2 * n * n * model.hidden
        if kind == "deepseek_v4":  # before attention and before the experts
            mixed = 2 * coefficients * model.layers
        else:  # the router's second call, beside the mixing
            mixed = (coefficients + 2 * n * model.hidden) * model.layers
        weighted = 0
        for index in model.pattern:
            a = model.blocks[index].attention
            assert a is not None
            if a.indexer is not None and a.compress is not None:
                weighted += 2 * a.indexer.heads * (seq // a.compress)
        assert ours + tokens * (mixed - weighted) == forward


@pytest.mark.parametrize("kind", sorted(FAMILIES.LINEAR - {"minimax_m3_vl_text"}))
def test_linear_attention_in_chunks(kind: str) -> None:
    """All but the scan and the short convolution is equal; the scan's products are derived by hand."""
    rng = random.Random(kind)
    for _ in range(3):
        table = FAMILIES.small(kind, rng)
        if "kv_lora_rank" in table:
            table["num_key_value_heads"] = table["num_attention_heads"]
        config = FAMILIES.CONFIG_MAPPING[kind](**table)
        model = model_from_config(config.to_dict(), name=kind)
        built = build(config, "eager", "cpu").eval()
        seq = 128
        ids = torch.randint(1, model.vocab, (BATCH, seq))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            built(input_ids=ids, use_cache=False)
        by_op = counter.get_flop_counts()["Global"]
        convolved = by_op.get(torch.ops.aten.convolution, 0)
        rest = flops(model, Training(batch=BATCH, seq=seq))["forward"]
        assert rest + scanned(model, seq) == counter.get_total_flops() - convolved


# Products of transformers' eager scans per head and token, in multiples of chunk · key_dim, of chunk ·
# value_dim and of key_dim · value_dim. What is none of torch's products there: the two triangular systems
# of the gated delta rule (solved, where kernels multiply by an inverse: 2 and 2), the scores of Kimi's
# (sums of elementwise products, each feature having its own decay: 2 of queries and 2 of keys with keys).
EAGER_SCANS = {"gated_delta": (4, 2, 6), "kimi_delta": (2, 4, 6), "lightning": (2, 2, 4)}
KERNELS = {"gated_delta": (6, 4, 6), "kimi_delta": (6, 4, 6), "lightning": (2, 2, 4)}


def scanned(model: Model, seq: int) -> int:
    """FLOPs that torch counts in the model's scans; those of ours are looked at beside."""
    total = 0
    for block, layers in zip(model.blocks, model.kind_counts(), strict=True):
        r = block.recurrent
        if r is None:
            continue
        delta = "delta" in r.rule
        chunk = min(64 if delta else 256, seq)
        sizes = (chunk * r.key_dim, chunk * r.value_dim, r.key_dim * r.value_dim)
        rows = BATCH * seq * r.heads
        total += layers * rows * sum(map(mul, EAGER_SCANS[r.rule], sizes))
        (scan,) = scans(model, block, seq)
        inverse = chunk * chunk if delta else 0
        assert scan.flops == rows * (sum(map(mul, KERNELS[r.rule], sizes)) + inverse)
        steps = 7 if delta else 5  # decay 1, outer product 2, read out 2; what the key stored 2
        assert scan.model_flops == rows * steps * r.key_dim * r.value_dim
    return total


def scans(model: Model, block: Any, seq: int) -> list[Any]:
    layout = Layouts(tp=np.int64(1), micro_batch=np.int64(BATCH))
    built = program(model, EAGER, Training(batch=BATCH, seq=seq), layout)
    ops = built.layers[model.blocks.index(block)]
    return [op for op in ops if op.kind == "recurrence" and op.phase == "forward"]


def test_narrow_table() -> None:
    """OPT-350m: a table narrower than the layers, with a projection in and one out."""
    config = AutoConfig.for_model(
        "opt", hidden_size=64, num_attention_heads=4, ffn_dim=96, num_hidden_layers=2,
        vocab_size=300, word_embed_proj_dim=16, max_position_embeddings=SEQ,
    )  # fmt: skip
    model = model_from_config(config.to_dict(), name="opt")
    built = build(config, "eager", "cpu")
    ids = torch.randint(1, 300, (BATCH, 24))
    forward, out = counted(lambda: built(input_ids=ids, use_cache=False))
    backward, _ = counted(lambda: out.logits.sum().backward())
    ours = flops(model, Training(batch=BATCH, seq=24))
    assert (ours["forward"], ours["dgrad"] + ours["wgrad"]) == (forward, backward)


def test_presets_have_the_widths_of_their_publishers() -> None:
    """What the tests above cut to a few layers is the preset that users get."""
    for preset in ("llama-3-8b", "mixtral-8x7b"):
        _, cut = config_of(preset, layers=2)
        assert cut.blocks == load_model(preset).blocks
