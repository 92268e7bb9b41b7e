"""The tables of roles against transformers' own plans; cuts that together are the whole model."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from tests.runtime import tiny

from meshwise.errors import InputError
from meshwise.runtime.model import cuts
from meshwise.runtime.model import families as plans

# transformers gathers the outputs of Phi-3's fused projections; they are divided here by their parts
DIVIDED = {"colwise", "packed_colwise", "colwise_gather_output"}
SUMMED = {"rowwise", "rowwise_split_input"}


@pytest.mark.parametrize("family", [f for f in tiny.CONFIGS if f not in ("gpt2", "opt")])
def test_transformers_divides_the_same_way(family: str) -> None:
    model = tiny.build(family, num_key_value_heads=4)  # as many as are divided
    config, plan = model.config, plans.split_family(family)
    found = plans.cuts(model, plan, plans.rank_sizes(config, 2, 0))
    checked = 0
    for name in dict(model.named_parameters()):
        path = re.sub(r"\.\d+\.", ".*.", name.removeprefix("model.")).removesuffix(".weight")
        style = config.base_model_tp_plan.get(path)
        if name.endswith(".bias") or style is None:
            continue
        cut = found[name]
        rows = 1 if "experts" in path else 0  # the first dimension of experts counts them
        if style in DIVIDED:
            assert (cut.dim, cut.complete) == (rows, False), name
        elif style in SUMMED:
            assert (cut.dim, cut.complete) == (rows + 1, False), name
        else:  # replicated
            assert cut.complete, name
        checked += 1
    assert checked >= 8


@pytest.mark.parametrize("family", tiny.CONFIGS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_shares_cover_the_model(family: str, ranks: int) -> None:
    """Every weight is on a rank; on one only, but for what all or several hold alike."""
    model = tiny.build(family)
    plan, kv = plans.split_family(family), getattr(model.config, "num_key_value_heads", ranks)
    parameters = dict(model.named_parameters())
    held: Counter[str] = Counter()
    covered = {n: torch.zeros_like(p) for n, p in parameters.items()}
    for rank in range(ranks):
        found = plans.cuts(model, plan, plans.rank_sizes(model.config, ranks, rank))
        for name, p in parameters.items():
            local = cuts.apply(found[name], p.detach())
            assert tuple(local.shape) == cuts.shape(found[name])
            cuts.put(found[name], local, covered[name])
            held[name] += (
                sum(b - a for a, b in found[name].spans) if not found[name].complete else 0
            )
    for name, p in parameters.items():
        assert torch.equal(covered[name], p), name
        dim = plans.cuts(model, plan, plans.rank_sizes(model.config, ranks, 0))[name].dim
        copies = max(ranks // kv, 1) if re.search(r"\.[kv]_proj\.", name) else 1
        assert held[name] in (0, copies * p.shape[dim]), name


@pytest.mark.parametrize(("heads", "kv", "tp"), [(8, 4, 3), (8, 3, 2), (12, 4, 8), (6, 2, 4)])
def test_degrees_that_heads_do_not_allow(heads: int, kv: int, tp: int) -> None:
    config: Any = tiny.config(
        "llama", hidden_size=4 * heads, num_attention_heads=heads, num_key_value_heads=kv
    )
    with pytest.raises(InputError) as caught:
        plans.rank_sizes(config, tp, 0)
    assert caught.value.nearest in caught.value.legal


def test_an_unknown_family_names_the_nearest_that_is_meant() -> None:
    """A slip of the fingers is mended; another family's name is not: its layers are others."""
    for name, near in (("lama", "llama"), ("qwen4", None), ("nemotron_h", None)):
        with pytest.raises(InputError) as caught:
            plans.split_family(name)
        assert caught.value.nearest == near
