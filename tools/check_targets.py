"""Whether the targets' own parsers accept what ``export`` writes.

    python tools/check_targets.py --python SCRATCH/bin/python --folder megatron-lm=CHECKOUT --folder vllm=PACKAGE …

Layouts that a plan offers (dense, experts, MLA, hybrid, quantised models; numbers of GPUs; nodes) are written for
every target in every wrapper. A shell runs each text in an empty folder where the launchers are programs that write
down their words: so quoting, here-documents and node counts are the shell's own. Each rank's words then go to the
target's parser (``tools/target_parsers.py``) in the Python of ``--python``, which needs the target's dependencies and
no GPU. Printed per target: its version, how many commands are accepted, who refused the others with which words, and
what was not checked. Exit 1 if one is refused.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from target_layouts import jobs, model_args

from meshwise import launch
from meshwise.errors import MeshwiseError
from meshwise.launch.job import Job
from meshwise.launch.table import Target, every_target
from meshwise.launch.write import Exported

# programs whose words are written down; each goes on with what it starts, as far as that is one of them
PROGRAMS = ("torchrun", "accelerate", "deepspeed", "vllm", "trtllm-serve", "python", "python3")
# in one write: servers of one node write at the same time
RECORD = r"""#!/bin/bash
printf -v words '%s\x1f' "${0##*/}" "$@"
printf '%s\x1dNODE_RANK=%s\x1fCUDA_VISIBLE_DEVICES=%s\x1fCUDA_DEVICE_MAX_CONNECTIONS=%s\x1e' "$words" \
  "$NODE_RANK" "$CUDA_VISIBLE_DEVICES" "$CUDA_DEVICE_MAX_CONNECTIONS" >> "$RECORD"
"""
SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((n = 0; n < NODES; n++)); do SLURM_NODEID=$n "$@"; done
"""
MPI = '#!/bin/bash\nexec "$@"\n'
HOSTS = "#!/bin/bash\nfor ((n = 0; n < NODES; n++)); do echo node$n; done\n"


class Command(NamedTuple):
    """What a shell gave to a launcher on one node."""

    argv: list[str]
    env: dict[str, str]


class Case(NamedTuple):
    target: Target
    job: Job
    wrapper: str | None
    exported: Exported

    @property
    def said(self) -> str:
        j = self.job
        more = [f"vp={j.vp}"] * (j.vp > 1) + ["sp"] * j.sequence_parallel
        more += [
            str(w) for w in (j.recompute, j.shard, j.dtype, j.grad_dtype) if w not in (None, "none")
        ]
        return f"{j.model} {j.words} {' '.join(more)} gpus={j.gpus} {self.wrapper or 'bare'}"


# -- the words of a text -------------------------------------------------------------------------------------


def programs(folder: Path) -> None:
    folder.mkdir()
    texts = dict.fromkeys(PROGRAMS, RECORD)
    texts |= {"srun": SRUN, "trtllm-llmapi-launch": MPI, "scontrol": HOSTS}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)


