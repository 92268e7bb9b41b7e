"""Lists of modules as publishers write them: read whole, and what they leave wide."""

from __future__ import annotations

from typing import Any

import pytest

from meshwise.errors import InputError
from meshwise.models.families.config import model_from_config
from meshwise.models.shapes import LayerFormats, Model

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 5000,
}  # fmt: skip
MOE = {
    "model_type": "qwen3_moe", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4,
    "moe_intermediate_size": 512, "num_experts": 8, "num_experts_per_tok": 2,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 5000,
}  # fmt: skip
CT = {"quant_method": "compressed-tensors", "config_groups": {
    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}}}  # fmt: skip


def layers(
    config: dict[str, Any], quantization: dict[str, Any]
) -> tuple[Model, list[LayerFormats]]:
    model = model_from_config({**config, "quantization_config": quantization}, name="test")
    return model, [model.blocks[kind].stored for kind in model.pattern]


def roles(stored: LayerFormats) -> set[str]:
    return {name for name in stored.__struct_fields__ if getattr(stored, name) is not None}


DENSE = {"attention", "output", "up", "down"}
ROUTED = {"attention", "output", "expert_up", "expert_down"}


@pytest.mark.parametrize(
    ("config", "quantization", "want"),
    [
        # RedHatAI's Llama 4: names of classes beside patterns
        (LLAMA, {**CT, "ignore": ["re:.*lm_head", "re:.*router", "re:.*vision_model",
                                  "re:.*multi_modal_projector", "Llama4TextAttention"]}, {"up", "down"}),
        # GPTQModel's Qwen3.5: entries that change nothing, and what is left out
        (MOE, {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": False, "dynamic": {
            "lm_head": {}, "model.language_model.embed_tokens": {}, "-:.*attn.*": {},
            "-:.*shared_expert.*": {}, "-:.*mtp.*": {}, "-:.*visual.*": {}}}, {"expert_up", "expert_down"}),
        # MiniMax-M2
        (MOE, {"quant_method": "fp8", "weight_block_size": [128, 128],
               "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"]}, ROUTED),
        # AWQ of mixtures: names that end in a dot
        (MOE, {"quant_method": "awq", "bits": 4, "group_size": 128,
               "modules_to_not_convert": ["self_attn.", "mlp.gate.", "norm", "visual", "lm_head"]},
         {"expert_up", "expert_down"}),
        # Qwen3-30B-A3B-FP8: every norm and router by name
        (MOE, {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": [
            "lm_head", *(f"model.layers.{i}.{m}" for i in range(4)
                         for m in ("input_layernorm", "post_attention_layernorm", "mlp.gate"))]}, ROUTED),
        # ModelOpt's DeepSeek lists: modules that engines fuse
        (LLAMA, {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": [
            "lm_head", "model.layers.*.self_attn.fused_a*", "model.layers.*.self_attn.kv_b_proj*",
            "model.layers.4*"]}, DENSE),
        # unsloth's bitsandbytes
        (LLAMA, {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": [
            "lm_head", "multi_modal_projector", "merger", "modality_projection", "router", "visual",
            "vision_tower", "score", "classifier", "qa_outputs"]}, DENSE),
        # AMD's Quark
        (MOE, {"quant_method": "quark", "exclude": ["lm_head", "*mlp.gate", "*self_attn*"],
               "global_quant_config": {"weight": [{"dtype": "fp4", "qscheme": "per_group", "group_size": 32}],
                                       "input_tensors": {"dtype": "fp4"}}}, {"expert_up", "expert_down"}),
        # Nemotron's backbone, with modules of other kinds of layer
        (LLAMA, {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": [
            "lm_head", "backbone.layers.*.mixer.conv1d", "backbone.layers.0.mixer.in_proj"]}, DENSE),
    ],
)  # fmt: skip
def test_what_is_quantised(
    config: dict[str, Any], quantization: dict[str, Any], want: set[str]
) -> None:
    model, found = layers(config, quantization)
    assert all(roles(stored) == want for stored in found)
    q = model.quantization
    assert q is not None and q.weight_dtype != "unknown" and q.head is None and q.embedding is None


