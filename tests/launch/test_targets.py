"""What every target's table and module have to be, and a target that has a table alone."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re

import pytest

from meshwise import catalog
from meshwise.errors import InputError
from meshwise.launch import Job, target_names
from meshwise.launch import targets as folder
from meshwise.launch.settings import plain
from meshwise.launch.table import Flag, Target, every_target, target
from meshwise.launch.write import WRAPPERS, write_launch

PROTOCOL = set(re.findall(r"^\* ``(\w+)\(", folder.__doc__ or "", re.M))


@pytest.mark.parametrize("name", target_names())
def test_a_table_names_what_exists(name: str) -> None:
    chosen = target(name)
    assert chosen.stack in catalog.names("stacks")
    assert chosen.phase in ("train", "serve")
    assert set(chosen.wrappers) <= set(WRAPPERS)
    assert chosen.cannot.keys() <= set(Job.__struct_fields__)
    assert "lws" not in chosen.wrappers or chosen.image


@pytest.mark.parametrize("name", target_names())
def test_a_module_has_functions_of_the_protocol_only(name: str) -> None:
    own = name.replace("-", "_")
    if not (folder.TARGETS_FOLDER / f"{own}.py").is_file():
        assert target(name).run  # written by its table alone
        return
    module = importlib.import_module(f"meshwise.launch.targets.{own}")
    public = {
        key
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and key[0] != "_"
    }
    assert "write" in public or target(name).run
    shared = {
        "degree_settings",
        "recomputation_settings",
        "batch_settings",
        "optimizer_fields",
        "optimizer_settings",
    }  # Megatron-Bridge's too
    assert public - shared <= PROTOCOL == {
        "read", "write", "defaults", "split", "with_files", "shape", "model_named", "check_command", "is_local",
        "unpriced", "claims"
    }  # fmt: skip


def test_no_two_targets_are_told_by_the_same_words() -> None:
    for a, b in itertools.combinations(every_target(), 2):
        for name in ("program", "keys", "calls", "images", "aliases"):
            assert not set(getattr(a, name)) & set(getattr(b, name)), (a.name, b.name, name)


def test_an_alias_is_a_target_and_no_targets_name() -> None:
    aliases = {alias: chosen.name for chosen in every_target() for alias in chosen.aliases}
    assert aliases and not aliases.keys() & set(target_names())
    for alias, name in aliases.items():
        assert target(alias).name == target(alias.upper().replace("-", "_")).name == name
    with pytest.raises(InputError, match="megatron"):
        target("megatron-lmm")


TRAINER = Target(
    name="acme",
    title="Acme",
    version="1",
    phase="train",
    stack="megatron-core",
    flags={
        n: Flag(n, (f"--{n}",), "int") for n in ("tp", "pp", "ep", "micro_batch", "global_batch")
    },
    price={},
    holds={},
    environment={},
    cannot={},
    run="train.py",
)


def test_a_trainer_with_a_table_alone_is_written_and_read() -> None:
    job = Job(model="", phase="train", tp=2, pp=2, dp=4, etp=2, micro_batch=1, global_batch=8)
    text, files = plain.command_each(job, TRAINER)
    assert text.startswith("torchrun --nnodes 2 --nproc-per-node 8") and not files
    said = dict(re.findall(r"--(tp|pp|ep|micro_batch|global_batch) (\d+)", text))
    assert said == {"tp": "2", "pp": "2", "micro_batch": "1", "global_batch": "8"}
    fields, notes = plain.fields_each(TRAINER, {k: int(v) for k, v in said.items()}, 16)
    assert Job(model="", phase="train", **fields) == job and not notes
    with pytest.raises(InputError, match="how many GPUs"):
        plain.fields_each(TRAINER, {"tp": 2}, None)


@pytest.mark.parametrize(
    ("name", "model", "said"),
    [
        ("trtllm", "qwen3-8b", False),
        ("trtllm", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8", False),
        ("trtllm", "jamba-1.5-mini", True),
        ("trtllm", "ai21labs/AI21-Jamba-1.5-Mini", True),
        ("trtllm", "/models/mine", False),  # nobody knows what is there
        ("vllm", "jamba-1.5-mini", False),
    ],
)
def test_a_model_that_no_documentation_lists_is_remarked_on(
    name: str, model: str, said: bool
) -> None:
    exported = write_launch(Job(model=model, phase="serve", tp=2), name)
    assert any("documentation lists" in note for note in exported.notes) == said


def test_documented_types_are_written_once() -> None:
    for chosen in every_target():
        assert len(set(chosen.model_types)) == len(chosen.model_types)
    assert {"llama", "deepseek_v3", "qwen3_5_moe"} <= set(target("trtllm").model_types)
