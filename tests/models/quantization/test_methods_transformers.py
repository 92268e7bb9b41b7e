"""Bytes of checkpoints in every method against a second derivation: transformers' modules, looked at one by
one by the rules of each library, with Python's own regular expressions and globs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from typing import Any

import pytest

from meshwise.models.families.config import model_from_config
from meshwise.program.stored import weight_bytes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 5000,
    "tie_word_embeddings": False,
}  # fmt: skip
MOE = {
    "model_type": "qwen3_moe", "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4,
    "moe_intermediate_size": 512, "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [0],
    "decoder_sparse_step": 1, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64,
    "vocab_size": 5000, "tie_word_embeddings": False,
}  # fmt: skip
Bytes = Callable[
    [str, int, int], float | None
]  # of a linear layer (name, inputs, outputs); None: 16 bit


def modules(config: dict[str, Any]) -> list[tuple[str, int, int, int]]:
    """(name, inputs, outputs, other weights) of everything that transformers makes of a config."""
    settings = {k: v for k, v in config.items() if k != "model_type"}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(config["model_type"], **settings)
        )
    found = []
    for name, parameter in model.named_parameters():
        shape, path = tuple(parameter.shape), name.removesuffix(".weight")
        if len(shape) == 3:  # experts as one parameter; in files they are modules of their own
            count, outputs, inputs = shape
            for i in range(count):
                if "gate_up" in path:
                    inside = path.replace("gate_up_proj", f"{i}.gate_proj")
                    found.append((inside, inputs, outputs // 2, 0))
                    found.append((inside.replace("gate_proj", "up_proj"), inputs, outputs // 2, 0))
                else:
                    found.append((path.replace("down_proj", f"{i}.down_proj"), inputs, outputs, 0))
        elif len(shape) == 2:
            found.append((path, shape[1], shape[0], 0))
        else:
            found.append((path, 0, 0, parameter.numel()))
    return found


def derived(config: dict[str, Any], of: Bytes) -> float:
    total = 0.0
    for name, inputs, outputs, rest in modules(config):
        own = None
        if inputs and not name.endswith("mlp.gate"):  # routers are left by all but MLX
            own = of(name, inputs, outputs)
        total += 2.0 * (inputs * outputs + rest) if own is None else own
    return total


def counted(config: dict[str, Any], quantization: dict[str, Any]) -> float:
    model = model_from_config({**config, "quantization_config": quantization}, name="test")
    return next(iter(weight_bytes(model).values()))


def grouped(bits: float, group: int, scale: float) -> Callable[[int, int], float]:
    return lambda k, n: k * n * bits / 8 + k // group * n * scale


def linear(name: str) -> bool:
    return "embed_tokens" not in name and name != "lm_head"


INT4 = {"num_bits": 4, "type": "int", "group_size": 128, "symmetric": False}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}


def several_groups(name: str, k: int, n: int) -> float | None:
    if name == "lm_head" or re.match(r".*layers\.(0|3)\..*", name) or not linear(name):
        return None
    if re.match(r".*mlp.*", name):
        return grouped(4, 128, 2.5)(k, n)
    return float(k * n) if re.match(r".*self_attn\.(q|k|v)_proj$", name) else None


def head_too(name: str, k: int, n: int) -> float | None:
    return None if "embed_tokens" in name else grouped(4, 128, 2.0)(k, n)


def first_and_last(name: str, k: int, n: int) -> float | None:
    left = "self_attn" in name or ".layers.0." in name or ".layers.3." in name
    return None if left or not linear(name) else float(k * n)


EXCLUDED = ["lm_head", "model.layers.0.*", "*o_proj*", "model.layers.2.self_attn*"]


def nvfp4(name: str, k: int, n: int) -> float | None:
    left = any(fnmatch.fnmatch(name, glob) for glob in EXCLUDED) or not linear(name)
    return None if left else grouped(4, 16, 1.0)(k, n)


def dynamic(name: str, k: int, n: int) -> float | None:
    if not linear(name) or re.match(r".*\.1\..*self_attn.*", name):
        return None
    if re.match(r".*down_proj", name):
        return grouped(8, 64, 3.0)(k, n) + 4 * k
    return grouped(4, 128, 2.5)(k, n) + 4 * k  # and the group of each input


def one_module(name: str, k: int, n: int) -> float | None:
    own = {"model.layers.1.self_attn.k_proj": None, "model.layers.2.mlp.up_proj": 8}
    if not linear(name):
        return None
    bits = own.get(name, 4)
    return None if bits is None else grouped(bits, 128, 2 + bits / 8)(k, n)


def blocks_of_fp8(name: str, k: int, n: int) -> float | None:
    left = not linear(name) or name.startswith("model.layers.1.self_attn") or ".layers.3." in name
    return None if left else k * n + k * n / 128**2 * 4.0


def nested_nf4(name: str, k: int, n: int) -> float | None:
    left = (
        not linear(name)
        or name.startswith("model.layers.0.self_attn")
        or "layers.1.mlp.down" in name
    )
    return None if left else grouped(4, 64, 1 + 4 / 256)(k, n)


def by_projection(name: str, k: int, n: int) -> float | None:
    if not linear(name):
        return None
    if ".self_attn." in name:
        return grouped(8, 64, 4.0)(k, n) if name.endswith(("q_proj", "k_proj")) else None
    return grouped(4, 32, 4.0)(k, n) if name.endswith("up_proj") else None


def by_fqn(name: str, k: int, n: int) -> float | None:
    if name == "model.layers.0.self_attn.q_proj":
        return float(k * n)
    if name == "lm_head":
        return grouped(8, 32, 4.0)(k, n)
    return None if "embed" in name else grouped(4, 64, 4.0)(k, n)


def quark(name: str, k: int, n: int) -> float | None:
    if not linear(name) or fnmatch.fnmatch(name, "*self_attn.o_proj"):
        return None
    if fnmatch.fnmatch(name, "*down_proj"):
        return float(k * n)
    return grouped(4, 32, 1.0)(k, n)


def of_experts(name: str, k: int, n: int) -> float | None:
    return grouped(4, 32, 1.0)(k, n) if ".experts." in name else None


def everything(name: str, k: int, n: int) -> float | None:
    if name == "model.layers.2.mlp.down_proj":
        return grouped(8, 32, 4.0)(k, n)
    return None if name == "model.layers.3.self_attn.v_proj" else grouped(4, 64, 4.0)(k, n)


def codes(name: str, k: int, n: int) -> float | None:
    # two codebooks of 2^8 vectors of 8 weights in 16 bit, and a scale per output
    return None if not linear(name) else k * n / 8 * 2 + 2 * 2**8 * 8 * 2 + 2 * n


CASES: list[tuple[str, dict[str, Any], dict[str, Any], Bytes]] = [
    ("compressed-tensors, several groups", LLAMA, {
        "quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*layers\\.(0|3)\\..*"],
        "config_groups": {"a": {"targets": ["re:.*mlp.*"], "weights": INT4},
                          "b": {"targets": ["re:.*self_attn\\.(q|k|v)_proj$"], "weights": FP8}}}, several_groups),
    ("compressed-tensors, the head too", LLAMA, {
        "quant_method": "compressed-tensors", "ignore": [], "config_groups": {
            "a": {"targets": ["Linear"], "weights": {**INT4, "symmetric": True}}}}, head_too),
    ("compressed-tensors, of experts", MOE, {
        "quant_method": "compressed-tensors", "ignore": ["re:.*self_attn.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
                                                         "re:.*lm_head.*"], "config_groups": {
            "a": {"targets": ["Linear"], "input_activations": None,
                  "weights": {"num_bits": 4, "type": "float", "group_size": 32}}}}, of_experts),
    ("fbgemm_fp8", LLAMA, {
        "quant_method": "fbgemm_fp8", "modules_to_not_convert": [
            *(f"model.layers.{i}.self_attn.{p}_proj" for i in range(4) for p in "qkvo"),
            *(f"model.layers.{i}.mlp.{p}_proj" for i in (0, 3) for p in ("gate", "up", "down")), "lm_head"]},
        first_and_last),
    ("ModelOpt with globs", MOE, {
        "quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "exclude_modules": EXCLUDED}, nvfp4),
    ("GPTQModel, dynamic", LLAMA, {
        "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "dynamic": {
            "-:.*\\.1\\..*self_attn.*": {}, "+:.*down_proj": {"bits": 8, "group_size": 64}}}, dynamic),
    ("auto-round, extra_config", LLAMA, {
        "quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {
            "model.layers.1.self_attn.k_proj": {"bits": 16, "data_type": "float"},
            "model.layers.2.mlp.up_proj": {"bits": 8}}}, one_module),
    ("FP8 in blocks", MOE, {
        "quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": [
            "lm_head", "model.layers.1.self_attn", "model.layers.3", "model.layers.2.mlp.gate",
            "model.layers.2.input_layernorm"]}, blocks_of_fp8),
    ("bitsandbytes", LLAMA, {
        "quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True,
        "llm_int8_skip_modules": ["lm_head", "multi_modal_projector", "merger", "model.layers.0.self_attn",
                                  "model.layers.1.mlp.down_proj"]}, nested_nf4),
    ("HQQ by projection", LLAMA, {
        "quant_method": "hqq", "skip_modules": ["lm_head"], "quant_config": {
            "self_attn.q_proj": {"weight_quant_params": {"nbits": 8, "group_size": 64}},
            "self_attn.k_proj": {"weight_quant_params": {"nbits": 8, "group_size": 64}},
            "mlp.up_proj": {"weight_quant_params": {"nbits": 4, "group_size": 32}}}}, by_projection),
    ("torchao by module", LLAMA, {
        "quant_method": "torchao", "quant_type": {"default": {"_type": "ModuleFqnToConfig", "_data": {
            "module_fqn_to_config": {
                "_default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}},
                "model.layers.0.self_attn.q_proj": {"_type": "Float8WeightOnlyConfig", "_data": {}},
                "lm_head": {"_type": "IntxWeightOnlyConfig", "_data": {
                    "weight_dtype": {"_type": "torch.dtype", "_data": "int8"},
                    "granularity": {"_type": "PerGroup", "_data": {"group_size": 32}}}}}}}}}, by_fqn),
    ("Quark by layer", MOE, {
        "quant_method": "quark", "exclude": ["lm_head", "*self_attn.o_proj"],
        "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32, "scale_format": "e8m0"}},
        "layer_quant_config": {"*down_proj": {"weight": {"dtype": "fp8_e4m3"}}}}, quark),
    ("AQLM", LLAMA, {
        "quant_method": "aqlm", "in_group_size": 8, "out_group_size": 1, "num_codebooks": 2,
        "nbits_per_codebook": 8, "linear_weights_not_to_quantize": ["lm_head.weight", "model.norm.weight"]}, codes),
    ("MLX by module", LLAMA, {
        "bits": 4, "group_size": 64, "mode": "affine", "model.layers.2.mlp.down_proj": {"bits": 8, "group_size": 32},
        "model.layers.3.self_attn.v_proj": False}, everything),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "quantization", "of"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bytes_by_module(config: dict[str, Any], quantization: dict[str, Any], of: Bytes) -> None:
    assert counted(config, quantization) == pytest.approx(derived(config, of), rel=1e-9)
