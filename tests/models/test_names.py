"""Names as people and hubs write them: the architecture, and the format that stands at the end."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator

import pytest
from tests.deep import deep

from meshwise import catalog
from meshwise.errors import InputError, MeshwiseError, meant, slips
from meshwise.layouts.tp_degrees import legal_tp
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.served.formats import format_table
from meshwise.models.served.nearest import nearest_preset, unknown_model
from meshwise.models.shapes import Model
from meshwise.program.stored import weight_bytes

SPELT = catalog.aliases("models") | {name: name for name in catalog.names("models")}


def checkpoint(model: Model) -> float:
    """Bytes of a quantised checkpoint."""
    return next(v for k, v in weight_bytes(model).items() if k.endswith(" checkpoint"))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek-v3"),
        ("zai-org/GLM-4.6", "glm-4.5"),
        ("qwq-32b", "qwen2.5-32b"),
    ],
)
def test_the_same_architecture(name: str, same: str) -> None:
    found, preset = load_model(name), load_model(same)
    assert found.name == same
    assert (found.blocks, found.pattern, found.vocab) == (
        preset.blocks,
        preset.pattern,
        preset.vocab,
    )
    assert same in found.asked and name in found.asked  # every answer says what it was taken as


@pytest.mark.parametrize(
    ("name", "preset", "dtype", "group", "block"),
    [
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b", "fp8", None, (128, 128)),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "qwen2.5-72b", "int4", 128, None),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "qwen2.5-7b", "int8", 128, None),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b", "nvfp4", 16, None),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b", "fp8", None, None),
        ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16", "llama-3.1-8b", "int4", 128, None),
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", "llama-3.2-3b", "int4", 64, None),
    ],
)
def test_the_format_is_part_of_the_name(
    name: str, preset: str, dtype: str, group: int | None, block: tuple[int, int] | None
) -> None:
    found = load_model(name)
    q = found.quantization
    assert q is not None and found.name.startswith(preset + "-")
    assert (q.weight_dtype, q.group, q.block) == (dtype, group, block)
    again = load_model(found.name)  # the name that answers print stands for the same
    assert (again.blocks, again.quantization) == (found.blocks, found.quantization)


def test_16_bit_is_a_format_too() -> None:
    assert load_model("deepseek-v3").quantization is not None
    assert load_model("deepseek-v3-bf16").quantization is None


def test_the_publishers_fp8_of_405b_leaves_attention_in_16_bit() -> None:
    found = load_model("meta-llama/Llama-3.1-405B-Instruct-FP8")
    layers = [found.blocks[kind].stored for kind in found.pattern]
    assert all(s.attention is None and s.output is None for s in layers)
    assert [s.up is None for s in layers] == [True] + [False] * 124 + [True]


@pytest.mark.parametrize("name", ["bartowski/Llama-3.2-3B-Instruct-GGUF", "llama-3.1-8b-exl2"])
def test_a_format_that_is_not_priced_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="a format that a name does not describe"):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("llama70b", "llama-3.1-70b"),
        ("llama70b-fp8", "llama-3.1-70b-fp8"),
        ("lama-3.1-70b-AWQ", "llama-3.1-70b-awq"),
        ("llama-3.1-70", "llama-3.1-70b"),
        ("llama-3.1-8", "llama-3.1-8b"),
        ("qwq-32b", "qwen2.5-32b"),
        ("glm-4.6", "glm-4.5"),
    ],
)
def test_the_nearest_is_of_the_same_family_and_size(name: str, near: str) -> None:
    assert nearest_preset(name) == near


@pytest.mark.parametrize("name", ["deepseek-r2", "kimi-v2", "deepseek-r3"])
def test_another_line_of_models_is_not_near(name: str) -> None:
    assert nearest_preset(name) is None


@pytest.mark.parametrize(
    ("name", "preset", "stored"),
    [
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout", None),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-12b", None),
        ("Mistral-Nemo-Instruct-FP8-2407", "mistral-nemo-12b", "fp8"),
        ("Mistral-Large-Instruct-AWQ-2411", "mistral-large", "int4"),
        ("01-ai/Yi-34B-Chat-4bits", "yi-34b", "int4"),
        ("01-ai/Yi-34B-Chat-8bits", "yi-34b", "int8"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b", None),
        ("TheBloke/TinyLlama-1.1B-Chat-v1.0-AWQ", "tinyllama-1.1b", "int4"),
        ("openbmb/MiniCPM-2B-sft-bf16", "minicpm-2b", None),
    ],
)
def test_words_in_any_order(name: str, preset: str, stored: str | None) -> None:
    found, plain = load_model(name), load_model(preset)
    assert (found.layers, found.hidden, found.vocab) == (plain.layers, plain.hidden, plain.vocab)
    assert found.name.startswith(preset)
    assert (found.quantization.weight_dtype if found.quantization else None) == stored


@pytest.mark.parametrize("publisher", ["", "nvidia/", deep("Qwen/"), deep("meta-llama/")])
@pytest.mark.parametrize("preset", ["llama-4-maverick", "gpt2", "kimi-k2", "falcon-7b", "mpt-7b"])
def test_every_format_of_every_kind_of_file(preset: str, publisher: str) -> None:
    """A model or one line: sizes stand under other keys, or in the block of a language model."""
    for entry in format_table()["entries"]:
        with contextlib.suppress(MeshwiseError):
            found = load_model(f"{publisher}{preset}-{entry['name']}")
            assert preset in found.name
            assert load_model(found.name).quantization == found.quantization


def test_the_publishers_fp8_of_maverick_is_of_the_experts() -> None:
    found = load_model("meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8")
    assert checkpoint(found) == pytest.approx(415e9, rel=0.01)  # of the published files


def test_another_training_may_have_another_format() -> None:
    thinking, instruct = (load_model(n) for n in ("Kimi-K2-Thinking", "Kimi-K2-Instruct"))
    assert checkpoint(thinking) == pytest.approx(594e9, rel=0.01)
    assert checkpoint(instruct) == pytest.approx(1029e9, rel=0.01)


@pytest.mark.parametrize(
    "name",
    ["mistralai/Mistral-Small-Instruct-2409", "CohereForAI/c4ai-command-r-08-2024",
     "Qwen/Qwen2.5-VL-72B-Instruct", "deepseek-ai/DeepSeek-V4-Flash-Vision", "xai-org/grok-1",
     "mistralai/Mistral-Large-3-675B-Instruct-2512", "someone/Qwen3-Third-32B"],
)  # fmt: skip
def test_a_word_that_is_left_over_is_another_model(name: str) -> None:
    assert named_model(name) is None


@pytest.mark.parametrize(
    "name",
    [
        *("llama-3-90b", "llama-3.1-80b", "llama-3.1-07b", "llama-3.2-70b", "llama-3.1-4"),
        *("gemma-4-27b", "qwen3-72b", "qwen2.5-33b", "gpt-neo-125b", "mixtral-8x8b", "opt-12b"),
        *("Mistral-Nemo-Minitron-8B-FP8", "mistralai/Ministral-8B-2410", "mistral-lare-8b"),
        *("gemma9", "gemma-9", "deepseek-v9", "deepseek-v3.3", "kimi-k9", "minimax-m9", "qwen3.9"),
        *("glm-4.5v", "GLM-4V-9B", "gemma-3x-4b", "llama5", "glm-6", "phi-5", "qwen4-8b"),
        *("someone/Qwen3-Third-32B", "Qwen/Qwen3-Omni-30B-A3B", "DeepSeek-Coder-V2-Lite-Extra"),
    ],
)
def test_another_size_or_version_is_no_nearest(name: str) -> None:
    """Who follows the nearest would get another model's answer. Names alike are listed."""
    assert nearest_preset(name) is None
    error = unknown_model("MODEL", name)
    assert error.nearest is None and "see `meshwise catalog`" in error.legal


