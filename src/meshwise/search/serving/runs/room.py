"""What a layout's server holds: tokens and sequences as its engine's log states them, how long a context; and
the refusal of a request that does not fit, with what would."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from meshwise.axes import SERVES
from meshwise.clusters.load import Cluster
from meshwise.cost.memory.server import ServerMemory
from meshwise.errors import DoesNotFit, MeshwiseError
from meshwise.layouts import tp_degrees
from meshwise.layouts.check import check
from meshwise.layouts.layout import Layout, arrays
from meshwise.models.formats import model_as_run
from meshwise.models.shapes import Model
from meshwise.search.serving.runs.lengths import (
    check_chunk,
    check_positions,
    check_told,
    with_lengths,
)
from meshwise.search.serving.space import serving_space
from meshwise.simulate.loads.arrivals import Arrivals
from meshwise.stacks.stack import Stack, check_eager, replaced
from meshwise.strict_tables import count
from meshwise.units import format_gpus, format_memory
from meshwise.workloads.serving import Serving
from meshwise.workloads.workload import MAX_SEQ

_MOST_SHARE = 0.98  # of a device's memory: beyond, no engine starts


class PlacedServer(NamedTuple):
    """A layout of an engine, and the load whose formats and iterations it runs."""

    model: Model
    cluster: Cluster
    stack: Stack
    layout: Layout
    load: Serving

    def memory(self, layout: Layout | None = None, stack: Stack | None = None) -> ServerMemory:
        """Of the layout, or of another one, or under another stack."""
        step = self.load.decode()
        return ServerMemory.of(
            *(self.model, self.cluster, stack or self.stack, arrays(layout or self.layout, step)),
            *(self.load.formats, self.load.chunk),
        )


class ServerRoom(NamedTuple):
    """What one replica's cache holds. Tokens, blocks, requests; bytes of the device that holds least."""

    kv_cache_tokens: int  # as the engine's log states them
    kv_cache_blocks: int
    max_model_len: int  # asked for, or the model's own
    max_model_concurrency: float  # requests of that length, a fraction as the log has it
    longest_request: int  # alone, at most the model's longest; 0 where none fits
    weights_bytes: float
    activations_bytes: float
    runtime_bytes: float
    graphs_bytes: float
    kv_cache_bytes: float
    reserve_bytes: float


def server_room(server: PlacedServer, max_model_len: int | None = None) -> ServerRoom:
    """Of a layout; ``max_model_len``: the longest request that the engine is told of."""
    memory, w = server.memory(), server.load
    own = server.model.max_positions
    longest = max_model_len or own or w.isl + w.osl
    parts = memory.tightest(w.isl + w.osl)
    cache = max(float(parts.kv_cache_bytes), 0.0)
    most = memory.longest()
    held = memory.concurrency(longest)
    return ServerRoom(
        kv_cache_tokens=_whole(float(memory.logged_tokens(longest))),
        kv_cache_blocks=_whole(float(memory.logged_blocks(longest))),
        max_model_len=longest,
        max_model_concurrency=min(float(held), 1e9),
        longest_request=min(most, _allowed(server, max_model_len)),
        weights_bytes=float(parts.weights_bytes),
        activations_bytes=float(parts.activations_bytes),
        runtime_bytes=float(parts.runtime_bytes),
        graphs_bytes=float(parts.graphs_bytes),
        kv_cache_bytes=cache,
        reserve_bytes=server.cluster.device.memory_bytes - float(parts.beside_bytes) - cache,
    )


def _allowed(server: PlacedServer, max_model_len: int | None = None) -> int:
    """Tokens of the longest request that the engine takes: what it is told of, else what the model was made
    for."""
    return max_model_len or server.model.max_positions or MAX_SEQ


