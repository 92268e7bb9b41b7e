"""Files that are no config.json, and configurations that are broken in any way."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwise.errors import InputError, MeshwiseError
from meshwise.models.config_file import MAX_CONFIG_BYTES, load_model_file
from meshwise.models.families.config import known_types, model_from_config
from meshwise.models.families.registry import FAMILIES
from meshwise.models.parameters import parameters
from meshwise.models.shapes import Model

DATA = Path(__file__).parents[1] / "data" / "configs"
CONFIGS = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DATA.glob("*.json"))
}
SIZES = '"n_embd": 64, "n_head": 4, "vocab_size": 100, "n_positions": 64'
SMALL = '{"model_type": "gpt2", "n_layer": 2, ' + SIZES + "}"


def refused(path: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        load_model_file(path)
    message = str(caught.value)
    assert "\n" not in message and caught.value.field
    json.dumps(caught.value.to_dict(), allow_nan=False)
    return message


def test_file_and_folder_give_the_same_model(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(SMALL)
    by_folder, by_file = load_model_file(folder), load_model_file(folder / "config.json")
    assert by_folder.name == by_file.name == "my-model"
    assert parameters(by_folder) == parameters(by_file)
    assert by_folder.source == str(folder)
    other = tmp_path / "gpt2-tiny.json"
    other.write_text(SMALL)
    assert load_model_file(other).name == "gpt2-tiny"
    assert load_model_file(other, name="mine").name == "mine"


def test_quantization_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(SMALL)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    for path in (tmp_path, tmp_path / "config.json"):
        found = load_model_file(path).quantization
        assert found is not None and found.weight_dtype == "fp8"
    (tmp_path / "hf_quant_config.json").write_text("{")
    assert "hf_quant_config.json" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b'{"model_type": "gpt2", "n_la', "is truncated"),
        (b'{"model_type": "gpt2",', "is truncated"),
        (b"hello", "is not JSON"),
        (b"{'model_type': 'gpt2'}", "is not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1, 2]", "a list where an object belongs"),
        (b"17", "an integer where an object belongs"),
        (b"null", "null where an object belongs"),
        (b"{}", "model_type: absent"),
        (b"\x7fELF\x02\x01\x00\x00", "is a binary file"),
        (b'{"model_type": "\xff\xfe"}', "is not UTF-8"),
        (b'{"model_type": "gpt2", "n_layer": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"model_type": "gpt2", "n_layer": 1e999}', "n_layer"),
        (b'{"model_type": "gpt2", "n_layer": NaN}', "n_layer"),
        (b'{"model_type": "gpt2", "n_layer": Infinity}', "n_layer"),
    ],
)
def test_content(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert said in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + SMALL.encode(),
        SMALL[:-1].encode() + b', "n_layer": 2}',
        SMALL[:-1].encode() + b', "time_step_limit": [0.0, Infinity], "x": NaN}',
        SMALL.encode() + b"\n\n",
    ],
)
def test_content_that_is_let_through(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert load_model_file(path).layers == 2


def test_paths_that_are_no_regular_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing")
    assert "no config.json" in refused(tmp_path)
    assert "empty path" in refused("")
    assert "NUL" in refused("a\0b")
    assert "too long" in refused("x" * 5000)
    assert "a device" in refused("/dev/zero")
    (tmp_path / "file").write_text(SMALL)
    assert "not a directory" in refused(tmp_path / "file" / "config.json")
    os.symlink("loop", tmp_path / "loop")
    assert "symbolic links" in refused(tmp_path / "loop")
    folder = tmp_path / "folder"
    (folder / "config.json").mkdir(parents=True)
    assert "is a folder" in refused(folder)


def test_fifo_and_socket_do_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal.alarm(20)  # a blocking open ends the run instead of hanging it
    os.mkfifo(tmp_path / "config.json")
    assert "a FIFO" in refused(tmp_path)
    assert "a FIFO" in refused(tmp_path / "config.json")
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert "a socket" in refused("socket")
    signal.alarm(0)


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text(SMALL)
    path.chmod(0)
    if os.geteuid() == 0:  # root reads everything: pretend

        def denied(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("meshwise.models.config_file.os.open", denied)
    assert "no permission" in refused(path)


def test_a_huge_file_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**30)  # sparse: 1 GiB that takes no room
    assert "1,073,741,824 bytes" in refused(path)
    path.write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    assert f"at most {MAX_CONFIG_BYTES:,} bytes" in refused(path)


def test_imports_are_light() -> None:
    code = (
        "import sys, meshwise.models.config_file; "
        "print(sorted({'json', 'difflib', 'numpy', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ATOMS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["4096", "auto", "float16", "LG", *known_types()]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


def every_key(config: dict[str, Any]) -> list[tuple[str, ...]]:
    """Paths to all keys, in nested objects as well."""
    found: list[tuple[str, ...]] = []
    for key, value in config.items():
        found.append((key,))
        if isinstance(value, dict):
            found += [(key, *path) for path in every_key(value)]
    return found


def read_or_refuse(config: object) -> None:
    try:
        model = model_from_config(config, name="test")
    except MeshwiseError as error:
        assert "\n" not in str(error)
        json.dumps(error.to_dict(), allow_nan=False)
        return
    assert isinstance(model, Model)
    assert parameters(model) > 0
    assert 0 < parameters(model, active=True) <= parameters(model)
    assert len(model.blocks) <= model.layers


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mutation_gives_a_model_or_a_refusal(data: st.DataObject) -> None:
    config = copy.deepcopy(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(every_key(config)))
        target = config
        for key in path:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(VALUES)
        else:
            del target[last]
        if not config:
            break
    read_or_refuse(config)


def keys_of(model_type: str) -> list[str]:
    family = FAMILIES[model_type]
    names = set(family.defaults) | {n for others in family.aliases.values() for n in others}
    return sorted(names | {"layer_types", "architectures", "quantization_config", "torch_dtype",
                           "attn_config", "ffn_config", "mlp_layer_types", "no_rope_layers",
                           "index_topk_pattern", "indexer_types", "index_topk_freq",
                           "hybrid_layer_pattern", "swa_head_dim", "sliding_window_size",
                           "attn_type_list", "use_cla", "num_shared_expert", "dtype",
                           "moe_layer_freq", "word_embed_proj_dim", "block_configs"})  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_keys_of_any_family_give_a_model_or_a_refusal(data: st.DataObject) -> None:
    model_type = data.draw(st.sampled_from(sorted(FAMILIES)))
    keys = data.draw(st.lists(st.sampled_from(keys_of(model_type)), max_size=4, unique=True))
    config = {"model_type": model_type, **{key: data.draw(VALUES) for key in keys}}
    read_or_refuse(config)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(stated=st.dictionaries(
    st.sampled_from(["quant_method", "bits", "group_size", "config_groups", "ignore", "format",
                     "modules_to_not_convert", "weight_block_size", "quant_algo", "load_in_4bit",
                     "kv_cache_scheme", "global_quant_config", "weights", "quant_config"]),
    st.one_of(VALUES, st.sampled_from(["awq", "fp8", "mxfp4", "modelopt", "quark", "hqq",
                                       "bitsandbytes", "compressed-tensors", "NVFP4"])),
))  # fmt: skip
def test_any_quantization_gives_a_model_or_a_refusal(stated: dict[str, Any]) -> None:
    read_or_refuse({"model_type": "mixtral", "quantization_config": stated})


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_give_a_model_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    try:
        load_model_file(path)
    except MeshwiseError as error:
        assert "\n" not in str(error)


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    """A folder as PEFT saves it, and its file."""
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf", "r": 16}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    assert "an adapter and no model" in refused(tmp_path)
    assert "adapter" in refused(tmp_path / "adapter_config.json")
