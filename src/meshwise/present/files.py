"""Answers written to files: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshwise.errors import InputError, shorten


def _atomically(path: str, write: Callable[[str], None]) -> None:
    """A file beside ``path``, moved over it once it is whole."""
    folder = Path(path).parent
    part: Path | None = None
    try:
        if Path(path).is_dir():
            raise IsADirectoryError(21, "is a folder")
        handle, name = tempfile.mkstemp(prefix=".meshwise-", dir=folder)
        os.close(handle)
        part = Path(name)
        write(name)
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        raise InputError(
            f"-o: cannot write {shorten(path)}: {error.strerror or error}",
            field="-o",
            value=path,
            legal="a file in a folder that exists and may be written to",
        ) from None


def write_text(path: str, text: str) -> None:
    def write(name: str) -> None:
        Path(name).write_text(text, encoding="utf-8")

    _atomically(path, write)


def write_parquet(path: str, rows: list[dict[str, Any]]) -> None:
    """Rows as a Parquet table; lists stay lists. Raises without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "--parquet: pyarrow is not installed",
            field="--parquet",
            legal="pip install 'meshwise[parquet]', or --csv",
        ) from None
    names = list(dict.fromkeys(key for row in rows for key in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    _atomically(path, lambda name: pyarrow.parquet.write_table(table, name))
