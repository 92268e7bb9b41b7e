"""What the shell completes: through click's own machinery, as the shell calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from meshwise import catalog, dtypes
from meshwise.cli import COMMANDS, cli, run, values
from meshwise.cost.collectives.algorithms import OPS
from meshwise.launch.targets import target_names
from meshwise.launch.write import WRAPPERS
from meshwise.runtime import options as runtime
from meshwise.search.training.question import FREE
from meshwise.stacks.switches import words_of
from meshwise.stacks.words import MODULES, MOMENTS
from meshwise.workloads.workload import WORKLOAD_PHASES


def completed(line: str) -> list[str]:
    """Values for the last word of a command line; a trailing space begins a new one."""
    *args, incomplete = line.split(" ")
    shell = ShellComplete(cli, {}, "meshwise", "_MESHWISE_COMPLETE")
    return [item.value for item in shell.get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", set(COMMANDS)),
        ("sc", {"scale"}),
        ("scale llama-3.1-", {n for n in catalog.names("models") if n.startswith("llama-3.1-")}),
        ("model Llama-3.1-8", {"llama-3.1-8b"}),
        ("scale gpt2 --on dgx-", {n for n in catalog.names("clusters") if n.startswith("dgx-")}),
        ("run gpt2 --on dgx-1", {"dgx-1-v100"}),
        ("serve gpt2 --stack ", set(catalog.names("stacks"))),
        ("scale gpt2 --phase ", set(WORKLOAD_PHASES)),
        ("run gpt2 --phase g", {"generate"}),
        ("scale gpt2 --dtype ", set(dtypes.COMPUTE)),
        ("scale gpt2 --kv-cache-dtype ", set(dtypes.KV_CACHE)),
        ("export ", set(target_names())),
        ("export vllm gpt-neo", {n for n in catalog.names("models") if n.startswith("gpt-neo")}),
        ("import x --target tr", {"trtllm"}),
        ("collective all_", {"all_reduce", "all_gather", "all_to_all"}),
        ("catalog ", set(values.CATALOG_KINDS)),
        ("catalog device ", set(catalog.names("devices"))),
        ("catalog fabrics nvlink5", {n for n in catalog.names("fabrics") if n.startswith("nvlink5")}),
        ("catalog nonsense ", set()),
        ("plan gpt2 --recompute none,f", {"none,full"}),
        ("validate --published ", {"training", "layers", "serving", "collectives"}),
        ("scale gpt2 --color ", {"auto", "always", "never"}),
        ("scale gpt2 --expert-sk", {"--expert-skew"}),
        ("nonsense gpt2 --on ", set()),
    ],
)  # fmt: skip
def test_completed(line: str, found: set[str]) -> None:
    assert set(completed(line)) == found and (found or line.split()[0] in ("catalog", "nonsense"))


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_every_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    long = {o for p in command.params for o in p.opts if o.startswith("--")}
    assert long <= set(completed(f"{name} --"))


@pytest.mark.parametrize("line", ["model ./conf", "scale gpt2 --on ./own.t", "export x --from pl"])
def test_files_are_the_shells(line: str) -> None:
    *args, incomplete = line.split(" ")
    shell = ShellComplete(cli, {}, "meshwise", "_MESHWISE_COMPLETE")
    assert [item.type for item in shell.get_completions(args, incomplete)] == ["file"]


@pytest.mark.parametrize(
    ("own", "source"),
    [
        (values.PHASE_TYPE, WORKLOAD_PHASES),
        (values.OP_TYPE, OPS),
        (values.WRAPPER_TYPE, WRAPPERS),
        (values.ATTENTION_TYPE, words_of("attention")),
        (values.OVERLAP_TYPE, words_of("overlap")),
        (values.SCHEDULE_TYPE, words_of("schedule")),
        (values.DISPATCHER_TYPE, words_of("dispatcher")),
        (values.MODULES_TYPE, MODULES),
        (values.FREE_TYPE, FREE),
        (values.MOMENTS_DTYPE_TYPE, MOMENTS),
        (run.RUN_PHASE_TYPE, runtime.RUN_PHASES),
        (run.RUN_OVERLAP_TYPE, runtime.OVERLAPS),
        (run.SENT_TYPE, runtime.COMM_DTYPES),
    ],
    ids=lambda v: getattr(v, "name", ""),
)
def test_the_words_are_those_of_their_source(own: values.WordType, source: tuple[str, ...]) -> None:
    assert not callable(own.words)
    assert sorted(own.words) == sorted(source)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_script_and_its_words(shell: str, tmp_path: Path) -> None:
    """In a process of its own, as the shell has it; nothing heavy is loaded for it."""
    code = "import sys\nfrom meshwise.cli import entry\ntry:\n    entry()\nfinally:\n    " + (
        "print(sorted({'numpy', 'msgspec', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def ask(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment | more, capture_output=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip

    script = ask(_MESHWISE_COMPLETE=f"{shell}_source")
    assert "_MESHWISE_COMPLETE" in script.stdout and script.returncode == 0, script.stderr
    words = {"COMP_WORDS": "meshwise scale gpt2 --on dgx-a1", "COMP_CWORD": "4"}
    if shell == "fish":
        words["COMP_CWORD"] = "dgx-a1"
    done = ask(_MESHWISE_COMPLETE=f"{shell}_complete", **words)
    assert "dgx-a100" in done.stdout and done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    unknown = ask(
        _MESHWISE_COMPLETE=f"{shell}_complete", COMP_WORDS="meshwise scal gp", COMP_CWORD="2"
    )
    assert unknown.stdout.strip() == "" and "meshwise:" not in unknown.stderr
