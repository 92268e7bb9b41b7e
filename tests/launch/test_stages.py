"""Splits of layers over pipeline stages that are not even: written as they are priced, read as said."""

from __future__ import annotations

import itertools

import pytest

from meshwise.errors import MeshwiseError
from meshwise.launch import Job, parse, write_launch
from meshwise.launch.settings import stages
from meshwise.layouts.stages import stage_bounds


@pytest.mark.parametrize("layers", range(1, 70))
def test_flags_say_the_stages_that_are_priced(layers: int) -> None:
    for pp in range(1, layers + 1):
        said = stages.split_settings(layers, pp)
        bounds = stage_bounds(layers, pp)
        sizes = stages.stages_said({"layers": layers, **said}, pp)
        assert sizes == [b - a for a, b in itertools.pairwise(bounds)]
        assert bool(said) == (layers % pp != 0)


def _exported(model: str, target: str, **degrees: int) -> str:
    job = Job(model=model, phase="train", micro_batch=1, global_batch=768, seq=4096, **degrees)
    return write_launch(job, target).text


def test_megatron_is_told_of_uneven_stages() -> None:
    loss = "--account-for-loss-in-pipeline-split"
    embedding = "--account-for-embedding-in-pipeline-split"
    both = _exported("llama-3.1-405b", "megatron-lm", tp=8, etp=8, pp=16)
    assert loss in both and embedding in both
    virtual = _exported("gpt3-175b", "megatron-lm", tp=8, etp=8, pp=7, vp=2)
    assert loss in virtual and embedding in virtual
    one = _exported("llama-3.1-70b", "megatron-lm", tp=8, etp=8, pp=3)
    assert loss in one and embedding not in one
    assert "pipeline-split" not in _exported("llama-3.1-70b", "megatron-lm", tp=8, etp=8, pp=4)
    free = _exported("deepseek-v3", "megatron-lm", pp=16, dp=1)
    assert "--pipeline-model-parallel-layout 'Et*3|t*4|" in free
    assert "'model.pipeline_model_parallel_layout=Et*3|t*4|" in _exported(
        "deepseek-v3", "megatron-bridge", pp=16, dp=1
    )
    assert parse(free).job.pp == 16


RUN = "torchrun --nproc-per-node 8 pretrain_gpt.py --bf16 --pipeline-model-parallel-size 4"


def test_splits_are_read() -> None:
    even = parse(f"{RUN} --num-layers 32 --decoder-last-pipeline-num-layers 8")
    assert not any("stages" in note for note in even.notes)
    other = parse(f"{RUN} --num-layers 32 --decoder-last-pipeline-num-layers 5")
    assert "stages of 9 9 9 5 layers are priced as even as 32 layers go" in other.notes
    layout = parse(f"{RUN} --pipeline-model-parallel-layout 'Ett|(tt|)*2ttL'")
    assert not any("stages" in note for note in layout.notes)
    unknown = parse(f"{RUN} --decoder-first-pipeline-num-layers 5")
    assert any("as even as it goes" in note for note in unknown.notes)
    assert parse(f"{RUN} --num-layers 31 --account-for-loss-in-pipeline-split").job.pp == 4
    interleaved = parse(
        f"{RUN} --num-layers 30 --num-layers-per-virtual-pipeline-stage 4 "
        "--account-for-loss-in-pipeline-split --account-for-embedding-in-pipeline-split"
    )
    assert interleaved.job.vp == 2


def test_layers_that_megatron_does_not_share() -> None:
    """Looked at with the model, whether the command says its layers or not."""
    stages.check_split({}, 32, 4, 2)
    stages.check_split({"loss_split": 1}, 31, 4, 1)
    stages.check_split({"last_layers": 6}, 30, 4, 1)
    for sizes, layers, pp, vp in (({}, 30, 4, 1), ({"last_layers": 5}, 30, 4, 1), ({}, 32, 4, 3)):
        with pytest.raises(MeshwiseError, match="does not share"):
            stages.check_split(sizes, layers, pp, vp)
