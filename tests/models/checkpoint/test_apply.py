"""Weights are what the files say: formats, bytes, and what differs from the config."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.models.checkpoint import layouts, written
from tests.models.checkpoint.written import LAYERS, LLAMA, llama

import meshwise as mw
from meshwise.errors import InputError
from meshwise.models.config_file import load_model_file
from meshwise.models.parameters import parameters
from meshwise.models.shapes import LayerFormats, Model
from meshwise.program.stored import weight_bytes

ROLES = ("attention", "output", "up", "down")


def as_stored(model: Model) -> float:
    """Bytes of all weights on one device as the checkpoint stores them."""
    return next(v for k, v in weight_bytes(model).items() if k.endswith("checkpoint"))


def without_files(folder: Path) -> Model:
    return load_model_file(folder, checkpoint=False)


def test_an_unquantised_checkpoint_is_as_derived(tmp_path: Path) -> None:
    total = written.folder_of(tmp_path, llama())
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences and not found.apart
    assert found.total_bytes == found.bytes == total == 2 * parameters(model)
    assert found.parameters == parameters(model)
    for group in found.groups:
        assert (group.parameters, group.bytes) == (
            group.checkpoint_parameters,
            group.checkpoint_bytes,
        )
    assert msgspec.structs.replace(model, checkpoint=None) == without_files(tmp_path)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_are_one_checkpoint(tmp_path: Path, shards: int) -> None:
    written.folder_of(tmp_path, llama())
    whole = load_model_file(tmp_path).checkpoint
    (tmp_path / "model.safetensors").unlink()
    written.sharded(tmp_path, llama(), shards)
    found = load_model_file(tmp_path).checkpoint
    assert whole is not None and found == msgspec.structs.replace(whole, files=shards)


@pytest.mark.parametrize("name", layouts.CASES)
def test_a_format_is_read_to_the_byte(name: str, tmp_path: Path) -> None:
    case = layouts.CASES[name]
    total = written.folder_of(
        tmp_path, llama(case.layout), {**LLAMA, "quantization_config": case.config}
    )
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and found.total_bytes == total
    assert not found.differences
    assert found.parameters == parameters(model)
    assert as_stored(model) == pytest.approx(total, rel=1e-12)
    for block in model.blocks:
        for role in ROLES:
            stored = getattr(block.stored, role)
            assert (stored.dtype, stored.group, stored.block) == (
                case.dtype,
                case.group,
                case.block,
            )
    assert model.quantization is not None
    assert model.quantization.method == case.config["quant_method"]


@pytest.mark.parametrize("name", layouts.CASES)
def test_a_format_that_the_config_does_not_say(name: str, tmp_path: Path) -> None:
    """It is read from the files all the same, and the difference is named for every product."""
    case = layouts.CASES[name]
    total = written.folder_of(tmp_path, llama(case.layout))
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and found.total_bytes == total
    assert as_stored(model) == pytest.approx(total, rel=1e-12)
    assert {d.kind for d in found.differences} == {"format"}
    assert {d.module for d in found.differences} == set(written.LINEAR)
    assert all(d.layers == tuple(range(LAYERS)) and d.derived == "bf16" for d in found.differences)
    assert model.quantization is not None and model.quantization.weight_dtype == case.dtype
    assert "differ from its config.json" in model.asked


def test_memory_is_that_of_the_files(tmp_path: Path) -> None:
    """What a serving device holds, with zeros, indices and scales that a name's format would leave out."""
    config = {**LLAMA, "quantization_config": layouts.CASES["gptq-4"].config}
    total = written.folder_of(tmp_path, llama(layouts.gptq(4, 128)), config)
    estimate = mw.estimate(str(tmp_path), "hgx-h100", mw.Decode(batch=1, context=128), tp=1)
    assert estimate.memory.weights_bytes == pytest.approx(total, rel=1e-9)
    two = mw.estimate(str(tmp_path), "hgx-h100", mw.Decode(batch=1, context=128), tp=2)
    assert (
        total / 2 < two.memory.weights_bytes < total / 2 + 100_000
    )  # norms and the embedding's halves


