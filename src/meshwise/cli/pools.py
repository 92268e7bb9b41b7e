"""Options of two pools: prefill on GPUs of its own."""

from __future__ import annotations

from collections.abc import Mapping

import click

from meshwise.cli import options, values
from meshwise.cli.given import Given, option_of
from meshwise.errors import InputError, shorten

_AXES = ("tp", "pp", "dp", "ep", "etp")
_NAMES = ("prefill_instances", "decode_instances", *(f"prefill_{axis}" for axis in _AXES))

pool_options = options.stacked(
    click.option(
        "--prefill-instances",
        "--prefill-workers",
        "prefill_instances",
        type=values.NUMBER_TYPE,
        help="Disaggregated: instances that compute prompts, on GPUs of their own.",
    ),
    click.option(
        "--decode-instances",
        "--decode-workers",
        "decode_instances",
        type=values.NUMBER_TYPE,
        help="Disaggregated: instances that decode, each of --tp, --pp, --dp, --ep.",
    ),
    *(
        click.option(
            f"--prefill-{axis}",
            type=values.NUMBER_TYPE,
            help=f"Disaggregated: --{axis} of a prefill instance (default: as decode's).",
        )
        for axis in _AXES
    ),
)


def are_apart(o: Given) -> bool:
    """Whether the pools are on GPUs of their own."""
    return any(o.has(name) for name in _NAMES)


def prefill_axes(o: Given, axes: Mapping[str, object]) -> dict[str, object]:
    """The prefill instance's degrees: as said, else as of ``axes``; experts' only where the others are."""
    own = {axis: o.number(f"prefill_{axis}") for axis in _AXES if o.has(f"prefill_{axis}")}
    kept = {axis: axes[axis] for axis in _AXES if axis in axes}
    if any(axis in own for axis in ("tp", "dp")):
        kept = {axis: value for axis, value in kept.items() if axis not in ("ep", "etp")}
    return kept | own


def refuse_cap(o: Given, arriving: bool) -> None:
    """Refuse requests in flight of arrivals: two pools take what comes."""
    if arriving and are_apart(o) and o.has("concurrency"):
        raise InputError(
            f"--concurrency={shorten(o['concurrency'])}: two pools take arrivals as they come",
            field="--concurrency",
            value=o["concurrency"],
            legal="leave --concurrency or the arrivals out",
        )


def refuse_curve(o: Given) -> None:
    """Refuse a curve of two pools."""
    name = next((name for name in _NAMES if o.has(name)), None)
    if name is not None:
        raise InputError(
            f"{option_of(name)}={shorten(o[name])}: a sweep is of one layout",
            field=option_of(name),
            value=o[name],
            legal=f"leave {option_of(name)} or --sweep out",
        )
