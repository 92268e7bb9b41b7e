"""A launch command read into a job."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from meshwise.errors import InputError, closest, quoted
from meshwise.launch import serving, training, zero
from meshwise.launch.config_files import beside, pod_command, titan_config
from meshwise.launch.job import Job
from meshwise.launch.serving import Read, Settings
from meshwise.launch.shell import Script, number, option, read_script, substituted
from meshwise.launch.table import Flag, Target, target, targets
from meshwise.spec.reading import count

ALIKE = 0.9  # of a misspelt flag to the one that was meant
_DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp", "dcp", "vp", "micro_batch", "global_batch")
_ABOUT = re.compile(
    r"(tensor|pipeline|data|expert|context|sequence|model)[-_]\w*[-_]?parallel|[-_](tp|pp|dp|ep|cp)$"
)


class Parsed(NamedTuple):
    """What a command says: the job; flags that do not matter to a layout; what is worth knowing."""

    job: Job
    target: str
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def parse(
    text: str,
    target_name: str | None = None,
    *,
    gpus: int | None = None,
    model: str | None = None,
    experts: bool | None = None,
) -> Parsed:
    """The job that a launch command starts.

    The target is told by the command's own words unless given. ``gpus`` where the command does not say
    how many it runs on; ``experts``: whether the model has routed experts. Raises :class:`~meshwise.errors.InputError` for a flag that looks like a
    misspelt one, a missing or wrong value, and flags that contradict each other.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    if stripped.startswith("{"):
        return _from_json(stripped, gpus, model)
    if re.search(r"(?m)^apiVersion:", stripped):
        text = pod_command(stripped)
    script = read_script(text)
    chosen, words = _recognised(script, target_name, text)
    words = substituted(words, script.variables)
    if (
        chosen.name == "megatron-lm"
        and any(w.startswith("$") for w in words)
        and not _says(words, chosen)
    ):
        unset = [w for w in words if w.startswith("$")]
        raise InputError(
            f"COMMAND: {unset[0]} is not set in the text, and nothing else names the layout",
            field="COMMAND",
            value=unset[0],
            legal="the command with its variables' values, or the script that sets them",
        )
    before, after = _launcher(words, chosen)
    world = _world(before, words, script, gpus, chosen)
    if chosen.style == "json":
        return _deepspeed(script, words, world, model)
    settings, positional, ignored = _settings(after, chosen)
    if chosen.name == "torchtitan":
        settings = titan_config(text, chosen) | settings
    if chosen.name == "trtllm":
        settings["yaml"] = beside(settings.get("config"), script)
    settings["experts"] = experts
    world = settings.pop("gpus", None) or world
    named = model or settings.get("model") or ""
    if not named and positional and chosen.phase == "serve":
        named = positional[0]
    fields, notes = READERS[chosen.name](settings, world)
    return _job(chosen, named, fields, notes, ignored, gpus, world)


def _says(words: list[str], chosen: Target) -> bool:
    known = chosen.by_spelling()
    return any(word.partition("=")[0] in known for word in words)


def _job(
    chosen: Target,
    model: str,
    fields: dict[str, Any],
    notes: list[str],
    ignored: list[str],
    gpus: int | None,
    world: int | None,
) -> Parsed:
    known = {k: v for k, v in fields.items() if v is not None}
    job = Job(model=model, phase=chosen.phase, **known)
    if gpus is not None and chosen.phase == "serve" and gpus != job.gpus:
        if gpus % job.gpus:
            raise InputError(
                f"--gpus={gpus}: the command uses {job.gpus} GPUs",
                field="--gpus",
                value=gpus,
                legal=f"{job.gpus}, or a multiple: that many servers",
                nearest=job.gpus,
            )
        notes = [*notes, f"{gpus // job.gpus} servers of {job.gpus} GPUs each"]
    return Parsed(job, chosen.name, tuple(ignored), tuple(notes))


READERS: dict[str, Callable[[Settings, int | None], Read]] = {
    "vllm": lambda s, _: serving.vllm_fields(s),
    "sglang": lambda s, _: serving.sglang_fields(s),
    "trtllm": lambda s, _: serving.trtllm_fields(s),
    "megatron-lm": training.megatron_fields,
    "megatron-bridge": training.bridge_fields,
    "torchtitan": training.titan_fields,
    "deepspeed": zero.deepspeed_fields,
    "accelerate": zero.accelerate_fields,
}