def commands(case: Case, folder: Path, bin_: Path) -> list[Command]:
    """The words on every node, by a shell; of a manifest those of its pods."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    nodes = (
        case.job.nodes
        if case.exported.servers == 1
        else -(-case.exported.gpus // case.job.gpus_per_node)
    )
    text = case.exported.text
    env = {"PATH": f"{bin_}:/usr/bin:/bin", "RECORD": str(folder / ".record"), "NODES": str(nodes)}
    env |= {
        "MODEL_ARGS": model_args(case.job),
        "DATA_ARGS": "--mock-data",
        "TRAIN_SCRIPT": "train.py",
    }
    env |= {"RECIPE": "recipe.py", "SLURM_JOB_NODELIST": "node[0-9]"}
    if case.wrapper == "lws":
        spec = yaml.safe_load(text)["spec"]["leaderWorkerTemplate"]
        assert spec["size"] == nodes, (spec["size"], nodes)
        for rank in range(nodes):
            pod = spec["leaderTemplate" if rank == 0 else "workerTemplate"]
            container = pod["spec"]["containers"][0]
            own = {
                "LWS_LEADER_ADDRESS": "node0",
                "LWS_WORKER_INDEX": str(rank),
                "LWS_GROUP_SIZE": str(nodes),
            }
            run([*container["command"], *container["args"]], folder, env | own)
    elif case.wrapper == "slurm":
        assert f"#SBATCH --nodes={nodes}\n" in text, text
        run(["bash", "-c", text], folder, env)
    else:
        for rank in range(nodes):
            run(
                ["bash", "-c", text], folder, env | {"NODE_RANK": str(rank), "MASTER_ADDR": "node0"}
            )
    found = []
    for record in (folder / ".record").read_text(encoding="utf-8").split("\x1e")[:-1]:
        words, _, variables = record.partition("\x1d")
        pairs = (v.partition("=") for v in variables.split("\x1f") if v)
        found.append(Command(words.split("\x1f")[:-1], {k: v for k, _, v in pairs if v}))
    return found


def run(words: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr or f"exit {done.returncode}"


# -- what holds of every launcher ----------------------------------------------------------------------------


def unfit(case: Case, found: list[Command]) -> str | None:
    """Why the commands of the nodes do not come to the job's GPUs; None if they do."""
    gpus = case.exported.gpus
    worlds = [world_of(c.argv) for c in found]
    if case.target.phase == "train":
        nodes = [w for w in worlds if w is not None]
        if any(w != gpus for w in nodes):
            return f"the launcher starts {nodes} processes, the layout has {gpus}"
        return None
    ranks = [w for c in found if (w := value(c.argv, "--node-rank")) is not None]
    many = {value(c.argv, "--nnodes") for c in found}
    if ranks and (sorted(map(int, ranks)) != list(range(len(ranks))) or many != {str(len(ranks))}):
        return f"node ranks {ranks} of {many}"
    local = value(found[0].argv, "--data-parallel-size-local")
    if local is not None:
        dp = int(value(found[0].argv, "--data-parallel-size") or 1)
        if int(local) * len(found) != dp:
            return f"{len(found)} nodes of {local} replicas, data parallelism of {dp}"
    if case.target.name == "vllm" and ranks:
        heads = [c for c in found if "--headless" not in c.argv]
        if len(heads) != 1:
            return f"{len(heads)} of {len(found)} nodes have an API server"
    return None


def world_of(argv: list[str]) -> int | None:
    if argv[0] == "torchrun":
        return int(value(argv, "--nnodes") or 1) * int(value(argv, "--nproc-per-node") or 1)
    if argv[0] == "accelerate":
        return int(value(argv, "--num_processes") or 1)
    return int(value(argv, "--num_gpus") or 1) if argv[0] == "deepspeed" else None


def value(argv: list[str], name: str) -> str | None:
    joined = next((w.partition("=")[2] for w in argv if w.startswith(f"{name}=")), None)
    return argv[argv.index(name) + 1] if name in argv else joined


# -- the check -----------------------------------------------------------------------------------------------


