"""Run the command line in this process, with a pseudo-terminal of a given width as its stdout."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading

from running import Ran

from meshwise.cli import main

STYLE = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal(width: int, *argv: str) -> Ran:
    """Exit code, what the terminal was sent without its colours, and stderr."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    got: list[bytes] = []
    reader = threading.Thread(target=_read, args=(leader, got))
    reader.start()
    err = io.StringIO()
    try:
        with (
            open(follower, "w", encoding="utf-8") as out,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main(list(argv))
    finally:
        reader.join(timeout=60)
        os.close(leader)
    text = STYLE.sub("", b"".join(got).decode()).replace("\r\n", "\n")
    return Ran(code, text, err.getvalue())


def _read(leader: int, got: list[bytes]) -> None:
    """All that the terminal is sent, until its other end is closed."""
    with contextlib.suppress(OSError):
        while part := os.read(leader, 65536):
            got.append(part)