def test_layers_of_their_own(tmp_path: Path) -> None:
    """The first layer left in 16 bits and the last products in FP8, whatever the config says of all."""
    tensors = llama()
    fp8 = layouts.fp8_blocks
    for i in range(1, LAYERS):
        for name, (n, k) in written.LINEAR.items():
            del tensors[f"model.layers.{i}.{name}.weight"]
            for kind, tensor in fp8(n, k).items():
                tensors[f"model.layers.{i}.{name}.{kind}"] = tensor
    config = layouts.CASES["fp8-blocks"].config
    total = written.folder_of(tmp_path, tensors, {**LLAMA, "quantization_config": config})
    model = load_model_file(tmp_path)
    assert model.pattern == (0, 1, 1) and len(model.blocks) == 2
    assert model.blocks[0].stored == LayerFormats()
    assert as_stored(model) == pytest.approx(total, rel=1e-12)
    assert model.checkpoint is not None
    assert {(d.kind, d.layers) for d in model.checkpoint.differences} == {("format", (0,))}
    words = {(d.derived, d.checkpoint) for d in model.checkpoint.differences}
    assert words == {("fp8, blocks of 128x128", "bf16")}


def test_a_config_that_says_a_format_that_is_not_there(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": layouts.CASES["awq"].config}
    total = written.folder_of(tmp_path, llama(), config)
    model = load_model_file(tmp_path)
    assert model.quantization is None and model.checkpoint is not None
    assert total == 2 * parameters(model)
    assert {(d.kind, d.derived) for d in model.checkpoint.differences} == {
        ("format", "int4, groups of 128")
    }


def test_a_role_of_two_formats(tmp_path: Path) -> None:
    """Queries in FP8 and keys and values left as they are, as the config says: no difference."""
    tensors = llama(layouts.fp8_tensor)
    left = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(LAYERS) for p in "kv"]
    for name in left:
        for kind in ("weight_scale", "input_scale"):
            del tensors[f"{name}.{kind}"]
        tensors[f"{name}.weight"] = ("BF16", [written.KV, written.HIDDEN])
    skipped = {"exclude_modules": ["lm_head", *left]}
    config = {**LLAMA, "quantization_config": {**layouts.CASES["fp8-tensor"].config, **skipped}}
    total = written.folder_of(tmp_path, tensors, config)
    model = load_model_file(tmp_path)
    assert model.checkpoint is not None and not model.checkpoint.differences
    assert as_stored(model) == pytest.approx(total, rel=1e-12)
    del config["quantization_config"]["exclude_modules"]
    written.folder_of(tmp_path, tensors, config)
    found = load_model_file(tmp_path).checkpoint
    assert found is not None
    assert {d.module for d in found.differences if d.layers} == {
        "self_attn.k_proj",
        "self_attn.v_proj",
    }


def test_a_head_that_is_not_as_stated(tmp_path: Path) -> None:
    """The config leaves the head in 16 bits, the files do not."""
    tensors = llama(layouts.fp8_channels)
    del tensors["lm_head.weight"]
    head = layouts.fp8_channels(written.VOCAB, written.HIDDEN)
    tensors |= {f"lm_head.{kind}": t for kind, t in head.items()}
    config = {**LLAMA, "quantization_config": layouts.CASES["fp8-channels"].config}
    total = written.folder_of(tmp_path, tensors, config)
    model = load_model_file(tmp_path)
    assert model.checkpoint is not None and model.quantization is not None
    (told,) = model.checkpoint.differences
    assert (told.kind, told.where, told.derived, told.checkpoint) == (
        "format",
        "lm_head",
        "bf16",
        "fp8",
    )
    assert model.quantization.head is not None
    assert as_stored(model) == pytest.approx(total, rel=1e-12)


