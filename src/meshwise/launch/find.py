"""Which of a text's commands is a launch, and of which target: told by its words, not by its text."""

from __future__ import annotations

import re
from typing import NamedTuple

from meshwise.launch.shell.commands import StartedCommand
from meshwise.launch.table import Target, target, targets

_SHELLS = ("bash", "sh", "zsh", "source", ".")
_DEGREES = ("tp", "pp", "cp", "ep", "etp", "dp", "dp_shard", "megatron_tp", "parallelism", "fsdp")
_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.cli.main": "vllm",
    "sglang.launch_server": "sglang",
    "sglang_router.launch_server": "sglang",
    "torchtitan.train": "torchtitan",
    "accelerate.commands.launch": "accelerate",
    "tensorrt_llm.commands.serve": "trtllm",
}
_FILES = {
    "api_server.py": "vllm",
    "launch_server.py": "sglang",
    "run_train.sh": "torchtitan",
    "setup_experiment.py": "megatron-bridge",
}
_PAIRS = {("vllm", "serve"): "vllm", ("sglang", "serve"): "sglang"}
_PAIRS[("accelerate", "launch")] = "accelerate"
_IMAGES = {"vllm-openai": "vllm"}


class Launch(NamedTuple):
    """``before``: the launcher's words, the program's too; ``after``: the target's own."""

    target: Target
    before: list[str]
    after: list[str]
    by_structure: bool
    variables: dict[str, str]  # that are set where it stands

    @property
    def words(self) -> list[str]:
        return [*self.before, *self.after]


def launches(commands: list[StartedCommand], name: str | None) -> list[Launch]:
    """The launches among commands, of the target ``name`` where it is given."""
    found = [
        launch._replace(variables=c.variables)
        for c in commands
        if (launch := _launch(c.words)) is not None
    ]
    if name is None:
        return found
    wanted = target(name)
    chosen = [x for x in found if x.target.name == wanted.name]
    if chosen or found:
        return chosen or [_as(x.words, wanted, x.variables) for x in found]
    known = wanted.by_spelling()
    said = [c for c in commands if any(w.partition("=")[0] in known for w in c.words)]
    return [_as(c.words, wanted, c.variables) for c in said if not _a_script(c.words)]


def _as(words: list[str], wanted: Target, variables: dict[str, str]) -> Launch:
    at = _script_at(words)
    return Launch(wanted, words[:at], words[at:], False, variables)


def _launch(words: list[str]) -> Launch | None:
    for i, word in enumerate(words):
        base = word.rpartition("/")[2]
        after = words[i + 1] if i + 1 < len(words) else ""
        name = _PAIRS.get((base, after))
        if name is not None:
            return Launch(target(name), words[: i + 2], words[i + 2 :], True, {})
        name = _MODULES.get(word) or _FILES.get(base) or _image(base, words[:i])
        if base == "trtllm-serve":
            name, i = "trtllm", i + (after == "serve")
        if name == "megatron-bridge" or (name == "vllm" and word.endswith(("main",))):
            i += after == "serve"
        if name is not None and (base != "api_server.py" or "vllm" in word):
            return Launch(target(name), words[: i + 1], words[i + 1 :], True, {})
    if any(re.match(r"\+*model\.\w+_model_parallel_size=", w) for w in words):
        at = next(i for i, w in enumerate(words) if re.match(r"\+*\w+\.\w+=", w))
        return Launch(target("megatron-bridge"), words[:at], words[at:], True, {})
    return None if _a_script(words) else _of_script(words)


def _image(base: str, before: list[str]) -> str | None:
    """A container whose image starts the engine."""
    name = base.partition("@")[0].partition(":")[0]
    ran = any(w.rpartition("/")[2] in ("docker", "podman", "nerdctl", IMAGE) for w in before)
    return _IMAGES.get(name) if ran else None


IMAGE = "\0image"  # the command of a manifest's container, whose image's own program it runs in


def _of_script(words: list[str]) -> Launch | None:
    """A training script: told by its name, or by the flags of one target's layout."""
    at = _script_at(words)
    script = words[at - 1] if at else ""
    base = script.rpartition("/")[2]
    after = words[at:]
    says = {name for name in targets() if _says(after, target(name))}
    deepspeed = any(w.rpartition("/")[2] == "deepspeed" for w in words[:at])
    deepspeed = deepspeed or any(w.startswith("--deepspeed") for w in after)
    if "megatron-lm" in says and at:
        return Launch(target("megatron-lm"), words[:at], after, True, {})
    if deepspeed and at:
        return Launch(target("deepspeed"), words[:at], after, True, {})
    if base.startswith("pretrain_") or (base.endswith(".py") and "megatron" in script.lower()):
        return Launch(target("megatron-lm"), words[:at], after, True, {})
    if at and words[at - 2 : at - 1] == ["-m"] and script.startswith("megatron"):
        return Launch(target("megatron-lm"), words[:at], after, True, {})
    if len(says) == 1 and words[0] != script:
        return Launch(target(says.pop()), words[:at], after, False, {})
    if len(says) == 1 and not words[0].startswith("-"):
        return Launch(target(says.pop()), words[:at], after, False, {})
    return None


def _says(words: list[str], chosen: Target) -> bool:
    spelt = {
        s.replace("_", "-")
        for name in _DEGREES
        if name in chosen.flags
        for s in chosen.flags[name].spellings
        if len(s) > 5
    }
    return any(w.partition("=")[0].replace("_", "-") in spelt for w in words)


def _script_at(words: list[str]) -> int:
    """Where the words of the script itself begin: after it."""
    for i, word in enumerate(words):
        if word == "-m" and i + 1 < len(words) and not words[i + 1].startswith("torch."):
            return i + 2
        if word.endswith((".py", ".sh")) and not word.startswith("-"):
            return i + 1
    launcher = [i for i, w in enumerate(words) if w.rpartition("/")[2] in ("torchrun", "deepspeed")]
    for i in range(launcher[0] + 1 if launcher else len(words), len(words)):
        if words[i].startswith("$") and re.search(r"SCRIPT|RECIPE|CODE|FILE|MAIN|ENTRY", words[i]):
            return i + 1
    return 0


def _a_script(words: list[str]) -> bool:
    """``bash train.sh …``: what it does with its words is not in the text."""
    return script_of(words) is not None


def script_of(words: list[str]) -> str | None:
    for i, word in enumerate(words):
        base = word.rpartition("/")[2]
        if base.endswith(".sh") and base not in _FILES:
            starts = i == 0 or words[i - 1].rpartition("/")[2] in _SHELLS or word.startswith("./")
            return word if starts or i == 1 else None
    return None
