"""Recipes by their names and configurations written in Python: what they say where a command does not."""

from __future__ import annotations

import ast

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import parse
from meshwise.launch.files.recipes import find_recipe, recipe_names
from meshwise.launch.python.built import Built, Open
from meshwise.launch.python.functions import Followed, TooLong
from meshwise.launch.python.modules import SourceModule
from meshwise.launch.settings.stages import stages_said
from meshwise.launch.table import target

RUN = "torchrun --nproc-per-node 8 --nnodes 4 scripts/training/run_recipe.py"
SETUP = "python scripts/performance/setup_experiment.py -m llama -mr llama3_70b"


def fields(text: str, *names: str, gpus: int | None = None) -> dict[str, object]:
    job = parse(text, gpus=gpus).job
    return {name: getattr(job, name) for name in names}


# -- by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["megatron-bridge", "torchtitan"])
def test_every_recipe_of_the_tables_is_read(name: str) -> None:
    chosen = target(name)
    for recipe in recipe_names(chosen):
        found = find_recipe(recipe, chosen)
        assert found is not None and found.settings.keys() <= chosen.flags.keys(), recipe


def test_a_recipe_says_what_the_command_leaves_out() -> None:
    read = parse(f"{RUN} --recipe llama3_70b_pretrain_config train.global_batch_size=64")
    job = read.job
    assert (job.model, job.tp, job.pp, job.vp, job.cp, job.dp) == (
        "meta-llama/Meta-Llama-3-70B",
        *(4, 4, 5, 2, 1),
    )
    assert (job.global_batch, job.seq, job.sequence_parallel, job.shard) == (
        64,
        8192,
        True,
        "zero1",
    )
    assert "067f987d" in read.notes[0]


def test_a_commands_own_words_win() -> None:
    text = f"{RUN} --recipe llama3_70b_pretrain_config model.context_parallel_size=1"
    assert fields(text, "tp", "cp", "dp") == {"tp": 4, "cp": 1, "dp": 2}


def test_the_older_name_is_the_same_recipe() -> None:
    chosen = target("megatron-bridge")
    old = find_recipe("llama3_70b_pretrain_config", chosen)
    new = find_recipe("llama3_70b_pretrain_32gpu_h100_bf16_config", chosen)
    assert old is not None and new is not None and old.settings == new.settings


def test_the_parts_of_a_benchmarks_name() -> None:
    job = parse(f"{SETUP} -ng 64 -g h100 -c fp8_cs").job
    assert (job.gpus, job.dtype, job.tp) == (64, "fp8", 4)
    assert parse(f"{SETUP} -ng 64 -g gb200 -c fp8_mx").job.dtype == "mxfp8"


def test_a_recipe_that_is_in_no_table() -> None:
    with pytest.raises(MeshwiseError, match="own_llama_config sets is not known"):
        parse(f"{RUN} --recipe own_llama_config model.tensor_model_parallel_size=2")
    said = "model.tensor_model_parallel_size=2 model.pipeline_model_parallel_size=4"
    read = parse(f"{RUN} --recipe own_llama_config {said}")
    assert (read.job.tp, read.job.pp, read.job.dp) == (2, 4, 4)
    assert any("beside the command is not known" in note for note in read.notes)


@pytest.mark.parametrize("said", ["--mode lora", "--peft_scheme dora"])
def test_adapters_are_refused(said: str) -> None:
    with pytest.raises(MeshwiseError, match="adapters are not priced"):
        parse(f"{RUN} --recipe llama3_8b_pretrain_config {said}")
    with pytest.raises(MeshwiseError, match="adapters are not priced"):
        parse(f"{RUN} --recipe llama3_8b_peft_config")


def test_torchtitans_function_by_module_and_name() -> None:
    text = "NGPU=8 MODULE=llama3 CONFIG=llama3_8b ./run_train.sh --parallelism.tensor_parallel_degree 2"
    assert fields(text, "model", "tp", "dp", "shard", "recompute", "seq", gpus=8) == {
        "model": "llama-3.1-8b",
        "tp": 2,
        "dp": 4,
        "shard": "zero3",
        "recompute": "selective",
        "seq": 8192,
    }


# -- written in Python ---------------------------------------------------------------------------------------

BRIDGE = """
from megatron.bridge.recipes.llama import llama3_70b_pretrain_config

def half_the_stages():
    cfg = llama3_70b_pretrain_config()
    cfg.model.pipeline_model_parallel_size = 2
    cfg.train.micro_batch_size = 2
    {}
    return cfg
"""


