"""The targets' own parsers, a function each, run in a Python that has the target's dependencies.

    SCRATCH/python tools/target_parsers.py NAME FOLDER < cases.jsonl > answers.jsonl

``FOLDER`` is a checkout or an unpacked package of the target. A case is a JSON object a line: ``argv`` (the words
that a shell gave to the target's launcher), ``node``, ``world``, ``folder`` (where the files of the command lie),
``env``, and what ``tools/check_targets.py`` knows of the model. Answered is a JSON object a line: ``by`` (what
refused; null where all accept), ``words`` of the refusal, and ``done``, the checks that ran. Nothing here knows what
is legal: every refusal is the target's own.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Case = dict[str, Any]
Check = tuple[str, Callable[[], Any]]


# -- modules that a parser imports and does not use ------------------------------------------------------


class _Meta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __call__(cls, *a: Any, **k: Any) -> Any:
        if cls is not Anything:
            return super().__call__(*a, **k)
        return a[0] if len(a) == 1 and not k and callable(a[0]) else Anything

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls


class Anything(metaclass=_Meta):
    """In place of everything that a stubbed module has: a class, a decorator, a type."""


class _Stub(types.ModuleType):
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        mine = any(name == n or name.startswith(f"{n}.") for n in self.names)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec: Any) -> Any:
        module = _Stub(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: Any) -> None:
        pass


def stubbed(*names: str) -> None:
    """Put stubs in place of modules that parsing has no use for (loggers, images, tokenizers)."""
    sys.meta_path.insert(0, _Stubs(names))


def after(words: list[str], *ends: str) -> list[str]:
    """Words behind the first that ends in one of these."""
    return words[next(i for i, w in enumerate(words) if w.endswith(ends)) + 1 :]


# -- training ----------------------------------------------------------------------------------------------


def megatron_lm(folder: Path) -> Callable[[Case], Iterator[Check]]:
    import typing

    import torch
    import typing_extensions

    typing.override = typing_extensions.override  # type: ignore[attr-defined]  # of Python 3.12
    sys.path.insert(0, str(folder))
    from megatron.core import parallel_state
    from megatron.core.transformer import transformer_config
    from megatron.training import arguments

    # of the GPU that the command is for; the CPU has none to ask
    arguments.get_device_arch_version = lambda: 9
    torch.cuda.get_device_capability = lambda *a: (9, 0)
    # TransformerEngine is of CUDA: as if a new one were there
    arguments.is_te_min_version = lambda *a, **k: True
    transformer_config.is_te_min_version = lambda *a, **k: True

    def checks(case: Case) -> Iterator[Check]:
        os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)
        os.environ.update(case["env"])
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE=str(case["world"]))
        sys.argv = ["pretrain_gpt.py", *after(case["argv"], "pretrain_gpt.py")]
        found: dict[str, Any] = {}

        def parse() -> None:
            found["args"] = arguments.parse_args()

        def config() -> Any:
            return arguments.core_transformer_config_from_args(found["args"])

        def groups() -> None:
            a = found["args"]
            for tp, ep, cp in (
                (a.tensor_model_parallel_size, 1, a.context_parallel_size),
                (a.expert_tensor_parallel_size, a.expert_model_parallel_size, 1),
            ):
                rest = tp * ep * cp * a.pipeline_model_parallel_size
                assert a.world_size % rest == 0, (
                    f"world_size {a.world_size} is not divisible by {rest}"
                )
                parallel_state.RankGenerator(
                    tp=tp, ep=ep, dp=a.world_size // rest, cp=cp,
                    pp=a.pipeline_model_parallel_size, order="tp-cp-ep-dp-pp",
                )  # fmt: skip

        yield "arguments.parse_args", parse
        yield "arguments.validate_args", lambda: arguments.validate_args(found["args"], {})
        yield "TransformerConfig", config
        yield "parallel_state", groups

    return checks


def torchtitan(folder: Path) -> Callable[[Case], Iterator[Check]]:
    stubbed("torch.utils.tensorboard", "wandb")
    sys.path.insert(0, str(folder))
    import importlib

    from torch.distributed.pipelining.schedules import get_schedule_class
    from torchtitan.config.manager import ConfigManager
    from torchtitan.distributed.parallel_dims import ParallelDims

    def checks(case: Case) -> Iterator[Check]:
        found: dict[str, Any] = {}
        words = after(case["argv"], "torchtitan.train")
        sys.path.insert(0, case["folder"])
        sys.modules.pop(words[1], None)
        importlib.invalidate_caches()

        def parse() -> None:
            found["config"] = ConfigManager().parse_args(words)

        def dims() -> None:
            found["dims"] = ParallelDims.from_config(found["config"].parallelism, case["world"])

        def tokens() -> None:
            # as Trainer.__init__ counts them, which needs processes
            c, d = found["config"], found["dims"]
            each = c.training.num_tokens_per_microbatch_per_dp_rank
            cut = d.tp if c.parallelism.enable_sequence_parallel else 1
            cut *= 2 * d.cp if d.cp > 1 else 1
            assert each % cut == 0, f"{each} tokens are no multiple of {cut}"
            whole = c.training.num_tokens_per_train_step
            many = c.parallelism.num_pp_microbatches if d.pp > 1 else 1
            step = each * many * d.dp_replicate * d.dp_shard
            assert whole == -1 or whole % step == 0, f"{whole} tokens are no multiple of {step}"

        yield "ConfigManager.parse_args", parse
        yield "ParallelDims", dims
        yield "Trainer's token counts", tokens
        yield (
            "pipelining.get_schedule_class",
            lambda: get_schedule_class(found["config"].parallelism.pipeline_parallel_schedule),
        )
        sys.path.remove(case["folder"])

    return checks


def accelerate(folder: Path) -> Callable[[Case], Iterator[Check]]:
    sys.path.insert(0, str(folder / "src"))
    from accelerate.commands import launch
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import FullyShardedDataParallelPlugin, MegatronLMPlugin
    from accelerate.utils import launch as environment

    launch.default_config_file = "/nonexistent"
    environment.is_fp8_available = lambda: True  # of the GPU's own libraries
    kept = dict(os.environ)

    def checks(case: Case) -> Iterator[Check]:
        found: dict[str, Any] = {}
        words = case["argv"][2:]
        os.environ.clear()
        os.environ.update(kept)

        def parse() -> None:
            found["args"] = launch.launch_command_parser().parse_args(words)

        def validate() -> None:
            found["args"], *_ = launch._validate_launch_command(found["args"])

        def launched() -> None:
            many = found["args"].num_processes > 1
            make = (
                environment.prepare_multi_gpu_env
                if many
                else lambda a: environment.prepare_simple_launcher_cmd_env(a)[1]
            )
            os.environ.update(make(found["args"]))

        def plugins() -> None:
            a = found["args"]
            if a.use_parallelism_config:
                config = ParallelismConfig()
                sizes = config.tp_size * config.cp_size * config.dp_shard_size
                world = sizes * config.dp_replicate_size
                assert world == case["world"], f"{world} ranks, the launch has {case['world']}"
            if a.use_fsdp:
                FullyShardedDataParallelPlugin()
            if a.use_megatron_lm:
                MegatronLMPlugin()

        yield "launch_command_parser", parse
        yield "_validate_launch_command", validate
        yield "the launcher's environment", launched
        yield "plugins of that environment", plugins

    return checks


def deepspeed(folder: Path) -> Callable[[Case], Iterator[Check]]:
    sys.path.insert(0, str(folder))
    from deepspeed.launcher import runner
    from deepspeed.runtime import config

    config.dist.get_rank = lambda *a: 0

    class Ranks:
        """What AutoTP's mesh leaves of the world."""

        def __init__(self, dp: int) -> None:
            self.dp = dp

        def get_data_parallel_world_size(self) -> int:
            return self.dp

    def checks(case: Case) -> Iterator[Check]:
        path = Path(case["folder"]) / "ds_config.json"
        table = json.loads(path.read_text(encoding="utf-8"))
        tp = table.get("tensor_parallel", {}).get("autotp_size", 1)
        if case["argv"][0] == "deepspeed":
            yield "launcher.runner.parse_args", lambda: runner.parse_args(case["argv"][1:])
        yield (
            "DeepSpeedConfig",
            lambda: config.DeepSpeedConfig(str(path), mpu=Ranks(case["world"] // tp)),
        )

    return checks


# -- serving -----------------------------------------------------------------------------------------------


def sglang(folder: Path) -> Callable[[Case], Iterator[Check]]:
    stubbed("torchvision", "sentencepiece", "sniffio")
    sys.path.insert(0, str(folder))
    from sglang.srt import server_args

    steps = _resolution(server_args)
    whole = server_args.ServerArgs.__post_init__

    def checks(case: Case) -> Iterator[Check]:
        found: dict[str, Any] = {}

        def parse() -> None:
            import argparse

            parser = argparse.ArgumentParser()
            server_args.ServerArgs.add_cli_args(parser)
            raw = parser.parse_args(after(case["argv"], "sglang.launch_server"))
            raw.device = "cuda"
            server_args.ServerArgs.__post_init__ = lambda self: None
            found["args"] = server_args.ServerArgs.from_cli_args(raw)
            server_args.ServerArgs.__post_init__ = whole
            if found["args"].chunked_prefill_size is None:
                found["args"].chunked_prefill_size = 8192  # of an 80 GB GPU

        yield "ServerArgs.add_cli_args", parse
        for name, step in steps:
            yield name, lambda step=step: step(found["args"])

    return checks


def _resolution(server_args: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """SGLang's own steps on parsed arguments that look at neither a GPU nor the model, in its order: methods
    of the arguments, of newer releases functions."""
    args = server_args.ServerArgs
    names = (
        *("_handle_load_balance_method", "_handle_deprecated_args", "_handle_missing_default_values"),
        *("_handle_page_size", "_handle_data_parallelism", "_handle_context_parallelism"),
        *("_handle_moe_kernel_config", "_handle_a2a_moe", "_handle_pipeline_parallelism"),
        *("_handle_cache_compatibility", "_handle_other_validations", "check_server_args"),
    )  # fmt: skip
    if hasattr(args, names[0]):
        return [(name.strip("_"), getattr(args, name)) for name in names]
    from sglang.srt.arg_groups import parallel_hook

    later = ("deprecated_dp_attention", "decode_context_parallelism")
    return [(f"handle_{n}", getattr(parallel_hook, f"handle_{n}")) for n in later]


def vllm(folder: Path) -> Callable[[Case], Iterator[Check]]:
    stubbed("sniffio", "tvm_ffi", "xgrammar")
    sys.path.insert(0, str(folder))
    from vllm import platforms
    from vllm.platforms.cpu import CpuPlatform

    platforms._current_platform = CpuPlatform()  # the defaults of flags ask for one
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def checks(case: Case) -> Iterator[Check]:
        found: dict[str, Any] = {}

        def parse() -> None:
            parser = make_arg_parser(FlexibleArgumentParser())
            found["raw"] = parser.parse_args(case["argv"][2:])

        yield "make_arg_parser", parse
        yield "AsyncEngineArgs", lambda: AsyncEngineArgs.from_cli_args(found["raw"])

    return checks


PARSERS = {
    "megatron-lm": megatron_lm,
    "torchtitan": torchtitan,
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "sglang": sglang,
    "vllm": vllm,
}


def answer(checks: Iterator[Check]) -> dict[str, Any]:
    done: list[str] = []
    for name, run in checks:
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                run()
        except (Exception, SystemExit) as error:
            words = str(error) if not isinstance(error, SystemExit) else ""
            last = [line for line in said.getvalue().splitlines() if line.strip()]
            words = words or (last[-1] if last else type(error).__name__)
            return {"by": name, "words": words[:300], "done": done}
        done.append(name)
    return {"by": None, "words": None, "done": done}


def main() -> None:
    name, folder = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a target prints is no answer
    checks = PARSERS[name](Path(folder))
    for line in sys.stdin:
        case = json.loads(line)
        out.write(json.dumps(answer(checks(case))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