def slipped(name: str) -> Iterator[str]:
    """A name with a letter left out, or two exchanged."""
    for i, letter in enumerate(name):
        after = name[i + 1 : i + 2]
        if letter.isalpha():
            yield name[:i] + name[i + 1 :]
        if letter.isalpha() and after.isalpha() and letter != after:
            yield name[:i] + after + letter + name[i + 2 :]


@functools.cache
def slips_of_presets() -> dict[str, set[str]]:
    """Every slip of every preset's name, and whose it is."""
    found: dict[str, set[str]] = {}
    for name in catalog.names("models"):
        for typed in slipped(name):
            found.setdefault(typed, set()).add(name)
    return found


@pytest.mark.parametrize("names", [catalog.names("models")[i::8] for i in range(8)], ids=str)
def test_a_slip_of_the_fingers_leads_back_to_the_same_model(names: tuple[str, ...]) -> None:
    """Of every preset, at every letter; nobody can tell pt-13b: nothing is suggested for it."""
    meant_by = slips_of_presets()
    for name in names:
        for typed in slipped(name):
            if named_model(typed) is not None:  # another spelling of it
                assert named_model(typed).preset == name, typed
                continue
            twins = meant_by[typed] - {name}
            assert nearest_preset(typed) == (None if twins else name), typed
            if re.search(r"\d[bmt]$", name):  # as hubs write it
                own = nearest_preset(f"someone/{typed}-Instruct-AWQ")
                assert own in (None, f"{name}-awq"), typed


def numbers(name: str) -> list[float]:
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", name)]


