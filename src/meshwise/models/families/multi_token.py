"""Multi-token-prediction layers that a ``config.json`` counts in ``num_nextn_predict_layers``."""

from __future__ import annotations

import msgspec

from meshwise.models.families.keys import Reader
from meshwise.models.layers.attention import Attention
from meshwise.models.shapes import Block, MultiToken

MOST_DEPTHS = 100


def next_token_layers(
    r: Reader,
    block: Block,
    hidden: int,
    joining: int | None = None,
    key: str | None = None,
    *,
    own_list: bool = False,
) -> MultiToken | None:
    """As many layers like ``block`` as the file has (DeepSeek-V3, arXiv 2412.19437, section 2.2); None
    where it has none.

    ``joining``: weights of one depth beyond its layer; DeepSeek's are a norm of the hidden state, one of
    the next token's embedding, a product of both to one width, and the norm before the shared head.
    ``own_list``: its tensors are called ``mtp.…``, not as those of a layer behind the last one.
    """
    depths = r.optional(key or "num_nextn_predict_layers", 0, MOST_DEPTHS)
    if not depths:
        return None
    if joining is None:
        joining = 2 * hidden * hidden + 3 * hidden
    return MultiToken(
        blocks=(block,) * depths, joining_parameters=joining, depths=depths, own_list=own_list
    )


def own_indexer(block: Block) -> Block:
    """``block`` with an indexer of its own, where it has one at all: a depth has no earlier layer."""
    a: Attention | None = block.attention
    if a is None or a.indexer is None or a.indexer.own:
        return block
    indexer = msgspec.structs.replace(a.indexer, own=True)
    return msgspec.structs.replace(block, attention=msgspec.structs.replace(a, indexer=indexer))
