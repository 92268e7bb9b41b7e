"""Linear layers as public formats store them: GPTQ, AWQ, compressed-tensors, ModelOpt, FP8, bitsandbytes,
MLX, EXL2, EXL3, AQLM, HQQ."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.models.checkpoint.written import Layout, Shape


class Case(NamedTuple):
    layout: Layout
    config: dict[str, Any]  # quantization_config
    dtype: str
    group: int | None = None
    block: tuple[int, int] | None = None


def up(a: int, b: int) -> int:
    return -(-a // b)


def gptq(bits: int, group: int) -> Layout:
    def layout(n: int, k: int) -> dict[str, Shape]:
        groups = k // group if group > 0 else 1
        return {
            "qweight": ("I32", [k * bits // 32, n]),
            "qzeros": ("I32", [groups, n * bits // 32]),
            "scales": ("F16", [groups, n]),
            "g_idx": ("I32", [k]),
        }

    return layout


def awq(n: int, k: int) -> dict[str, Shape]:
    return {
        "qweight": ("I32", [k, n // 8]),
        "qzeros": ("I32", [k // 128, n // 8]),
        "scales": ("F16", [k // 128, n]),
    }


def packed(bits: int, group: int, zeros: bool = False) -> Layout:
    def layout(n: int, k: int) -> dict[str, Shape]:
        groups = k // group if group > 0 else 1
        found: dict[str, Shape] = {
            "weight_packed": ("I32", [n, k * bits // 32]),
            "weight_scale": ("BF16", [n, groups]),
            "weight_shape": ("I64", [2]),
        }
        if zeros:
            found["weight_zero_point"] = ("I32", [n * bits // 32, groups])
        return found

    return layout


def nvfp4_packed(n: int, k: int) -> dict[str, Shape]:
    return {
        "weight_packed": ("U8", [n, k // 2]),
        "weight_scale": ("F8_E4M3", [n, k // 16]),
        "weight_global_scale": ("F32", [1]),
        "input_global_scale": ("F32", [1]),
    }


def nvfp4(n: int, k: int) -> dict[str, Shape]:
    return {
        "weight": ("U8", [n, k // 2]),
        "weight_scale": ("F8_E4M3", [n, k // 16]),
        "weight_scale_2": ("F32", []),
        "input_scale": ("F32", []),
    }


def fp8_blocks(n: int, k: int) -> dict[str, Shape]:
    return {
        "weight": ("F8_E4M3", [n, k]),
        "weight_scale_inv": ("F32", [up(n, 128), up(k, 128)]),
    }


def fp8_tensor(n: int, k: int) -> dict[str, Shape]:
    one: Shape = ("F32", [])
    return {"weight": ("F8_E4M3", [n, k]), "weight_scale": one, "input_scale": one}


def fp8_channels(n: int, k: int) -> dict[str, Shape]:
    return {"weight": ("F8_E4M3", [n, k]), "weight_scale": ("BF16", [n, 1])}


def int8_channels(n: int, k: int) -> dict[str, Shape]:
    return {"weight": ("I8", [n, k]), "weight_scale": ("BF16", [n, 1])}


def mxfp8(n: int, k: int) -> dict[str, Shape]:
    return {"weight": ("F8_E4M3", [n, k]), "weight_scale": ("U8", [n, k // 32])}


def mxfp4(n: int, k: int) -> dict[str, Shape]:
    return {"weight": ("U8", [n, k // 2]), "weight_scale": ("U8", [n, k // 32])}


def nf4(n: int, k: int) -> dict[str, Shape]:
    blocks = n * k // 64
    return {
        "weight": ("U8", [n * k // 2, 1]),
        "weight.absmax": ("U8", [blocks]),
        "weight.quant_map": ("F32", [16]),
        "weight.nested_absmax": ("F32", [up(blocks, 256)]),
        "weight.nested_quant_map": ("F32", [256]),
        "weight.quant_state.bitsandbytes__nf4": ("U8", [84]),
    }


def int8_bnb(n: int, k: int) -> dict[str, Shape]:
    return {"weight": ("I8", [n, k]), "SCB": ("F32", [n]), "weight_format": ("U8", [])}


def mlx(bits: int) -> Layout:
    def layout(n: int, k: int) -> dict[str, Shape]:
        return {
            "weight": ("U32", [n, k * bits // 32]),
            "scales": ("BF16", [n, k // 64]),
            "biases": ("BF16", [n, k // 64]),
        }

    return layout


def exl2(n: int, k: int) -> dict[str, Shape]:
    """Half of the inputs in four bits, half in five."""
    return {
        "q_weight": ("I32", [k // 2 * 4 // 32 + k // 2 * 5 // 32, n]),
        "q_scale": ("I32", [k // 128, n // 8]),
        "q_scale_max": ("F16", [k // 128]),
        "q_groups": ("I16", [2 * (k // 128)]),
        "q_invperm": ("I32", [k]),
    }


def exl3(n: int, k: int) -> dict[str, Shape]:
    return {
        "trellis": ("I16", [k // 16, n // 16, 16 * 3]),
        "suh": ("F16", [k]),
        "svh": ("F16", [n]),
    }


def aqlm(n: int, k: int) -> dict[str, Shape]:
    """One codebook of 2**16 entries for eight inputs: two bits per weight."""
    return {
        "codes": ("I16", [n, k // 8, 1]),
        "codebooks": ("F16", [1, 65536, 1, 8]),
        "scales": ("F16", [n, 1, 1, 1]),
    }


def hqq(n: int, k: int) -> dict[str, Shape]:
    groups = n * k // 64
    return {
        "W_q": ("U8", [32, groups]),
        "scale": ("BF16", [1, groups]),
        "zero": ("BF16", [1, groups]),
    }


def config_groups(weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, **more}
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


INT4 = {"num_bits": 4, "type": "int", "group_size": 128, "strategy": "group", "symmetric": True}
FP4 = {"num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
BNB4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True,
        "bnb_4bit_quant_type": "nf4"}  # fmt: skip
NARROW = {"input_activations": FP8}
CASES: dict[str, Case] = {
    "gptq-4": Case(gptq(4, 128), {"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", 128),
    "gptq-8": Case(gptq(8, 32), {"quant_method": "gptq", "bits": 8, "group_size": 32}, "int8", 32),
    "gptq-3": Case(gptq(3, 128), {"quant_method": "gptq", "bits": 3, "group_size": 128}, "int3", 128),
    "gptq-whole": Case(gptq(4, -1), {"quant_method": "gptq", "bits": 4, "group_size": -1}, "int4"),
    "awq": Case(awq, {"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 128),
    "w4a16": Case(packed(4, 128), config_groups(INT4), "int4", 128),
    "w4a16-zeros": Case(
        packed(4, 128, True), config_groups({**INT4, "symmetric": False}), "int4", 128
    ),
    "nvfp4-packed": Case(
        nvfp4_packed, config_groups(FP4, input_activations=FP4), "nvfp4", 16
    ),
    "nvfp4": Case(
        nvfp4,
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
        "nvfp4",
        16,
    ),
    "fp8-blocks": Case(
        fp8_blocks,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        "fp8",
        block=(128, 128),
    ),
    "fp8-tensor": Case(
        fp8_tensor,
        {"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": ["lm_head"]},
        "fp8",
    ),
    "fp8-channels": Case(fp8_channels, config_groups(FP8, **NARROW), "fp8"),
    "int8-channels": Case(int8_channels, config_groups(INT8, input_activations=INT8), "int8"),
    "nf4": Case(nf4, BNB4, "int4", 64),
    "int8-bnb": Case(int8_bnb, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
    "exl3": Case(exl3, {"quant_method": "exl3", "bits": 3.0}, "int3"),
    "exl2": Case(exl2, {"quant_method": "exl2", "bits": 4.5}, "int4"),
    "aqlm": Case(aqlm, {"quant_method": "aqlm", "nbits_per_codebook": 16, "in_group_size": 8,
                        "num_codebooks": 1, "out_group_size": 1}, "int2"),
    "hqq": Case(
        hqq,
        {"quant_method": "hqq",
         "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
        "int4",
        64,
    ),
}  # fmt: skip