def _recognised(script: Script, name: str | None, text: str) -> tuple[Target, list[str]]:
    """(target, the words of its command): by name, or by the first words that only it has."""
    order = ["vllm", "sglang", "trtllm", "accelerate", "torchtitan", "megatron-bridge", "deepspeed"]
    order += ["megatron-lm"]
    wanted = [target(name)] if name is not None else [target(n) for n in order]
    for chosen in wanted:
        for command in script.commands:
            line = " ".join(command)
            if any(word in line for word in chosen.program):
                return chosen, command
    if name is not None:
        longest = max(script.commands, key=len, default=[])
        return wanted[0], longest
    flags = {
        s: t for n in order for t in [target(n)] for f in t.flags.values() for s in f.spellings
    }
    for command in script.commands:
        for word in command:
            owner = flags.get(word.partition("=")[0])
            if owner is not None and len(word.partition("=")[0]) > 12:
                return owner, command
    for file in script.files.values():
        if "zero_optimization" in file:
            return target("deepspeed"), script.commands[0] if script.commands else []
    raise InputError(
        f"COMMAND: no launch command of a known target in {quoted(text.strip()[:60])}",
        field="COMMAND",
        value=text.strip()[:80],
        legal=", ".join(targets()),
    )


def _launcher(words: list[str], chosen: Target) -> tuple[list[str], list[str]]:
    """(the launcher's words, the target's own)."""
    if chosen.style == "overrides":
        first = next((i for i, w in enumerate(words) if re.match(r"\w+\.\w+=|-[a-z]{2}$", w)), 0)
        return words[:first], words[first:]
    keys = [key.strip().split(" ")[-1] for key in chosen.program]
    for i, word in enumerate(words):
        if any(key in word for key in keys) and "=" not in word:
            return words[: i + 1], words[i + 1 :]
    for i, word in enumerate(words):
        if word.endswith((".py", ".sh")):
            return words[: i + 1], words[i + 1 :]
    return [], words


def _world(
    before: list[str], words: list[str], script: Script, gpus: int | None, chosen: Target
) -> int | None:
    """GPUs that the launcher starts: torchrun's nodes and processes, DeepSpeed's, SLURM's."""
    line = " ".join(before)
    if chosen.phase == "serve" or chosen.name == "accelerate":
        return gpus  # its own flags say
    if not before and "torchrun" not in line:
        return gpus
    per = option(before, "nproc-per-node", "num_gpus")
    nodes = option(before, "nnodes", "num_nodes")
    each = number(per) if per is not None else None
    if each is None:
        each = number(script.variables.get("NGPU", "")) or _batch_gpus(script)
    launched = any(w.rpartition("/")[2] in ("torchrun", "deepspeed") for w in before)
    launched = launched or "torch.distributed" in line
    many = number(nodes) if nodes is not None else 1 if launched else None
    if many is None:
        said = script.batch.get("--nodes", script.batch.get("-N", ""))
        many = number(said) if said or nodes is not None else 1
    if each is None or many is None:
        return gpus
    world = each * many
    if gpus is not None and gpus != world:
        raise InputError(
            f"--gpus={gpus}: the command starts {many} · {each} = {world} processes",
            field="--gpus",
            value=gpus,
            legal=str(world),
            nearest=world,
        )
    return world


def _batch_gpus(script: Script) -> int | None:
    for key in ("--gpus-per-node", "--gres"):
        value = script.batch.get(key, "")
        found = number(value.rpartition(":")[2])
        if found is not None:
            return found
    return None


