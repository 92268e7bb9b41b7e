"""Files as readers take them: lines of a text one after another, however many there are, or a whole document."""

from __future__ import annotations

import codecs
import gzip
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from meshwise.errors import InputError, shorten

MAX_DOCUMENT_BYTES = 256 << 20  # of JSON and XML, which are read whole
_BLOCK = 1 << 20
_LONGEST = 64 << 20  # bytes of a line: longer ones are of no log
_TEXT = "a text, JSON or XML file of one of the kinds that are read"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def cannot_read(name: str, why: str, legal: str = _TEXT, line: int | None = None) -> InputError:
    """The error for a file, or a line of it; the command's argument is the field."""
    where = f"{shorten(name)}, line {line}" if line else shorten(name)
    error = InputError(f"files: {where}: {why}", field="files", value=name, legal=legal)
    if line:
        error.line, error.file = None, ""
    return error


class TextFile:
    """A file, opened: its encoding, its first block, and its lines."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stream = _opened(name)
        try:
            self.head = self._stream.read(_BLOCK)
            if not self.head:
                raise cannot_read(name, "is empty")
        except BaseException:
            self.close()
            raise
        self.encoding = "utf-8"
        for mark, encoding in _BOMS:  # PowerShell redirects as UTF-16
            if self.head.startswith(mark):
                self.encoding, self.head = encoding, self.head[len(mark) :]
                break

    def blocks(self) -> Iterator[tuple[int, str]]:
        """The text in parts of whole lines, each with the number of its first line."""
        decode = codecs.getincrementaldecoder(self.encoding)("replace").decode
        rest, block, number = "", self.head, 1
        held: tuple[int, str] | None = None  # what ends within a line belongs to the block before
        while block:
            text = rest + decode(block)
            whole, end, rest = text.rpartition("\n")
            binary = text.find("\0")
            if binary >= 0 or len(rest) > _LONGEST:
                raise self._binary(number + text.count("\n", 0, max(binary, 0)))
            if end:
                if held is not None:
                    yield held
                held = number, whole
                number += whole.count("\n") + 1
            block = self._stream.read(_BLOCK)
        rest += decode(b"", True)
        if held is None:
            held = number, rest
        elif rest:
            held = held[0], f"{held[1]}\n{rest}"
        yield held

    def _binary(self, number: int) -> InputError:
        return cannot_read(self.name, "text expected, found binary content", line=number)

    def content(self) -> str:
        """The whole text of a document."""
        content = self.head + self._stream.read(MAX_DOCUMENT_BYTES + 1)
        if len(content) > MAX_DOCUMENT_BYTES:
            raise cannot_read(
                self.name, f"has more than {MAX_DOCUMENT_BYTES >> 20} MiB", "a smaller document"
            )
        return content.decode(self.encoding, "replace")

    def close(self) -> None:
        """Close the file."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()


def _opened(name: str) -> BinaryIO:
    """The file's bytes, unpacked where they are gzip's; ``-`` is stdin."""
    if name == "-":
        return sys.stdin.buffer
    try:
        path = Path(name).expanduser()
        info = path.stat()
        if stat.S_ISDIR(info.st_mode):
            raise cannot_read(name, "is a folder")
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISFIFO(info.st_mode)):
            raise cannot_read(name, "is not an ordinary file")
        stream = path.open("rb")
        packed = stat.S_ISREG(info.st_mode) and stream.read(2) == b"\x1f\x8b"
        if stat.S_ISREG(info.st_mode):
            stream.seek(0)
        return cast(BinaryIO, _Unpacked(name, stream) if packed else stream)
    except OSError as error:
        raise cannot_read(name, error.strerror or "cannot be read") from None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise cannot_read(name, "is not a file name") from None


class _Unpacked:
    """A gzip file; one that ends early is refused, not read in part."""

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self._name, self._packed = name, stream
        self._stream = gzip.GzipFile(fileobj=stream)

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, EOFError, ValueError) as error:
            raise cannot_read(self._name, f"gzip's content expected: {error}") from None

    def close(self) -> None:
        self._stream.close()
        self._packed.close()