def checked(cases: list[Case], python: str, folder: Path, scratch: Path) -> dict[str, Any]:
    """Counts and refusals of one target."""
    name = cases[0].target.name
    refused: collections.Counter[tuple[str, str]] = collections.Counter()
    first: dict[tuple[str, str], str] = {}
    done: collections.Counter[str] = collections.Counter()
    asked: list[tuple[Case, dict[str, Any]]] = []

    def refuse(case: Case, by: str, words: str) -> None:
        key = (
            by,
            re.sub(r"\d+", "N", words.strip().splitlines()[-1] if words.strip() else words)[:200],
        )
        refused[key] += 1
        first.setdefault(key, f"{case.said}: {words[:300]}")

    for i, case in enumerate(cases):
        place = scratch / f"{name}-{i}"
        try:
            found = commands(case, place, scratch / "bin")
            why = unfit(case, found)
        except (AssertionError, subprocess.TimeoutExpired, StopIteration) as error:
            refuse(case, "the shell", str(error))
            continue
        if why is not None:
            refuse(case, "the node counts", why)
            continue
        # nodes that differ in nothing are asked once
        seen = {json.dumps(c.argv): c for c in found}
        for c in seen.values():
            asked.append(
                (
                    case,
                    {
                        "argv": c.argv,
                        "env": c.env,
                        "world": case.exported.gpus,
                        "folder": str(place),
                    },
                )
            )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    lines = "".join(json.dumps(line) + "\n" for _, line in asked)
    words = [python, str(Path(__file__).with_name("target_parsers.py")), name, str(folder)]
    out = subprocess.run(words, input=lines, env=env, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in out.stdout.splitlines()]
    if len(answers) != len(asked):
        raise SystemExit(f"{name}: its parser stopped: {out.stderr[-2000:]}")
    bad = set()
    for (case, _), said in zip(asked, answers, strict=True):
        done.update(said["done"])
        if said["by"] is not None:
            if id(case) not in bad:
                refuse(case, said["by"], said["words"])
            bad.add(id(case))
    return {
        "refused": refused,
        "first": first,
        "done": done,
        "accepted": len(cases) - sum(refused.values()),
    }


def written(chosen: Target, each: int) -> tuple[list[Case], collections.Counter[str]]:
    """Commands in turn in every wrapper; and sentences by which ``export`` refuses others."""
    cases: list[Case] = []
    unwritten: collections.Counter[str] = collections.Counter()
    wrappers = (None, *(w for w in chosen.wrappers if w not in ("torchrun", "kuberay")))
    for job, wrapper in zip(jobs(chosen, each), itertools.cycle(wrappers), strict=False):
        try:
            exported = launch.write_launch(job, chosen.name, wrapper=wrapper)
        except MeshwiseError as error:
            unwritten[re.sub(r"\d+", "N", str(error))[:160]] += 1
            continue
        cases.append(Case(chosen, job, wrapper, exported))
    return cases, unwritten


def version(folder: Path) -> str:
    for path in (folder / "PKG-INFO", folder / "package_info.py"):
        if path.is_file():
            found = re.search(r"^Version: (\S+)", path.read_text(encoding="utf-8"), re.M)
            return found[1] if found else "?"
    return folder.name


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument(
        "--python", required=True, help="of the environment with the targets' dependencies"
    )
    options.add_argument("--folder", action="append", default=[], metavar="TARGET=FOLDER[@VERSION]")
    options.add_argument("--each", type=int, default=12, help="layouts of a plan")
    options.add_argument("--show", type=int, default=5, help="refusals to show of a target")
    args = options.parse_args()
    folders = dict(f.split("=", 1) for f in args.folder)
    scratch = Path(tempfile.mkdtemp(prefix="check-targets-"))
    programs(scratch / "bin")
    bad = 0
    for chosen in every_target():
        at, _, said = folders.get(chosen.name, "").partition("@")
        if not at:
            print(f"{chosen.title}: not checked: no --folder {chosen.name}=…")
            continue
        cases, unwritten = written(chosen, args.each)
        result = checked(cases, args.python, Path(at), scratch)
        many = sum(result["refused"].values())
        bad += many
        print(f"{chosen.title} {said or version(Path(at))}: {result['accepted']} accepted, {many} refused, "
              f"{sum(unwritten.values())} not written by export; by "
              + ", ".join(f"{k} {v}" for k, v in result["done"].items()))  # fmt: skip
        for key, n in result["refused"].most_common(args.show):
            print(f"  {n} refused by {key[0]}: {result['first'][key]}")
        for words, n in unwritten.most_common(args.show):
            print(f"  {n} not written: {words}")
    shutil.rmtree(scratch)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
