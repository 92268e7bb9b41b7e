"""Options that switch what a training stack does, in place of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from meshwise.cli import values
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

if TYPE_CHECKING:
    from meshwise.models.shapes import Model

SWITCH_OPTIONS = (
    click.option(
        "--loss-chunks",
        type=values.NUMBER_TYPE,
        help="Training: head and loss on N parts of a microbatch's tokens, one at a time.",
    ),
    click.option(
        "--dispatcher",
        type=values.DISPATCHER_TYPE,
        help="Of tokens to experts: alltoall, deepep or hybridep (once per node).",
    ),
    click.option(
        "--overlap-experts/--no-overlap-experts",
        default=None,
        help="Training: their exchange beside another microbatch's compute.",
    ),
    click.option(
        "--moments-dtype",
        type=values.MOMENTS_DTYPE_TYPE,
        help="Training: of Adam's moments, fp32, bf16, fp16 or fp8.",
    ),
    click.option(
        "--recompute-modules",
        type=values.MODULES_TYPE,
        help="Training: what selective recomputation does again: core_attn, layernorm, moe_act, moe, …",
    ),
)
# spec.stack.STATED
SWITCH_NAMES = (
    "loss_chunks",
    "dispatcher",
    "overlap_experts",
    "moments_dtype",
    "recompute_modules",
)
_EXCHANGE = ("dispatcher", "overlap_experts")
# what a phase does without
MISPLACED: dict[str, tuple[str, ...]] = {
    "train": (),
    "prefill": tuple(name for name in SWITCH_NAMES if name != "dispatcher"),
    "decode": SWITCH_NAMES,
}


def read_switches(o: Given, name: str) -> dict[str, object]:
    """The switches that the options set in the stack ``name``."""
    from meshwise.stacks.load import load_stack
    from meshwise.stacks.switches import switch_named, words_of
    from meshwise.strict_tables import one_of

    found = {key: o[key] for key in SWITCH_NAMES if o.has(key)}
    if "loss_chunks" in found:
        bounds = switch_named("loss_chunks").range
        assert bounds is not None
        found["loss_chunks"] = o.count("loss_chunks", high=int(bounds.high))
    for key in ("dispatcher", "moments_dtype"):
        if key in found:
            one_of(found[key], option_of(key), words_of(key))
    named = o.text("recompute_modules")
    if named is not None:
        if name and load_stack(name).memory.selective_recompute != "attention":
            raise refused_switch("recompute_modules", named, f"{name} chooses operations")
        found["recompute_modules"] = read_modules(named)
    for key in _EXCHANGE:
        if name == "ideal" and key in found:
            raise refused_switch(key, found[key], "contradicts ideal rates, which know none")
    return found


def read_modules(text: str) -> tuple[str, ...]:
    """Parts of a layer with commas between them."""
    from meshwise.stacks.words import MODULES
    from meshwise.strict_tables import one_of

    parts = [part.strip() for part in text.split(",")]
    return tuple(one_of(part, "--recompute-modules", MODULES) for part in dict.fromkeys(parts))


def check_switch_options(o: Given, model: Model) -> None:
    """Refuse what is said of experts that a model does not have, and modules that nothing redoes."""
    mode, named = o.text("recompute"), o.text("recompute_modules")
    planned = "free" in o and mode is None  # a plan looks at all modes
    if named is not None and mode in (None, "none", "full") and not planned:
        raise refused_switch("recompute_modules", named, "only --recompute selective has modules")
    if named is not None:
        _has(read_modules(named), named, model)
    if any(block.moe is not None for block in model.blocks):
        return
    for key in _EXCHANGE:
        if o.has(key):
            raise refused_switch(key, o[key], f"{model.name} has no experts")


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
            raise refused_switch(
                "recompute_modules", said, f"{part}: {model.name} has {missing[part]}"
            )


def refused_switch(key: str, value: object, why: str) -> InputError:
    """That a switch does not go with what else is asked."""
    option = option_of(key)
    return InputError(
        f"{option}={shorten(value)}: {why}", field=option, value=value, legal=f"leave {option} out"
    )
