"""A transformers model turned into its tensor-parallel form."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meshwise.errors import InputError
from meshwise.runtime.collectives.group import TPGroup
from meshwise.runtime.collectives.peers import Peers
from meshwise.runtime.measure.ledger import Ledger
from meshwise.runtime.model import cuts as cutting
from meshwise.runtime.model import families as plans
from meshwise.runtime.model import hooks
from meshwise.runtime.model.cuts import Cut
from meshwise.runtime.model.families import Product, Sizes, SplitFamily
from meshwise.runtime.model.modules import Bundle, ColumnLinear, RowLinear, VocabularyEmbedding
from meshwise.runtime.options import Options
from meshwise.runtime.products import functions as f
from meshwise.runtime.products.decomposed import Place
from meshwise.runtime.ranks.agree import agree


class Parallel:
    """What :func:`parallelize` leaves on the model as ``model.tensor_parallel``: the group with its
    ledger, how each parameter was cut, and which are shared by ranks that have a part of its gradient."""

    def __init__(self, model: nn.Module, group: TPGroup, plan: SplitFamily, sizes: Sizes) -> None:
        self.model, self.group, self.plan, self.sizes = model, group, plan, sizes
        self.cuts: dict[str, Cut] = {}
        self.kv_group: TPGroup | None = None
        self.vocabulary = 0
        self.deferred = False  # shared gradients are summed once a step, by :meth:`sum_shared`
        self._swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._inside = self._local_logits = False

    @property
    def ledger(self) -> Ledger:
        return self.group.ledger

    @property
    def base(self) -> nn.Module:
        return self.model.get_submodule(self.plan.base)

    @property
    def layers(self) -> list[nn.Module]:
        layers: Any = self.base.get_submodule(self.plan.layers)
        return list(layers)

    @contextmanager
    def passing(self, hidden: Tensor, *, local_logits: bool = False) -> Iterator[None]:
        """A forward pass of parts of the model (a pipeline stage), as the model's own call prepares it.
        ``hidden`` is what goes in, (B, S, …)."""
        self.begin(hidden, {})
        self._inside, self._local_logits = True, local_logits
        try:
            yield
        finally:
            self._inside = self._local_logits = False
            self.restore()

    def begin(self, given: Tensor | None, kwargs: dict[str, Any]) -> None:
        self.restore()
        if torch.is_grad_enabled() and any(
            layer.training and getattr(layer, "gradient_checkpointing", False)
            for layer in self.layers
        ):
            raise InputError(
                "gradient checkpointing: the second forward pass is not performed tensor-parallel",
                field="gradient_checkpointing",
                legal="model.gradient_checkpointing_disable()",
            )
        self.group.sequence = self._by_sequence(given, kwargs)
        if not self.deferred:
            self.share()

    def _by_sequence(self, given: Tensor | None, kwargs: dict[str, Any]) -> bool:
        """Whether a pass splits its hidden states by sequence: with the option, where the logits of all
        positions are asked for and no cache is filled."""
        group = self.group
        if not group.options.sequence_parallel or group.size == 1:
            return False
        cached = any(kwargs.get(k) is not None for k in ("cache", "past_key_values"))
        keep = kwargs.get("logits_to_keep", 0)
        keep = keep if isinstance(keep, int) else -1
        if given is None or cached or keep != 0:
            return False
        length = given.shape[1]
        if length % group.size == 0:
            return True
        if kwargs.get("labels") is None and not self.model.training:
            return False
        raise InputError(
            f"seq={length}: sequence parallelism splits it over {group.size} ranks",
            field="seq",
            value=length,
            legal=f"multiples of {group.size}",
            nearest=max(length // group.size, 1) * group.size,
        )

    # -- parameters that several ranks hold ------------------------------------------------------

    def shared(self) -> list[tuple[TPGroup, str, list[tuple[nn.Module, str]]]]:
        """(group, name, members) of parameters whose gradient each rank of a group has a part of; a
        member is a module and the name of its own parameter. KV heads that ranks share are summed
        over those ranks, the others over the TP group."""
        over_tp: list[tuple[nn.Module, str]] = []
        over_kv: list[tuple[nn.Module, str]] = []
        sequence, seen = self.group.sequence, set()
        for module in self.model.modules():
            for name, p in module._parameters.items():
                if p is None or not p.requires_grad or id(p) in seen:
                    continue
                found: list[tuple[nn.Module, str]] | None = None
                if isinstance(module, (VocabularyEmbedding, ColumnLinear)):
                    found = over_kv if getattr(module, "shared_kv", False) else None
                elif isinstance(module, RowLinear):
                    found = over_tp if name == "bias" and sequence else None
                elif getattr(module, "partial", False) or (sequence and not _split(module)):
                    found = over_tp
                if found is not None:
                    seen.add(id(p))
                    found.append((module, name))
        every = [(self.group, "gradients.norms", over_tp)]
        if self.kv_group is not None:
            every.append((self.kv_group, "gradients.kv_heads", over_kv))
        return [(group, name, members) for group, name, members in every if members]

    def share(self) -> None:
        """Put in place of the shared parameters what sums their gradients, until :meth:`restore`."""
        if self.group.size == 1 or not torch.is_grad_enabled():
            return
        for group, name, members in self.shared():
            parameters = [m._parameters[n] for m, n in members]
            aliases = f.Shared.apply(group, name, *parameters)
            for (m, n), p, alias in zip(members, parameters, aliases, strict=True):
                self._swapped.append((m, n, p))  # type: ignore[arg-type]
                m._parameters[n] = alias

    def restore(self) -> None:
        for module, name, parameter in self._swapped:
            module._parameters[name] = parameter
        self._swapped.clear()

    def sum_shared(self) -> None:
        """Sum what the ranks' ``grad`` of the shared parameters has come to (with FSDP: their shards)."""
        if self.group.size == 1:
            return
        for group, name, members in self.shared():
            grads = [m._parameters[n].grad for m, n in members]  # type: ignore[union-attr]
            local = [getattr(g, "_local_tensor", g) for g in grads if g is not None]
            if not local:
                continue
            flat = torch.cat([g.reshape(-1) for g in local])
            group.all_reduce(flat, name, "grad_reduce")
            for g, total in zip(local, flat.split([g.numel() for g in local]), strict=True):
                g.copy_(total.view(g.shape))


