"""What an iteration of a serving engine takes, for simulators of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from meshwise.arguments import NameOrPath, named_objects
from meshwise.axes import SERVES
from meshwise.errors import InputError, shorten
from meshwise.layouts.check import check
from meshwise.layouts.layout import arrays, asked
from meshwise.simulate.iteration import Engine
from meshwise.simulate.price_table import PriceTable
from meshwise.strict_tables import count
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import MAX_SEQ, Formats

if TYPE_CHECKING:
    from meshwise.clusters.load import Cluster
    from meshwise.layouts.keywords import ServingDegrees
    from meshwise.models.shapes import Model
    from meshwise.stacks.stack import Stack

__all__ = ["IterationCost"]

_MOST_SEQUENCES = 4096
_WHOLE = (int, np.integer)


class IterationCost:
    """Seconds of one iteration of an engine's replica: a function of what is in the batch.

    Rests on the price of :func:`meshwise.estimate`, read from a table between its knots: off by some
    tenths of a per cent, by up to 10 % where a kernel's tiles begin a new row between two knots. A call takes
    about 13 µs; the first ones, which price the knots that they need, some milliseconds.

    :param model: a name, a path or a :class:`Model`.
    :param cluster: a name, a path or a :class:`Cluster`.
    :param stack: the engine; None: ``vllm``.
    :param max_sequences: the most that decode at once; beyond, time is drawn on along its last piece.
    :param max_context: the most tokens that a sequence holds, likewise.
    :param max_tokens: the most tokens of an iteration, likewise.
    :param formats: :class:`Formats`.
    :param layout: ``tp, pp, dp, ep, etp, dcp``; with ``pp`` an iteration is one of each group that the
        pipeline has in flight.
    :raises InputError: for a layout that is not legal, or a state that is none.

    >>> from meshwise.serving import IterationCost
    >>> seconds = IterationCost("llama-3.1-8b", "hgx-h100", tp=2)
    >>> alone, beside = seconds(32, 1500.0), seconds(32, 1500.0, [(512, 0), (256, 1024)])
    >>> 0.0 < alone < beside < alone + seconds(0, 0.0, [(512, 0), (256, 1024)])
    True
    """

    def __init__(
        self,
        model: Model | NameOrPath,
        cluster: Cluster | NameOrPath,
        *,
        stack: Stack | NameOrPath | None = None,
        max_sequences: int = 256,
        max_context: int = 8192,
        max_tokens: int = 8192,
        formats: Formats | None = None,
        **layout: Unpack[ServingDegrees],
    ) -> None:
        one = asked(layout, SERVES)
        most = count(max_sequences, "max_sequences", high=_MOST_SEQUENCES)
        held = count(max_context, "max_context", low=2, high=MAX_SEQ)
        tokens = count(max_tokens, "max_tokens", high=MAX_SEQ)
        w = Serving(
            isl=max(held // 2, 1),
            osl=held - held // 2,
            concurrency=most,
            formats=Formats() if formats is None else formats,
        )
        spec, where, software = named_objects(model, cluster, w.decode(), stack)
        check(one, spec, where, w.decode(), software, None, None)
        engine = Engine(spec, where, software, arrays(one, w.decode()), w.formats)
        self._table = PriceTable(engine, w, most, tokens)

    def __call__(
        self, sequences: int, context: float, prompts: Sequence[tuple[int, int]] = ()
    ) -> float:
        """Seconds of an iteration.

        :param sequences: that decode a token each.
        :param context: tokens that each of them holds, in the mean.
        :param prompts: (tokens computed, tokens of it that are held already) of each prompt, or chunk of one.
        :raises InputError: for what is no whole number, negative, or no number.
        """
        if not (isinstance(sequences, _WHOLE) and sequences >= 0):
            raise _no_state("sequences", sequences, "a whole number, 0 or more")
        if not 0.0 <= context < math.inf:
            raise _no_state("context", context, "tokens that each sequence holds, 0 or more")
        for computed, held in prompts:
            if not (isinstance(computed, _WHOLE) and computed > 0):
                raise _no_state("prompts", computed, "tokens computed, 1 or more")
            if not (isinstance(held, _WHOLE) and held >= 0):
                raise _no_state("prompts", held, "tokens held already, 0 or more")
        if prompts:
            return self._table.prompts_s(int(sequences), context, prompts)
        if sequences < 1:
            raise InputError(
                "sequences: an iteration of nothing has no time",
                field="sequences",
                value=sequences,
                legal="1 or more, or prompts",
            )
        return self._table.decode_s(int(sequences), context)


def _no_state(field: str, value: object, legal: str) -> InputError:
    return InputError(
        f"{field}={shorten(value)} is no state of a batch", field=field, value=value, legal=legal
    )
