"""Publishers' own names, which transformers does not write: the modules of their checkpoints by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.deep import deep
from tests.models.checkpoint import layouts, written
from tests.models.checkpoint.written import Shape

import meshwise as mw
from meshwise.models.config_file import load_model_file
from meshwise.models.parameters import block_weights, parameters
from meshwise.program.stored import weight_bytes

DOCS = Path(__file__).parents[3] / "docs"
CONFIGS = Path(__file__).parents[2] / "data" / "configs"
Tensors = dict[str, Shape]


def bf16(*shape: int) -> Shape:
    return ("BF16", list(shape))


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((CONFIGS / f"{name}.json").read_text()), **changes}


def baichuan() -> tuple[dict[str, Any], Tensors]:
    c = config("Baichuan2-7B-Chat")
    h, w, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    found = {"model.embed_tokens.weight": bf16(v, h), "model.norm.weight": bf16(h)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found |= {
            f"{at}.self_attn.W_pack.weight": bf16(3 * h, h),
            f"{at}.self_attn.o_proj.weight": bf16(h, h),
            f"{at}.self_attn.rotary_emb.inv_freq": ("F32", [64]),
            f"{at}.mlp.gate_proj.weight": bf16(w, h),
            f"{at}.mlp.up_proj.weight": bf16(w, h),
            f"{at}.mlp.down_proj.weight": bf16(h, w),
            f"{at}.input_layernorm.weight": bf16(h),
            f"{at}.post_attention_layernorm.weight": bf16(h),
        }
    return c, found | {"lm_head.weight": bf16(v, h)}


def chatglm() -> tuple[dict[str, Any], Tensors]:
    c = config("chatglm3-6b", torch_dtype="bfloat16")
    h, w, v = c["hidden_size"], c["ffn_hidden_size"], c["padded_vocab_size"]
    kv = c["multi_query_group_num"] * c["kv_channels"]
    found = {
        "transformer.embedding.word_embeddings.weight": bf16(v, h),
        "transformer.rotary_pos_emb.inv_freq": ("F32", [32]),
        "transformer.encoder.final_layernorm.weight": bf16(h),
        "transformer.output_layer.weight": bf16(v, h),
    }
    for i in range(c["num_layers"]):
        at = f"transformer.encoder.layers.{i}"
        found |= {
            f"{at}.self_attention.query_key_value.weight": bf16(h + 2 * kv, h),
            f"{at}.self_attention.query_key_value.bias": bf16(h + 2 * kv),
            f"{at}.self_attention.dense.weight": bf16(h, h),
            f"{at}.mlp.dense_h_to_4h.weight": bf16(2 * w, h),
            f"{at}.mlp.dense_4h_to_h.weight": bf16(h, w),
            f"{at}.input_layernorm.weight": bf16(h),
            f"{at}.post_attention_layernorm.weight": bf16(h),
        }
    return c, found


def internlm2() -> tuple[dict[str, Any], Tensors]:
    c = config("internlm2-7b", torch_dtype="bfloat16")
    h, w, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = c["num_key_value_heads"] * h // c["num_attention_heads"]
    found = {"model.tok_embeddings.weight": bf16(v, h), "model.norm.weight": bf16(h)}
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        found |= {
            f"{at}.attention.wqkv.weight": bf16(h + 2 * kv, h),
            f"{at}.attention.wo.weight": bf16(h, h),
            f"{at}.feed_forward.w1.weight": bf16(w, h),
            f"{at}.feed_forward.w3.weight": bf16(w, h),
            f"{at}.feed_forward.w2.weight": bf16(h, w),
            f"{at}.attention_norm.weight": bf16(h),
            f"{at}.ffn_norm.weight": bf16(h),
        }
    return c, found | {"output.weight": bf16(v, h)}


def qwen() -> tuple[dict[str, Any], Tensors]:
    h, w, v, layers = 256, 352, 1000, 2
    c = {
        "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "hidden_size": h,
        "intermediate_size": 2 * w, "num_attention_heads": 4, "num_hidden_layers": layers,
        "kv_channels": 64, "vocab_size": v, "no_bias": True, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }  # fmt: skip
    found = {"transformer.wte.weight": bf16(v, h), "transformer.ln_f.weight": bf16(h)}
    for i in range(layers):
        at = f"transformer.h.{i}"
        found |= {
            f"{at}.attn.c_attn.weight": bf16(3 * h, h),
            f"{at}.attn.c_attn.bias": bf16(3 * h),
            f"{at}.attn.c_proj.weight": bf16(h, h),
            f"{at}.mlp.w1.weight": bf16(w, h),
            f"{at}.mlp.w2.weight": bf16(w, h),
            f"{at}.mlp.c_proj.weight": bf16(h, w),
            f"{at}.ln_1.weight": bf16(h),
            f"{at}.ln_2.weight": bf16(h),
        }
    return c, found | {"lm_head.weight": bf16(v, h)}


def falcon() -> tuple[dict[str, Any], Tensors]:
    """The hub's file has the head beside the table that it is tied to."""
    c = config("falcon-40b", torch_dtype="bfloat16")
    h, v = c["hidden_size"], c["vocab_size"]
    q = h + 2 * c["num_kv_heads"] * (h // c["num_attention_heads"])
    found = {
        "transformer.word_embeddings.weight": bf16(v, h),
        "lm_head.weight": bf16(v, h),
        "transformer.ln_f.weight": bf16(h),
        "transformer.ln_f.bias": bf16(h),
    }
    for i in range(c["num_hidden_layers"]):
        at = f"transformer.h.{i}"
        for norm in ("ln_attn", "ln_mlp"):
            found |= {f"{at}.{norm}.weight": bf16(h), f"{at}.{norm}.bias": bf16(h)}
        found |= {
            f"{at}.self_attention.query_key_value.weight": bf16(q, h),
            f"{at}.self_attention.dense.weight": bf16(h, h),
            f"{at}.mlp.dense_h_to_4h.weight": bf16(4 * h, h),
            f"{at}.mlp.dense_4h_to_h.weight": bf16(h, 4 * h),
        }
    return c, found


PUBLISHED: dict[str, Callable[[], tuple[dict[str, Any], Tensors]]] = {
    "baichuan": baichuan, "chatglm": chatglm, "internlm2": internlm2, "qwen": qwen, "falcon": falcon,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_derived(name: str, tmp_path: Path) -> None:
    stated, tensors = PUBLISHED[name]()
    total = written.folder_of(tmp_path, tensors, stated)
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences
    assert found.parameters == parameters(model) and found.total_bytes == total
    for group in found.groups:
        assert group.parameters == group.checkpoint_parameters, group
        assert group.bytes == group.checkpoint_bytes, group
    assert {a.what for a in found.apart} <= {"buffers", "tied_copies"}
    (tmp_path / "model.safetensors").rename(tmp_path / "kept")
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(tensors, "a")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    listed = load_model_file(tmp_path).checkpoint
    assert listed is not None and not listed.differences
    for other in (total // 2, total * 2):
        index["metadata"] = {"total_size": other}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        unlike = load_model_file(tmp_path)
        assert unlike.checkpoint is not None and f"total_size {other:,}" in unlike.asked
        assert [d.kind for d in unlike.checkpoint.differences] == ["bytes"]


def deepseek_v3(c: dict[str, Any]) -> Tensors:
    """FP8 in blocks; embedding, head, norms and routers in 16 bits; a layer of multi-token prediction."""
    h, q, kv, r, heads = 7168, 1536, 512, 64, 128
    layers, experts = c["num_hidden_layers"], c["n_routed_experts"]
    found = {"model.embed_tokens.weight": bf16(129280, h)}

    def product(path: str, n: int, k: int) -> None:
        found.update({f"{path}.{kind}": t for kind, t in layouts.fp8_blocks(n, k).items()})

    def mlp(path: str, width: int) -> None:
        product(f"{path}.gate_proj", width, h)
        product(f"{path}.up_proj", width, h)
        product(f"{path}.down_proj", h, width)

    for i in range(layers + 1):
        at = f"model.layers.{i}"
        product(f"{at}.self_attn.q_a_proj", q, h)
        product(f"{at}.self_attn.q_b_proj", heads * 192, q)
        product(f"{at}.self_attn.kv_a_proj_with_mqa", kv + r, h)
        product(f"{at}.self_attn.kv_b_proj", heads * 256, kv)
        product(f"{at}.self_attn.o_proj", h, heads * 128)
        found |= {
            f"{at}.self_attn.q_a_layernorm.weight": bf16(q),
            f"{at}.self_attn.kv_a_layernorm.weight": bf16(kv),
            f"{at}.input_layernorm.weight": bf16(h),
            f"{at}.post_attention_layernorm.weight": bf16(h),
        }
        if i < 3:
            mlp(f"{at}.mlp", 18432)
            continue
        found[f"{at}.mlp.gate.weight"] = bf16(experts, h)
        found[f"{at}.mlp.gate.e_score_correction_bias"] = ("F32", [experts])
        mlp(f"{at}.mlp.shared_experts", 2048)
        for e in range(experts):
            mlp(f"{at}.mlp.experts.{e}", 2048)
    at = f"model.layers.{layers}"
    return found | {
        f"{at}.embed_tokens.weight": bf16(129280, h),
        f"{at}.enorm.weight": bf16(h),
        f"{at}.hnorm.weight": bf16(h),
        f"{at}.eh_proj.weight": bf16(h, 2 * h),
        f"{at}.shared_head.norm.weight": bf16(h),
        f"{at}.shared_head.head.weight": bf16(129280, h),
        "model.norm.weight": bf16(h),
        "lm_head.weight": bf16(129280, h),
    }


ON_THE_HUB = 688_586_727_753  # bytes of deepseek-ai/DeepSeek-V3's 163 files, their headers included


@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 5, "n_routed_experts": 16}, deep({})])
def test_deepseek_v3(sizes: dict[str, int], tmp_path: Path) -> None:
    """As published: 671B weights and their scales, and 14B of a layer that is not counted; and of few layers."""
    c = config("DeepSeek-V3", **sizes)
    tensors = deepseek_v3(c)
    total = written.folder_of(tmp_path, tensors, c)
    if not sizes:
        headers = ON_THE_HUB - total
        assert 100 < headers / len(tensors) < 160  # bytes of a tensor's entry
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences
    assert (found.total_bytes, found.parameters) == (total, parameters(model))
    assert sizes or found.parameters == 671_026_404_352
    apart = {a.what: a for a in found.apart}
    tables = 2 * 129280 * 7168  # copies of embedding and head, which engines share
    layer = block_weights(model.blocks[1], 7168).total + 7168 * 2 * 7168 + 3 * 7168
    assert apart["mtp"].parameters == layer + tables
    stored = weight_bytes(model)["fp8 checkpoint"]
    assert stored == pytest.approx(found.bytes, rel=1e-12)
    if not sizes:
        shown = str(mw.describe(model)).splitlines()
        first = next(i for i, line in enumerate(shown) if line.startswith("modules "))
        page = (DOCS / "how-to" / "custom-model.md").read_text()
        assert "\n".join(shown[first : first + 14]) in page
    assert stored == total - (apart["mtp"].bytes or 0) - (apart["buffers"].bytes or 0)


