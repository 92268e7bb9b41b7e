"""Options that switch what a training stack does, in place of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from meshwise.cli import values
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.models.shapes import Model

OPTIONS = (
    click.option(
        "--loss-chunks",
        type=values.NUMBER,
        help="Training: head and loss on N parts of a microbatch's tokens, one at a time.",
    ),
    click.option(
        "--dispatcher",
        type=values.DISPATCHER,
        help="Of tokens to experts: alltoall, deepep or hybridep (once per node).",
    ),
    click.option(
        "--overlap-experts/--no-overlap-experts",
        default=None,
        help="Training: their exchange beside another microbatch's compute.",
    ),
    click.option(
        "--moments-dtype",
        type=values.MOMENTS_DTYPE,
        help="Training: of Adam's moments, fp32, bf16, fp16 or fp8.",
    ),
    click.option(
        "--recompute-modules",
        type=values.MODULES,
        help="Training: what selective recomputation does again: core_attn, layernorm, moe_act, moe, …",
    ),
)
# spec.stack.STATED
NAMES = ("loss_chunks", "dispatcher", "overlap_experts", "moments_dtype", "recompute_modules")
_EXCHANGE = ("dispatcher", "overlap_experts")
# what a phase does without
MISPLACED: dict[str, tuple[str, ...]] = {
    "train": (),
    "prefill": tuple(name for name in NAMES if name != "dispatcher"),
    "decode": NAMES,
}


def read(o: dict[str, Any], name: str) -> dict[str, Any]:
    """The switches that the options set in the stack ``name``."""
    from meshwise.stacks.load import load_stack
    from meshwise.stacks.switches import switch_named, words_of
    from meshwise.strict_tables import count, one_of

    found = {key: o[key] for key in NAMES if o.get(key) is not None}
    if "loss_chunks" in found:
        range = switch_named("loss_chunks").range
        assert range is not None
        found["loss_chunks"] = count(found["loss_chunks"], "--loss-chunks", high=int(range.high))
    for key in ("dispatcher", "moments_dtype"):
        if key in found:
            one_of(found[key], "--" + key.replace("_", "-"), words_of(key))
    if "recompute_modules" in found:
        if name and load_stack(name).memory.selective_recompute != "attention":
            raise refused(
                "recompute_modules", found["recompute_modules"], f"{name} chooses operations"
            )
        found["recompute_modules"] = modules(found["recompute_modules"])
    for key in _EXCHANGE:
        if name == "ideal" and key in found:
            raise refused(key, found[key], "contradicts ideal rates, which know none")
    return found


def modules(text: str) -> tuple[str, ...]:
    """Parts of a layer with commas between them."""
    from meshwise.stacks.switches import MODULES
    from meshwise.strict_tables import one_of

    parts = [part.strip() for part in text.split(",")]
    return tuple(one_of(part, "--recompute-modules", MODULES) for part in dict.fromkeys(parts))


def check(o: dict[str, Any], model: Model) -> None:
    """Refuse what is said of experts that a model does not have, and modules that nothing redoes."""
    mode, named = o.get("recompute"), o.get("recompute_modules")
    planned = "free" in o and mode is None  # a plan looks at all modes
    if named is not None and mode in (None, "none", "full") and not planned:
        raise refused("recompute_modules", named, "only --recompute selective has modules")
    if named is not None:
        _has(modules(named), named, model)
    if any(block.moe is not None for block in model.blocks):
        return
    for key in _EXCHANGE:
        if o.get(key) is not None:
            raise refused(key, o[key], f"{model.name} has no experts")


def _has(parts: tuple[str, ...], said: str, model: Model) -> None:
    """Refuse modules that no layer of the model has."""
    moes = [b.moe for b in model.blocks if b.moe is not None]
    attentions = [b.attention for b in model.blocks if b.attention is not None]
    missing = {
        "mla_up_proj": "no latent attention" if not any(a.mla for a in attentions) else "",
        "moe": "" if moes else "no experts",
        "moe_act": "" if moes else "no experts",
        "shared_experts": "" if any(m.shared for m in moes) else "no shared experts",
    }
    for part in parts:
        if missing.get(part):
            raise refused("recompute_modules", said, f"{part}: {model.name} has {missing[part]}")


def refused(key: str, value: Any, why: str) -> InputError:
    option = "--" + key.replace("_", "-")
    return InputError(
        f"{option}={shorten(value)}: {why}", field=option, value=value, legal=f"leave {option} out"
    )
