"""Words of a ``config.json`` that name a function or a number format: known ones only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise.errors import InputError, quoted
from meshwise.models.families.keys import kind, wrong

DTYPE_KEYS = ("dtype", "torch_dtype")
_DTYPES = {
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
}
# Of weights that a quantization_config describes; it says which they are.
_NARROW = frozenset(
    ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
)
_ACTIVATION_KEYS = ("hidden_act", "activation_function", "hidden_activation", "activation_func")
# transformers' own names (activations.ACT2CLS), and those that publishers' code adds.
_ACTIVATIONS = frozenset(
    [
        "gelu",
        "gelu_10",
        "gelu_accurate",
        "gelu_fast",
        "gelu_new",
        "gelu_python",
        "gelu_python_tanh",
        "gelu_pytorch_tanh",
        "hardswish",
        "laplace",
        "leaky_relu",
        "linear",
        "mish",
        "prelu",
        "quick_gelu",
        "relu",
        "relu2",
        "relu6",
        "sigmoid",
        "silu",
        "sqrtsoftplus",
        "swish",
        "tanh",
        "xielu",
        "swiglu",
        "geglu",
        "reglu",
        "squared_relu",
        "swigluoai",
        "situ",
        "gelu_tanh",
    ]
)


def check_activations(config: Mapping[str, Any]) -> None:
    """Refuse an activation that nobody has."""
    for key in _ACTIVATION_KEYS:
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, str) or value.lower() not in _ACTIVATIONS:
            what = quoted(value) if isinstance(value, str) else kind(value)
            near = None
            if isinstance(value, str):
                import difflib  # only for an error

                near = next(iter(difflib.get_close_matches(value.lower(), _ACTIVATIONS, n=1)), None)
            raise wrong(key, value, f"no activation is called {what}", "silu, gelu, relu …", near)


def weight_dtype(*configs: Mapping[str, Any]) -> tuple[str, InputError | None]:
    """(dtype of the weights that no quantisation narrows, what to raise where there is none).

    The first level that names one counts; bf16 where none does. A dtype of 8 bits is that of a
    quantised checkpoint: which modules it is of, and with which scales, only a quantisation says.
    """
    narrow: InputError | None = None
    for config in configs:
        for key in DTYPE_KEYS:
            value = config.get(key)
            if value is None or value == "auto":
                continue
            name = value.removeprefix("torch.") if isinstance(value, str) else ""
            if name in _DTYPES:
                return _DTYPES[name], narrow
            if name not in _NARROW:
                raise wrong(
                    key, value, f"{quoted(value)} is no dtype of weights", ", ".join(_legal())
                )
            narrow = narrow or wrong(
                key,
                value,
                f"{name}, and no quantization_config says of which modules and with which scales",
                f"{', '.join(_legal())}, or a quantization_config",
            )
    return "bf16", narrow


def _legal() -> tuple[str, ...]:
    return tuple(name for name in _DTYPES if name not in ("float", "half"))