def test_group_sizes_that_differ(tmp_path: Path) -> None:
    config = {**LLAMA, "quantization_config": layouts.CASES["gptq-4"].config}
    written.folder_of(tmp_path, llama(layouts.gptq(4, 64)), config)
    model = load_model_file(tmp_path)
    assert model.quantization is not None and model.quantization.group == 64
    assert model.checkpoint is not None and len(model.checkpoint.differences) == len(written.LINEAR)


@pytest.mark.parametrize("stated", ["bfloat16", None])
def test_the_number_format_of_the_rest(tmp_path: Path, stated: str | None) -> None:
    tensors = {n: ("F16", shape) for n, (_, shape) in llama().items()}
    written.folder_of(tmp_path, tensors, {**LLAMA, "torch_dtype": stated})
    model = load_model_file(tmp_path)
    assert model.dtype == "fp16" and model.checkpoint is not None
    told = [(d.kind, d.derived, d.checkpoint) for d in model.checkpoint.differences]
    assert told == ([("dtype", "bf16", "fp16")] if stated else [])


def test_a_module_in_another_number_format(tmp_path: Path) -> None:
    tensors = llama()
    for i in range(LAYERS):
        tensors[f"model.layers.{i}.input_layernorm.weight"] = ("F32", [written.HIDDEN])
    written.folder_of(tmp_path, tensors)
    model = load_model_file(tmp_path)
    assert model.dtype == "bf16" and model.checkpoint is not None
    (told,) = model.checkpoint.differences
    assert (told.kind, told.where) == ("dtype", "layers 0-2 input_layernorm")


def test_experts_in_one_tensor_stored_by_inputs(tmp_path: Path) -> None:
    """As Llama 4's FP8 checkpoints hold them: a scale for each output, behind the inputs."""
    c = {
        "model_type": "llama4_text", "hidden_size": 256, "intermediate_size": 128,
        "intermediate_size_mlp": 512, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 512, "num_local_experts": 4,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "quantization_config": {
            "quant_method": "fbgemm_fp8", "modules_to_not_convert": [
                "model.layers.0.feed_forward.router", "model.layers.0.feed_forward.shared_expert",
                "model.layers.0.self_attn",
            ],
        },
    }  # fmt: skip
    at = "model.layers.0"
    products = {"gate_proj": (128, 256), "up_proj": (128, 256), "down_proj": (256, 128)}
    tensors: dict[str, written.Shape] = {
        "model.embed_tokens.weight": ("BF16", [512, 256]),
        "lm_head.weight": ("BF16", [512, 256]),
        "model.norm.weight": ("BF16", [256]),
        f"{at}.input_layernorm.weight": ("BF16", [256]),
        f"{at}.post_attention_layernorm.weight": ("BF16", [256]),
        f"{at}.feed_forward.router.weight": ("BF16", [4, 256]),
        f"{at}.feed_forward.experts.gate_up_proj": ("F8_E4M3", [4, 256, 256]),
        f"{at}.feed_forward.experts.gate_up_proj_scale": ("F32", [4, 1, 256]),
        f"{at}.feed_forward.experts.down_proj": ("F8_E4M3", [4, 128, 256]),
        f"{at}.feed_forward.experts.down_proj_scale": ("F32", [4, 1, 256]),
    }
    for name, rows in (("q", 256), ("k", 128), ("v", 128), ("o", 256)):
        tensors[f"{at}.self_attn.{name}_proj.weight"] = ("BF16", [rows, 256])
    for name, (n, k) in products.items():
        tensors[f"{at}.feed_forward.shared_expert.{name}.weight"] = ("BF16", [n, k])
    total = written.folder_of(tmp_path, tensors, c)
    model = load_model_file(tmp_path)
    found = model.checkpoint
    assert found is not None and not found.differences
    assert (found.total_bytes, found.parameters) == (total, parameters(model))
    assert as_stored(model) == pytest.approx(total, rel=1e-12)
    stored = model.blocks[0].stored.expert_up
    assert stored is not None and (stored.dtype, stored.block) == ("fp8", None)


