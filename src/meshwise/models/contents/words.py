"""Words of a ``config.json`` that name a function or a number format: known ones only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshwise import dtypes
from meshwise.errors import InputError, meant, quoted
from meshwise.models.families.keys import kind, wrong

DTYPE_KEYS = ("dtype", "torch_dtype")
# Of weights that a quantization_config describes; it says which they are.
_NARROW = frozenset(
    ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
)
_ACTIVATION_KEYS = ("hidden_act", "activation_function", "hidden_activation", "activation_func")
# transformers' own names (activations.ACT2CLS), and those that publishers' code adds.
ACTIVATIONS = frozenset((
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "gelu_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
    "geglu", "reglu", "situ", "squared_relu", "swiglu", "swigluoai",
))  # fmt: skip


def check_activations(config: Mapping[str, Any]) -> None:
    """Refuse an activation that nobody has."""
    for key in _ACTIVATION_KEYS:
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, str):
            raise wrong(key, value, f"{kind(value)} where a name belongs", "silu, gelu, relu …")
        if value.lower() not in ACTIVATIONS:
            near = meant(value.lower(), {name: name for name in ACTIVATIONS})
            nearest = near.pop() if len(near) == 1 else None
            said = f"no activation is called {quoted(value)}"
            raise wrong(key, value, said, "silu, gelu, relu …", nearest)


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
            if name in dtypes.TORCH_WIDE:
                return dtypes.ALIASES[name], narrow
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
    return tuple(name for name in dtypes.TORCH_WIDE if name not in ("float", "half"))
