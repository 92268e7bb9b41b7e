"""The formats of a run: what options say reaches time, memory and legality alike."""

from __future__ import annotations

import numpy as np
import pytest

from meshwise import dtypes
from meshwise.clusters.load import load_cluster
from meshwise.errors import InputError
from meshwise.layouts import tp_degrees as legality
from meshwise.models.families.config import model_from_config
from meshwise.models.formats import format_remarks, model_as_run, products
from meshwise.models.load import load_model
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model
from meshwise.program.context import widths
from meshwise.program.stored import weight_bytes
from meshwise.workloads.workload import Formats, Prefill, Training

PLAIN = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256,
}  # fmt: skip
ATTENTION = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
MLP = 32 * 3 * 4096 * 14336


def checkpoint(**keys: object) -> Model:
    return model_from_config({**PLAIN, **keys}, name="test")


def run(**formats: str) -> Prefill:
    return Prefill(batch=1, seq=16, formats=Formats(**formats))


def test_bytes_follow_each_matrix() -> None:
    skip = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(32) for p in "qkvo"]
    model = checkpoint(
        quantization_config={"quant_method": "fbgemm_fp8", "modules_to_not_convert": skip}
    )
    rest = parameters(model) - ATTENTION - MLP
    assert next(iter(weight_bytes(model).values())) == 2 * ATTENTION + MLP + 2 * rest
    four = {"num_bits": 4, "type": "int", "group_size": 128}
    mixed = checkpoint(quantization_config={"quant_method": "compressed-tensors", "config_groups": {
        "a": {"targets": ["re:.*mlp.*"], "weights": four},
        "b": {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}}})  # fmt: skip
    want = MLP * 4.125 / 8 + ATTENTION + 2 * rest
    assert next(iter(weight_bytes(mixed).values())) == pytest.approx(want)


def test_mlx_narrows_embedding_and_head() -> None:
    model = checkpoint(quantization={"group_size": 64, "bits": 4})
    want = parameters(model) * 4.5 / 8
    assert next(iter(weight_bytes(model).values())) == pytest.approx(want, rel=1e-3)


def test_options_reach_legality() -> None:
    blocks = checkpoint(intermediate_size=11520, quantization_config={
        "quant_method": "fp8", "weight_block_size": [128, 128]})  # fmt: skip
    assert legality.refusals(model_as_run(blocks, run()), 8, None)
    assert not legality.refusals(model_as_run(blocks, run(weights="bf16", dtype="bf16")), 8, None)
    assert not legality.refusals(model_as_run(blocks, run(weights="bf16")), 8, None)
    assert not legality.refusals(model_as_run(blocks, Training(batch=1, seq=16)), 8, None)
    plain = load_model("llama-2-7b")
    assert not legality.refusals(model_as_run(plain, run()), 4, None)
    found = legality.refusals(model_as_run(plain, run(weights="int4")), 4, None)
    assert found and "21.5 groups" in found[0].text


def test_a_weight_only_checkpoint_keeps_its_weights_under_any_operands() -> None:
    awq = checkpoint(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 128})
    for dtype in ("fp16", "bf16", "fp8"):
        assert model_as_run(awq, run(dtype=dtype)).quantization == awq.quantization


