"""Every public function takes names, paths and objects; whatever else it is given ends in one line."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshwise as mw
from meshwise import launch
from meshwise.stacks.stack import FIELDS

TRAINING = mw.Training(batch=8, seq=512)
SERVING = mw.Serving(isl=128, osl=16, concurrency=4)
JOB = launch.Job(model="gpt2", phase="train", tp=2, dp=4, micro_batch=1, global_batch=8, seq=512)

NONSENSE: dict[str, Any] = {
    "nothing": None,
    "a number": 7,
    "a large number": 10**400,
    "a negative number": -3,
    "a fraction": 2.5,
    "nan": float("nan"),
    "inf": float("inf"),
    "true": True,
    "text": "no such thing",
    "empty text": "",
    "a NUL": "a\0b",
    "bytes": b"gpt2",
    "an empty list": [],
    "a list": [None, "x"],
    "a table": {"a": 1},
    "a path": Path("no/such/file"),
    "an object": object(),
    "a class": mw.Training,
    "an array": np.arange(3),
    "a stack": mw.stack("vllm"),
    "a cluster": mw.cluster("dgx-a100"),
    "a model": mw.model("gpt2"),
    "a workload": mw.Decode(batch=1, context=64),
}

# Each function with arguments that are right; the other parameters are tried beside them.
CALLS: dict[str, dict[str, Any]] = {
    "Cluster": {"name": "x", "title": "x", "device": None, "levels": None},
    "Decode": {"batch": 1, "context": 64},
    "Device": {},
    "Device.of": {"name": "x", "like": "h100-80gb-sxm"},
    "Formats": {},
    "Level": {},
    "Level.of": {"ranks": 8, "fabric": "nvlink4-nvswitch"},
    "Model": {},
    "Model.dense": {"layers": 2, "hidden": 64, "heads": 4, "ffn": 128, "vocab": 100},
    "Model.mla": {
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "ffn": 128,
        "vocab": 100,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
    "Model.moe": {
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "vocab": 100,
        "experts": 4,
        "experts_per_token": 2,
        "expert_ffn": 32,
    },
    "Prefill": {"batch": 1, "seq": 64},
    "Serving": {"isl": 128, "osl": 16, "concurrency": 4},
    "Stack": {"name": "x"},
    "Training": {"batch": 8, "seq": 512},
    "cluster": {"name": "dgx-a100"},
    "collective": {"op": "all_reduce", "size": "1MB", "cluster": "dgx-a100", "ranks": 8},
    "describe": {"model": "gpt2"},
    "estimate": {"model": "gpt2", "cluster": "dgx-a100", "workload": TRAINING},
    "export": {"job": JOB, "target": "megatron-lm"},
    "grow": {"model": "gpt2", "cluster": "dgx-a100", "workload": TRAINING, "gpus": [1, 2]},
    "model": {"name": "gpt2"},
    "plan": {"model": "gpt2", "cluster": "dgx-a100", "workload": TRAINING, "gpus": 2, "tp": 1},
    "read_command": {
        "command": "torchrun --nproc-per-node 2 pretrain_gpt.py --tensor-model-parallel-size 2 "
        "--micro-batch-size 1",
        "cluster": "dgx-a100",
        "model": "gpt2",
        "global_batch": 2,
        "seq": 64,
    },
    "scale": {"model": "gpt2", "cluster": "dgx-a100", "workload": TRAINING, "tp": [1, 2]},
    "serve": {"model": "gpt2", "cluster": "dgx-a100", "workload": SERVING},
    "stack": {"name": "vllm"},
    "sweep": {
        "model": "gpt2",
        "cluster": "dgx-a100",
        "workload": TRAINING,
        "sweep": "batch=1,2",
        "tp": [1, 2],
    },
    "validate": {"table": "no-such.csv"},
}
LAYOUT = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "dcp", "micro_batch", "shard", "recompute")
MORE = {
    "estimate": (*LAYOUT, "sequence_parallel", "no_such_axis"),
    "serve": ("tp", "pp", "dp", "ep", "etp", "no_such_axis"),
    "plan": (*LAYOUT, "sequence_parallel", "overlap", "placement", "no_such_axis"),
    "grow": ("tp", "pp", "shard", "no_such_axis"),
    "stack": (*FIELDS, "no_such_switch"),
}
NO_CALLS = {"MeshwiseError", "Point", "__version__", "run"}  # run starts ranks: tests/runtime


def public(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = operator.attrgetter(name)(mw)
    return function


def parameters(name: str) -> list[str]:
    function = public(name)
    own = (
        list(function.__struct_fields__)
        if hasattr(function, "__struct_fields__")
        else [p.name for p in inspect.signature(function).parameters.values() if p.kind != 4]
    )
    return list(dict.fromkeys([*own, *MORE.get(name, ())]))


def complete(name: str) -> dict[str, Any]:
    where = mw.cluster("dgx-a100")
    whole = {"Cluster": where, "Device": where.device, "Level": where.levels[0]}
    own: Any = {**whole, "Model": mw.model("gpt2")}.get(name)
    return CALLS[name] if own is None else {f: getattr(own, f) for f in own.__struct_fields__}


def test_every_public_name_is_tried() -> None:
    assert {name for name in CALLS if "." not in name} | NO_CALLS == set(mw.__all__)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_nonsense_ends_in_one_line(name: str) -> None:
    function = public(name)
    wrong = []
    refused = 0
    for parameter in parameters(name):
        if parameter == "progress":
            continue
        for what, value in NONSENSE.items():
            try:
                function(**complete(name) | {parameter: value})
            except mw.MeshwiseError as error:
                refused += 1
                if "\n" in str(error) or not error.field:
                    wrong.append((parameter, what, str(error)))
            except Exception as error:
                wrong.append((parameter, what, f"{type(error).__name__}: {error}"))
    assert not wrong, "\n".join(map(str, wrong))
    assert refused > len(parameters(name))


@pytest.mark.parametrize("given", ["gpt2", Path("gpt2"), mw.model("gpt2")])
def test_models_by_name_path_and_object(given: Any) -> None:
    assert mw.model(given) == mw.describe(given).model == mw.model("gpt2")
    assert mw.estimate(given, "dgx-a100", TRAINING, tp=2).step_s > 0


@pytest.mark.parametrize("how", ["name", "path", "object"])
def test_clusters_by_name_path_and_object(how: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('device = "a100-80gb-sxm"\n[[level]]\nranks = 8\nfabric = "nvlink3-nvswitch"\n')
    given: Any = {"name": str(file), "path": file, "object": mw.cluster(file)}[how]
    assert mw.cluster(given).devices == 8
    assert mw.collective("all_reduce", "1MB", given, 8).time_s > 0
    assert mw.estimate("gpt2", given, TRAINING, tp=2).step_s > 0


def test_numbers_of_a_command_line_and_of_numpy() -> None:
    want = mw.estimate("gpt2", "dgx-a100", TRAINING, tp=2).to_dict()
    other = mw.Training(batch=np.int64(8), seq="512")  # type: ignore[arg-type]
    for tp in ("2", 2.0, np.int64(2), np.float64(2)):
        assert mw.estimate("gpt2", "dgx-a100", other, tp=tp).to_dict() == want
    assert [p.tp for p in mw.scale("gpt2", "dgx-a100", TRAINING, tp=np.int64(2)).points] == [2]


def test_results_have_their_figures_as_attributes() -> None:
    answers: dict[Any, tuple[str, ...]] = {
        mw.estimate("gpt2", "dgx-a100", TRAINING, tp=2): (
            *("step_s", "step_low_s", "step_high_s", "compute_s", "comm_s", "exposed_comm_s"),
            *("bubble_s", "host_s", "comm_share", "mfu", "hfu", "tokens_per_s_per_device"),
            *("memory_bytes", "memory_limit_bytes", "fits", "devices"),
        ),
        mw.serve("gpt2", "dgx-a100", SERVING): (
            *("tpot_s", "ttft_s", "queue_s", "tokens_per_s", "tokens_per_s_per_device", "fits"),
            *("requests_per_s", "decode_s", "prefill_s", "memory_bytes", "memory_limit_bytes"),
            *("max_concurrency", "devices"),
        ),
        mw.plan("gpt2", "dgx-a100", TRAINING, gpus=2, tp=1): ("best", "layouts"),
        mw.plan("gpt2", "dgx-a100", SERVING, gpus=2, tp=1): ("best", "layouts"),
        mw.collective("all_reduce", "1MB", "dgx-a100", 8): (
            *("time_s", "time_low_s", "time_high_s", "algorithm"),
            *("algbw_bytes_per_s", "busbw_bytes_per_s"),
        ),
        mw.describe("gpt2"): ("name", "layers", "parameters", "active_parameters", "legal_tp"),
    }
    for answer, names in answers.items():
        record = answer.to_dict()
        for name in names:
            assert getattr(answer, name) == record[name], (type(answer), name)


@pytest.mark.parametrize("value", ["no such thing", [], 2.5, -3, float("nan"), mw.Training])
def test_an_acceptance_is_a_share_whatever_the_command_starts(value: Any) -> None:
    with pytest.raises(mw.MeshwiseError) as caught:
        mw.read_command(**CALLS["read_command"], acceptance=value)
    assert caught.value.field == "acceptance"


@pytest.mark.parametrize("name", [n for n in CALLS if inspect.isroutine(public(n))])
def test_an_unknown_keyword_is_refused_by_name(name: str) -> None:
    """A slip in a keyword is bad input like any other: not a signature's traceback."""
    first = next(iter(CALLS[name]))
    slip = first + "_x"
    with pytest.raises(mw.MeshwiseError) as caught:
        public(name)(**CALLS[name], **{slip: 1})
    assert slip in str(caught.value) and caught.value.legal


@pytest.mark.parametrize(
    "name", [n for n in CALLS if inspect.isroutine(public(n)) and n != "stack"]
)
def test_what_is_missing_is_named_all_at_once(name: str) -> None:
    parameters = inspect.signature(public(name)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]
    with pytest.raises(mw.MeshwiseError) as caught:
        public(name)()
    assert str(caught.value).split(";")[0].endswith(f": missing: {', '.join(needed)}")
    assert caught.value.field == needed[0]