def test_a_function_over_a_recipe() -> None:
    names = ("tp", "pp", "vp", "cp", "dp", "micro_batch", "global_batch")
    found = fields(BRIDGE.format("cfg.train.global_batch_size = 256"), *names, gpus=32)
    assert found == dict(zip(names, (4, 2, 5, 2, 2, 2, 256), strict=True))


def test_a_degree_under_a_condition_is_not_read() -> None:
    text = BRIDGE.format("if large():\n        cfg.model.tensor_model_parallel_size = 8")
    with pytest.raises(MeshwiseError, match="tensor_model_parallel_size: set under a condition"):
        parse(text, gpus=32)


def test_several_functions_are_asked_for() -> None:
    one = BRIDGE.format("")
    two = one + one.replace("half_the_stages", "the_same").partition("config\n")[2]
    with pytest.raises(MeshwiseError, match="2 configurations"):
        parse(two, gpus=32)


def test_old_torchtitan_files_name_their_model() -> None:
    text = (
        '[model]\nname = "llama2"\nflavor = "13B"\n[training]\nbatch_size = 2\nseq_len = 4096\n'
        "tensor_parallel_degree = 2\npipeline_parallel_degree = 1\ndata_parallel_degree = -1\n"
    )
    assert fields(text, "model", "tp", "dp", gpus=16) == {"model": "llama-2-13b", "tp": 2, "dp": 8}


def followed(text: str, name: str = "f") -> object:
    return Followed().call(SourceModule(ast.parse(text)), name)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("x = [1, 2]\n    x.append(3)\n    return len(x) * 2", 6),
        ("return {(2, 4): 'a'}.get((2, 4))", "a"),
        ("n = 0\n    for i in [1, 2, 3]:\n        n += i\n    return n", 6),
        ("return 'big' if 70 > 8 else 'small'", "big"),
        ("a, b = 4, 5\n    return a if b else 1", 4),
        ("return g(size=3)", 12),
        ("import os\n    return int(os.getenv('TP', '4'))", 4),
    ],
)
def test_values_that_follow(body: str, value: object) -> None:
    assert (
        followed(
            f"BASE = 4\ndef g(size, times=BASE):\n    return size * times\ndef f():\n    {body}\n"
        )
        == value
    )


@pytest.mark.parametrize(
    "body", ["return other()", "return 1 if other() == 2 else 3", "return x + 1"]
)
def test_values_that_stay_open(body: str) -> None:
    assert isinstance(followed(f"def f():\n    {body}\n"), Open | Built)


def test_what_never_ends_is_left() -> None:
    loops = "def f():\n  for a in [0] * 200:\n    for b in [0] * 200:\n      for c in [0] * 200:\n"
    with pytest.raises(TooLong):
        followed(f"{loops}        x = b\n")
    assert isinstance(followed("def f():\n    return f()\n"), Open)


def test_a_recipes_stages_are_megatrons() -> None:
    found = find_recipe("deepseek_v3_pretrain_1024gpu_h100_fp8cs_config", target("megatron-bridge"))
    assert found is not None and str(found.settings["stage_layout"]).startswith("Et|")
    assert stages_said({"stage_layout": "Et*3|t*4|t*3L"}, 3) == [3, 4, 3]


def refused(text: str, gpus: int | None = None) -> MeshwiseError:
    with pytest.raises(MeshwiseError) as caught:
        parse(text, gpus=gpus)
    return caught.value


@pytest.mark.parametrize(
    "words",
    [
        "--recipe llama3_70b_pretrain_config --step_func llm_step --mode dora",
        "--recipe some_model_peft_config",
        "--recipe some_model_lora_config --mode lora",
    ],
)
@pytest.mark.parametrize("more", ["", "model.tensor_model_parallel_size=4"])
def test_a_run_that_trains_adapters_is_refused_wherever_it_is_said(words: str, more: str) -> None:
    error = refused(f"{RUN} {words} {more} train.global_batch_size=64")
    assert error.to_dict()["error"]["field"] == "task"


def test_flags_of_the_script_before_its_overrides_are_its_own() -> None:
    text = (
        f"{RUN} --recipe llama3_70b_pretrain_config --mode pretrain model.context_parallel_size=1"
    )
    assert fields(text, "tp", "cp", "dp") == {"tp": 4, "cp": 1, "dp": 2}
    assert parse(text).job.model == "meta-llama/Meta-Llama-3-70B"
