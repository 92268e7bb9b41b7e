"""How long requests are: a trace's in place of the load's, what the engine is told of, what the model was made
for."""

from __future__ import annotations

import msgspec

from meshwise.errors import InputError, quoted
from meshwise.models.shapes import Model
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.stacks.stack import Stack
from meshwise.workloads.serving import Serving


def with_lengths(w: Serving, arrivals: Arrivals | None) -> Serving:
    """The load with the longest lengths of a trace in place of its own. :class:`InputError` for tokens of
    images beside it, of which a trace does not say whose they are."""
    if arrivals is None or arrivals.trace is None:
        return w
    if w.image_tokens:
        raise InputError(
            f"image_tokens={w.image_tokens}: the trace says how long its prompts are",
            field="image_tokens",
            value=w.image_tokens,
            legal="leave `image_tokens` out, and count them among the trace's tokens in",
        )
    longest = {"isl": max(arrivals.trace.prompt), "osl": max(arrivals.trace.answer)}
    return msgspec.structs.replace(w, **longest)


def check_told(w: Serving, max_model_len: int | None, *, traced: bool = False) -> None:
    """:class:`InputError` where a request is longer than the engine is told of."""
    asked = w.isl + w.osl
    if max_model_len is None or asked <= max_model_len:
        return
    longest = f"the longest request of the trace, {asked:,} tokens, is longer"
    said = f"a request of {w.isl:,} tokens in and {w.osl:,} out is longer"
    raise InputError(
        f"max_model_len={max_model_len}: {longest if traced else said}",
        field="max_model_len",
        value=max_model_len,
        legal=f"at least {asked}",
        nearest=asked,
    )


def check_chunk(stack: Stack, w: Serving) -> None:
    """:class:`InputError` where a prompt that the engine does not cut is longer than an iteration."""
    if stack.scheduler.whole_prompts and w.chunk is not None and w.isl > w.chunk:
        raise InputError(
            f"chunk={w.chunk}: a prompt of {w.isl:,} tokens, which the engine does not cut, does not fit an "
            "iteration of so many",
            field="chunk",
            value=w.chunk,
            legal=f"at least {w.isl}, or an engine that cuts prompts (chunked prefill)",
            nearest=w.isl,
        )


def check_positions(
    model: Model, w: Serving, max_model_len: int | None = None, arrivals: Arrivals | None = None
) -> None:
    """:class:`InputError` where a request, or the longest that the engine is told of, is longer than the
    positions that the model was made for: engines refuse it (vLLM takes a longer ``max_model_len`` by an
    environment variable alone). ``arrivals``: a trace of them has the lengths."""
    own, asked = model.max_positions, w.isl + w.osl
    if own is None or max(asked, max_model_len or 0) <= own:
        return
    made = f"the {own:,} positions that {model.name} was made for"
    scaled = "a config.json whose rope_scaling reaches further"
    trace = None if arrivals is None else arrivals.trace
    if trace is not None and asked > own:
        lengths = [a + b for a, b in zip(trace.prompt, trace.answer, strict=True)]
        longer = sum(n > own for n in lengths)
        raise InputError(
            f"arrivals={quoted(trace.name)}: {longer:,} of {len(lengths):,} requests are longer than {made}, "
            f"the longest {max(lengths):,} tokens",
            field="arrivals",
            value=trace.name,
            legal=f"requests of at most {own} tokens, or {scaled}",
        )
    if asked <= own:
        raise InputError(
            f"max_model_len={max_model_len}: more than {made}",
            field="max_model_len",
            value=max_model_len,
            legal=f"at most {own}, or {scaled}",
            nearest=own,
        )
    told = w.isl - w.image_tokens
    name, value, most = "isl", told, own - w.osl - w.image_tokens
    if most < 1:  # no prompt leaves room for such an answer
        name, value, most = "osl", w.osl, max(own - w.isl, 1)
    raise InputError(
        f"{name}={value}: a request of {w.isl:,} tokens in and {w.osl:,} out is longer than {made}",
        field=name,
        value=value,
        legal=f"at most {most}, or {scaled}",
        nearest=most,
    )
