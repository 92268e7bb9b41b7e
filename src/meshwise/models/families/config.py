"""Any Hugging Face ``config.json`` as a :class:`~meshwise.models.shapes.Model`: exactly, or refused.

The count is that of the causal language model: embedding, decoder layers, output head; tied
weights once; towers, multi-token-prediction layers and buffers left out. A base-model class name
(``BloomModel``) is read as the causal language model around it. Numbers have to be JSON integers:
``"4096"`` and ``4096.0`` are refused rather than guessed at.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from meshwise.errors import InputError, UnsupportedModel, meant, shorten
from meshwise.models.contents.left_out import left_out_sizes
from meshwise.models.contents.other_names import check_other_names, check_outer_sizes
from meshwise.models.contents.structure import check_structure
from meshwise.models.contents.words import check_activations, weight_dtype
from meshwise.models.families.keys import Reader, kind
from meshwise.models.families.layers import ModelFields
from meshwise.models.families.refused import (
    ARCHITECTURES,
    NESTED_BLOCKS,
    REFUSED_TYPES,
    WRAPPER_TYPES,
    Wrapper,
    no_whole_model,
    other_head,
)
from meshwise.models.families.registry import BUILDERS, FAMILIES
from meshwise.models.families.towers import TOWER_KEYS
from meshwise.models.shapes import Model


@functools.cache
def known_types() -> tuple[str, ...]:
    """Every model type that is read, wrappers of known ones among them."""
    return tuple(sorted({*FAMILIES, *WRAPPER_TYPES}, key=str.lower))


def family_words(model_type: str) -> str:
    """The family of a model type, for people: a wrapper's is its language model's."""
    wrapper = WRAPPER_TYPES.get(model_type)
    words = FAMILIES[wrapper.inner if wrapper else model_type].words
    return f"multimodal, {words}" if wrapper else words


# what a refusal says is legal: the list of types is one command away
def legal_types() -> str:
    """What a refusal of a model type names."""
    return f"one of the {len(known_types())} of `meshwise catalog families`"


def _unsupported(model_type: str, reason: str, field: str = "model_type") -> UnsupportedModel:
    return UnsupportedModel(
        f"{field}: {shorten(model_type)!r} is not supported ({reason})",
        field=field,
        value=model_type,
        legal=f"{legal_types()}, or the config.json of a model of the same shapes",
        nearest=_nearest(model_type),
    )


def _nearest(model_type: str) -> str | None:
    """The known type that a misspelt name means, or None: another digit is another architecture."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("_", "")

    if len(model_type) > 100:
        return None
    same = next((name for name in known_types() if plain(name) == plain(model_type)), None)
    if same or model_type in REFUSED_TYPES:
        return same
    near = meant(model_type.lower(), {name.lower(): name for name in known_types()})
    return near.pop() if len(near) == 1 else None


def _architectures(config: Mapping[str, Any]) -> list[str]:
    found = config.get("architectures")
    return [a for a in found if isinstance(a, str)] if isinstance(found, list) else []


def _architecture(config: Mapping[str, Any]) -> str:
    return next(iter(_architectures(config)), "")


def _model_type(config: Mapping[str, Any]) -> str:
    """model_type, or what the class name says; refused where the file says neither."""
    value = config.get("model_type")
    architecture = _architecture(config)
    if isinstance(value, str) and value:
        return value
    if value not in (None, ""):
        raise InputError(
            f"model_type: {kind(value)} ({shorten(value)}) where a name belongs",
            field="model_type",
            value=value,
            legal=legal_types(),
        )
    if architecture in ARCHITECTURES:
        return ARCHITECTURES[architecture]
    if architecture:
        raise _unsupported(
            architecture, "no model_type, and the class is not known", "architectures"
        )
    raise InputError(
        "model_type: absent, so this is no config.json of a model",
        field="model_type",
        value=None,
        legal=legal_types(),
    )


def _refuse_parts(config: Mapping[str, Any]) -> None:
    """Draft models and adapters: what their files say is not all of a model."""
    part = no_whole_model(config, _architectures(config))
    if part is not None:
        key, what = part
        raise UnsupportedModel(
            f"{key}: {what}",
            field=key,
            value=config[key],
            legal="the config.json of a whole language model",
        )


def _refuse_other_models(config: Mapping[str, Any], model_type: str) -> None:
    """Encoder-decoders and classifiers, whatever their model type."""
    if model_type in REFUSED_TYPES:
        raise _unsupported(model_type, REFUSED_TYPES[model_type])
    if config.get("is_encoder_decoder") is True:
        raise _unsupported(model_type, "is_encoder_decoder: encoder-decoder, not a causal LM")
    architecture = _architecture(config)
    if other_head(architecture):
        raise UnsupportedModel(
            f"architectures: {shorten(architecture)} has another head than a language model's "
            "(a classifier, an encoder)",
            field="architectures",
            value=architecture,
            legal="a class of a causal language model (…ForCausalLM, …LMHeadModel)",
        )


class _Text(NamedTuple):
    """The language model's part of a configuration."""

    config: Mapping[str, Any]
    model_type: str
    block: str = ""  # the key that it stands under
    asked: str = ""  # whose the sizes are that it leaves out


