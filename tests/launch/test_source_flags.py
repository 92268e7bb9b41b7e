"""Flags of the targets' own sources: how a table is read out of one, and what reading a command makes of it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from meshwise.errors import InputError
from meshwise.launch import parse
from meshwise.launch.spelling.source_flags import source_flags
from meshwise.launch.table import every_target

ROOT = Path(__file__).parents[2]
SOURCE = """
import argparse
from dataclasses import dataclass, field
from typing import Literal, Optional

MODES = ["slow", "fast"]
Backend = Literal["auto", "one", "two"]


@dataclass
class ServerArgs:
    depth: int = 3
    backend: Backend = "auto"
    names: Optional[list[str]] = None


def get_kwargs(cls): ...


def add_cli_args(parser):
    group = parser.add_argument_group("server")
    group.add_argument("--mode", "-m", type=str, choices=MODES, default="fast")
    group.add_argument("--shape", type=int, nargs=2)
    group.add_argument("--quiet", action="store_true")
    group.add_argument("--spread", action=argparse.BooleanOptionalAction, default=True)
    kwargs = get_kwargs(ServerArgs)
    group.add_argument("--depth", **kwargs["depth"])
    chosen = kwargs["backend"]
    group.add_argument("--backend", **chosen)
    group.add_argument("--names", **kwargs["names"])
"""


def table_of(target: str, folder: Path) -> dict[str, dict[str, str]]:
    out = folder / "flags.csv"
    command = [sys.executable, str(ROOT / "tools" / "target_flags.py"), target, str(folder)]
    done = subprocess.run(
        [*command, "--version", "made 1.0", "-o", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, *lines = out.read_text().splitlines()
    assert first == "# made 1.0"
    return {row["spellings"].split()[0]: row for row in csv.DictReader(lines)}


def test_a_table_is_read_out_of_a_source_that_is_never_run(tmp_path: Path) -> None:
    place = tmp_path / "sglang" / "srt"
    place.mkdir(parents=True)
    (place / "server_args.py").write_text("raise SystemExit('run')\n" + SOURCE)
    found = table_of("sglang", tmp_path)
    short = {name: (row["values"], row["default"], row["choices"]) for name, row in found.items()}
    assert short == {
        "--mode": ("1", "fast", "slow|fast"),
        "--shape": ("2", "", ""),
        "--quiet": ("0", "", ""),
        "--spread": ("0", "True", ""),
        "--depth": ("1", "3", ""),
        "--backend": ("1", "auto", "auto|one|two"),
        "--names": ("+", "None", ""),
    }
    assert found["--mode"]["spellings"] == "--mode -m"
    assert found["--spread"]["spellings"] == "--spread --no-spread"


def test_sections_of_dataclasses_are_flags_with_dots(tmp_path: Path) -> None:
    place = tmp_path / "torchtitan"
    place.mkdir()
    (place / "trainer.py").write_text(
        "from dataclasses import dataclass\n"
        "class Trainer:\n"
        "    @dataclass\n"
        "    class Config:\n"
        "        seed: int = 7\n"
        "        training: 'Training' = None\n"
        "@dataclass\n"
        "class Training:\n"
        "    steps: int = 10\n"
        "    whole: bool = False\n"
    )
    found = table_of("torchtitan", tmp_path)
    assert found["--seed"]["default"] == "7"
    assert found["--training.steps"]["values"] == "1"
    assert found["--training.whole"]["spellings"] == "--training.whole --training.no-whole"


@pytest.mark.parametrize("name", [t.name for t in every_target() if source_flags(t.name)])
def test_every_table_names_its_release_and_spells_each_flag_once(name: str) -> None:
    table = source_flags(name)
    assert table is not None and table.release
    assert len(table.by_spelling) > 20
    path = ROOT / "src/meshwise/launch/targets/flags" / f"{name}.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()[1:]))
    spelt = [s for row in rows for s in row["spellings"].split()]
    assert len(spelt) == len(set(spelt))
    assert all(row["values"] in ("?", "*", "+") or row["values"].isdigit() for row in rows)


MEGATRON = "torchrun --nproc-per-node 8 pretrain_gpt.py --tensor-model-parallel-size 2 --bf16 "


def test_a_flag_takes_as_many_words_as_its_source_says() -> None:
    read = parse(MEGATRON + "--profile-ranks 0 1 2 --seed 5 --micro-batch-size 2", gpus=8)
    assert read.job.micro_batch == 2 and read.job.tp == 2
    assert "--profile-ranks 0 1 2" in read.ignored and "--seed 5" in read.ignored
    served = parse("vllm serve --middleware one two --tensor-parallel-size 2 --enable-lora")
    assert served.job.tp == 2
    switch = parse("vllm serve -tp 2 --trust-remote-code org/llama-3.1-8b")
    assert switch.job.model == "org/llama-3.1-8b"


def test_a_flag_that_says_what_holds_without_it_changes_no_price() -> None:
    read = parse(MEGATRON + "--optimizer adam", gpus=8)
    assert not read.unpriced
    other = parse(MEGATRON + "--optimizer muon", gpus=8)
    assert other.job.optimizer == "muon"


def test_words_that_are_no_flags_of_the_target_are_named() -> None:
    read = parse("vllm serve llama-3.1-8b -tp 2 --zzz-unheard-of 4")
    assert any("no flags of vLLM" in n and "--zzz-unheard-of" in n for n in read.notes)
    # what follows accelerate's script is the script's own
    quiet = parse("accelerate launch --num_processes 8 --use_fsdp train.py --zzz-unheard-of 4")
    assert not any("no flags" in n for n in quiet.notes)


def test_keys_of_a_table_and_levels_are_parts_of_their_flag() -> None:
    read = parse("vllm serve llama-3.1-8b -tp 2 -O3 --compilation-config.cudagraph_mode NONE")
    said = [u.flag for u in read.unpriced]
    assert said == ["-O3", '--compilation-config={"cudagraph_mode": "NONE"}']
    assert not read.notes


def test_a_misspelt_degree_is_refused_where_all_flags_are_known() -> None:
    with pytest.raises(InputError, match="nearest: --tp_size"):
        parse("trtllm-serve llama-3.1-8b --tp_sise 4")


def test_a_layout_that_is_not_followed_is_refused_unless_it_is_off() -> None:
    base = "python -m sglang.launch_server --model-path llama-3.1-8b --tp 2 "
    assert parse(base).job.tp == 2
    with pytest.raises(InputError, match="prefill-context"):
        parse(base + "--enable-prefill-context-parallel")


def test_accelerates_megatron_plugin_says_context_and_expert_parallelism() -> None:
    text = (
        "accelerate launch --use_megatron_lm --num_processes 32 --megatron_lm_tp_degree 2 "
        "--megatron_lm_pp_degree 2 --megatron_lm_context_parallel_size 2 "
        "--megatron_lm_expert_model_parallel_size 4 --megatron_lm_recompute_granularity full train.py"
    )
    job = parse(text).job
    assert (job.tp, job.pp, job.cp, job.dp, job.ep, job.etp) == (2, 2, 2, 4, 4, 1)
    assert job.recompute == "full"
