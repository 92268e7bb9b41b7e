"""Pages of a serving engine's KV cache: how it groups a model's layers, and what a request holds of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from meshwise.arrays import Array
from meshwise.cost.memory import parts as mem
from meshwise.program.context import Context
from meshwise.program.layers.recurrent import recurrent_state_bytes
from meshwise.program.weights import Role
from meshwise.workloads.workload import MAX_SEQ

# Groups of layers of one kind are as large as the largest kind where that is less than this many times the
# smallest (vllm/v1/core/kv_cache_utils.py).
_ALIKE = 1.25


class _Kind(NamedTuple):
    """Layers of one kind on a stage, as pages see them: bytes per token of one layer, or of its state."""

    layers: Array
    token_bytes: Array
    state_bytes: Array
    window: int | None


class Pages(NamedTuple):
    """Pages of one size on a stage: bytes of a page of a group of layers, tokens of each kind's page, groups."""

    page_bytes: Array
    tokens: list[Array]  # 0 for a state
    groups: list[Array]


class KvPages:
    """Of layouts (arrays over their axes), per stage. Bytes, tokens.

    :param ctx: of the model as it runs, under its layouts; its sequences and tokens do not matter.
    :param stages: kinds of pipeline stages.
    :param tokens: the most of an iteration.
    """

    def __init__(self, ctx: Context, stages: Sequence[Role], tokens: int) -> None:
        self.stack, self.layouts, self.tokens = ctx.stack, ctx.layout, tokens
        self._base, self._roles = ctx, stages
        self._known_kinds: dict[str, list[_Kind]] = {}
        self._known_pages: dict[str, Pages | None] = {}

    def _ctx(self, keys: int) -> Context:
        """One request that decodes with so many keys."""
        one = np.int64(1)
        return self._base._replace(phase="decode", sequences=one, queries=1, keys=keys, tokens=one)

    def _kinds(self, role: Role) -> list[_Kind]:
        if role.name not in self._known_kinds:
            self._known_kinds[role.name] = self._kinds_of(role)
        return self._known_kinds[role.name]

    def _kinds_of(self, role: Role) -> list[_Kind]:
        ctx = self._ctx(1)
        found: list[_Kind] = []
        seen: dict[tuple[object, ...], int] = {}
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            for a, r in ((block.attention, None), (None, block.recurrent)):
                if (a is None and r is None) or (a is not None and a.shared_kv):
                    continue
                token = a.local_cached_width(self.layouts.tp) * ctx.widths.kv if a else 0.0
                state = recurrent_state_bytes(ctx, r) if r is not None else 0.0
                window = a.window if a is not None else None
                key = (window, a.cached_width if a else 0, a.kv_heads if a else 0, r is None)
                if key in seen:
                    old = found[seen[key]]
                    found[seen[key]] = old._replace(layers=old.layers + count)
                    continue
                seen[key] = len(found)
                found.append(_Kind(count, token, state, window))
        return found

    def pages(self, role: Role) -> Pages | None:
        """None where all layers are of one kind, or each has pages of its own."""
        if role.name not in self._known_pages:
            self._known_pages[role.name] = self._pages_of(role)
        return self._known_pages[role.name]

    def _pages_of(self, role: Role) -> Pages | None:
        kinds = self._kinds(role)
        plain = all(
            b.attention is None or (b.attention.compress is None and b.attention.indexer is None)
            for b in self._base.model.blocks
        )
        alike = len(kinds) == 1 and kinds[0].window is None
        if not self.stack.cache.unified_pages or alike or not plain:
            return None
        block = self.stack.scheduler.kv_block_tokens
        widest: Array = 0.0
        state: Array = 0.0
        for k in kinds:
            widest, state = np.maximum(widest, k.token_bytes), np.maximum(state, k.state_bytes)
        if not np.all(widest > 0):
            return None
        page = widest * block * np.maximum(np.ceil(state / (widest * block)), 1.0)
        # groups of equally many layers
        least: Array = np.inf
        most: Array = 0.0
        for k in kinds:
            least = np.minimum(least, np.where(k.layers > 0, k.layers, np.inf))
            most = np.maximum(most, k.layers)
        size = np.maximum(np.where(most < _ALIKE * least, most, least), 1.0)
        size = np.where(np.isfinite(size), size, 1.0)
        tokens = [
            np.floor(page / k.token_bytes) if np.all(k.token_bytes > 0) else np.float64(0.0)
            for k in kinds
        ]
        return Pages(page * size, tokens, [np.ceil(k.layers / size) for k in kinds])

    def _pages_held(self, role: Role, pages: Pages, context: int) -> Array:
        """Pages of groups that a request of ``context`` tokens holds."""
        held: Array = 0.0
        for kind, tokens, groups in zip(self._kinds(role), pages.tokens, pages.groups, strict=True):
            if np.all(tokens == 0.0):
                held = held + groups * self.stack.cache.state_pages
                continue
            if kind.window is None:
                # decode-context ranks hold a share each
                held = held + groups * np.ceil(context / self.layouts.dcp / tokens)
                continue
            spare = self.tokens - 1 if self.stack.cache.window_chunk else 0
            kept = min(context, kind.window + spare)
            held = held + groups * (np.ceil(kept / tokens) + 1)
        return held

    def request_bytes(self, context: int) -> list[Array]:
        """Bytes that one request of ``context`` tokens holds of the cache, per stage: whole pages."""
        block = self.stack.scheduler.kv_block_tokens
        whole = self._ctx(min(-(-context // block) * block, MAX_SEQ))
        exact = self._ctx(context)
        found = []
        for role in self._roles:
            pages = self.pages(role)
            if pages is not None:
                found.append(self._pages_held(role, pages, context) * pages.page_bytes)
                continue
            bytes_ = mem.kv_cache_bytes(whole, role)
            share = self.stack.cache.window_share
            if share > 0.0:
                bytes_ = bytes_ + self._pooled(exact, role, share)
            found.append(bytes_)
        return found

    def _pooled(self, ctx: Context, role: Role, share: float) -> Array:
        """What a pool of windows' tokens, that many for each of the others', has more than the windows."""
        more: Array = 0.0
        if all(b.attention is None or b.attention.window is not None for b in ctx.model.blocks):
            share = 1.0  # there are no others
        for block, count in zip(ctx.model.blocks, role.layers, strict=True):
            a = block.attention
            if a is None or a.window is None or a.shared_kv:
                continue
            kept = max(share * ctx.keys - min(a.window, ctx.keys), 0.0)
            more = more + count * kept * a.local_cached_width(self.layouts.tp) * ctx.widths.kv
        return more

    def growth(self, role: Role) -> Array:
        """Bytes that a request grows by with a token of a long context, of a stage."""
        far, step = 1 << 20, 1 << 14
        index = self._roles.index(role)
        return (self.request_bytes(far + step)[index] - self.request_bytes(far)[index]) / step
