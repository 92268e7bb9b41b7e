"""Files of users: ordinary ones read whole, answers written whole or not at all, anything else as it
takes it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, shorten

_MOST_LINKS = 40  # as the kernel follows


def read_text_file(name: str, field: str, what: str, limit: int) -> str:
    """The text of an ordinary file of at most ``limit`` bytes; anything else is refused."""

    def bad(why: str) -> InputError:
        return InputError(
            f"{field}: {shorten(name)}: {why}",
            field=field,
            value=name,
            legal=f"{what}, UTF-8 text of at most {limit >> 20} MiB",
        )

    try:
        path = Path(name).expanduser()
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise bad("is a folder")
        if not stat.S_ISREG(info.st_mode):
            raise bad("is not an ordinary file")
        if info.st_size > limit:
            raise bad(f"has {info.st_size:,} bytes")
        with path.open("rb") as file:
            return file.read(limit + 1).decode("utf-8-sig")
    except OSError as error:
        raise bad(error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise bad("is not UTF-8 text") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise bad("is not a file name") from None  # an embedded NUL, or the home of nobody


def write_bytes(path: str, content: bytes) -> None:
    """``content`` to what ``path`` stands for: a link's target is replaced, not the link; a device, a
    FIFO and a descriptor of this process are written to."""
    try:
        descriptor = _descriptor(Path(path))
        found = _status(Path(path))
        if descriptor is not None:
            _pour(os.dup(descriptor), content)
        elif found is None or stat.S_ISREG(found.st_mode):
            _replace(Path(os.path.realpath(path)), content, found)
        elif stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(21, "is a folder")
        else:
            _pour(os.open(path, os.O_WRONLY | getattr(os, "O_NOCTTY", 0)), content)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(
            f"path: cannot write {shorten(path)}: {getattr(error, 'strerror', None) or error}",
            field="path",
            value=path,
            legal="a file in a folder that exists and may be written to",
        ) from None


def _status(path: Path) -> os.stat_result | None:
    """What the path, links followed, stands for; None where that is yet to be made."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _descriptor(path: Path) -> int | None:
    """The descriptor that ``/dev/stdout`` and its kind stand for: what it goes to is open already, and
    may be a file that a shell appends to."""
    own = f"/proc/{os.getpid()}/fd"
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if folder == own and path.name.isdigit():
            return int(path.name)
        path = Path(folder, path.name)
        if not path.is_symlink():
            return None
        path = Path(folder, path.readlink())
    return None


def _pour(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)


def _replace(path: Path, content: bytes, old: os.stat_result | None) -> None:
    """A file beside ``path``, moved over it once it is whole; an old file's mode stays."""
    with _beside(path) as part:
        part.write_bytes(content)
        if old is None:
            part.chmod(0o666 & ~_mask())
        else:
            with contextlib.suppress(
                OSError, AttributeError
            ):  # only the superuser gives files away
                os.chown(part, old.st_uid, old.st_gid)
            part.chmod(stat.S_IMODE(old.st_mode))
        part.replace(path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A new file in the folder of ``path``, gone afterwards whatever happens."""
    import tempfile  # which loads much that only writing needs

    handle, name = tempfile.mkstemp(prefix=".meshwise-", dir=path.parent)
    try:
        os.close(handle)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str, text: str) -> None:
    """UTF-8, with ``?`` for what it cannot say (bytes of a name that are no UTF-8), as on stdout."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_parquet(path: str, rows: list[dict[str, Any]]) -> None:
    """Rows as a Parquet table; lists stay lists. Raises without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "parquet: pyarrow is not installed",
            field="parquet",
            legal="pip install 'meshwise[parquet]', or `csv`",
        ) from None
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    held = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, held)
    content = held.getvalue().to_pybytes()
    if path == "-":
        _on_stdout(content)
    else:
        write_bytes(path, content)


def _on_stdout(content: bytes) -> None:
    import sys

    if sys.stdout.isatty():
        raise InputError(
            "path -: Parquet is not for a terminal",
            field="path",
            value="-",
            legal="a file or a pipe, or `csv`",
        )
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
