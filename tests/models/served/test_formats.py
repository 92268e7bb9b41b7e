"""Names as they are served: the preset, and the format of the publisher's checkpoint, module by module."""

from __future__ import annotations

import pytest

from meshwise import catalog
from meshwise.errors import InputError, UnknownName
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.served.formats import format_table, named_formats
from meshwise.models.shapes import Block, LayerFormats, Model


def stored(model: Model) -> LayerFormats:
    """How the last layer stores its matrices: the first ones may be dense."""
    return model.blocks[model.pattern[-1]].stored


@pytest.mark.parametrize(
    ("name", "preset", "dtype"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b", None),
        ("meta-llama/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b", "fp8"),
        ("nvidia/Llama-3.1-70B-Instruct-NVFP4", "llama-3.1-70b", "nvfp4"),
        ("someone/Llama-3.1-70B-Instruct-AWQ", "llama-3.1-70b", "int4"),
        ("someone/Llama-3.1-70B-Instruct-GPTQ-Int4", "llama-3.1-70b", "int4"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w4a16", "llama-3.1-70b", "int4"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-quantized.w8a8", "llama-3.1-70b", "int8"),
        ("RedHatAI/Meta-Llama-3.1-405B-Instruct-FP8", "llama-3.1-405b", "fp8"),
        ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic", "llama-3.1-70b", "fp8"),
        ("RedHatAI/Llama-3.3-70B-Instruct-NVFP4", "llama-3.3-70b", "nvfp4"),
        ("unsloth/Llama-3.3-70B-Instruct-bnb-4bit", "llama-3.3-70b", "int4"),
        ("mlx-community/Llama-3.3-70B-Instruct-MLX-4bit", "llama-3.3-70b", "int4"),
        ("mlx-community/Qwen3-8B-6bit", "qwen3-8b", "int6"),
        ("amd/Llama-3.3-70B-Instruct-MXFP4-Preview", "llama-3.3-70b", "mxfp4"),
        ("Intel/Qwen3-8B-int4-AutoRound", "qwen3-8b", "int4"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3", "fp8"),
        ("deepseek-ai/DeepSeek-V3.1-Terminus", "deepseek-v3", "fp8"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek-v3.2", "fp8"),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", "qwen3-8b", None),
        ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-v3", "nvfp4"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "qwen3-coder-480b-a35b", "fp8"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "qwen3-30b-a3b", "fp8"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b", "fp8"),
        ("Qwen/Qwen3-32B-FP8-Static-PerTensor", "qwen3-32b", "fp8"),
        ("Qwen/Qwen3.6-35B-A3B", "qwen3.5-35b-a3b", None),
        ("zai-org/GLM-4.7", "glm-4.5", None),
        ("zai-org/GLM-4.7-FP8", "glm-4.5", "fp8"),
        ("zai-org/GLM-5.1-FP8", "glm-5", "fp8"),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5", "int4"),
        ("MiniMaxAI/MiniMax-M2.7", "minimax-m2", "fp8"),
        ("openai/gpt-oss-safeguard-120b", "gpt-oss-120b", "mxfp4"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-3.1-24b", None),
        ("NousResearch/Hermes-4-405B-FP8", "llama-3.1-405b", "fp8"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-NVFP4", "nemotron-3-nano-30b-a3b", "nvfp4"),
        ("nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8", "nemotron-3-super-120b-a12b", "fp8"),
        ("sgl-project/DeepSeek-V4-Flash-FP8", "deepseek-v4-flash", "fp8"),
        ("unsloth/gpt-oss-20b-GGUF:F16", "gpt-oss-20b", "mxfp4"),
        ("bartowski/Qwen_Qwen3-32B-GGUF:Q4_K_M", "qwen3-32b", "q4_k"),
        ("google/gemma-3-27b-it-qat-q4_0-gguf", "gemma-3-27b", "q4_0"),
        ("bartowski/google_gemma-3-27b-it-qat-GGUF:Q4_0", "gemma-3-27b", "q4_0"),
        ("someone/Llama-3.1-8B-Instruct-GGUF:BF16", "llama-3.1-8b", "bf16"),
    ],
)
def test_preset_and_format(name: str, preset: str, dtype: str | None) -> None:
    model = load_model(name)
    found = named_model(name)
    assert found is not None and found.preset == preset
    assert (model.quantization.weight_dtype if model.quantization else None) == dtype
    again = load_model(model.name)  # the name that answers print stands for the same
    assert (again.blocks, again.quantization) == (model.blocks, model.quantization)


def test_blocks_of_the_publishers_fp8() -> None:
    """FP8 in blocks of 128 x 128 does not divide by eight: engines refuse it, and so does TP."""
    own = load_model("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8")
    assert own.quantization is not None and own.quantization.block == (128, 128)
    assert 4 in legal_tp(own, None) and 8 not in legal_tp(own, None)
    channel = load_model("RedHatAI/Qwen3-235B-A22B-FP8-dynamic")
    assert channel.quantization is not None and channel.quantization.block is None
    assert 8 in legal_tp(channel, None)
    glm5, glm4 = load_model("zai-org/GLM-5-FP8"), load_model("zai-org/GLM-4.7-FP8")
    assert glm5.quantization is not None and glm5.quantization.block == (128, 128)
    assert glm4.quantization is not None and glm4.quantization.block is None


@pytest.mark.parametrize(
    ("name", "attention", "output", "shared"),
    [
        ("nvidia/DeepSeek-R1-0528-FP4", None, None, "nvfp4"),
        ("nvidia/DeepSeek-R1-0528-FP4-v2", None, "nvfp4", "nvfp4"),
        ("nvidia/DeepSeek-V3.1-NVFP4", None, "nvfp4", "nvfp4"),
        ("nvidia/Kimi-K2.5-NVFP4", None, None, "nvfp4"),
        ("nvidia/Kimi-K2.6-NVFP4", None, None, None),
        ("nvidia/GLM-5-NVFP4", None, None, "nvfp4"),
        ("nvidia/GLM-5.1-NVFP4", None, None, None),
        ("nvidia/MiniMax-M2.5-NVFP4", None, None, None),
        ("nvidia/Qwen3.5-397B-A17B-NVFP4", None, None, None),
        ("nvidia/Qwen3.6-35B-A3B-NVFP4", "fp8", "fp8", "nvfp4"),
        ("amd/DeepSeek-R1-0528-MXFP4-Preview", None, None, "mxfp4"),
        ("nvidia/DeepSeek-V4-Flash-NVFP4", "fp8", "fp8", "fp8"),
        ("nvidia/DeepSeek-V4-Pro-NVFP4", "fp8", "fp8", "fp8"),
        ("deepseek-ai/DeepSeek-V4-Flash", "fp8", "fp8", "fp8"),
        ("nvidia/MiniMax-M3-NVFP4", "mxfp8", "mxfp8", "mxfp8"),
    ],
)
def test_what_publishers_leave_in_16_bit(
    name: str, attention: str | None, output: str | None, shared: str | None
) -> None:
    """As their hf_quant_config.json files have it, layer by layer."""
    found = stored(load_model(name))
    assert found.expert_up is not None and found.expert_up.dtype in ("nvfp4", "mxfp4")
    assert (found.attention.dtype if found.attention else None) == attention
    assert (found.output.dtype if found.output else None) == output
    assert (found.shared_up.dtype if found.shared_up else None) == shared


@pytest.mark.parametrize(
    "name",
    [
        "unsloth/Llama-3.3-70B-Instruct-GGUF", "x/Llama-3.1-8B-Instruct-IQ7_XYZ.gguf",
        "unsloth/Llama-3.3-70B-Instruct-unsloth-bnb-4bit", "x/Llama-3.1-70B-Instruct-exl2-4.0bpw",
        "ISTA-DASLab/Meta-Llama-3-70B-Instruct-AQLM-2Bit-1x16", "x/Qwen3-8B-FP8-something",
        "x/Qwen3-8B-GPTQ-4bit-32g", "x/Qwen3-8B-w4a8", "x/Qwen3-8B-torchao-int4wo",
        "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-NVFP4",
    ],
)  # fmt: skip
def test_a_format_that_no_name_describes(name: str) -> None:
    """Said, in one line, with the model that it is; never priced as if there were none."""
    with pytest.raises(InputError) as caught:
        load_model(name)
    error = caught.value
    assert (
        "in a format that a name does not describe" in error.message
        and "is preset" in error.message
    )
    assert "`meshwise catalog formats`" in str(error) and error.nearest is None
    assert len(str(error)) < 300


def test_layers_of_states_and_of_attention_are_told_apart() -> None:
    """Nemotron-3: both are called ``mixer``. Ultra keeps attention in 16 bit and has states in FP8; Nano has
    none of the layers that come before attention in FP8 either."""
    ultra = load_model("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-NVFP4")
    kinds = {kind(b): b.stored for b in ultra.blocks}
    states, attention = kinds["states"], kinds["attention"]
    assert states.recurrent is not None and states.recurrent.dtype == "fp8"
    assert states.recurrent_output is not None and states.recurrent_output.dtype == "fp8"
    assert attention.attention is None and attention.output is None
    experts = kinds["experts"]
    assert experts.expert_up is not None and experts.expert_up.dtype == "nvfp4"
    assert experts.shared_up is not None and experts.shared_up.dtype == "fp8"
    for word in ("FP8", "NVFP4"):
        nano = load_model(f"nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-{word}")
        order = [(kind(nano.blocks[i]), nano.blocks[i].stored) for i in nano.pattern]
        wide = [i for i, (what, s) in enumerate(order) if what == "states" and s.recurrent is None]
        assert wide == [4, 11, 18, 25, 32, 41]
        assert all(s.attention is None for what, s in order if what == "attention")


def kind(block: Block) -> str:
    return "states" if block.recurrent else "attention" if block.attention else "experts"


def test_a_gguf_name_without_a_type_says_how_to_state_it() -> None:
    with pytest.raises(InputError, match="GGUF:Q4_K_M"):
        load_model("unsloth/Qwen3-8B-GGUF")


def test_the_list_that_refusals_name() -> None:
    rows = named_formats()
    assert len(rows) == len(format_table()["entries"]) > 30
    assert all(row.says and row.source for row in rows)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_no_format_of_no_preset_is_cut_off(name: str) -> None:
    """Whatever a name ends in: a format of the table, a refusal, or no name of this model at all."""
    bare = load_model(name)
    for end in (
        "FP8",
        "NVFP4",
        "AWQ",
        "MXFP4",
        "GGUF",
        "fp7",
        "2bit",
        "int3-foo",
        "quantized.w2a16",
    ):
        try:
            found = load_model(f"{name}-{end}")
        except InputError as error:
            assert isinstance(error, UnknownName) or "does not describe" in error.message
            continue
        assert found.quantization is not None and end in ("FP8", "NVFP4", "AWQ", "MXFP4")
        assert found.quantization != bare.quantization or bare.quantization is not None