def _split(module: nn.Module) -> bool:
    """Whether a module's own parameters are shares of the whole (experts)."""
    return bool(getattr(module, "split_over_ranks", False))


def parallelize(
    model: nn.Module,
    group: Peers | Any = None,
    options: Options | None = None,
    *,
    timeout_s: float = 120.0,
) -> nn.Module:
    """Turn a transformers causal LM into its share for this rank, in place, and return it.

    ``group`` is the TP group: a :class:`~meshwise.runtime.collectives.peers.Peers`, a process group, or None for
    all ranks. The model's whole parameters are cut to the rank's share. Forward, backward and
    ``generate`` then work as before on every rank, with the same inputs; logits are whole where no
    labels are given, else this rank's share of the vocabulary.

    :func:`~meshwise.runtime.weights.build.load_model` reads a checkpoint without any rank holding all of it.

    A model with dropout needs the same random seed on all ranks of the group: what they all hold is
    then dropped alike (and their own heads by the same pattern).

    Raises :class:`~meshwise.errors.InputError` for an unknown family, a degree that the heads do not
    allow, and for ranks that do not agree on model and options.
    """
    options = options or Options()
    peers = group if isinstance(group, Peers) else Peers.of(group)
    config: Any = model.config
    plan = plans.split_family(config.model_type)
    sizes = plans.rank_sizes(config, peers.size, peers.rank)
    if peers.size > 1:
        agree("model and options", _fingerprint(model, options), timeout_s, list(peers.ranks))
    cuda = next(model.parameters()).is_cuda
    tp = TPGroup(peers, options, ledger=Ledger(cuda=cuda))
    state = Parallel(model, tp, plan, sizes)
    found = plans.cuts(model, plan, sizes)
    state.cuts = found
    vocabulary = found[f"{plan.base}.{plan.embedding}.weight"]
    state.vocabulary = vocabulary.whole[0]
    _cut(model, found)
    if sizes.sharing > 1 and peers.size > 1:
        shared = peers.subgroup(sizes.sharing)
        state.kv_group = TPGroup(shared, Options(algorithm="backend"), axis="kv", ledger=tp.ledger)
    _replace(state)
    hooks.install_hooks(state)
    model.tensor_parallel = state  # type: ignore[assignment]
    return model


def _fingerprint(model: nn.Module, options: Options) -> Mapping[str, Any]:
    """What all ranks must have alike: switches, and every parameter's name, shape and dtype."""
    import hashlib

    listing = [(n, tuple(p.shape), str(p.dtype)) for n, p in model.named_parameters()]
    found: dict[str, Any] = {field: getattr(options, field) for field in options.__struct_fields__}
    found["model_type"] = model.config.model_type  # type: ignore[union-attr]
    if _drops(model):  # what all ranks hold must be dropped alike
        found["seed"] = torch.initial_seed()
    found["parameters"] = sum(p.numel() for p in model.parameters())
    found["shapes"] = hashlib.sha256(repr(listing).encode()).hexdigest()[:16]
    return found


