"""What each value of a reading came from: a flag with its place, the launcher, the caller, or what the
target's release does by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from meshwise.launch.account.origins import KINDS, Origin
from meshwise.launch.job import Job
from meshwise.launch.parsed import Parsed
from meshwise.launch.table import target

# field of a job → settings that give it, where they are not of its own name
_GIVEN_BY = {
    "tp": ("tp", "megatron_tp"),
    "pp": ("pp", "megatron_pp"),
    "vp": ("vp", "layers_per_stage"),
    "dp": ("dp", "dp_attention", "dp_shard", "dp_replicate", "fsdp"),
    "ep": ("ep", "expert_parallel", "megatron_ep"),
    "etp": ("etp", "expert_parallel", "megatron_etp"),
    "recompute": (
        "recompute",
        "granularity",
        "recompute_activations",
        "recomputation",
        "checkpointing",
        "checkpoint_activations",
        "megatron_recompute",
        "gradient_checkpointing",
    ),
    "shard": (
        "shard",
        "distributed_optimizer",
        "sharding",
        "fsdp",
        "fsdp2",
        "stage",
        "zero_stage",
        "megatron_optimizer",
        "resharding",
        "reshard",
        "dp_shard",
        "zero_file",
    ),
    "placement": ("pp_first",),
    "cp": ("cp", "megatron_cp"),
    "sequence_parallel": ("sequence_parallel", "megatron_sp"),
    "micro_batch": ("micro_batch", "pp_microbatch", "micro_tokens", "local_batch", "accumulation"),
    "global_batch": ("global_batch", "local_batch", "step_tokens", "micro_batch", "accumulation"),
    "model": ("model", "stem", "family", "recipe"),
    "memory_share": ("memory_share", "cache_share"),
    "dispatcher": ("exchange", "dispatcher", "backend", "script_backend", "deepep"),
    "overlap": ("tp_overlap",),
    "recompute_modules": ("modules",),
    "dtype": (
        "dtype",
        "bf16",
        "fp16",
        "fp8",
        "precision",
        "mixed_precision",
        "trainer_bf16",
        "trainer_fp16",
        "float8",
        "converters",
        "quantization",
        "fp4",
    ),
    "grad_dtype": ("grad_dtype", "grad_bf16", "grad_fp32", "reduce"),
    "weight_dtype": ("weight_dtype", "quantization"),
    "concurrency": ("max_seqs", "concurrency"),
    "eager": ("eager", "graphs"),
    "chunked_prefill": ("chunked", "whole"),
    "draft_tokens": ("draft_tokens", "draft_steps", "speculation", "draft_model"),
}
_AXES = ("tp", "pp", "vp", "dp", "cp", "ep", "etp", "micro_batch", "sequence_parallel")
_LAYOUT = {
    "train": (*_AXES, "recompute", "shard", "placement"),
    "serve": ("tp", "pp", "dp", "ep", "etp", "dcp"),
}
_BESIDE = (
    *(
        "model",
        "global_batch",
        "seq",
        "max_len",
        "concurrency",
        "dtype",
        "weight_dtype",
        "kv_dtype",
    ),
    *("grad_dtype", "quantization", "memory_share", "chunk", "eager", "chunked_prefill"),
    *("draft_tokens", "dispatcher"),
)
# that a flag may say, and no list of a release's own settings has
_WHERE_SAID = ("overlap", "recompute_layers", "recompute_modules", "optimizer", "offload_optimizer")

_PLAIN = {f.name: f.default for f in msgspec.structs.fields(Job)}
_FOLLOWS = ("etp", "micro_batch")  # from the other degrees, or taken for 1 with a note
_FILES = "the command's files"  # of a value whose own word is not known
_READ_FROM = dict.fromkeys(("recipe", "family", "module"), "its recipe")


def sources(p: Parsed, asked: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Field of the job → ``source`` (flag, file, launcher, caller, default) with ``file``, ``line`` and
    ``word``, or the release whose default it is."""
    chosen, job = target(p.target), p.job
    by_setting = {f.setting: f.origin for f in p.flags if f.setting}
    read_from = next((word for s, word in _READ_FROM.items() if s in by_setting), _FILES)
    release = f"{chosen.title} {chosen.version}"
    found: dict[str, dict[str, Any]] = {}
    for name in (*_LAYOUT[job.phase], *_BESIDE, *_WHERE_SAID):
        value = getattr(job, name)
        origin = next(
            (by_setting[s] for s in _GIVEN_BY.get(name, (name,)) if s in by_setting), None
        )
        if origin is not None:
            found[name] = _record("flag", origin)
        elif name == "dp" and job.phase == "train":
            found[name] = _world(p, asked)
        elif name in _WHERE_SAID:
            continue
        elif name in _LAYOUT[job.phase] or value not in (None, ""):
            said = not set(_GIVEN_BY.get(name, (name,))).isdisjoint(p.unplaced)
            if not by_setting and not p.unplaced:  # a text none of whose words has a place
                said = name not in _FOLLOWS and value != _PLAIN[name]
            source, word = ("file", read_from) if said else ("default", release)
            found[name] = {"source": source, "file": None, "line": None, "word": word}
    for name in (*asked, *(name for name, _ in p.instead)):
        found[name] = {"source": "caller", "file": None, "line": None, "word": name}
    return found