@pytest.mark.parametrize("form", ["fp8", "w8a8", "nvfp4", "awq", "gptq-int8"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_16_bit_beside_a_checkpoint_is_that_of_the_activations(form: str, dtype: str) -> None:
    """As in engines: only a weight dtype makes another copy of the checkpoint."""
    model = load_model(f"qwen3-32b-{form}")
    kept = model_as_run(model, run(dtype=dtype))
    assert kept == model
    own, beside = widths(model, run()), widths(model, run(dtype=dtype))
    assert (own.weight_dtype, own.weight) == (beside.weight_dtype, beside.weight)
    if not model.quantization.weight_only:  # type: ignore[union-attr]
        assert own.dtype == beside.dtype and products(model, run(dtype=dtype)) is None
        said = format_remarks(kept, run(dtype=dtype), {"bf16": 1.0, "fp8": 2.0}, "X")
        assert any(f"stay in {own.weight_dtype}" in text for text in said)
    assert beside.activation_dtype == dtype
    copy = model_as_run(model, run(weights=dtype))
    assert copy.quantization is None and "priced as a copy" in copy.asked


def test_operands_and_weights_may_both_be_stated() -> None:
    model = load_model("qwen3-32b-fp8")
    both = widths(model, run(dtype="bf16", weights="fp8"))
    assert (both.dtype, both.weight_dtype) == ("bf16", "fp8")


def test_a_method_that_is_not_known_is_not_priced() -> None:
    unknown = checkpoint(quantization_config={"quant_method": "spqr", "bits": 3})
    with pytest.raises(InputError, match="`weights` states their format"):
        model_as_run(unknown, run())
    with pytest.raises(InputError, match="`weights` states their format"):
        model_as_run(unknown, run(dtype="bf16"))
    stated = model_as_run(unknown, run(weights="int4")).quantization
    assert stated is not None and stated.weight_dtype == "int4"
    assert list(weight_bytes(unknown)) == ["fp32", "bf16", "fp8", "int4"]


def test_formats_that_a_device_has_not_are_remarked_on() -> None:
    model = load_model("llama-3.1-8b")
    for cluster, said in (("dgx-a100", True), ("hgx-h100", False)):
        device = load_cluster(cluster).device
        found = format_remarks(model, run(dtype="fp8"), device.peak_flops_per_s, device.title)
        assert any("has no fp8 units" in text for text in found) == said, cluster
        assert any("embedding, output head, norms" in text for text in found), cluster


def test_narrow_weights_are_no_faster_where_they_are_widened_for_many_rows() -> None:
    import meshwise as mw

    def step(**formats: str) -> float:
        work = mw.Prefill(batch=1, seq=4096, formats=mw.Formats(**formats))  # type: ignore[arg-type]
        return float(mw.estimate("llama-3.1-8b", "dgx-a100", work).to_dict()["step_s"])

    wide = step()
    for formats in (
        {"dtype": "fp8"},
        {"weights": "fp8"},
        {"weights": "w4a16"},
        {"weights": "nvfp4"},
    ):
        assert step(**formats) == pytest.approx(wide, rel=5e-3), formats


@pytest.mark.parametrize("cluster", ["hgx-h100", "dgx-a100", "azure-nd-mi300x-v5"])
@pytest.mark.parametrize("batch", [1, 128, 2048])
def test_a_format_without_arithmetic_has_one_price_however_it_is_stated(
    cluster: str, batch: int
) -> None:
    """By a checkpoint's name, as an option's format of weights, and as the operands that are asked for."""
    import meshwise as mw

    def step(model: str, **formats: str) -> float:
        made = mw.Formats(kv_cache="fp8", **formats)  # type: ignore[arg-type]
        work = mw.Decode(batch=batch, context=512, formats=made)
        return float(mw.estimate(model, cluster, work, stack="vllm").to_dict()["step_s"])

    named = step("nvidia/Qwen3-8B-NVFP4")
    for formats in ({"weights": "nvfp4"}, {"dtype": "nvfp4"}, {"weights": "nvfp4_wo"}):
        assert step("qwen3-8b", **formats) == pytest.approx(named, rel=1e-12), formats


def test_what_a_checkpoint_costs_without_arithmetic_of_its_format_is_said() -> None:
    def remarks(name: str, cluster: str) -> str:
        device = load_cluster(cluster).device
        return " ".join(
            format_remarks(load_model(name), run(), device.peak_flops_per_s, device.title)
        )

    assert "no mxfp4 units" in remarks("gpt-oss-120b", "hgx-h100")
    assert "widened from mxfp4" in remarks("gpt-oss-120b", "hgx-b200")
    assert "no fp8 units" in remarks("qwen3-8b-fp8", "dgx-a100")
    assert "W4A16" in remarks("qwen3-8b-nvfp4", "azure-nd-mi300x-v5")
    assert "units" not in remarks("qwen3-8b-awq", "hgx-h100")  # no device multiplies int4


@pytest.mark.parametrize("stack", ["vllm", "sglang"])
def test_engines_without_int8_products_on_blackwell_refuse_them(stack: str) -> None:
    import meshwise as mw

    work = mw.Decode(batch=1, context=64)
    for model, ok in (("qwen3-8b-w8a8", False), ("qwen3-8b-w8a16", True)):
        mw.estimate(model, "hgx-h100", work, stack=stack)
        if ok:
            mw.estimate(model, "hgx-b200", work, stack=stack)
            continue
        with pytest.raises(InputError, match="no products of 8-bit weights and activations"):
            mw.estimate(model, "hgx-b200", work, stack=stack)
    asked = mw.Decode(batch=1, context=64, formats=mw.Formats(dtype="int8"))
    with pytest.raises(InputError, match="W8A8"):
        mw.estimate("qwen3-8b", "hgx-b200", asked, stack=stack)


@pytest.mark.parametrize(
    ("word", "name"),
    [("float8_e4m3fn", "fp8"), ("E5M2", "fp8"), ("fp4", "nvfp4"), ("half", "fp16"),
     ("torch.bfloat16", "bf16"), ("MXFP8", "mxfp8"), ("w4a16", "int4"), ("W8A8", "int8"),
     ("banana", None), ("", None), (8, None)],
)  # fmt: skip
def test_words_for_formats(word: object, name: str | None) -> None:
    assert dtypes.known(word) == name


def test_devices_state_their_peaks_in_the_formats_of_products() -> None:
    peaks = load_cluster("hgx-b200").device.peak_flops_per_s
    assert "nvfp4" in peaks and dtypes.peak_dtype("nvfp4", peaks) == "nvfp4"
    assert np.isclose(peaks["nvfp4"] / peaks["fp8"], 2.0)


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, 8 + 24 / 128),
        ({"quant_method": "gptq", "bits": 3, "group_size": 64}, 3 + 19 / 64),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, 4),
        ({"quant_method": "awq", "bits": 4}, 4 + 20 / 128),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 32}, 4 + 20 / 32),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4 + 32 / 64),
        ({"quant_method": "hqq", "bits": 4, "group_size": 64}, 4 + 32 / 64),
    ],
)
def test_scales_and_zeros_count(config: dict[str, object], bits: float) -> None:
    model = checkpoint(quantization_config=config)
    rest = parameters(model) - ATTENTION - MLP
    want = (ATTENTION + MLP) * bits / 8 + 2 * rest
    assert next(iter(weight_bytes(model).values())) == pytest.approx(want, rel=1e-3)