# -- what is missing, too many, or of another shape --------------------------------------------------


def faults(
    folder: Path, tensors: dict[str, Any], config: dict[str, Any] = LLAMA
) -> list[tuple[str, ...]]:
    written.folder_of(folder, tensors, config)
    found = load_model_file(folder).checkpoint
    assert found is not None
    return [(d.kind, d.where, d.derived, d.checkpoint) for d in found.differences]


K = "model.layers.1.self_attn.k_proj"


def test_a_missing_module(tmp_path: Path) -> None:
    tensors = llama()
    del tensors[f"{K}.weight"]
    (told,) = faults(tmp_path, tensors)
    assert told == ("missing", "layer 1 attention key", "[256, 512]", "")


def test_another_shape(tmp_path: Path) -> None:
    tensors = llama()
    tensors[f"{K}.weight"] = ("BF16", [128, 512])
    (told,) = faults(tmp_path, tensors)
    assert told == ("shape", "layer 1 self_attn.k_proj", "[256, 512]", "[128, 512]")


def test_biases_that_are_not_derived(tmp_path: Path) -> None:
    tensors = llama()
    for i in range(LAYERS):
        tensors[f"model.layers.{i}.self_attn.q_proj.bias"] = ("BF16", [512])
    (told,) = faults(tmp_path, tensors)
    assert told == ("extra", "layers 0-2 self_attn.q_proj.bias", "", "512 weights")
    model = load_model_file(tmp_path)
    plain = msgspec.structs.replace(model, checkpoint=None)
    more = memory(model) - memory(plain)
    assert more == pytest.approx(2 * 512 * LAYERS)


def memory(model: Model) -> float:
    answer = mw.estimate(model, "hgx-h100", mw.Decode(batch=1, context=128), tp=1)
    return float(answer.memory.weights_bytes)


def test_layers_that_are_missing_or_too_many(tmp_path: Path) -> None:
    (told,) = faults(tmp_path, llama(layers=2))
    assert told[:2] == ("missing", "layer 2 (all of it)")
    (told,) = faults(tmp_path, llama(layers=5))
    assert told[:2] == ("extra", "layers 3-4 (all of it)")


def test_a_longer_vocabulary(tmp_path: Path) -> None:
    tensors = llama()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = ("BF16", [1088, 512])
    told = faults(tmp_path, tensors)
    assert told == [
        ("shape", "model.embed_tokens", "[1024, 512]", "[1088, 512]"),
        ("shape", "lm_head", "[1024, 512]", "[1088, 512]"),
    ]


def test_a_module_of_no_known_name(tmp_path: Path) -> None:
    tensors = llama() | {"model.layers.0.sorcery.weight": ("BF16", [7])}
    (told,) = faults(tmp_path, tensors)
    assert told == ("extra", "layer 0 sorcery", "", "7 weights")


# -- what is no part of the language model -----------------------------------------------------------


def test_what_is_apart(tmp_path: Path) -> None:
    """Layers of multi-token prediction, towers, buffers, a tied table stored twice: no difference."""
    tensors = llama()
    extra: dict[str, written.Shape] = {
        "model.layers.3.eh_proj.weight": ("BF16", [512, 1024]),
        "model.layers.3.enorm.weight": ("BF16", [512]),
        "model.layers.3.self_attn.q_proj.weight": ("BF16", [512, 512]),
        "model.layers.3.shared_head.norm.weight": ("BF16", [512]),
        "mtp.fc.weight": ("BF16", [512, 1024]),
        "vision_tower.blocks.0.attn.qkv.weight": ("BF16", [3, 8]),
        "multi_modal_projector.linear_1.weight": ("BF16", [8, 8]),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [32]),
        "model.layers.0.self_attn.k_proj.k_scale": ("F32", []),
        "model.layers.0.self_attn.q_scale": ("F32", []),
    }
    assert faults(tmp_path, tensors | extra, {**LLAMA, "tie_word_embeddings": True}) == []
    found = load_model_file(tmp_path).checkpoint
    assert found is not None
    table = {a.what: (a.tensors, a.parameters, a.bytes) for a in found.apart}
    mtp = 512 * 1024 * 2 + 512 + 512 * 512 + 512
    assert table == {
        "mtp": (5, mtp, 2 * mtp),
        "towers": (2, 88, 176),
        "buffers": (3, 34, 136),
        "tied_copies": (1, 524_288, 1_048_576),
    }
    assert found.total_bytes == sum(written.size(t) for t in (tensors | extra).values())


