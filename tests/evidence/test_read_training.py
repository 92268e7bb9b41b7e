"""Training logs as rows: the step without its start-up, the layout that the log states, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from meshwise.evidence.readers.reading import read_file
from meshwise.evidence.readers.records import FileFound

MEGATRON = (Path(__file__).parents[2] / "examples" / "read" / "megatron.log").read_text("utf-8")


def found(tmp_path: Path, text: str) -> FileFound:
    path = tmp_path / "train.log"
    path.write_text(text, encoding="utf-8")
    (only,) = read_file(str(path))
    return only


def test_a_megatron_log_says_layout_step_and_memory(tmp_path: Path) -> None:
    (row,) = found(tmp_path, MEGATRON).rows
    assert row.line == 26  # of the second step: the first holds start-up
    assert row.values == {
        "tp": 4,
        "pp": 2,
        "dp": 2,
        "cp": 1,
        "vp": 1,
        "devices": 16,
        "micro_batch": 1,
        "global_batch": 128,
        "seq": 8192,
        "num_layers": 32,
        "hidden_size": 4096,
        "recompute": "selective",
        "sequence_parallel": True,
        "shard": "zero1",
        "dtype": "bf16",
        "grad_overlap": True,
        "stack": "megatron",
        "step_s": 9.17,
        "steps_measured": 3,
        "flops_per_s_per_device": pytest.approx(400.3e12),
        "memory_bytes": pytest.approx(21000.25 * 2**20),
        "memory_of": "allocated",
    }


def test_a_layout_is_read_from_a_configuration_or_a_command_too(tmp_path: Path) -> None:
    steps = MEGATRON[MEGATRON.index("-------------------- end") :]
    command = (
        "torchrun pretrain_gpt.py --tensor-model-parallel-size 8 --seq-length 4096 --bf16 \\\n"
    )
    config = "model:\n  tensor_model_parallel_size: 2\n  seq_length: 4096\n"
    for text, tp in ((command, 8), (config, 2), (command + config, 2)):
        (row,) = found(tmp_path, text + steps).rows
        assert (row.values["tp"], row.values["seq"]) == (tp, 4096)
    read = found(tmp_path, config + config.replace(": 2", ": 4") + steps)
    assert "tp" not in read.rows[0].values  # said twice in different words
    assert read.remarks == ["the log says tp in several words: left out"]


@pytest.mark.parametrize(
    "said, dtype",
    [
        ("fp8 ............ hybrid\n  fp8_recipe ..... delayed", "fp8"),
        ("fp8 ............ e4m3\n  fp8_recipe ..... mxfp8", "mxfp8"),
        ("fp4 ............ e2m1\n  fp8 ............ None", "nvfp4"),
        ("fp8 ............ None", "bf16"),
    ],
)
def test_a_format_is_the_narrowest_that_is_on(tmp_path: Path, said: str, dtype: str) -> None:
    text = "\n".join(line for line in MEGATRON.splitlines() if " fp8 ..." not in line)
    (row,) = found(tmp_path, f"  {said}\n{text}").rows
    assert row.values["dtype"] == dtype


def test_each_size_of_batch_is_a_row_and_each_run_its_own(tmp_path: Path) -> None:
    steps = MEGATRON.splitlines()[-3:]
    grown = "\n".join(steps).replace("batch size:   128", "batch size:   256")
    grown = grown.replace("iteration        ", "iteration       1").replace(": 91", ": 181")
    read = found(tmp_path, MEGATRON + grown + "\n" + MEGATRON.replace(": 91", ": 71"))
    told = [(r.values["global_batch"], r.values["step_s"]) for r in read.rows]
    assert told == [(128, 9.17), (256, 18.17), (128, pytest.approx(7.17))]


@pytest.mark.parametrize(
    "old, new, line, expected",
    [
        ("(ms): 9180.0", "(ms): nan", 27, "finite number above 0"),
        ("(ms): 9180.0", "(ms): 0.0", 27, "finite number above 0"),
        ("(ms): 9180.0", "(ms): -9180.0", 27, "finite number above 0"),
    ],
)
def test_a_step_that_is_no_time_is_refused(
    tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    read = found(tmp_path, MEGATRON.replace(old, new))
    assert [(r.line, expected in r.reason) for r in read.refused] == [(line, True)]
    assert read.rows[0].values["steps_measured"] == 2


def test_the_first_step_alone_is_no_measurement(tmp_path: Path) -> None:
    read = found(tmp_path, "\n".join(MEGATRON.splitlines()[:24]))
    assert not read.rows
    assert read.refused[0].line == 24
    assert "start-up" in read.refused[0].reason


NEMO = """\
 0: Training epoch 0, iteration 0/99 | lr: 5.6e-06 | global_batch_size: 32 | global_step: 0 | train_step_timing in s: 10.19
 0: Training epoch 0, iteration 1/99 | lr: 5.6e-06 | global_batch_size: 32 | global_step: 1 | train_step_timing in s: 0.25 | consumed_samples: 64