def test_training_says_that_it_keeps_wide_weights() -> None:
    work = Training(batch=1, seq=16)
    model = model_as_run(load_model("qwen3-32b-awq"), work)
    assert model.quantization is None and "16-bit weights" in model.asked
    assert model_as_run(model, work) == model  # said once
    assert model_as_run(load_model("gpt2"), work).asked == ""


WORDS = {
    "nvfp4": "fp4 nvfp4 NVFP4 float4 w4a4",
    "mxfp4": "mxfp4 mx_fp4 MXFP4",
    "mxfp8": "mxfp8 mx_fp8",
    "fp8": "fp8 fp8_e4m3 fp8-e4m3 fp8_e5m2 float8_e4m3fn fp8_block w8a8_fp8 torch.float8_e4m3fn",
    "int4": "w4a16 int4_wo int4wo int4_weight_only uint4 nf4",
    "int8": "w8a8 w8a16 int8_wo INT8 qint8",
    "q4_k": "q4_k_m Q4_K_M Q4_K_S q4-k-m",
    "q6_k": "Q6_K q6_k",
}


@pytest.mark.parametrize(("name", "word"), [(n, w) for n, ws in WORDS.items() for w in ws.split()])
def test_one_table_of_names(name: str, word: str) -> None:
    """Of options, configs, tables, the API and launch commands."""
    assert dtypes.known(word) == name
    assert dtypes.known(dtypes.canonical_weights(word)) == name
    assert Formats(weights=word).weights == dtypes.canonical_weights(word)