def _drops(model: nn.Module) -> bool:
    config: Any = model.config
    names = ("attention_dropout", "attn_pdrop", "dropout")
    return any(getattr(config, n, 0.0) for n in names) or any(
        isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()
    )


def _cut(model: nn.Module, found: Mapping[str, Cut]) -> None:
    done: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        path, _, leaf = name.rpartition(".")
        if id(parameter) not in done:
            local = cutting.apply(found[name], parameter.detach())
            done[id(parameter)] = nn.Parameter(local, requires_grad=parameter.requires_grad)
        model.get_submodule(path)._parameters[leaf] = done[id(parameter)]


# -- modules -----------------------------------------------------------------------------------------


def _replace(state: Parallel) -> None:
    plan, sizes, group = state.plan, state.sizes, state.group
    base, config = state.base, state.model.config
    embedding: Any = base.get_submodule(plan.embedding)
    first = state.cuts[f"{plan.base}.{plan.embedding}.weight"].spans[0][0]
    # as a number: its buffer may be on the meta device
    scale = getattr(embedding, "scalar_embed_scale", None)
    scale = torch.tensor(scale) if scale is not None else None
    base.set_submodule(
        plan.embedding,
        VocabularyEmbedding(group, embedding.weight, first, embedding.padding_idx, scale),
    )
    head: Any = state.model.get_submodule("lm_head")
    bundle = Bundle(Place(group, "head.logits", "head", 1, False))
    state.model.set_submodule("lm_head", ColumnLinear(bundle, head.weight, head.bias))
    for layer in state.layers:
        attention: Any = layer.get_submodule(plan.attention)
        _columns(state, attention, plan.inputs, "layer.attention.qkv", "layer.attention", 1)
        _row(state, attention, plan.output, "layer.attention.output", "layer.attention", 1)
        _localise(attention, config, sizes)
        ffn: Any = layer.get_submodule(plan.ffn) if plan.ffn else layer
        if hasattr(ffn, "experts"):
            ffn.experts.split_over_ranks = True
            _plain_products(ffn.experts)
            ffn.gate.partial = True
            continue
        gated = sum(len(p.parts) for p in plan.up) == 2
        up = "layer.mlp.gate_up" if gated else "layer.mlp.up"
        _columns(state, ffn, plan.up, up, "layer.mlp", 0)
        _row(state, ffn, plan.down, "layer.mlp.down", "layer.mlp", 0)


def _plain_products(experts: Any) -> None:
    """A grouped product wants rows of 16 bytes and no fp64; where a share is not such, one by one."""
    inner = experts.down_proj
    if inner.dtype == torch.float64 or inner.shape[-1] * inner.element_size() % 16:
        experts.config = copy.copy(experts.config)
        experts.config._experts_implementation = "eager"


def _columns(
    state: Parallel,
    parent: nn.Module,
    products: tuple[Product, ...],
    name: str,
    region: str,
    dim: int,
) -> None:
    modules: list[Any] = [parent.get_submodule(p.path) for p in products]
    bundle = Bundle(Place(state.group, name, region, dim, plans._transposed(modules[0])))
    for product, module in zip(products, modules, strict=True):
        column = ColumnLinear(bundle, module.weight, module.bias)
        if state.sizes.sharing > 1 and "kv" in product.parts:
            if product.parts != ("kv",):
                raise InputError(
                    f"tp={state.sizes.ranks}: ranks would share a KV head of a fused projection",
                    field="tp",
                    value=state.sizes.ranks,
                    legal=f"a divisor of {state.sizes.kv_heads} KV heads",
                )
            column.shared_kv = True  # type: ignore[assignment]
        parent.set_submodule(product.path, column)


def _row(state: Parallel, parent: nn.Module, path: str, name: str, region: str, dim: int) -> None:
    module: Any = parent.get_submodule(path)
    place = Place(state.group, name, region, dim, plans._transposed(module))
    parent.set_submodule(path, RowLinear(place, module.weight, module.bias))


def _localise(attention: Any, config: Any, s: Sizes) -> None:
    """What attention modules know of the number of heads, for this rank's heads."""
    local = {
        "num_heads": s.local_heads,
        "num_key_value_heads": s.local_kv_heads,
        "num_key_value_groups": s.local_heads // s.local_kv_heads,
        "split_size": s.local_heads * s.head_dim,
    }
    for name, value in local.items():
        if hasattr(attention, name):
            setattr(attention, name, value)
    for norm in ("q_norm", "k_norm"):
        if hasattr(attention, norm):  # one weight for all heads, each rank sees its own
            getattr(attention, norm).partial = True
    own = copy.copy(config)
    own.num_attention_heads, own.num_key_value_heads = s.local_heads, s.local_kv_heads
    attention.config = own
