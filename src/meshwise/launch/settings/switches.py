"""What Megatron's flags say of experts' tokens and of the optimizer's moments, both ways."""

from __future__ import annotations

from typing import Any

import msgspec

from meshwise import dtypes
from meshwise.errors import IllegalLayout
from meshwise.launch.job import Job
from meshwise.launch.settings.settings import Read, Settings, contradiction
from meshwise.launch.table import target
from meshwise.stacks.training_state import EVERY_LAYER
from meshwise.stacks.words import MODULES, MOMENTS

# what training software does by itself where its command says nothing
PLAIN: dict[str, Any] = {
    "loss_chunks": 1,
    "dispatcher": "alltoall",
    "overlap_experts": False,
    "moments_dtype": "fp32",
    "recompute_modules": ("core_attn",),
    "optimizer": "adam",
    "master_weights": True,
    "offload_optimizer": False,
    "offload_layers": 0,
    "recompute_layers": EVERY_LAYER,
    "cuda_graphs": False,
}
_DISPATCHERS = ("allgather", "alltoall", "alltoall_seq", "flex")
# transformer_config.py: "moe_act in recompute_modules is only supported with moe_grouped_gemm"
_GROUPED = "Megatron-Core takes it with --moe-grouped-gemm only"
_BACKENDS = ("deepep", "hybridep")


def switch_settings(job: Job) -> Settings:
    """The dispatcher is said wherever experts are spread: Megatron-LM's own is another one."""
    s: Settings = {}
    if job.ep > 1:
        known = job.dispatcher in _BACKENDS
        s["dispatcher"] = "flex" if known else job.dispatcher or "alltoall"
        if known:
            s["backend"] = job.dispatcher
    if job.overlap_experts:
        s["overlap_experts"] = True
    if job.recompute_modules is not None and job.recompute == "selective":
        s["modules"] = job.recompute_modules
        if "moe_act" in job.recompute_modules:
            s["grouped_gemm"] = True
    if job.moments_dtype not in (None, "fp32") and job.shard != "none":
        s |= {"precise": True, "moment": job.moments_dtype, "second_moment": job.moments_dtype}
    return s


def as_said(job: Job, name: str) -> Job:
    """The job without what the target does by itself."""
    own = {k: v for k, v in PLAIN.items() if k not in target(name).own_way}
    dropped = {k: None for k, v in own.items() if getattr(job, k) == v}
    return msgspec.structs.replace(job, **dropped)


def switch_fields(s: Settings, ep: int) -> Read:
    """(fields of the job, notes)."""
    found: dict[str, Any] = {}
    notes: list[str] = []
    kind = str(s.get("dispatcher") or "allgather").lower()
    if kind not in _DISPATCHERS:
        raise contradiction("--moe-token-dispatcher-type", kind, "is not known", _DISPATCHERS)
    if s.get("deepep") and kind != "flex":
        raise contradiction(
            "--moe-enable-deepep", "", f"needs the dispatcher flex, not {kind}", ("flex",)
        )
    if kind == "flex":
        backend = str(s.get("backend") or "deepep").lower()
        if backend not in _BACKENDS:
            notes.append(f"the dispatcher {backend} is priced as deepep")
        found["dispatcher"] = backend if backend in _BACKENDS else "deepep"
    elif ep > 1 and kind == "allgather":  # the all-to-all is what stacks do by themselves
        found["dispatcher"] = "allgather"
    if s.get("overlap_experts"):
        found["overlap_experts"] = True
    named = tuple(dict.fromkeys(s.get("modules") or ()))
    chosen = tuple(name for name in named if name in MODULES)
    if chosen != named:
        others = ", ".join(name for name in named if name not in MODULES)
        notes.append(f"recomputation of {others} is not priced")
    if "moe_act" in chosen and not s.get("grouped_gemm"):
        notes.append(f"moe_act: {_GROUPED}")
    if chosen and chosen != ("core_attn",):
        found["recompute_modules"] = chosen
    if s.get("precise"):
        found["moments_dtype"] = _moments(s, notes)
    return found, notes


def of_a_recipe(s: Settings) -> tuple[Settings, list[str]]:
    """Megatron-Bridge's settings as Megatron-LM's: a recipe's own dispatcher is the all-to-all, and its
    script's option names the backend of the other."""
    flags, notes = dict(s), []
    script = str(flags.pop("script_backend", None) or "none").lower()
    if script != "none":
        flags |= {"dispatcher": "flex", "backend": script}
    if flags.get("dispatcher") is None and flags.get("backend") is not None:
        notes.append(
            "moe_flex_dispatcher_backend without moe_token_dispatcher_type=flex does nothing"
        )
    flags["dispatcher"] = flags.get("dispatcher") or "alltoall"
    flags["grouped_gemm"] = str(flags.get("grouped_gemm", "true")).lower() == "true"  # recipes' own
    return flags, notes


def _moments(s: Settings, notes: list[str]) -> str:
    both = [_format(s.get(name)) for name in ("moment", "second_moment")]
    for value in both:
        if value not in MOMENTS:
            raise contradiction("--exp-avg-dtype", value, "is not known", MOMENTS)
    if both[0] != both[1]:
        notes.append(f"moments in {both[0]} and {both[1]}: priced in the wider of the two")
    return min(both, key=MOMENTS.index)


def _format(value: Any) -> str:
    name = str(value or "fp32").lower().removeprefix("torch.")
    return "fp8" if name == "uint8" else dtypes.known(name) or name


def _again(job: Job) -> bool:
    """Whether backward does the exchange of tokens again."""
    experts = job.recompute == "selective" and "moe" in (job.recompute_modules or ())
    return job.recompute == "full" or experts


def _check_chunks(job: Job) -> None:
    if job.loss_chunks is None or job.seq is None:
        return
    tokens = (job.micro_batch or 1) * job.seq // job.cp
    if job.loss_chunks > tokens:
        raise IllegalLayout(
            f"loss_chunks={job.loss_chunks}: more parts than the {tokens} tokens of a microbatch",
            field="loss_chunks",
            value=job.loss_chunks,
            legal=f"1 to {tokens}",
            nearest=tokens,
        )


def check_job_switches(job: Job) -> None:
    """Raise for an overlap of experts that Megatron-Core refuses, and for more parts of the loss than a
    microbatch has tokens."""
    _check_chunks(job)
    if not job.overlap_experts:
        return
    for field, bad, why in (
        ("ep", job.ep == 1, "there is no exchange of tokens"),
        ("recompute", _again(job), "backward would run it again"),
        ("vp", job.pp > 1 and job.vp == 1, "pipeline stages need virtual ones beside it"),
    ):
        if bad:
            value = getattr(job, field)
            raise IllegalLayout(
                f"overlap_experts with {field} {value}: {why}",
                field="overlap_experts",
                value=True,
                legal="ep > 1, no recomputation of layers or experts, and vp > 1 where pp > 1",
            )
