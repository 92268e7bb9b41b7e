"""Fixtures of the command line's tests."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # running.py

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def llama(tmp_path):
    """A function that writes a config.json and returns its path: Llama-2-7B with changes, or, where
    they name a model_type, only what is given."""

    def write(**changes):
        path = tmp_path / f"model-{len(list(tmp_path.iterdir()))}.json"
        whole = changes if "model_type" in changes else LLAMA | changes
        path.write_text(json.dumps(whole))
        return str(path)

    return write


@pytest.fixture
def toml(tmp_path):
    """A function that writes a cluster file (text or bytes) and returns its path."""

    def write(content):
        path = tmp_path / "cluster.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write
