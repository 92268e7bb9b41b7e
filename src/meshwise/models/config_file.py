"""Reading a model from a ``config.json`` on disk, whatever stands at that path."""

# os.path and not pathlib, whose import alone takes longer than reading a file.
# ruff: noqa: PTH100, PTH110, PTH112, PTH116, PTH118, PTH119, PTH120, PTH208

from __future__ import annotations

import fnmatch
import os
import stat
from typing import Any

import msgspec

from meshwise.errors import InputError, shorten
from meshwise.models.families.config import model_from_config
from meshwise.models.shapes import Model

MAX_CONFIG_BYTES = 16 * 1024 * 1024  # bytes; the largest published config.json is under 1 MiB


def _shown(path: str) -> str:
    """The path, or the end of a long one: that is where the file name stands."""
    return shorten(path) if len(path) <= 80 else "…" + shorten(path[-79:])


def _refuse(path: str, what: str, legal: str = "") -> InputError:
    return InputError(
        f"{_shown(path)}: {what}",
        field="model",
        value=path,
        legal=legal or "a config.json of a model, or a folder that has one",
    )


def read_bytes(path: str) -> bytes:
    """The content of a regular file of at most 16 MiB.

    The file type is looked at before opening: to open a FIFO or a device may block for ever.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
                     (stat.S_ISDIR, "a folder"))  # fmt: skip
            what = next((word for test, word in kinds if test(status.st_mode)), "a device")
            raise _refuse(path, f"is {what}, not a regular file")
        if status.st_size > MAX_CONFIG_BYTES:
            raise _refuse(
                path,
                f"is {status.st_size:,} bytes long, too long for a config.json",
                f"at most {MAX_CONFIG_BYTES:,} bytes",
            )
        # Between stat and open the path may become a FIFO: O_NONBLOCK keeps that from blocking.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise _refuse(path, "there is no such file or folder") from None
    except PermissionError:
        raise _refuse(path, "no permission to read it", "a readable file (chmod +r)") from None
    except ValueError:  # a NUL byte in the path, or a MeshwiseError raised above
        if "\0" not in path:
            raise
        raise _refuse(path, "the path has a NUL byte") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "cannot be read"
        raise _refuse(path, reason[:1].lower() + reason[1:]) from None
    if len(data) > MAX_CONFIG_BYTES:
        raise _refuse(path, "is too long for a config.json", f"at most {MAX_CONFIG_BYTES:,} bytes")
    return data


def _json_value(data: bytes, path: str) -> Any:
    """The JSON value in ``data``; NaN and Infinity are let through, as Python writes them."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise _refuse(path, "is empty")
    if b"\0" in data:
        raise _refuse(path, "is a binary file, not JSON")
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise _refuse(path, "is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    import json  # only for files that strict JSON does not allow: it costs start-up time

    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refuse(path, f"is not UTF-8 (byte {error.start})") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = not text[error.pos :].strip() or "Unterminated" in error.msg
        what = "is truncated" if cut else "is not JSON"
        raise _refuse(path, f"{what}: {error.msg} at line {error.lineno}") from None
    except RecursionError:
        raise _refuse(path, "is nested too deeply") from None
    except ValueError:
        raise _refuse(path, "has a number with too many digits") from None


def find_config(path: str | os.PathLike[str]) -> tuple[str, Any]:
    """(file, JSON value) of the ``config.json`` at ``path``, or in the folder there."""
    given = os.fspath(path)
    if not given:
        raise _refuse(given, "an empty path")
    file = given
    try:
        folder = os.path.isdir(given)
    except ValueError:
        folder = False
    if folder:
        file = os.path.join(given, "config.json")
        try:
            os.lstat(file)
        except PermissionError:
            raise _refuse(given, "no permission to read the folder") from None
        except OSError:
            if os.path.exists(os.path.join(given, "adapter_config.json")):
                raise _refuse(
                    given,
                    "the folder has an adapter and no model",
                    "the folder of the adapter's base",
                ) from None
            raise _refuse(given, "the folder has no config.json") from None
    return file, _json_value(read_bytes(file), file)


def load_model_file(
    path: str | os.PathLike[str], *, name: str = "", checkpoint: bool = True
) -> Model:
    """The model at ``path``: a ``config.json``, or a folder with one.

    ``hf_quant_config.json`` beside it says how ModelOpt has quantised the checkpoint. Where there are
    weights beside it, the headers of their files are read and are the truth of how they are stored
    (``checkpoint``: False leaves them alone).
    """
    given = os.fspath(path)
    file, config = find_config(given)
    folder, base = os.path.dirname(file), os.path.basename(file)
    quant_config = None
    beside = os.path.join(folder, "hf_quant_config.json")
    if os.path.exists(beside) and base == "config.json":
        quant_config = _json_value(read_bytes(beside), beside)
    if not name:
        stem = os.path.basename(os.path.abspath(folder or "."))
        name = (stem if base == "config.json" else base.removesuffix(".json")) or base
    model = model_from_config(config, name=name, source=given, quant_config=quant_config)
    return (
        _with_weights(model, folder or ".", config)
        if checkpoint and base == "config.json"
        else model
    )


_PICKLED = "pytorch_model.bin"


def _with_weights(model: Model, folder: str, config: dict[str, Any]) -> Model:
    try:
        names = os.listdir(folder)
    except OSError:  # a file can be read in a folder that cannot be listed
        return model
    if not any(n.endswith((".safetensors", ".index.json")) for n in names):
        unread = sorted(n for n in names if fnmatch.fnmatch(n, "*.gguf") or n == _PICKLED)
        if not unread:
            return model
        said = f"weights in {shorten(unread[0])} are not read: prices are those of config.json"
        asked = f"{model.asked}; {said}" if model.asked else said
        return msgspec.structs.replace(model, asked=asked)
    from meshwise.models.checkpoint.apply import with_checkpoint  # only where there is one

    return with_checkpoint(model, folder, names, dtype_stated=_states_dtype(config))


def _states_dtype(config: dict[str, Any]) -> bool:
    """Whether a config, or a part of it, names the number format of its weights."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return any(part.get(key, "auto") not in (None, "auto")
               for part in parts for key in ("dtype", "torch_dtype"))  # fmt: skip