def test_names_below_a_language_model(tmp_path: Path) -> None:
    tensors = {f"language_model.{n}": t for n, t in llama().items()}
    assert faults(tmp_path, tensors) == []
    shorter = {n.removeprefix("model."): t for n, t in llama().items()}
    assert faults(tmp_path, shorter) == []


# -- a folder's files ----------------------------------------------------------------------------------


def test_a_second_copy_is_not_counted(tmp_path: Path) -> None:
    total = written.folder_of(tmp_path, llama())
    written.write(tmp_path / "consolidated.safetensors", {"tok_embeddings.weight": ("BF16", [8])})
    written.write(tmp_path / "adapter_model.safetensors", {"a": ("BF16", [8])})
    (tmp_path / "original").mkdir()
    written.write(tmp_path / "original" / "model.safetensors", llama())
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"x": "y.bin"}}')
    found = load_model_file(tmp_path).checkpoint
    assert found is not None and (found.files, found.total_bytes) == (1, total)


def test_an_index_without_shards(tmp_path: Path) -> None:
    """Names are compared; what it does not say is left open."""
    total = written.sharded(tmp_path, llama(), 2)
    for shard in tmp_path.glob("*.safetensors"):
        shard.unlink()
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = load_model_file(tmp_path).checkpoint
    assert found is not None and not found.differences
    assert (found.files, found.tensors, found.total_bytes) == (2, len(llama()), total)
    assert found.parameters is None and found.bytes is None and not found.groups


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_names_that_an_index_lacks(tmp_path: Path, name: str) -> None:
    tensors = llama()
    del tensors[f"{K}.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = ("BF16", [1])
    tensors["foo.weight"] = ("BF16", [1])
    weight_map = dict.fromkeys(tensors, "a.bin")
    (tmp_path / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    found = load_model_file(tmp_path).checkpoint
    assert found is not None and found.total_bytes is None
    assert {(d.kind, d.where) for d in found.differences} == {
        ("missing", "layer 1 attention key"),
        ("extra", "layer 7 (all of it)"),
        ("extra", "foo"),
    }


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model_file(folder)
    assert "\n" not in str(caught.value) and caught.value.field == "model"
    json.dumps(caught.value.to_dict(), allow_nan=False)
    return str(caught.value)


def test_an_index_that_names_missing_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    written.sharded(tmp_path, llama(), 3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "names 1 missing shards: model-00002-of-00003" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()  # their names say that there are three
    assert "names 1 missing shards: model-00002-of-00003" in refused(tmp_path)


def test_shards_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    written.sharded(tmp_path, llama(), 2)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.unlink()
    shard.mkdir()
    assert "is a folder where a file belongs" in refused(tmp_path)
    shard.rmdir()
    shard.symlink_to(shard.name)
    assert "symbolic links" in refused(tmp_path)
    shard.unlink()
    shard.symlink_to("gone")
    assert "missing shards" in refused(tmp_path)


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    written.sharded(tmp_path, llama(), 2)
    written.write(tmp_path / "model-00002-of-00002.safetensors", llama())
    assert "model.embed_tokens.weight is in model-00001" in refused(tmp_path)


def test_a_tensor_that_is_not_where_the_index_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    written.sharded(tmp_path, llama(), 2)
    written.write(tmp_path / "model-00002-of-00002.safetensors", {"x": ("F32", [1])})
    assert "the index says" in refused(tmp_path) and "not there" in refused(tmp_path)


def test_what_is_wrong_with_a_shard_is_one_line_of_the_command(tmp_path: Path, capsys: Any) -> None:
    from meshwise.cli import main

    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    assert main(["model", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "1,000,000,000 bytes long" in err and "Traceback" not in err


def test_one_file_of_a_folder_of_configs_is_alone(tmp_path: Path) -> None:
    """Files beside a config of another name are not its weights."""
    (tmp_path / "llama.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert load_model_file(tmp_path / "llama.json").checkpoint is None


def test_keys_are_in_the_reference(tmp_path: Path) -> None:
    tensors = llama()
    del tensors[f"{K}.weight"]
    tensors["mtp.fc.weight"] = ("BF16", [1])
    written.folder_of(tmp_path, tensors)
    record = mw.describe(str(tmp_path)).to_dict()["checkpoint"]
    assert record is not None and record["differences"] and record["apart"] and record["groups"]
    json.dumps(record, allow_nan=False)
    rows = (record, record["groups"][0], record["differences"][0], record["apart"][0])
    page = (Path(__file__).parents[3] / "docs" / "reference" / "json.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `checkpoint` |"))
    assert not {key for table in rows for key in table if f"`{key}`" not in row}


def test_the_page_names_what_differs(tmp_path: Path) -> None:
    tensors = llama()
    del tensors[f"{K}.weight"]
    written.folder_of(tmp_path, tensors)
    answer = mw.describe(str(tmp_path))
    assert "1 file, 1 difference" in answer.brief
    assert "missing  layer 1 attention key  [256, 512]" in str(answer)
    estimate = mw.estimate(str(tmp_path), "hgx-h100", mw.Decode(batch=1, context=128), tp=1)
    assert any("differ from its config.json (missing: layer 1" in r for r in estimate.remarks)


def test_reading_costs_nothing_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    """The package is loaded by a folder with such files alone."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    code = (
        "import sys; from meshwise.models.config_file import load_model_file\n"
        f"load_model_file({str(tmp_path)!r})\n"
        "print([m for m in sys.modules if 'models.checkpoint.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("seed", range(60))
def test_any_change_is_an_answer_or_one_line(seed: int, tmp_path: Path) -> None:
    """Tensors that are lost, of other types, shapes and names: never anything but an answer or a refusal."""
    rng = random.Random(seed)
    case = layouts.CASES[rng.choice(list(layouts.CASES))]
    tensors = llama(case.layout, layers=rng.choice((1, 3, 4)))
    for name in rng.sample(list(tensors), 6):
        dtype, shape = tensors[name]
        change = rng.randrange(5)
        if change == 0:
            del tensors[name]
        elif change == 1:
            tensors[name] = (rng.choice(["F32", "U8", "I32", "F8_E4M3", "I64", "BOOL"]), shape)
        elif change == 2:
            sizes = [rng.choice((0, 1, 2, 7, 64)) for _ in range(rng.randint(0, 5))]
            tensors[name] = (dtype, sizes)
        elif change == 3:
            tensors[name] = (dtype, [n * rng.choice((1, 2, 3)) for n in shape])
        else:
            start = rng.choice(("", "x.", "model.layers.99999999999.", "model.layers.0."))
            odd = rng.choice((name, "weight", "layers.0", "a..b", "self_attn.q_proj.weight.absmax"))
            tensors[start + odd] = (dtype, shape)
    stated = {"quantization_config": case.config} if seed % 2 else {}
    total = written.folder_of(tmp_path, tensors, {**LLAMA, **stated})
    try:
        answer = mw.describe(str(tmp_path))
        json.dumps(answer.to_dict(), allow_nan=False)
        assert str(answer) and answer.to_dict()["checkpoint"]["total_bytes"] == total  # type: ignore[index]
        memory(answer.model)
    except mw.MeshwiseError as error:
        assert "\n" not in str(error)
