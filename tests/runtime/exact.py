"""What a rank does in the exactness tests: the same model whole and split, compared."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.runtime import tiny
from torch.overrides import TorchFunctionMode

from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.model import cuts
from meshwise.runtime.model import families as plans
from meshwise.runtime.model.parallelize import parallelize
from meshwise.runtime.options import Options

_PEERS: dict[tuple[int, bool], Peers] = {}


def peers(size: int, two_nodes: bool = False) -> Peers:
    """The TP group of ``size`` neighbours; made once, by all ranks. ``two_nodes``: as if the first half
    of the ranks were on another node than the second."""
    if not _PEERS:
        world = dist.get_world_size()
        for n in (1, 2, 4):
            groups = [list(range(i, i + n)) for i in range(0, world, n)]
            _PEERS[n, False] = Peers.build(groups, [0] * world)
            _PEERS[n, True] = Peers.build(groups, [2 * r // world for r in range(world)])
    return _PEERS[size, two_nodes]


def _distance(got: torch.Tensor, want: torch.Tensor, floor: float = 0.0) -> float:
    size = max(float(want.double().norm()), floor)
    return float((got.double() - want.double()).norm()) / size if size else 0.0


class Double(TorchFunctionMode):
    """transformers computes norms, routers and positions in fp32 whatever the model's type: here in
    fp64, so that errors of fp64 can be seen."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = [torch.float64 if a is torch.float32 else a for a in args]
        named = {k: torch.float64 if v is torch.float32 else v for k, v in (kwargs or {}).items()}
        return func(*wide, **named)


def _in_double(model: torch.nn.Module) -> None:
    base = model.get_submodule(plans.split_family(model.config.model_type).base)
    inner = base.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with Double():
            return inner(*args, **kwargs)

    base.forward = forward


def compare(
    family: str, tp: int, switches: dict[str, Any], dtype_name: str, changes: dict[str, Any]
) -> dict[str, Any]:
    """Largest relative errors of logits, loss, gradients and stepped weights; whether greedy tokens
    agree; the collectives counted in the training step."""
    group = peers(tp, switches.get("algorithm") == "hierarchical")
    dtype = getattr(torch, dtype_name)
    whole = tiny.build(family, dtype, **changes)
    split = copy.deepcopy(whole)
    if dtype == torch.float64:
        _in_double(whole), _in_double(split)
    parallelize(split, group, Options(**switches))
    state = split.tensor_parallel
    ids = torch.randint(3, tiny.VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :3] = -100
    whole.eval(), split.eval()
    with torch.no_grad():
        found = {"logits": _distance(split(ids).logits, whole(ids).logits)}
    whole.train(), split.train()
    logits = whole(ids).logits
    targets = F.pad(labels, (0, 1), value=-100)[:, 1:]
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    loss.backward()
    state.ledger.clear()
    ours = split(ids, labels=labels).loss
    ours.backward()
    found["calls"] = sorted(state.ledger.collectives().items())
    found["loss"] = _distance(ours.detach(), loss.detach())
    reference = dict(whole.named_parameters())
    scale = max(float(p.grad.norm()) for p in reference.values())
    found["gradients"] = found["weights"] = 0.0
    difference = norm = 0.0
    for name, p in split.named_parameters():
        want = cuts.apply(state.cuts[name], reference[name].grad)
        difference += float((p.grad.double() - want.double()).square().sum())
        norm += float(want.double().square().sum())
        error = _distance(p.grad, want, floor=1e-4 * scale)
        if error > found["gradients"]:
            found["gradients"], found["worst"] = error, name
    found["all_gradients"] = (difference / norm) ** 0.5
    for model in (whole, split):
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    for name, p in split.named_parameters():
        want = cuts.apply(state.cuts[name], reference[name].detach())
        found["weights"] = max(found["weights"], _distance(p.detach(), want, floor=1e-3))
    whole.eval(), split.eval()
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    mask = torch.ones_like(ids)
    found["tokens"] = torch.equal(
        whole.generate(ids, attention_mask=mask, **settings),
        split.generate(ids, attention_mask=mask, **settings),
    )
    state.group.close()
    return found


def autocast(family: str, tp: int, switches: dict[str, Any]) -> dict[str, float]:
    """Relative errors of logits and of all gradients under autocast to bf16, and the whole model's own
    under it; the truth is the whole model in fp32."""
    group = peers(tp)
    whole = tiny.build(family)
    split = parallelize(copy.deepcopy(whole), group, Options(**switches))
    ids = torch.randint(3, tiny.VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
    found: dict[str, float] = {}
    whole(ids, labels=ids).loss.backward()
    truth = {n: p.grad.clone() for n, p in whole.named_parameters()}
    state = split.tensor_parallel
    for name, model in (("whole", whole), ("split", split)):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(ids, labels=ids).loss.backward()
        difference = norm = 0.0
        for n, p in model.named_parameters():
            want = cuts.apply(state.cuts[n], truth[n]) if model is split else truth[n]
            assert p.grad.dtype == torch.float32
            difference += float((p.grad - want).square().sum())
            norm += float(want.square().sum())
        found[name] = (difference / norm) ** 0.5
    state.group.close()
    return found


def frozen(switches: dict[str, Any]) -> dict[str, float]:
    """All but the attention's query weights and the norms frozen: the largest relative error of their
    gradients, and how many of the others have one."""
    whole = tiny.build("llama")
    for n, p in whole.named_parameters():
        p.requires_grad_("q_proj" in n or "norm" in n)
    split = parallelize(copy.deepcopy(whole), peers(2), Options(**switches))
    ids = torch.randint(3, tiny.VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(1))
    whole(ids, labels=ids).loss.backward()
    split(ids, labels=ids).loss.backward()
    state, want = split.tensor_parallel, dict(whole.named_parameters())
    found = {"trained": 0.0, "frozen": 0}
    for n, p in split.named_parameters():
        if p.requires_grad:
            error = _distance(p.grad, cuts.apply(state.cuts[n], want[n].grad))
            found["trained"] = max(found["trained"], error)
        else:
            found["frozen"] += p.grad is not None
    state.group.close()
    return found