def gpt_oss(c: dict[str, Any]) -> Tensors:
    """Experts in MXFP4, one tensor for all of a layer; the rest in 16 bits."""
    h, w, v, n = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["num_local_experts"]
    dim = c["head_dim"]
    found = {
        "model.embed_tokens.weight": bf16(v, h),
        "model.norm.weight": bf16(h),
        "lm_head.weight": bf16(v, h),
    }
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        for name, heads in (("q", 64), ("k", 8), ("v", 8)):
            found[f"{at}.self_attn.{name}_proj.weight"] = bf16(heads * dim, h)
            found[f"{at}.self_attn.{name}_proj.bias"] = bf16(heads * dim)
        for name, rows, columns in (("gate_up_proj", 2 * w, h), ("down_proj", h, w)):
            experts = f"{at}.mlp.experts.{name}"
            found[f"{experts}_blocks"] = ("U8", [n, rows, columns // 32, 16])
            found[f"{experts}_scales"] = ("U8", [n, rows, columns // 32])
            found[f"{experts}_bias"] = bf16(n, rows)
        found |= {
            f"{at}.self_attn.o_proj.weight": bf16(h, 64 * dim),
            f"{at}.self_attn.o_proj.bias": bf16(h),
            f"{at}.self_attn.sinks": bf16(64),
            f"{at}.mlp.router.weight": bf16(n, h),
            f"{at}.mlp.router.bias": bf16(n),
            f"{at}.input_layernorm.weight": bf16(h),
            f"{at}.post_attention_layernorm.weight": bf16(h),
        }
    return found


def test_gpt_oss(tmp_path: Path) -> None:
    """As published: 459 tensors of 13,761,264,768 bytes (``total_size`` of its index)."""
    c = config("gpt-oss-20b")
    tensors = gpt_oss(c)
    assert len(tensors) == 459
    assert written.folder_of(tmp_path, tensors, c) == 13_761_264_768
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences and not found.apart
    assert (found.total_bytes, found.parameters) == (13_761_264_768, parameters(model))
    assert weight_bytes(model)["mxfp4 checkpoint"] == pytest.approx(13_761_264_768, rel=1e-12)
    assert model == load_model_file(tmp_path)
    for group in found.groups:
        assert group.bytes == pytest.approx(group.checkpoint_bytes)


@pytest.mark.parametrize("bits", [4, 8])
def test_mlx(tmp_path: Path, bits: int) -> None:
    """Embedding and head are quantised too."""
    layout = layouts.mlx(bits)
    tensors = written.llama(layout)
    for name in ("model.embed_tokens", "lm_head"):
        del tensors[f"{name}.weight"]
        table = layout(written.VOCAB, written.HIDDEN)
        tensors |= {f"{name}.{kind}": t for kind, t in table.items()}
    stated = {**written.LLAMA, "quantization": {"group_size": 64, "bits": bits}}
    total = written.folder_of(tmp_path, tensors, stated)
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences
    assert (found.total_bytes, found.parameters) == (total, parameters(model))
    stored = next(v for k, v in weight_bytes(model).items() if k.endswith("checkpoint"))
    assert stored == pytest.approx(total, rel=1e-12)
    q = model.quantization
    assert q is not None and q.embedding is not None and q.head is not None
    assert (q.embedding.dtype, q.embedding.group) == (f"int{bits}", 64)


@pytest.mark.parametrize("name", ["w4a16", "fp8-blocks", "nvfp4", "gptq-4"])
def test_experts_by_number(tmp_path: Path, name: str) -> None:
    """A format of the experts alone, as Kimi's and most experts' checkpoints have it."""
    case = layouts.CASES[name]
    h, w, n, layers, v = 512, 256, 8, 2, 1024
    c = {
        "model_type": "qwen3_moe", "hidden_size": h, "intermediate_size": 1024, "num_experts": n,
        "moe_intermediate_size": w, "num_experts_per_tok": 2, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": v,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "decoder_sparse_step": 1,
        "mlp_only_layers": [], "norm_topk_prob": True,
    }  # fmt: skip
    tensors = {
        "model.embed_tokens.weight": bf16(v, h),
        "model.norm.weight": bf16(h),
        "lm_head.weight": bf16(v, h),
    }
    for i in range(layers):
        at = f"model.layers.{i}"
        for q, rows in (("q", h), ("k", 256), ("v", 256), ("o", h)):
            tensors[f"{at}.self_attn.{q}_proj.weight"] = bf16(rows, h)
        for norm, size in (("self_attn.q_norm", 64), ("self_attn.k_norm", 64),
                           ("input_layernorm", h), ("post_attention_layernorm", h)):  # fmt: skip
            tensors[f"{at}.{norm}.weight"] = bf16(size)
        tensors[f"{at}.mlp.gate.weight"] = bf16(n, h)
        for e in range(n):
            for product, rows, columns in (
                ("gate_proj", w, h), ("up_proj", w, h), ("down_proj", h, w),
            ):  # fmt: skip
                for kind, tensor in case.layout(rows, columns).items():
                    tensors[f"{at}.mlp.experts.{e}.{product}.{kind}"] = tensor
    total = written.folder_of(tmp_path, tensors, {**c, "quantization_config": case.config})
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None
    assert {(d.kind, d.group) for d in found.differences} == {("format", "attention")}
    assert (found.total_bytes, found.parameters) == (total, parameters(model))
    stored = next(v for k, v in weight_bytes(model).items() if k.endswith("checkpoint"))
    assert stored == pytest.approx(total, rel=1e-12)
    (block,) = model.blocks
    assert block.stored.attention is None
    assert block.stored.expert_up is not None and block.stored.expert_up.dtype == case.dtype
