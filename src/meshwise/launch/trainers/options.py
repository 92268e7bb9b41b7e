"""The words of a training script by the names of transformers' trainer (``TrainingArguments``) and of what
takes its options over: TRL, LLaMA-Factory, alignment-handbook, FastChat, LLaVA, open-instruct."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from meshwise.errors import InputError, shorten
from meshwise.launch.account.origins import FlagWord, Origin, PlacedWords, placed_error
from meshwise.launch.account.questions import OpenValue
from meshwise.launch.settings.settings import Settings
from meshwise.launch.shell.commands import unset_names, whole_number
from meshwise.launch.shell.values.memory import reasons
from meshwise.strict_tables import count

# option → (setting, kind of its value). Each is a documented field of transformers.TrainingArguments, of
# the model's arguments in its examples and TRL (model_name_or_path), or of the data's: the longest sequence.
_OPTIONS = {
    "model_name_or_path": ("model", "text"),
    "max_seq_length": ("seq", "int"),  # TRL to 0.19, open-instruct
    "max_seq_len": ("seq", "int"),  # DeepSpeed-Chat
    "model_max_length": ("seq", "int"),  # FastChat, LLaVA, Qwen
    "cutoff_len": ("seq", "int"),  # LLaMA-Factory
    "block_size": ("seq", "int"),  # transformers' run_clm
    "per_device_train_batch_size": ("micro_batch", "int"),
    "gradient_accumulation_steps": ("accumulation", "int"),
    "bf16": ("trainer_bf16", "switch"),
    "fp16": ("trainer_fp16", "switch"),
    "gradient_checkpointing": ("gradient_checkpointing", "switch"),
    "deepspeed": ("zero_file", "text"),
    "deepspeed_config": ("zero_file", "text"),
    "fsdp": ("fsdp_options", "text"),
}
_KINDS = {"model": "model", "micro_batch": "layout"}
_OFF = ("false", "0", "no", "none", "null", "off", "")
# switches that train a few weights beside the model's, and sizes of these
_ADAPTERS = re.compile(
    r"(use_|enable_)?(q?lora|peft|adalora|dora)(_enable)?|use_(q?lora|peft|adapter|dora)|load_in_[48]bit|"
    r"use_4bit|only_optimize_lora"
)
_ADAPTER_SIZES = re.compile(r"(q?lora|peft)_?\w*|(q|v)lora_\w+")
_FROZEN = re.compile(
    r"(freeze|tune)_(?!.*(vision|vit|audio|image|embed))\w+|(freeze|tune)_mm_mlp_adapter"
)
_TUNED_TOO = re.compile(
    r"tune_(mm_)?(llm|language_model|backbone)"
)  # off: the language model is frozen
_MORE_MODELS = re.compile(r"vision_tower|vision_model\w*|image_tower|audio_tower|mm_vision_tower")
_MORE_PASSES = re.compile(
    r"(^|[_/.-])(dpo|kto|orpo|simpo|cpo|ppo|grpo|rloo|rlhf|reward|distill\w*)([_/.-]|$)"
)


_DEGREE = re.compile(
    r"--?(\w*(tensor|pipeline|model|sequence|expert|context)[-_]\w*parallel\w*|[tpe]p[-_]size)"
)


class ScriptOptions(NamedTuple):
    """What a script's own words say: settings with the words that give them, what the text leaves open,
    and (word, what it changes) of what is not priced."""

    settings: Settings
    flags: list[FlagWord]
    questions: list[OpenValue]
    unpriced: list[tuple[str, str]]
    others: list[str]  # words of no matter here


def script_options(words: list[str], placed: PlacedWords, script: str = "") -> ScriptOptions:
    """Raises for a wrong value, two values of one option, and a run that trains a part of the weights."""
    found = ScriptOptions({}, [], [], [], [])
    refused: list[tuple[str, str, int]] = []
    switched_off = False
    if _MORE_PASSES.search(script.rpartition("/")[2]) is not None:
        found.unpriced.append((script, "more memory and time"))
    for at, end in _spans(words):
        name, values = _named(words[at:end])
        shown = " ".join(words[at:end])
        off = bool(values) and values[0].strip().lower() in _OFF
        if name in _OPTIONS:
            try:
                _take(found, name, values, shown, Origin(shown, placed.line(at), placed.file))
            except InputError as error:
                raise placed_error(error, placed.line(at), placed.file) from None
        elif _ADAPTERS.fullmatch(name):
            switched_off = switched_off or off
            refused += [] if off else [(words[at], "adapters", at)]
        elif _ADAPTER_SIZES.fullmatch(name):
            refused += [] if off else [(words[at], "sizes", at)]
        elif (_FROZEN.fullmatch(name) and not off and not _TUNED_TOO.fullmatch(name)) or (
            _TUNED_TOO.fullmatch(name) and off
        ):
            refused.append((words[at], "frozen", at))
        elif _MORE_MODELS.fullmatch(name) and not off:
            found.unpriced.append((shown, "more memory and time"))
        elif words[at].startswith("-"):
            found.others.append(shown)
    for word, what, at in refused:
        if what == "sizes" and switched_off:
            continue
        raise placed_error(_partly(word, what), placed.line(at), placed.file)
    return found


def check_own_degrees(words: list[str]) -> None:
    """Raise for an option of the script that gives a degree: what it makes of it is not in the text."""
    for i, word in enumerate(words):
        name, _, given = word.partition("=")
        value = given or (words[i + 1] if i + 1 < len(words) else "")
        many = whole_number(value)
        if _DEGREE.match(name) and many not in (None, 0, 1):
            raise InputError(
                f"{shorten(name)} {many}: an option of the script, whose layout is not in the text",
                field=name,
                value=many,
                legal="a run without it, or the command of the software that splits the model",
            )


def _spans(words: list[str]) -> list[tuple[int, int]]:
    """Each option with its values; a word that stands alone by itself."""
    if not words:
        return []
    starts = [i for i, w in enumerate(words) if re.match(r"--?[A-Za-z]", w) or i == 0]
    return list(zip(starts, [*starts[1:], len(words)], strict=True))


def _named(words: list[str]) -> tuple[str, list[str]]:
    """An option's name as Python has it, and its values."""
    name, equals, given = words[0].partition("=")
    values = [given] if equals else words[1:]
    return name.lstrip("-").replace("-", "_").lower(), values