def room_for(
    server: PlacedServer, prefill: Layout, max_model_len: object, arrivals: Arrivals | None
) -> ServerRoom:
    """What a layout's server holds under a load; :class:`DoesNotFit` where it does not hold it, or that of a
    layout that computes the prompts does not hold one."""
    longest = max_model_len
    if longest is not None:
        longest = count(longest, "max_model_len", high=MAX_SEQ)
    server = server._replace(load=with_lengths(server.load, arrivals))
    traced = arrivals is not None and arrivals.trace is not None
    check_positions(server.model, server.load, longest, arrivals)
    check_told(server.load, longest, traced=traced)
    check_eager(server.stack)
    check_chunk(server.stack, server.load)
    if prefill != server.layout:
        prompts = msgspec.structs.replace(server.load, osl=1)
        try:
            require_room(server._replace(layout=prefill, load=prompts), traced=traced)
        except DoesNotFit as error:
            if error.field == "tp":
                error.field, error.message = "prefill_tp", f"prefill_{error.message}"
            error.message += ", in the prefill pool"
            raise
    require_room(server, longest, traced=traced)
    return server_room(server, longest)


def _whole(found: float) -> int:
    return int(min(found, 1e15))


def require_room(
    server: PlacedServer, max_model_len: int | None = None, *, traced: bool = False
) -> None:
    """:class:`DoesNotFit` where the longest request, or one of ``max_model_len``, does not fit alone.

    ``traced``: a file says how long they are.
    """
    w, memory = server.load, server.memory()
    asked = w.isl + w.osl
    needed = max(asked, max_model_len or 0)
    if float(memory.concurrency(needed)) >= 1.0:
        return
    longest = memory.longest()
    if longest < w.osl + 1 + w.image_tokens:
        raise _no_cache(server, memory, longest, _ways(server, needed))
    holds = f"does not fit: the KV cache of a replica holds one of {longest:,} at most"
    ways = _ways(server, needed)[1]
    if needed > asked:
        raise DoesNotFit(
            f"max_model_len={needed}: a request of so many tokens {holds}",
            field="max_model_len",
            value=needed,
            legal="; ".join((f"at most {longest}", *ways)),
            nearest=longest,
        )
    if traced:
        raise DoesNotFit(
            f"arrivals: the longest request of {asked:,} tokens {holds}",
            field="arrivals",
            legal="; ".join((f"requests of at most {longest} tokens", *ways)),
        )
    said = w.isl - w.image_tokens
    most = longest - w.osl - w.image_tokens
    raise DoesNotFit(
        f"isl={said}: a request of {asked:,} tokens with its answer of {w.osl:,} {holds}",
        field="isl",
        value=said,
        legal="; ".join((f"at most {most}", *ways)),
        nearest=most,
    )


def _no_cache(
    server: PlacedServer, memory: ServerMemory, longest: int, ways: tuple[int | None, list[str]]
) -> DoesNotFit:
    w, tp = server.load, server.layout.tp
    parts = memory.tightest(w.isl + w.osl)
    beside, room = float(parts.beside_bytes), float(parts.beside_bytes + parts.kv_cache_bytes)
    if longest == 0 and float(parts.kv_cache_bytes) <= 0.0:
        why = "leave no room for a KV cache"
    else:
        why = f"leave a KV cache of {longest:,} tokens, not one request of {w.isl + w.osl:,}"
    return DoesNotFit(
        f"tp={tp}: weights of {format_memory(float(parts.weights_bytes))} and "
        f"{format_memory(beside - float(parts.weights_bytes))} beside them, of {format_memory(room)} that the "
        f"engine has of a GPU, {why}",
        field="tp",
        value=tp,
        legal="; ".join(ways[1])
        or f"narrower weights, GPUs with more memory, or more than {format_gpus(server.cluster.devices)}",
        nearest=ways[0],
    )


