"""Oracle: checkpoints that transformers saves of every family, and the names of its models in memory."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deep import deep_but
from tests.models import test_families_transformers as families
from tests.models.checkpoint import layouts, written

from meshwise.models.config_file import load_model_file
from meshwise.models.families.refused import WRAPPER_TYPES
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model
from meshwise.program.stored import weight_bytes

torch = pytest.importorskip("torch", reason="the oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the oracle needs transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
_quiet = families._quiet
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def config_of(model_type: str) -> Any:
    return families.CONFIG_MAPPING[model_type](
        **families.small(model_type, random.Random(model_type))
    )


def data_bytes(folder: Path) -> Iterator[int]:
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as handle:
            yield file.stat().st_size - 8 - struct.unpack("<Q", handle.read(8))[0]


def as_derived(folder: Path) -> Model:
    """The model of a folder whose files are all that the config says, and nothing else."""
    model = load_model_file(folder)
    found = model.checkpoint
    assert found is not None
    assert not found.differences, found.differences
    assert found.parameters == parameters(model)
    assert {g.group: g.parameters for g in found.groups} == {
        g.group: g.checkpoint_parameters for g in found.groups
    }
    return model


@pytest.mark.parametrize("model_type", families.ORACLE)
def test_what_transformers_saves(model_type: str, tmp_path: Path) -> None:
    build: Any = families.AutoModelForCausalLM.from_config
    build(config_of(model_type)).save_pretrained(tmp_path, max_shard_size="100KB")
    model = as_derived(tmp_path)
    assert model.checkpoint is not None
    assert model.checkpoint.total_bytes == sum(data_bytes(tmp_path))
    assert {a.what for a in model.checkpoint.apart} <= {"buffers"}


def in_memory(model: Any, folder: Path) -> None:
    """A folder with the tensors of a model by the names that they have in memory."""
    tensors = {name: (DTYPES[t.dtype], list(t.shape)) for name, t in model.state_dict().items()}
    written.folder_of(folder, tensors, json.loads(model.config.to_json_string(use_diff=False)))


@pytest.mark.parametrize("model_type", families.ORACLE)
def test_names_in_memory(model_type: str, tmp_path: Path) -> None:
    """Experts are one tensor there, and a tied table is there twice."""
    build: Any = families.AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(config_of(model_type))
    in_memory(model, tmp_path)
    found = as_derived(tmp_path).checkpoint
    assert found is not None
    tied = load_model_file(tmp_path).tied
    assert ("tied_copies" in {a.what for a in found.apart}) == tied


@pytest.mark.parametrize("model_type", deep_but(sorted(WRAPPER_TYPES)[::3], sorted(WRAPPER_TYPES)))
def test_towers_are_apart(model_type: str, tmp_path: Path) -> None:
    if model_type not in families.CONFIG_MAPPING:
        pytest.skip("transformers has no class")
    inner = WRAPPER_TYPES[model_type].inner
    text = {**families.small(inner, random.Random(model_type)), "model_type": inner}
    text["tie_word_embeddings"] = False
    try:
        wrapper: Any = families.CONFIG_MAPPING[model_type]
        config = wrapper(text_config=text, tie_word_embeddings=False)
        build: Any = families.AutoModelForImageTextToText.from_config
        with torch.device("meta"):
            model = build(config)
    except Exception as error:
        pytest.skip(f"transformers cannot build it small: {str(error)[:80]}")
    head = model.state_dict().get("lm_head.weight")
    if head is not None and head.shape[-1] != model.config.get_text_config().hidden_size:
        pytest.skip("its class gives the head other sizes than its text_config")
    in_memory(model, tmp_path)
    found = as_derived(tmp_path).checkpoint
    assert found is not None
    table = {a.what: a.parameters or 0 for a in found.apart}
    everything = sum(p.numel() for p in model.state_dict().values())
    assert table.get("towers", 0) + table.get("buffers", 0) == everything - (found.parameters or 0)


NARROW = [
    "qwen3_next",
    "deepseek_v3",
    "mixtral",
    "jamba",
    "falcon_h1",
    "kimi_linear",
    "minimax",
    "lfm2",
]


@pytest.mark.parametrize("model_type", NARROW)
def test_bytes_of_every_kind_of_layer(model_type: str, tmp_path: Path) -> None:
    """Products in FP8 blocks, experts in one tensor, recurrent mixers: memory is that of the files."""
    with torch.device("meta"):
        build: Any = families.AutoModelForCausalLM.from_config
        model = build(config_of(model_type))
    tensors: dict[str, written.Shape] = {}
    for name, t in model.state_dict().items():
        *stack, rows, columns = (1, *t.shape) if t.dim() == 1 else t.shape or (1, 1)
        product = name.endswith("_proj.weight") and t.dim() == 2
        if ".layers." in name and (product or (".experts." in name and t.dim() == 3)):
            tensors[name] = ("F8_E4M3", list(t.shape))
            blocks = [*stack, -(-rows // 128), -(-columns // 128)]
            tensors[f"{name}_scale_inv"] = ("F32", blocks)
        else:
            tensors[name] = ("BF16" if t.is_floating_point() else "I64", list(t.shape))
    stated = json.loads(model.config.to_json_string(use_diff=False))
    quantised = layouts.CASES["fp8-blocks"].config
    total = written.folder_of(
        tmp_path, tensors, {**stated, "torch_dtype": "bfloat16", "quantization_config": quantised}
    )
    ours = load_model_file(tmp_path)
    found = ours.checkpoint
    assert found is not None and found.parameters == parameters(ours)
    assert found.total_bytes == total
    assert {d.kind for d in found.differences} <= {"format"}
    assert {d.checkpoint for d in found.differences} <= {"bf16"}
    stored = next(v for k, v in weight_bytes(ours).items() if k.endswith("checkpoint"))
    assert stored == pytest.approx(found.bytes, rel=1e-12)