def _take(found: ScriptOptions, name: str, values: list[str], shown: str, origin: Origin) -> None:
    setting, kind = _OPTIONS[name]
    option = origin.word.partition(" ")[0].partition("=")[0]
    if not option.startswith("--"):
        return
    text = values[0] if values else ""
    if unset_names(text) and setting != "model":
        why = reasons(text)
        for variable in dict.fromkeys(unset_names(text)):
            because = (
                f"; what {why[variable]} gives ${variable} does not follow from it"
                if variable in why
                else ""
            )
            found.questions.append(
                OpenValue(f"${variable}", option, line=origin.line, file=origin.file, why=because)
            )
        return
    value: Any = text
    if kind == "switch":
        value = text.strip().lower() not in _OFF[:-1]
    elif (
        not text and name == "deepspeed"
    ):  # DeepSpeed's own switch, whose file another option names
        return
    elif not text:
        raise InputError(f"{shorten(option)}: missing its value", field=option, legal=f"{option} 1")
    elif kind == "int":
        value = count(text.strip(), option)
    before = found.settings.get(setting)
    if before is not None and before != value:
        raise InputError(
            f"{option}={shorten(text)}: the command also says {shorten(str(before))}",
            field=option,
            value=text,
            legal="one value",
        )
    found.settings[setting] = value
    found.flags.append(FlagWord(origin, _KINDS.get(setting, "price"), setting))


def _partly(word: str, what: str) -> InputError:
    """A run whose gradients and optimizer are not those of all weights."""
    option = word.partition("=")[0]
    why = (
        "a part of the weights is frozen, which is not priced: gradients and optimizer are those of the rest"
        if what == "frozen"
        else "low-rank adapters and quantized bases are not priced: their gradients and optimizer are those "
        "of a few weights"
    )
    return InputError(
        f"{shorten(option)}: {why}", field=option, legal="a run that trains all weights"
    )


_FSDP: dict[str, Settings] = {
    "full_shard": {"fsdp": True, "sharding": "full_shard"},
    "shard_grad_op": {"fsdp": True, "sharding": "shard_grad_op"},
    "hybrid_shard": {"fsdp": True, "sharding": "hybrid_shard"},
    "hybrid_shard_zero2": {"fsdp": True, "sharding": "hybrid_shard_zero2"},
    "no_shard": {"multi_gpu": True},
}


def fsdp_settings(said: str) -> tuple[Settings, list[tuple[str, str]]]:
    """The trainer's ``--fsdp`` (``TrainingArguments.fsdp``) in accelerate's settings, and what of it is
    not priced."""
    names = said.replace(",", " ").split()
    if not names or [n.lower() for n in names] in (["false"], ["none"]):
        return {}, []
    if len(names) == 1 and names[0].lower() == "true":
        names = ["full_shard"]  # as the newer releases take the switch
    unknown = [n for n in names if n not in _FSDP and n not in ("auto_wrap", "offload")]
    strategy = [n for n in names if n in _FSDP]
    if unknown or len(strategy) != 1:
        raise InputError(
            f"--fsdp={shorten(said)}: none of the trainer's strategies",
            field="--fsdp",
            value=said,
            legal=", ".join((*_FSDP, "with auto_wrap and offload beside it")),
        )
    left = [("--fsdp offload", "memory and time")] if "offload" in names else []
    return _FSDP[strategy[0]], left
