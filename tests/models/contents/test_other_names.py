"""Sizes under another type's key, or in a block that nothing reads: refused by that key."""

from __future__ import annotations

from typing import Any

import pytest

from meshwise import catalog
from meshwise.errors import InputError, MeshwiseError
from meshwise.models.contents.other_names import OTHER_NAMES, TEXT_BLOCKS
from meshwise.models.families.config import model_from_config
from meshwise.models.parameters import parameters

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 100, "head_dim": 8,
}  # fmt: skip
OF_LLAMA = [(k, n) for k, names in OTHER_NAMES.items() if k in LLAMA for n in names]


def refused(config: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        model_from_config(config, name="test")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    return caught.value


@pytest.mark.parametrize(("key", "name"), OF_LLAMA)
def test_a_size_under_another_name(key: str, name: str) -> None:
    renamed = {(name if k == key else k): v for k, v in LLAMA.items()}
    assert refused(renamed).field == name
    twofold = refused({**LLAMA, name: 2 * LLAMA[key]})
    assert twofold.field == name and key in twofold.message
    twice = model_from_config({**LLAMA, name: LLAMA[key]}, name="test")  # the same, said twice
    assert parameters(twice) == parameters(model_from_config(LLAMA, name="test"))


def test_a_file_of_other_software() -> None:
    """Llama's own params.json has none of the keys of its type."""
    own = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
    assert refused({"model_type": "llama", **own}).field in ("dim", "n_layers")


@pytest.mark.parametrize("block", TEXT_BLOCKS)
def test_sizes_in_a_block_that_is_not_read(block: str) -> None:
    sizes = {k: v for k, v in LLAMA.items() if k != "model_type"}
    assert refused({**LLAMA, block: {**sizes, "hidden_size": 128}}).field == f"{block}.hidden_size"
    assert refused({**LLAMA, block: {"n_layers": 80}}).field == f"{block}.n_layers"
    same = model_from_config({**LLAMA, block: sizes}, name="test")
    assert parameters(same) == parameters(model_from_config(LLAMA, name="test"))
    try:  # all of the sizes there: read, or refused by the block's name
        moved = model_from_config({"model_type": "llama", block: sizes}, name="test")
    except MeshwiseError as error:
        assert error.field == block
    else:
        assert parameters(moved) == parameters(same)


@pytest.mark.parametrize("key", [k for k in LLAMA if k != "model_type"])
def test_a_wrapper_and_its_language_model_say_the_same(key: str) -> None:
    wrapper = {"model_type": "llava_next", "text_config": LLAMA}
    plain = model_from_config(wrapper, name="test")
    assert model_from_config({**wrapper, key: LLAMA[key]}, name="test") == plain
    contradicting = refused({**wrapper, key: 2 * LLAMA[key]})
    assert (contradicting.field, contradicting.nearest) == (key, LLAMA[key])
    further = refused({**wrapper, "llm_config": {key: 2 * LLAMA[key]}})
    assert further.field == f"llm_config.{key}"


def test_sizes_that_a_wrapper_has_for_itself() -> None:
    """PaliGemma's hidden_size is that of its class's projector, whatever its language model's is."""
    gemma = {**LLAMA, "model_type": "gemma"}
    read = model_from_config(
        {"model_type": "paligemma", "hidden_size": 2048, "text_config": gemma}, name="test"
    )
    assert read.hidden == 64


@pytest.mark.parametrize("name", catalog.names("models"))
def test_no_preset_says_two_things(name: str) -> None:
    table = catalog.load("models", name, "model")[1]
    model_from_config(table, name=name)
