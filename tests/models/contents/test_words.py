"""Words that name a function or a format: known ones, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from meshwise.errors import InputError
from meshwise.models.contents.words import ACTIVATIONS
from meshwise.models.families.config import model_from_config
from meshwise.models.shapes import Model

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "vocab_size": 100,
}  # fmt: skip


def read(**keys: Any) -> Model:
    return model_from_config({**LLAMA, **keys}, name="test")


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("hidden_act", "foo", None),
        ("hidden_act", "sliu", "silu"),
        ("hidden_act", 7, None),
        ("hidden_activation", "bar", None),
        ("activation_function", "gelu_neww", "gelu_new"),
        ("torch_dtype", "float8_whatever", None),
        ("dtype", "float8", None),
        ("torch_dtype", "float12", None),
    ],
)
def test_a_word_that_nobody_has(key: str, value: object, near: str | None) -> None:
    with pytest.raises(InputError) as caught:
        read(**{key: value})
    assert caught.value.field == key and "\n" not in str(caught.value)
    assert near is None or caught.value.nearest == near


def test_the_activations_of_transformers_are_known() -> None:
    activations = pytest.importorskip("transformers.activations")
    assert set(activations.ACT2CLS) <= ACTIVATIONS
    for name in ACTIVATIONS:
        assert read(hidden_act=name).hidden == 64


def test_eight_bits_are_a_quantised_checkpoints() -> None:
    blocks = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert read(torch_dtype="float8_e4m3fn", quantization_config=blocks).dtype == "bf16"
    for dtype in ("float8_e4m3fn", "torch.float8_e5m2"):
        with pytest.raises(InputError, match="no quantization_config says"):
            read(torch_dtype=dtype)
