"""The formats that a serving command states, against the checkpoint that it serves."""

from __future__ import annotations

import pytest

import meshwise as mw
from meshwise.errors import InputError
from meshwise.launch import parse
from meshwise.launch.settings.formats import METHODS, formats_of_job
from meshwise.models.formats import model_as_run
from meshwise.models.load import load_model
from meshwise.workloads.serving import Serving


def weights(name: str, flags: str) -> str | None:
    """The format of the weights that the command runs."""
    job = parse(f"vllm serve {name} -tp 2 {flags}").job
    model = load_model(name)
    load = Serving(isl=16, osl=16, concurrency=1, formats=formats_of_job(job, model))
    q = model_as_run(model, load.decode()).quantization
    return q.weight_dtype if q is not None else None


@pytest.mark.parametrize(
    ("name", "flags", "runs"),
    [
        ("Qwen/Qwen3-32B", "", None),
        ("Qwen/Qwen3-32B", "--dtype bfloat16", None),
        ("Qwen/Qwen3-32B", "--quantization fp8", "fp8"),
        ("Qwen/Qwen3-32B", "--quantization fp8 --dtype bfloat16", "fp8"),
        ("Qwen/Qwen3-32B", "--quantization mxfp4", "mxfp4"),
        ("Qwen/Qwen3-32B", "--quantization bitsandbytes", "int4"),
        ("Qwen/Qwen3-32B-FP8", "--dtype bfloat16", "fp8"),
        ("Qwen/Qwen3-32B-FP8", "--quantization fp8", "fp8"),
        ("Qwen/Qwen3-32B-FP8", "--quantization auto", "fp8"),
        ("Qwen/Qwen3-32B-AWQ", "--quantization awq_marlin --dtype half", "int4"),
        ("Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8", "--quantization gptq_marlin", "int8"),
        ("nvidia/Qwen3-32B-FP4", "--quantization modelopt_fp4", "nvfp4"),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "--quantization compressed-tensors", "fp8"),
        ("openai/gpt-oss-20b", "--quantization mxfp4 --dtype bfloat16", "mxfp4"),
    ],
)
def test_the_checkpoint_is_what_it_is(name: str, flags: str, runs: str | None) -> None:
    assert weights(name, flags) == runs


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("Qwen/Qwen3-32B-AWQ", "gptq"),
        ("Qwen/Qwen3-32B-AWQ", "fp8"),
        ("Qwen/Qwen3-32B-AWQ", "compressed-tensors"),
        ("Qwen/Qwen2.5-32B-Instruct-GPTQ-Int4", "awq"),
        ("Qwen/Qwen2.5-32B-Instruct-GPTQ-Int8", "bitsandbytes"),
        ("Qwen/Qwen3-32B-FP8", "w8a8_int8"),
        ("nvidia/Qwen3-32B-FP4", "modelopt_fp8"),
    ],
)
def test_another_method_than_the_checkpoints_is_refused(name: str, method: str) -> None:
    with pytest.raises(InputError) as caught:
        weights(name, f"--quantization {method}")
    assert caught.value.field == "--quantization" and caught.value.value == method
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method",
    ["awq", "awq_marlin", "gptq", "gptq_marlin", "moe_wna16", "compressed-tensors", "modelopt",
     "modelopt_fp4", "w8a8_int8", "gguf", "torchao"],
)  # fmt: skip
def test_engines_make_no_calibrated_checkpoint_of_16_bit_weights(method: str) -> None:
    with pytest.raises(InputError, match="make none of 16-bit weights") as caught:
        weights("meta-llama/Llama-3.1-8B-Instruct", f"--quantization {method}")
    assert caught.value.field == "--quantization" and caught.value.nearest == "fp8"


def test_a_folder_may_hold_what_the_command_says() -> None:
    """Its name is another machine's: what is in it nobody knows."""
    job = parse("vllm serve /models/qwen3-8b -tp 2 --quantization awq").job
    formats = formats_of_job(job, load_model("qwen3-8b"))
    assert formats.weights == "int4"


@pytest.mark.parametrize("word", [*METHODS, "int4", "compressed-tensors"])
def test_every_word_is_read(word: str) -> None:
    job = parse(f"vllm serve m -tp 2 --quantization {word}").job
    assert job.quantization == word


@pytest.mark.parametrize(
    ("command", "model", "agree"),
    [
        ("vllm serve Qwen/Qwen3-32B -tp 2", "qwen3-32b-awq", False),
        ("vllm serve Qwen/Qwen3-32B-AWQ -tp 2", "qwen3-32b", False),
        ("vllm serve Qwen/Qwen3-32B-AWQ -tp 2", "qwen3-32b-awq", True),
        ("vllm serve Qwen/Qwen3-32B -tp 2 --quantization fp8", "qwen3-32b", True),
        ("vllm serve /models/mine -tp 2", "qwen3-32b-awq", True),
    ],
)
def test_the_commands_checkpoint_is_the_models(command: str, model: str, agree: bool) -> None:
    load = {"isl": 64, "osl": 8, "concurrency": 2}
    if agree:
        assert mw.read_command(command, "hgx-h100", model=model, **load).to_dict()["layout"]
    else:
        with pytest.raises(InputError) as caught:
            mw.read_command(command, "hgx-h100", model=model, **load)
        assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("/models/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("/data/hub/Qwen3-32B-AWQ/", "qwen3-32b-awq"),
        ("./qwen3-8b", "qwen3-8b"),
    ],
)
def test_a_folder_of_another_machine_is_read_by_its_name(name: str, model: str) -> None:
    found = mw.read_command(f"vllm serve {name} -tp 2", "hgx-h100", isl=64, osl=8, concurrency=2)
    assert found.to_dict()["model"] == model


def test_a_folder_whose_name_says_nothing() -> None:
    with pytest.raises(InputError, match="is no preset"):
        mw.read_command("vllm serve /models/mine -tp 2", "hgx-h100", isl=64, osl=8, concurrency=2)