def renumbered(name: str) -> Iterator[str]:
    """A name with another number in the place of one of its own."""
    for found in re.finditer(r"\d+(?:\.\d+)?", name):
        whole, point, part = found[0].partition(".")
        others = {str(int(whole) + 1), str(2 * int(whole)), whole + "1", found[0] + ".5"}
        others |= {f"{whole}.{int(part) + 1}", whole} if point else {f"{whole}.1"}
        for other in others - {found[0]}:
            yield name[: found.start()] + other + name[found.end() :]


@pytest.mark.parametrize("names", [catalog.names("models")[i::8] for i in range(8)], ids=str)
def test_another_number_never_leads_to_a_model_without_it(names: tuple[str, ...]) -> None:
    """Digits are another size, version or date: of every preset, each of its numbers changed, alone, as hubs
    write it and in a format. The nearest, where there is one, has all the numbers that were typed."""
    for name in names:
        for typed in renumbered(name):
            for said in (typed, f"someone/{typed}-Instruct", f"someone/{typed}-FP8"):
                near, found = nearest_preset(said), named_model(said)
                for preset in (near and near.removesuffix("-fp8"), found and found.preset):
                    known = [n for n, of in SPELT.items() if of == preset]
                    stated = [set(numbers(typed)) <= set(numbers(n)) for n in known]
                    assert preset is None or any(stated), (said, preset)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_a_word_that_no_name_has_is_never_dropped(name: str) -> None:
    for word in ("omni", "vision", "next", "v9"):
        for said in (f"{name}-{word}", f"{word}-{name}", f"someone/{name}-{word}-FP8"):
            assert named_model(said) is None and nearest_preset(said) is None, said


def test_slips() -> None:
    assert slips("llama", "llama") == 0
    assert slips("lama", "llama") == slips("lllama", "llama") == slips("lalma", "llama") == 1
    assert slips("llamb", "llama") == 1.5
    assert meant("pt-13b", {"opt-13b": "opt", "mpt-13b": "mpt"}) == {"opt", "mpt"}
    assert meant("pot-13b", {"opt-13b": "opt", "mpt-13b": "mpt"}) == {"opt"}
    for other in ("opt-1.3b", "opt-13m", "opt-31b"):
        assert meant(other, {"opt-13b": "opt"}) == set()


# Sums of the weights files that hubs list, in GB as they are shown there.
PUBLISHED = {
    "TheBloke/Llama-2-7B-Chat-AWQ": 3.89,
    "TheBloke/Llama-2-13B-chat-AWQ": 7.25,
    "TheBloke/Llama-2-70B-chat-AWQ": 36.61,
    "TheBloke/Llama-2-13B-chat-GPTQ": 7.26,
    "TheBloke/Llama-2-13B-chat-GPTQ-8bit": 13.65,
    "TheBloke/Mistral-7B-Instruct-v0.1-AWQ": 4.15,
    "TheBloke/CodeLlama-34B-Instruct-AWQ": 18.31,
    "TheBloke/Mixtral-8x7B-Instruct-v0.1-AWQ": 24.65,
    "TheBloke/Yi-34B-Chat-AWQ": 19.22,
    "Qwen/Qwen2.5-7B-Instruct-AWQ": 5.57,
    "Qwen/Qwen3-32B-FP8": 34.3,
    "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit": 5.70,
    "openai/gpt-oss-120b": 65.3,
    "meta-llama/Llama-3.1-405B-Instruct-FP8": 489.0,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_of_published_checkpoints(name: str) -> None:
    assert checkpoint(load_model(name)) / 1e9 == pytest.approx(PUBLISHED[name], rel=0.005)


def test_a_format_may_have_other_shapes() -> None:
    """The publisher pads the FFN of its 72B so that eight shards hold whole groups; others do not."""
    own, other = (
        load_model("Qwen/Qwen2.5-72B-Instruct-AWQ"),
        load_model("x/Qwen2.5-72B-Instruct-AWQ"),
    )
    for form in ("AWQ", "GPTQ-Int4", "GPTQ-Int8"):
        assert 8 in legal_tp(load_model(f"Qwen/Qwen2-72B-Instruct-{form}"), None)
    assert 8 in legal_tp(own, None) and 2 not in legal_tp(other, None)
    for found in (own, other, load_model("nvidia/Llama-3.3-70B-Instruct-FP8")):
        again = load_model(found.name)
        assert (again.blocks, again.quantization) == (found.blocks, found.quantization)


def test_a_size_beside_a_name_is_the_presets() -> None:
    assert load_model("deepseek-r1:671b").name == "deepseek-v3"
    assert named_model("deepseek-r1:70b") is None and named_model("llama-3.1-8b:70b") is None
    assert load_model("meta-llama/Llama-3.1-8B/").name == "llama-3.1-8b"