def test_compressed_tensors_names_single_modules() -> None:
    """Qwen3.6-27B in W4A16: parents stand in the list beside the modules that are left out; the published
    file (github.com/fantasylord/Qwen36, 18.70 GB) has their other products in 4 bit."""
    left = ["model.layers.0.self_attn", "model.layers.0.self_attn.o_proj", "lm_head"]
    _, found = layers(LLAMA, {**CT, "ignore": left})
    assert [roles(stored) for stored in found] == [DENSE - {"output"}, DENSE, DENSE, DENSE]
    _, found = layers(LLAMA, {"quant_method": "fp8", "modules_to_not_convert": left})
    assert roles(found[0]) == {"up", "down"}


def test_the_embedding_and_head_of_mlx() -> None:
    model, _ = layers(
        LLAMA, {"bits": 4, "group_size": 64, "lm_head": {"bits": 8, "group_size": 64}}
    )
    q = model.quantization
    assert q is not None and q.embedding is not None and q.head is not None
    assert (q.embedding.dtype, q.head.dtype) == ("int4", "int8")


def test_experts_beside_a_dense_feed_forward_are_not_in_it() -> None:
    """Arctic's residual MLP and Gemma 4's: left out alone."""
    from meshwise.models.quantization.modules import matrices
    from meshwise.models.shapes import Block, Mlp, Moe

    mlp = Mlp(width=64, gated=True)
    both = Block(mlp=mlp, moe=Moe(experts=4, top_k=1, expert=mlp))
    experts = [leaf for m in matrices(both, 32) if m.role == "expert_up" for leaf in m.leaves]
    assert experts and not any(leaf.startswith("mlp.") for leaf in experts)
    alone = [leaf for m in matrices(Block(moe=both.moe), 32) for leaf in m.leaves]
    assert any(leaf.startswith("mlp.experts.0.") for leaf in alone)


def test_an_fp8_checkpoint_whose_experts_are_requantised() -> None:
    """DeepSeek-V4: FP8 in blocks, and experts in MXFP4 by the config or in NVFP4 by ModelOpt."""
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"}
    _, found = layers({**MOE, "expert_dtype": "fp4"}, fp8)
    assert {(s.attention.dtype, s.expert_up.dtype) for s in found} == {("fp8", "mxfp4")}  # type: ignore[union-attr]
    named = {f"layers.{i}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for i in range(4)}
    mixed = {**fp8, "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4", "quantized_layers": named,
             "ignore": ["*.attn.*", "head", "mtp.*"]}  # fmt: skip
    _, found = layers({**MOE, "expert_dtype": "fp4"}, mixed)
    assert {(s.attention.dtype, s.expert_up.dtype) for s in found} == {("fp8", "nvfp4")}  # type: ignore[union-attr]


def test_every_expert_and_index_of_minimax_m3_by_name() -> None:
    """nvidia/MiniMax-M3-NVFP4 names 22,422 modules, each expert's and the products that choose keys among
    them; what only one expert is called means no other layer's."""
    sizes = {
        "model_type": "minimax_m3_vl_text", "hidden_size": 512, "intermediate_size": 256,
        "dense_intermediate_size": 1024, "shared_intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 5000,
        "num_local_experts": 16, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "first_k_dense_replace": 0, "index_n_heads": 2, "index_head_dim": 64,
        "index_topk_blocks": 16, "index_block_size": 128, "layer_types": ["minimax_m3_sparse"] * 3,
        "mlp_layer_types": ["sparse"] * 3,
    }  # fmt: skip
    heads = [f"{m}_proj" for m in ("index_q", "index_k", "q", "k", "v", "o")]
    named = {f"layers.{i}.self_attn.{m}": {"quant_algo": "MXFP8"} for i in range(2) for m in heads}
    named |= {
        f"layers.{i}.block_sparse_moe.experts.{e}.w{w}": {"quant_algo": "NVFP4", "group_size": 16}
        for i in range(3) for e in range(16) for w in (1, 2, 3)
    }  # fmt: skip
    modelopt = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": named,
    }
    _, found = layers(sizes, modelopt)
    both = [(s.attention and s.attention.dtype, s.expert_up and s.expert_up.dtype) for s in found]
    assert both == [("mxfp8", "nvfp4"), ("mxfp8", "nvfp4"), (None, "nvfp4")]
    named["layers.2.block_sparse_moe.experts.3.w4"] = {"quant_algo": "NVFP4", "group_size": 16}
    with pytest.raises(InputError, match="w4' matches no module"):
        layers(sizes, modelopt)