def at_load(parsed: Parsed, load: Mapping[str, int | None]) -> Parsed:
    """The command where a load is priced that it says otherwise: each such value is noted, with its word."""
    other = [
        (name, value)
        for name, value in load.items()
        if value is not None and getattr(parsed.job, name) not in (None, value)
    ]
    said, notes = sources(parsed, ()), []
    for name, value in other:
        own = said[name]
        placed = own["source"] == "flag" and f" {getattr(parsed.job, name)}" in f" {own['word']}"
        word = own["word"] if placed else f"{name} {getattr(parsed.job, name)}"
        notes.append(f"the command says {word}; {value} is priced")
    return parsed._replace(notes=(*notes, *parsed.notes), instead=tuple((n, v) for n, v in other))


def _record(source: str, origin: Origin) -> dict[str, Any]:
    line = origin.line or None
    return {"source": source, "file": origin.file or None, "line": line, "word": origin.word}


def _world(p: Parsed, asked: Sequence[str]) -> dict[str, Any]:
    """Replicas of training are what the other degrees leave of the launcher's processes."""
    if "gpus" in asked:
        return {"source": "caller", "file": None, "line": None, "word": "gpus"}
    words = [o.word for o in p.launcher]
    line = next((o.line for o in p.launcher if o.line), 0)
    return _record("launcher", Origin(" ".join(words), line))


def flags_by_kind(p: Parsed) -> dict[str, list[Any]]:
    """The words of the command by what they mean to the answer."""
    found: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for flag in p.flags:
        if flag.kind != "unpriced":
            found[flag.kind].append(flag.origin.word)
    found["unpriced"] = [{"flag": u.flag, "changes": u.changes} for u in p.unpriced]
    return found


def sources_line(found: dict[str, dict[str, Any]]) -> str:
    """The same in a line: what flags give, what is a default. Of a text of one line no line is said."""
    flags = [s for s in found.values() if s["source"] == "flag"]
    lines = any((s["line"] or 1) > 1 for s in flags)
    said, defaults, release = [], [], ""
    for name, s in found.items():
        if s["source"] in ("flag", "file"):
            where = [s["file"]] if s["file"] else []
            where += [f"line {s['line']}"] if s["line"] and (lines or s["file"]) else []
            said.append(f"{s['word']} ({' '.join(where)})" if where else str(s["word"]))
        elif s["source"] == "default":
            defaults.append(name)
            release = str(s["word"])
    parts = [f"read from {', '.join(dict.fromkeys(said))}"] if said else []
    parts += [f"{release}'s own: {', '.join(defaults)}"] if defaults else []
    return "; ".join(parts)