def _inner(config: Mapping[str, Any], model_type: str) -> _Text:
    """The language model's part of a multimodal configuration."""
    wrapper = WRAPPER_TYPES[model_type]
    for key in wrapper.keys:
        nested = config.get(key)
        if nested is None:
            continue
        if not isinstance(nested, dict):
            raise InputError(
                f"{key}: {kind(nested)} where an object belongs",
                field=key,
                value=nested,
                legal="the language model's configuration",
            )
        inner_type = nested.get("model_type")
        if inner_type is None or inner_type == model_type:
            inner_type = wrapper.inner
        elif not isinstance(inner_type, str):
            raise InputError(
                f"{key}.model_type: {kind(inner_type)} where a name belongs",
                field=f"{key}.model_type",
                value=inner_type,
                legal=legal_types(),
            )
        if inner_type not in FAMILIES:
            reason = REFUSED_TYPES.get(inner_type, f"language model of a {model_type}; not known")
            raise _unsupported(inner_type, reason, f"{key}.model_type")
        known = left_out_sizes(nested, FAMILIES[inner_type], model_type, key)
        tied = _tied(config, nested, wrapper, inner_type, key)
        found = {**nested, **known.sizes, "tie_word_embeddings": tied}
        check_outer_sizes(config, found, key, FAMILIES[inner_type], wrapper.own)
        return _Text(found, inner_type, key, known.words)
    if wrapper.flat and "hidden_size" in config:
        flat = {k: v for k, v in config.items() if k != "model_type"}
        return _Text(flat, wrapper.inner)
    raise InputError(
        f"{wrapper.keys[0]}: absent, but a {model_type} describes its language model there",
        field=wrapper.keys[0],
        value=None,
        legal="the language model's configuration",
    )


def _own_block(config: Mapping[str, Any], model_type: str) -> _Text:
    """The sizes of a plain language model that stand in a block of their own, though its type has
    none: where the top has no sizes and the block says that it is of this type, they are the model's."""
    family = FAMILIES.get(model_type)
    tops = ("hidden_size", *family.aliases.get("hidden_size", ())) if family else ()
    if not tops or any(key in config for key in tops):
        return _Text(config, model_type)
    for key in NESTED_BLOCKS:
        block = config.get(key)
        same = isinstance(block, dict) and block.get("model_type") == model_type
        if isinstance(block, dict) and same and any(k in block for k in tops):
            tied = {k: config[k] for k in ("tie_word_embeddings",) if k in config}
            return _Text({**block, **tied}, model_type, key)
    return _Text(config, model_type)


def _tied(
    outer: Mapping[str, Any],
    nested: Mapping[str, Any],
    wrapper: Wrapper,
    inner_type: str,
    block: str,
) -> object:
    """The level that decides whether the head is the embedding.

    Files of transformers 5 say it at the top, older ones at either level. Where no level does, the
    language model's own class decides (with which those checkpoints were made), unless the wrapper
    overrules it: no published file of those says another thing inside alone, which transformers does not
    read and engines do.
    """
    key = "tie_word_embeddings"
    default = FAMILIES[inner_type].defaults[key] if wrapper.tied is None else wrapper.tied
    inside = default if nested.get(key) is None else nested[key]
    above = None if wrapper.inside else outer.get(key)
    if above is None and inside != default and wrapper.tied is not None:
        raise InputError(
            f"{block}.{key}: {str(inside).lower()}, but what ties the head is the wrapper's own {key}, "
            f"{str(default).lower()} where absent",
            field=f"{block}.{key}",
            value=inside,
            legal=f"{key} at the top: whether the checkpoint's head is its embedding",
        )
    if above is None or (wrapper.either and above is False):
        return inside
    return above


def _towers(config: Mapping[str, Any], model_type: str, fields: ModelFields) -> ModelFields:
    """The encoders beside the language model, where the file has any."""
    if model_type not in WRAPPER_TYPES and not any(key in config for key in TOWER_KEYS):
        return {}
    from meshwise.models.families.towers.wrappers import read_towers  # only for such files

    found = read_towers(config, model_type, fields["hidden"], fields["blocks"])
    return {"towers": found.towers, "towers_not_counted": found.not_counted}


def model_from_config(
    config: object, *, name: str, source: str = "", quant_config: object = None
) -> Model:
    """The Model that a parsed ``config.json`` describes.

    ``quant_config`` is a parsed ``hf_quant_config.json``, which counts only where the config itself
    has no ``quantization_config``. Raises :class:`~meshwise.errors.InputError` for a file that is
    not right, :class:`~meshwise.errors.UnsupportedModel` for an architecture that is not known.
    """
    if not isinstance(config, dict):
        raise InputError(
            f"config.json: {kind(config)} where an object belongs",
            field="config.json",
            value=config,
            legal="a JSON object with model_type",
        )
    _refuse_parts(config)
    model_type = _model_type(config)
    _refuse_other_models(config, model_type)
    read = _inner if model_type in WRAPPER_TYPES else _own_block
    text, text_type, block, asked = read(config, model_type)
    family = FAMILIES.get(text_type)
    if family is None:
        raise _unsupported(text_type, "architecture not known")
    check_activations(text)
    dtype, narrow = weight_dtype(text, config)
    reader = Reader(text, family, text_type, block=block)
    fields = BUILDERS[family.build](reader)
    attentions = [b.attention for b in fields["blocks"] if b.attention is not None]
    normed = any(a.norm_parameters and not a.mla for a in attentions)
    check_structure(reader, query_key_norm=normed)
    check_other_names(reader)
    model = Model(
        name=name,
        model_type=model_type,
        dtype=dtype,
        source=source,
        asked=asked,
        **fields,
        **_towers(config, model_type, fields),
    )
    stated = config.get("quantization_config")
    if stated is None:
        stated = text.get("quantization_config", config.get("compression_config"))
    if stated is None and isinstance(config.get("quantization"), dict):
        stated = config["quantization"]  # where MLX writes it
    if stated is not None or quant_config is not None:
        from meshwise.models.quantization.config import quantised_as  # for a quantised one only

        model = quantised_as(stated, quant_config, model, outer=text)
    if narrow is not None and model.quantization is None:
        raise narrow
    return model
