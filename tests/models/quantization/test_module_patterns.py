"""Names, globs and regular expressions of modules, as checkpoints' files write them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwise.errors import InputError
from meshwise.models.quantization.patterns import Pattern

Q = "model.layers.3.self_attn.q_proj"
GATE = "model.layers.3.mlp.gate_proj"


@pytest.mark.parametrize(
    ("text", "name", "meets"),
    [
        ("self_attn", Q, True),
        ("self_attn.q_norm", Q, False),
        ("q_proj", Q, True),
        ("proj", Q, False),
        ("model.layers.3", Q, True),
        ("model.layers.30", Q, False),
        ("model.language_model.layers.3.self_attn*", Q, True),
        ("language_model.model.layers.3.self_attn", Q, True),
        ("backbone.layers.3.self_attn.q_proj", Q, True),
        ("transformer.h.3.self_attn", Q, True),
        ("vision_tower.encoder.layers.3.self_attn", Q, False),
        ("model.visual.blocks.3.attn.qkv", "model.layers.3.attn.qkv", False),
        ("model.layers.*.self_attn", Q, True),
        ("*.self_attn.*", Q, True),
        ("*.mlp.gate", GATE, False),
        ("*.mlp.gate*", GATE, True),
        ("re:.*mlp.gate$", GATE, False),
        ("re:.*mlp.gate", GATE, True),  # as re.match has it
        ("re:.*self_attn\\.(q|k|v|o)_proj$", Q, True),
        ("re:.*layers\\.(?:[0-2]|4)\\..*", Q, False),
        ("re:.*layers\\.(?:[0-9]|1[0-9])\\..*", Q, True),
        ("re:model\\.layers\\.\\d+\\.mlp.*", GATE, True),
        ("re:^(?!.*mlp).*", GATE, False),
        ("re:^(?!.*mlp).*", Q, True),
        (".*\\.3\\..*gate.*", GATE, True),
        ("model.layers.3.mlp.experts.17.gate_proj", "model.layers.3.mlp.experts.0.gate_proj", True),
        ("lm_head", "lm_head", True),
        ("language_model.lm_head", "lm_head", True),
        ("model.embed_tokens", "embed_tokens", True),
    ],
)
def test_what_a_pattern_means(text: str, name: str, meets: bool) -> None:
    assert Pattern(text, "ignore").meets(name) == meets


@pytest.mark.parametrize(
    ("text", "layer", "every"),
    [
        ("model.layers.12.mlp", 12, False),
        ("re:model\\.layers\\.12\\.mlp.*", 12, False),
        ("re:model\\.layers\\.1[0-2]\\.mlp.*", None, False),
        ("re:.*layers\\.(0|3)\\..*", None, False),
        ("re:.*mlp.*", None, True),
        ("re:.*layers\\.\\d+\\.mlp", None, True),
        ("block_sparse_moe.w1", None, True),
    ],
)
def test_which_layers_it_names(text: str, layer: int | None, every: bool) -> None:
    found = Pattern(text, "ignore")
    assert (found.layer, found.every) == (layer, every)


PIECES = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "\\.",
        ".*",
        ".+",
        "a*",
        "b?",
        "[ab]",
        "[^a]",
        "(a|b)",
        "(ab|)",
        "(?:a|ba)*",
        "\\w",
        "a{1,2}",
    ]
)


@given(st.lists(PIECES, max_size=7).map("".join), st.text(alphabet="ab.", max_size=8))
def test_as_pythons_own(pattern: str, name: str) -> None:
    """Held to its beginning, it is what re.match says."""
    assert Pattern("re:^" + pattern, "ignore").meets(name) == (re.match(pattern, name) is not None)


def test_no_pattern_takes_long() -> None:
    before = time.perf_counter()
    for text in ("re:^(a+)+$", "re:^(a|a)*b", "re:" + ".*a" * 30 + "$", "re:^((a*)*)*b"):
        Pattern(text, "ignore").meets("a" * 200)
    assert time.perf_counter() - before < 2.0


@pytest.mark.parametrize(
    "text",
    ["re:(", "re:a)", "re:[a", "re:*a", "re:(a)\\1", "re:a(?!b)", "re:(?<=a)b", "re:\\bgate", "re:a{999}", "re:((a{60}){60}){60}"],
)  # fmt: skip
def test_what_is_not_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not read") as refused:
        Pattern(text, "quantization_config.ignore")
    assert refused.value.field == "quantization_config.ignore" and refused.value.value == text