"""
BARS = "Epoch 0: 1%|1| 1/9 [v_num=1, global_step=0.0, train_step_timing in s=9.0]\rEpoch 0: 2%|1| 2/9 [v_num=1, global_step=1.000, train_step_timing in s=0.25]\n"
LISTED = "[NeMo I perf:56] train_step_timing in s: [9.0, 0.24, 0.25, 0.26]\n"


@pytest.mark.parametrize("text", [NEMO, BARS, LISTED])
def test_nemo_says_its_steps_in_three_forms(tmp_path: Path, text: str) -> None:
    (row,) = found(tmp_path, text).rows
    assert (row.values["step_s"], row.values["stack"]) == (0.25, "nemo")


TITAN = """\
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - Building 3-D device mesh with ['dp_replicate', 'dp_shard', 'tp'], [2, 4, 2]
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - \x1b[34mModel llama3 8B \x1b[31msize: 8,030,261,248 total parameters\x1b[39m
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - Applied full activation checkpointing to the model
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - Compiling each TransformerBlock with torch.compile
[rank0]:[titan] 2025-12-17 01:18:20,000 - root - INFO - Training starts at step 1, with local batch size 2, global batch size 16, sequence length 8192, total steps 1000 (warmup 200)
[rank0]:[titan] 2025-12-17 01:18:26,708 - root - INFO - \x1b[31mstep:  1  \x1b[32mloss: 12.4153  memory: 47.87GiB(62.89%)  tps: 945  tflops: 47.71  mfu: 4.82%
[rank1]:[titan] 2025-12-17 01:18:26,708 - root - INFO - step: 10  loss: 12.0  memory: 60.00GiB(75.0%)  tps: 1  tflops: 301.33  mfu: 30.47%
[rank0]:[titan] 2025-12-17 01:18:34,942 - root - INFO - step: 10  loss: 12.0  memory: 50.00GiB(63.0%)  tps: 5,970  tflops: 301.33  mfu: 30.47%
"""


def test_a_torchtitan_log_says_mesh_model_device_and_rate(tmp_path: Path) -> None:
    (row,) = found(tmp_path, TITAN).rows
    assert row.values == {
        "tp": 2,
        "pp": 1,
        "cp": 1,
        "dp": 8,
        "devices": 16,
        "shard": "hsdp",
        "device": "h100-80gb-sxm",
        "model": "llama3 8B",
        "recompute": "full",
        "stack": "torchtitan-compile",
        "micro_batch": 2,
        "global_batch": 16,
        "seq": 8192,
        "tokens_per_s_per_device": 5970.0,
        "flops_per_s_per_device": pytest.approx(301.33e12),
        "memory_of": "reserved",
        "memory_bytes": 50 * 2.0**30,
        "steps_measured": 1,
    }


def test_steps_without_their_head_say_nothing_of_compilation(tmp_path: Path) -> None:
    steps = "\n".join(line for line in TITAN.splitlines() if " step:" in line or "mstep:" in line)
    (row,) = found(tmp_path, steps).rows
    assert "stack" not in row.values


def test_a_name_whose_memory_is_another_parts_is_no_device(tmp_path: Path) -> None:
    (row,) = found(
        tmp_path, TITAN.replace("H100 80GB HBM3 with 79.10GiB", "H100 with 95.00GiB")
    ).rows
    assert "device" not in row.values
    assert row.values["device_said"] == "NVIDIA H100 with 95 GiB"


NANOTRON = """\
08/31/2024 [INFO|DP=0|PP=0|TP=0]:        parallelism=ParallelismArgs(dp=4,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                                    pp=2,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                                    tp=2,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                                    tp_mode=<TensorParallelLinearMode.REDUCE_SCATTER: 2>,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                                    expert_parallel_size=1),
08/31/2024 [INFO|DP=0|PP=0|TP=0]:        tokens=TokensArgs(sequence_length=2048,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                          micro_batch_size=4,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:                          batch_accumulation_per_replica=80,
08/31/2024 [INFO|DP=0|PP=0|TP=0]: LlamaConfig(hidden_size=16,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:             num_hidden_layers=2,
08/31/2024 [INFO|DP=0|PP=0|TP=0]:             pretraining_tp=1,
08/31/2024 [INFO|DP=0|PP=0|TP=0]: iteration: 1 / 15 | consumed_tokens: 512 | elapsed_time_per_iteration_ms: 4.71K | global_batch_size: 1.28K | model_tflops_per_gpu: 18
08/31/2024 [INFO|DP=0|PP=0|TP=0]: iteration: 2 / 15 | consumed_tokens: 1.02K | elapsed_time_per_iteration_ms: 1.18K | global_batch_size: 1.28K | model_tflops_per_gpu: 287 |
08/31/2024 [INFO|DP=0|PP=0|TP=0]:  Memory usage: 64.26MiB. Peak allocated 8066.25MiB. Peak reserved: 496.00MiB
"""


def test_a_nanotron_log_says_its_configuration_and_rounded_times(tmp_path: Path) -> None:
    (row,) = found(tmp_path, NANOTRON).rows
    assert row.values == {
        "dp": 4,
        "pp": 2,
        "tp": 2,
        "ep": 1,
        "seq": 2048,
        "micro_batch": 4,
        "devices": 16,
        "global_batch": 1280,
        "sequence_parallel": True,
        "hidden_size": 16,
        "num_layers": 2,
        "stack": "nanotron",
        "step_s": pytest.approx(1.18),
        "steps_measured": 1,
        "flops_per_s_per_device": 287e12,
        "memory_of": "allocated",
        "memory_bytes": 8066.25 * 2**20,
    }


DEEPSPEED = """\
[2023-11-07 01:55:00,000] [INFO] [config.py:964:print]   bfloat16_enabled ............. True
[2023-11-07 01:55:00,000] [INFO] [config.py:964:print]   train_batch_size ............. 128
[2023-11-07 01:55:00,000] [INFO] [config.py:964:print]   train_micro_batch_size_per_gpu  4
[2023-11-07 01:55:00,000] [INFO] [config.py:964:print]   world_size ................... 8
[2023-11-07 01:55:00,000] [INFO] [config.py:964:print]   zero_optimization_stage ...... 3
[2023-11-07 01:55:23,714] [INFO] [timer.py:260:stop] epoch=0/micro_step=40/global_step=10, RunningAvgSamplesPerSec=25.0, CurrSamplesPerSec=2.5, MemAllocated=4.32GB, MaxMemAllocated=38.49GB
[2023-11-07 01:55:43,714] [INFO] [timer.py:198:stop] 0/20, RunningAvgSamplesPerSec=25.0, CurrSamplesPerSec=25.6, MemAllocated=4.32GB, MaxMemAllocated=38.50GB
"""


def test_a_deepspeed_log_says_samples_of_its_configuration(tmp_path: Path) -> None:
    (row,) = found(tmp_path, DEEPSPEED).rows
    assert row.values == {
        "global_batch": 128,
        "micro_batch": 4,
        "dp": 8,
        "shard": "zero3",
        "dtype": "bf16",
        "stack": "deepspeed",
        "step_s": 5.0,
        "steps_measured": 1,
        "memory_of": "allocated",
        "memory_bytes": pytest.approx(38.5 * 2**30),
    }


def test_samples_per_second_alone_are_no_step(tmp_path: Path) -> None:
    (row,) = found(tmp_path, "\n".join(DEEPSPEED.splitlines()[-2:])).rows
    assert "step_s" not in row.values
    assert row.values["samples_per_s"] == pytest.approx(25.6)


def test_megatrons_own_times_go_before_deepspeeds(tmp_path: Path) -> None:
    (row,) = found(tmp_path, MEGATRON + DEEPSPEED).rows
    assert row.values["step_s"] == 9.17
    (row,) = found(tmp_path, DEEPSPEED + MEGATRON).rows  # whose world is the replicas
    assert (row.values["step_s"], row.values["devices"]) == (9.17, 16)


OLD = """\
using world size: 64 and model-parallel size: 4
-------------------- arguments --------------------
  batch_size ...................... 48
  model_parallel_size ............. 4
  pipe_parallel_size .............. 16
  seq_length ...................... 1024
  world_size ...................... 64
---------------- end of arguments ----------------
[2021-05-27 21:32:10,182] [INFO] [config.py:904:print]   train_batch_size ............. 768
[2021-05-27 21:32:10,182] [INFO] [config.py:904:print]   world_size ................... 1
 iteration        1/    1000 | elapsed time per iteration (ms): 140000.0 | learning rate: 0.0 |
 iteration        2/    1000 | elapsed time per iteration (ms): 120000.0 | learning rate: 0.0 |
"""


def test_arguments_of_old_releases_are_read(tmp_path: Path) -> None:
    (row,) = found(tmp_path, OLD).rows
    assert row.values == {
        "devices": 64,
        "tp": 4,
        "pp": 16,
        "micro_batch": 48,
        "seq": 1024,
        "global_batch": 768,
        "stack": "megatron",
        "step_s": 120.0,
        "steps_measured": 1,
    }


STATE = {
    "global_step": 100,
    "log_history": [
        {"loss": 2.0, "step": 10},
        {"step": 100, "train_runtime": 250.0, "train_samples_per_second": 25.6, "train_steps_per_second": 0.4},
    ],
    "train_batch_size": 8,
}  # fmt: skip
TRAINER = """\
[INFO|trainer.py:2137] >>   Instantaneous batch size per device = 4
[INFO|trainer.py:2140] >>   Total train batch size (w. parallel, distributed & accumulation) = 64
[INFO|trainer.py:2141] >>   Gradient Accumulation steps = 2
[INFO|trainer.py:2142] >>   Total optimization steps = 100
{'train_runtime': 250.0, 'train_samples_per_second': 25.6, 'train_steps_per_second': 0.4, 'train_loss': 1.0, 'epoch': 1.0}
"""


def test_a_trainer_says_the_mean_of_its_steps(tmp_path: Path) -> None:
    read = found(tmp_path, json.dumps(STATE))
    assert read.rows[0].values == {
        "micro_batch": 8,
        "stack": "hf-trainer",
        "step_s": 2.5,
        "steps_measured": 100,
    }
    assert "start-up" in read.remarks[0]
    (row,) = found(tmp_path, TRAINER).rows
    assert row.values == {
        "micro_batch": 4,
        "global_batch": 64,
        "dp": 8,
        "stack": "hf-trainer",
        "step_s": 2.5,
        "steps_measured": 100,
    }


def test_a_run_that_every_rank_reports_is_one_row(tmp_path: Path) -> None:
    other = TRAINER.splitlines()[-1].replace("250.0", "250.4")
    twice = found(tmp_path, f"{TRAINER}{other}\n{TRAINER.replace('= 100', '= 50')}")
    assert [r.values["step_s"] for r in twice.rows] == [2.5, 5.0]


def test_a_rate_of_few_digits_is_no_time(tmp_path: Path) -> None:
    line = TRAINER.splitlines()[-1].replace("second': 0.4", "second': 0.007")
    (refused,) = found(tmp_path, line).refused
    assert "too few digits" in refused.reason


@pytest.mark.parametrize(
    "last, expected",
    [
        ({"loss": 2.0, "step": 20}, "train_runtime expected"),
        ({"step": 100, "train_runtime": 0.0, "train_steps_per_second": 0.4}, "above 0"),
        ({"step": 100, "train_runtime": float("nan"), "train_steps_per_second": 0.4}, "above 0"),
    ],
)
def test_a_state_without_an_end_is_refused(
    tmp_path: Path, last: dict[str, float], expected: str
) -> None:
    read = found(tmp_path, json.dumps({**STATE, "log_history": [last]}))
    assert not read.rows
    assert expected in read.refused[0].reason


def test_steps_of_any_number_are_held_in_bounded_memory() -> None:
    from meshwise.evidence.readers.training.steps import Series

    series = Series(1)
    for i in range(300_000):
        series.add(1.0 + (i % 3))
    assert series.seen == 300_000
    assert len(series.kept) <= 1 << 16
    assert series.median() == 2.0