def _ways(server: PlacedServer, tokens: int) -> tuple[int | None, list[str]]:
    """(the smallest TP degree that holds a request of so many tokens, in words what does)."""
    said: list[str] = []
    tp = smallest_tp(server, tokens)
    other = nearest_layout(server, tokens)
    if other is not None and (
        tp is None or other.devices < server.layout.devices * tp // server.layout.tp
    ):
        degrees = ((name, getattr(other, name)) for name in ("tp", "pp", "dp", "ep", "etp", "dcp"))
        words = " ".join(f"{name.upper()} {n}" for name, n in degrees if n is not None and n > 1)
        same = other.devices == server.layout.devices
        said.append(f"{words} on {'the same ' * same}{format_gpus(other.devices)} holds it")
    if tp is not None:
        said.append(f"TP {tp} holds it")
    share = smallest_share(server, tokens)
    if share is not None:
        said.append(f"{share:.0%} of the memory holds it")
    fewer = most_running(server, tokens)
    if fewer is not None:
        said.append(f"`max_num_seqs={fewer}` holds it")
    return tp, said


_CHANGED = ("pp", "dp", "tp", "dcp")  # degrees of a layout beside those of its experts


def nearest_layout(server: PlacedServer, tokens: int) -> Layout | None:
    """The layout that holds a request of so many tokens on the same GPUs, else on twice as many and so on up
    to the cluster's, with as few other degrees as can be; of those the one that holds the most."""
    asked, w = server.layout, server.load
    asked_etp = np.asarray(arrays(asked, w.decode()).expert_tp())
    gpus = asked.devices
    while gpus <= server.cluster.devices:
        layouts, _ = serving_space(
            server.model, server.stack, gpus, {}, replicas=w.concurrency, joined=True
        )
        if layouts.tp.size:
            held = ServerMemory.of(
                *(server.model, server.cluster, server.stack, layouts, w.formats), w.chunk
            ).concurrency(tokens)
            held = np.broadcast_to(np.asarray(held), layouts.tp.shape)
            same = 1.0 * (layouts.ep * layouts.expert_tp() != asked.ep * asked_etp)
            for name in ("ep", *_CHANGED):
                same = same + (getattr(layouts, name) != getattr(asked, name))
            for i in np.lexsort((-held, same)).tolist():
                if held[i] >= 1.0:
                    found = layouts.at(i, SERVES)
                    if _legal(server, found):
                        return found
        gpus *= 2
    return None


def _legal(server: PlacedServer, layout: Layout) -> bool:
    try:
        check(
            *(layout, server.model, server.cluster, server.load.decode(), server.stack),
            requests=server.load.concurrency,
        )
    except MeshwiseError:
        return False
    return True


def most_running(server: PlacedServer, tokens: int) -> int | None:
    """Most requests that run at once, a power of two below the engine's, whose graphs and sampling leave room
    for a request of so many tokens."""
    memory = server.memory()
    fewer = 1 << max(memory.sequences - 1, 0).bit_length() - 1 if memory.sequences > 1 else 0
    while fewer >= 1:
        told = {"max_sequences": fewer, "max_sequences_small": fewer}
        if float(server.memory(stack=replaced(server.stack, told)).concurrency(tokens)) >= 1.0:
            return fewer
        fewer //= 2
    return None


def smallest_tp(server: PlacedServer, tokens: int) -> int | None:
    """The smallest legal degree above the layout's whose cache holds a request of so many tokens."""
    model = model_as_run(server.model, server.load.decode())
    for tp in tp_degrees.legal_tp(model, server.stack):
        if tp <= server.layout.tp:
            continue
        wider = msgspec.structs.replace(server.layout, tp=tp)
        if not _legal(server, wider):
            continue
        if float(server.memory(wider).concurrency(tokens)) >= 1.0:
            return tp
    return None


def smallest_share(server: PlacedServer, tokens: int) -> float | None:
    """The smallest share of memory above the engine's, in hundredths, with which it holds such a request."""
    if server.stack.ideal:
        return None
    own = 1.0 - float(server.memory().reserve)
    for hundredths in range(int(round(100 * own, 6)) + 1, round(100 * _MOST_SHARE) + 1):
        stack = replaced(server.stack, {"memory_reserve": round(1.0 - hundredths / 100, 9)})
        memory = server.memory(stack=stack)
        if stack.cache.kv_budget == "static" and not memory.leaves_the_rest:
            return None
        if float(memory.concurrency(tokens)) >= 1.0:
            return hundredths / 100
    return None