@pytest.mark.parametrize(
    ("word", "dtype", "bits", "only"),
    [
        ("fp8", "fp8", 8.0, True),
        ("fp8_block", "fp8", 8 + 32 / 128**2, True),
        ("w8a8", "int8", 8.0, False),
        ("int8_wo", "int8", 8.0, True),
        ("w4a16", "int4", 4 + 16 / 128, True),
        ("nf4", "int4", 4 + 32 / 64, True),
        ("nvfp4", "nvfp4", 4.5, True),
        ("w4a4", "nvfp4", 4.5, False),
        ("mxfp4", "mxfp4", 4.25, True),
        ("mxfp8", "mxfp8", 8.25, True),
        ("q6_k", "q6_k", 6.5625, True),
    ],
)
def test_what_a_word_of_the_weights_means(word: str, dtype: str, bits: float, only: bool) -> None:
    model = model_as_run(checkpoint(), run(weights=word))
    q = model.quantization
    assert q is not None and (q.weight_dtype, q.weight_only) == (dtype, only)
    up = model.blocks[0].stored.up
    assert up is not None and up.element_bytes == pytest.approx(bits / 8)
    assert model_as_run(model, run(weights=word)) == model


def test_an_option_says_what_it_leaves_wide() -> None:
    for name, routers in (("llama-3.1-8b", False), ("qwen3-30b-a3b", True)):
        work = run(weights="fp8")
        model = model_as_run(load_model(name), work)
        said, products = format_remarks(model, work, {"bf16": 1.0, "fp8": 2.0}, "X")
        assert "embedding, output head, norms" in said and ("routers" in said) == routers
        assert "in bf16, widened from fp8" in products
        again = format_remarks(load_model(name), work, {"bf16": 1.0, "fp8": 2.0}, "X")
        assert again == [said, products]
        work = run(weights="fp8", dtype="fp8")
        assert len(format_remarks(load_model(name), work, {"bf16": 1.0, "fp8": 2.0}, "X")) == 1
        work = run(weights="fp8")
    q = model.quantization
    assert q is not None and q.embedding is None and q.head is None
    gguf = run(weights="Q4_K_M")
    model = model_as_run(load_model("llama-3.1-8b"), gguf)
    assert model.quantization is not None and model.quantization.head is not None
    assert "embedding and output head too" in format_remarks(model, gguf, {"bf16": 1.0}, "X")[0]


def test_gguf_by_option_is_the_file() -> None:
    file = {"quant_method": "gguf", "file_type": "Q4_K_M"}
    by_option = model_as_run(checkpoint(), run(weights="q4_k_m"))
    both = (
        next(iter(weight_bytes(m).values()))
        for m in (by_option, checkpoint(quantization_config=file))
    )
    assert len(set(both)) == 1


def test_nvfp4_before_blackwell_is_weights_alone() -> None:
    peaks = load_cluster("hgx-h100").device.peak_flops_per_s
    assert dtypes.peak_dtype("nvfp4", peaks) == "bf16"
    said = format_remarks(load_model("llama-3.1-8b-nvfp4"), run(), peaks, "X")
    assert any("no nvfp4 units" in text and "W4A16" in text for text in said)


@pytest.mark.parametrize("file", ["Q8_0", "Q4_K_M", "Q2_K"])
def test_a_gguf_file_of_gpt_oss_keeps_its_experts(file: str) -> None:
    """They come in MXFP4, 17 bytes of 32 weights, whatever the file is called."""
    found = load_model(f"unsloth/gpt-oss-20b-GGUF:{file}")
    for block in found.blocks:
        for stored in (block.stored.expert_up, block.stored.expert_down):
            assert stored is not None and stored.dtype == "mxfp4"
            assert stored.element_bytes == 17 / 32
