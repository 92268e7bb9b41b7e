"""The model presets: readable, sourced, and as large as published."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import pytest

import meshwise.catalog
from meshwise.errors import InputError
from meshwise.models.config_file import load_model_file
from meshwise.models.families.config import model_from_config
from meshwise.models.load import load_model
from meshwise.models.names import named_model
from meshwise.models.parameters import parameters

FOLDER = Path(meshwise.catalog.__file__).parent / "models"
PRESETS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.json"))
    if path.name != "index.json"
}
INDEX: dict[str, str] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))

# Published names that round more than their table: embeddings not counted, or untied here.
ROUNDED = {"megatron-h100-1.7b": 0.04, "megatron-sc21-1.7b": 0.04, "nemotron3-22b": 0.04,
           "nemotron3-8b": 0.07, "nemotron4-15b": 0.05}  # fmt: skip
REQUIRED = """
gpt3-175b gpt2 gpt2-xl gpt3-13b mt-nlg-530b megatron-1t llama-2-7b llama-2-13b llama-2-70b
llama-3-8b llama-3-70b llama-3.1-8b llama-3.1-70b llama-3.1-405b llama-3.2-1b llama-3.2-3b
llama-3.3-70b llama-4-scout llama-4-maverick mistral-7b mistral-large mixtral-8x7b mixtral-8x22b
qwen2-7b qwen2.5-7b qwen2.5-14b qwen2.5-32b qwen2.5-72b qwen3-8b qwen3-14b qwen3-32b qwen3-30b-a3b
qwen3-235b-a22b gemma-2-9b gemma-2-27b gemma-3-12b gemma-3-27b phi-3-mini phi-4 opt-1.3b opt-30b
opt-66b opt-175b bloom-176b falcon-7b falcon-40b falcon-180b gpt-j-6b gpt-neox-20b deepseek-v2
deepseek-v2-lite deepseek-v3 kimi-k2 glm-4.5 minimax-m2 gpt-oss-20b gpt-oss-120b dbrx olmo-2-7b
starcoder2-15b command-r-plus yi-34b tinyllama-1.1b smollm3-3b
llama2-7b llama2-13b llama2-70b llama3-8b llama3-70b llama3.1-405b gpt-20b gpt-89b megatron-22b
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset(name: str) -> None:
    preset = PRESETS[name]
    assert preset["_source"].strip()
    assert name == name.lower() and "_" not in name and " " not in name
    model = model_from_config(preset, name=name, source=preset["_source"])
    published = preset.get("_published_parameters_billion")
    if published is not None:
        counted = parameters(model) / 1e9
        assert abs(counted - published) <= ROUNDED.get(name, 0.02) * published


def test_exactly_published_counts() -> None:
    """Sums of the weights files on the hub, where they are published."""
    exact = {
        "gpt2-xl": 1_557_611_200, "llama-3.2-3b": 3_212_749_824, "llama-2-70b": 68_976_648_192,
        "llama-3.1-405b": 405_853_388_800, "mistral-large": 122_610_069_504,
        "mixtral-8x22b": 140_620_634_112, "qwen2.5-72b": 72_706_203_648,
        "qwen3-235b-a22b": 235_093_634_560, "gemma-2-27b": 27_227_128_320,
        "phi-4": 14_659_507_200, "bloom-176b": 176_247_271_424, "deepseek-v2": 235_741_434_880,
        "dbrx": 131_596_523_520, "olmo-2-7b": 7_298_617_344, "starcoder2-15b": 15_957_889_024,
        "command-r-plus": 103_810_674_688, "smollm3-3b": 3_075_098_624,
        "gpt-oss-120b": 116_829_156_672, "olmoe-1b-7b": 6_919_161_856,
    }  # fmt: skip
    for name, count in exact.items():
        assert parameters(model_from_config(PRESETS[name], name=name)) == count, name


def test_names_resolve() -> None:
    known = set(PRESETS) | set(INDEX)
    assert len(PRESETS) >= 44
    assert [name for name in REQUIRED if name not in known] == []


def test_index_holds_the_aliases_of_the_files() -> None:
    stated = {alias: name for name, c in PRESETS.items() for alias in c.get("_aliases", [])}
    assert stated == INDEX
    assert not set(INDEX) & set(PRESETS)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measurement tables are not here")
def test_names_of_the_measurement_tables_are_names_everywhere() -> None:
    """What a row's model column understands by a file beside the table, the command line knows."""
    beside = {path.stem for path in (SHARED / "models").glob("*.json")}
    names: set[str] = set()
    for table in ("serving.csv", "engines.csv", "training.csv", "training_layer.csv"):
        lines = (SHARED / table).read_text(encoding="utf-8").splitlines()
        names |= {row["model"] for row in csv.DictReader(lines)}
    unknown = {n for n in names if named_model(n) is None and not n.startswith("(layer only)")}
    priced = set()
    for name in unknown & beside:
        with contextlib.suppress(InputError):  # an architecture that no command prices
            load_model_file(str(SHARED / "models" / f"{name}.json"))
            priced.add(name)
    assert priced == set()
    assert unknown <= beside


@pytest.mark.parametrize("hub", ["MiniMaxAI/MiniMax-M2.5", "MiniMaxAI/MiniMax-M2.1"])
def test_later_checkpoints_of_the_same_shapes(hub: str) -> None:
    """A name and the hub's id of it are one model, in the checkpoint's own format, without a network."""
    model, short = load_model(hub), load_model(hub.partition("/")[2].lower())
    assert model.asked == f"{hub}: preset minimax-m2, the same architecture"
    assert short.blocks == model.blocks == load_model("minimax-m2").blocks
    assert model.quantization is not None
    assert model.quantization.weight_dtype == "fp8"