def _settings(words: list[str], chosen: Target) -> tuple[Settings, list[str], list[str]]:
    """(settings, words that are no flag, flags that do not matter to the layout)."""
    known = chosen.by_spelling()
    settings: Settings = {}
    positional: list[str] = []
    ignored: list[str] = []
    i = 0
    while i < len(words):
        word = words[i]
        name, equals, given = word.partition("=")
        i += 1
        flag = known.get(name)
        if flag is None and chosen.style != "overrides" and name.startswith("--"):
            flag = known.get("--" + name[2:].replace("_", "-")) or known.get(
                "--" + name[2:].replace("-", "_")
            )
        if flag is None:
            if chosen.style == "overrides":
                if equals:
                    _misspelt(name, known, chosen)
                    ignored.append(word)
                elif word.startswith("-"):
                    ignored.append(word)
                continue
            if not re.match(r"--?[A-Za-z]", word):
                positional.append(word)
                continue
            _misspelt(name, known, chosen)
            ignored.append(name)
            if not equals and i < len(words) and not words[i].startswith("-"):
                # its value, unless the word before was a switch and this one is the model
                if name in chosen.bare:
                    continue
                ignored[-1] = f"{name} {words[i]}"
                i += 1
            continue
        if flag.kind == "flag":
            value: Any = True
            if equals:
                value = given.strip().lower() not in ("false", "0", "no")
            elif i < len(words) and words[i].lower() in ("true", "false"):
                value = words[i].lower() == "true"
                i += 1
        else:
            if not equals:
                if i >= len(words) or (words[i].startswith("--")):
                    raise InputError(
                        f"{name}: missing its value", field=name, legal=f"for example {name} 8"
                    )
                given = words[i]
                i += 1
            value = _value(flag, name, given)
        before = settings.get(flag.name)
        if before is not None and before != value:
            raise InputError(
                f"{name}={value}: the command also says {before}",
                field=name,
                value=value,
                legal="one value",
                nearest=before,
            )
        settings[flag.name] = value
    return settings, positional, ignored


def _value(flag: Flag, name: str, text: str) -> Any:
    if flag.kind == "text":
        return text
    if text.strip().lower() in ("none", "null"):
        return None
    if text.strip() == "-1":
        return -1
    return count(text.strip(), name, low=0 if flag.name == "stage" else 1)


def _misspelt(name: str, known: dict[str, Flag], chosen: Target) -> None:
    """Raise for a flag that the target does not have and that is about the layout: one that resembles
    a flag of the layout, that is another target's, or that names a kind of parallelism."""
    import difflib

    if name in chosen.takes_value or name in chosen.bare or len(name) < 3:
        return
    nearest: str | None = None
    for near in closest(name, known, n=3):
        same_length = abs(len(near) - len(name)) <= 3
        ratio = difflib.SequenceMatcher(None, near, name).ratio()
        if (same_length and ratio >= ALIKE) or ratio >= 0.95:
            nearest = near
            break
    for other in targets():
        flag = target(other).by_spelling().get(name)
        if (
            nearest is None
            and flag is not None
            and flag.name in _DEGREES
            and flag.name in chosen.flags
        ):
            nearest = chosen.flags[flag.name].spellings[0]
    about = _ABOUT.search(name) is not None
    if nearest is None and about:
        nearest = next(iter(closest(name, known)), None)
    if nearest is not None or about:
        alike = [s for s in known if nearest is not None and s[:6] == nearest[:6]]
        raise InputError(
            f"{name}: {chosen.title} has no such flag of a layout",
            field=name,
            value=name,
            legal=sorted(alike)[:20] or sorted(known)[:20],
            nearest=nearest,
        )


def _deepspeed(script: Script, words: list[str], world: int | None, model: str | None) -> Parsed:
    for text in script.files.values():
        if text.strip().startswith("{"):
            return _from_json(text, world, model)
    from meshwise.spec.cluster import read_text_file

    path = option(words, "deepspeed_config", "deepspeed")
    if path is None:
        raise InputError(
            "COMMAND: no DeepSpeed configuration",
            field="COMMAND",
            legal="--deepspeed_config FILE, or the JSON itself",
        )
    text = read_text_file(path, "--deepspeed_config", "a DeepSpeed JSON file", 1 << 20)
    return _from_json(text, world, model)


def _from_json(text: str, world: int | None, model: str | None) -> Parsed:
    """A DeepSpeed configuration."""
    chosen = target("deepspeed")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"COMMAND: no JSON: {error}", field="COMMAND", value=text[:60], legal="a DeepSpeed JSON"
        ) from None
    if not isinstance(table, dict):
        raise InputError("COMMAND: no JSON object", field="COMMAND", legal="a DeepSpeed JSON")
    settings: Settings = {}
    for name, flag in chosen.flags.items():
        value: Any = table
        for part in flag.spellings[0].split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or value == "auto":
            continue
        if flag.kind == "int":
            value = count(value, flag.spellings[0], low=0 if name == "stage" else 1)
        settings[name] = value
    for key in table:
        if key not in {f.spellings[0].split(".")[0] for f in chosen.flags.values()}:
            known = {f.spellings[0].split(".")[0]: f for f in chosen.flags.values()}
            _misspelt(key, known, chosen)
    fields, notes = zero.deepspeed_fields(settings, world)
    return _job(chosen, model or "", fields, notes, [], None, world)
