"""Compare this working tree's answers with those of another commit, to the last digit.

    python tools/golden.py main                     # exit code 1 where anything differs
    python tools/golden.py main --only 'serve .*--tp'
    python tools/golden.py main --accepted FILE     # differences that are decided: LINE # REASON
    python tools/golden.py --list                   # the command lines, and what is left out

BASE is checked out into a scratch worktree. Both versions run the same command lines, each version in
a process of its own, in folders alike. Compared are exit codes, JSON (values, their types, the order of
keys; not the time that a search took), files written, stderr, and some pages of text 100 columns wide.
The list of golden_lines.py is the working tree's: what BASE does not know differs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from golden_lines import Gathered, Line, Unusable, chosen, gather

ROOT = Path(__file__).resolve().parents[1]
INPUTS = ("examples", "tests/data")  # what the pages' commands read, relative to where they run
IGNORED = {"elapsed_s"}  # how long a search took
LIMIT_S = 120  # per command line
MOST = 20  # places of differences that are counted at the end
ENVIRONMENT = {
    "COLUMNS": "100",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


ABSENT = "(absent)"


class Difference(NamedTuple):
    where: str
    before: Any
    now: Any


# -- one version's process -----------------------------------------------------------------------


class TooLong(BaseException):
    """No Exception: a command may not take it for one of its own."""


def work(source: str, todo: str, out: str) -> None:
    """Run the lines of a file, one record each, in this folder; the first record says that it began."""
    cli = importlib.import_module("meshwise.cli")
    if not Path(str(cli.__file__)).resolve().is_relative_to(source):
        sys.exit(f"meshwise is {cli.__file__}, not that of {source}")
    signal.signal(signal.SIGALRM, _too_long)
    places = {str(Path.cwd()): "<here>", source: "<src>"}
    with Path(out).open("w", encoding="utf-8", buffering=1) as records:
        records.write("{}\n")
        for text in Path(todo).read_text(encoding="utf-8").splitlines():
            record = _ran(cli.main, json.loads(text))
            said = {key: _placed(value, places) for key, value in record.items()}
            records.write(json.dumps(said) + "\n")


def _too_long(*_: object) -> None:
    raise TooLong(f"not done after {LIMIT_S} s")


def _placed(value: Any, places: dict[str, str]) -> Any:
    for place, word in places.items() if isinstance(value, str) else ():
        value = value.replace(place, word)
    return value


def _ran(main: Any, words: list[str]) -> dict[str, Any]:
    """What a command line prints and writes, and how it ends."""
    out, err, given = io.StringIO(), io.StringIO(), ""
    if "<" in words[-2:-1]:
        words, name = words[:-2], Path(words[-1])
        given = name.read_text(encoding="utf-8") if name.is_file() else ""
    before, sys.stdin = sys.stdin, io.StringIO(given)
    signal.alarm(LIMIT_S)
    record: dict[str, Any] = {}
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always")
            record["code"] = main(words)
    except BaseException as error:  # whatever one command does, the others are to be run
        record["code"] = f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        sys.stdin = before
    said = [f"{w.category.__name__}: {w.message}" for w in warned]
    record |= {"err": "\n".join([err.getvalue(), *said]), "out": out.getvalue()}
    file = Line(tuple(words), False).written
    if file is not None and Path(file).is_file():
        record["file"] = Path(file).read_text(encoding="utf-8")
    return record


# -- both versions -------------------------------------------------------------------------------


class Share:
    """Lines that one process runs after each other; begun again behind one that killed it."""

    def __init__(self, source: Path, folder: Path, words: list[tuple[str, ...]]) -> None:
        self.source, self.folder, self.words = source, folder, words
        self.records: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None

    def file(self, what: str) -> Path:
        return self.folder.with_suffix("." + what)

    def start(self) -> None:
        self.file("out").unlink(missing_ok=True)
        rest = self.words[len(self.records) :]
        self.file("todo").write_text("".join(json.dumps(w) + "\n" for w in rest), encoding="utf-8")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MESHWISE", "XDG_"))}
        own = {"PYTHONPATH": str(self.source), "HOME": str(self.folder)}
        files = [str(self.file(what)) for what in ("todo", "out")]
        with self.file("err").open("wb") as said:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    str(ROOT / "tools" / "golden.py"),
                    "--work",
                    str(self.source),
                    *files,
                ],
                cwd=self.folder,
                env=kept | ENVIRONMENT | own,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for the one who waits
            )

    def done(self) -> bool:
        """Whether all its lines have a record, once its process has ended."""
        if self.process is None or self.process.poll() is None:
            return False
        out = self.file("out")
        text = out.read_text(encoding="utf-8") if out.exists() else ""
        began, *records = text.split("\n")  # the last of them is empty, or was not finished
        if not began:
            said = self.file("err").read_text(encoding="utf-8", errors="replace")
            raise Unusable(said.strip().rpartition("\n")[2])
        self.records += [json.loads(record) for record in records[:-1]]
        if len(self.records) < len(self.words):
            code = f"the process ended ({self.process.returncode})"
            self.records.append({"code": code, "err": "", "out": ""})
        self.process = None
        return len(self.records) == len(self.words)


def answers(shares: list[Share], jobs: int) -> None:
    """Run the shares, so many at a time."""
    waiting, running = list(shares), list[Share]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
            for share in list(running):
                if share.process is None:
                    share.start()
                elif share.done():
                    running.remove(share)
            time.sleep(0.05)
    finally:
        for share in running:
            if share.process is not None:
                share.process.kill()
                share.process.wait()


def git(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError as error:
        raise Unusable(f"git: {error.strerror}") from None


def commit(base: str) -> str:
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", base + "^{commit}")
    if found.returncode:
        raise Unusable(f"BASE: {base!r} is not a commit of {ROOT}")
    return found.stdout.strip()


@contextlib.contextmanager
def checked_out(base: str, folder: Path) -> Iterator[Path]:
    """The sources of a commit, in a worktree that is gone afterwards."""
    try:
        added = git("worktree", "add", "--detach", str(folder), base)
        if added.returncode:
            raise Unusable(f"git worktree: {added.stderr.strip()}")
        yield folder / "src"
    finally:
        git("worktree", "remove", "--force", str(folder))


def compared(
    base: str, gathered: Gathered, lines: list[Line], jobs: int
) -> Iterator[tuple[Line, list[Difference]]]:
    """The lines that differ, and where."""
    parts = max(1, jobs // 2)
    dealt = [[i for i, x in enumerate(lines) if _part(i, x, parts) == n] for n in range(parts)]
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="golden-"))).resolve()
        before = stack.enter_context(checked_out(base, scratch / "worktree"))
        shares = []
        for n, part in enumerate(dealt):
            for name, source in (("base", before), ("tree", ROOT / "src")):
                here = scratch / name / f"part{n}"
                _prepare(here, gathered.files)
                shares.append(Share(source, here, [lines[i].words for i in part]))
        answers(shares, jobs)
    for one, other, part in zip(shares[::2], shares[1::2], dealt, strict=True):
        for i, a, b in zip(part, one.records, other.records, strict=True):
            found = list(told(a, b))
            if found:
                yield lines[i], found


def _part(place: int, line: Line, parts: int) -> int:
    return 0 if line.in_order else place % parts


def _prepare(folder: Path, files: dict[str, str]) -> None:
    for name in INPUTS:
        without = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=without)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


# -- differences ---------------------------------------------------------------------------------


def told(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Difference]:
    """Where two records differ; a code that does, with what was said, is all there is to say."""
    if a["code"] != b["code"]:
        kept, now = (f"{r['code']} {r['err'] or r['out']}".strip() for r in (a, b))
        yield Difference("exit code", kept, now)
        return
    for name in ("out", "err", "file"):
        kept, now = (_parsed(r.get(name, "")) for r in (a, b))
        yield from differences(kept, now, "" if name == "out" else name)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"lines": text.splitlines()}


def differences(a: Any, b: Any, where: str = "") -> Iterator[Difference]:
    """The places where two values differ, in the order of the first."""
    if isinstance(a, dict) and isinstance(b, dict):
        kept, now = ([k for k in x if k not in IGNORED] for x in (a, b))
        for key in dict.fromkeys([*kept, *now]):
            yield from differences(a.get(key, ABSENT), b.get(key, ABSENT), f"{where}.{key}")
        if kept != now and set(kept) == set(now):
            yield Difference(f"{where} (order of keys)", kept, now)
    elif isinstance(a, list) and isinstance(b, list):
        for i, (x, y) in enumerate(itertools.zip_longest(a, b, fillvalue=ABSENT)):
            yield from differences(x, y, f"{where}[{i}]")
    elif repr(a) != repr(b):  # 1 is not 1.0, NaN is NaN
        yield Difference(where, a, b)


def shortened(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"


def accepted(path: str | None) -> dict[str, str]:
    """Line → reason, of a file with ``LINE # REASON``."""
    found: dict[str, str] = {}
    if path is None:
        return found
    if not Path(path).is_file():
        raise Unusable(f"--accepted: {path!r} is not a file")
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        if text.strip() and not text.startswith("#"):
            line, _, reason = text.partition(" # ")
            if not reason.strip():
                raise Unusable(f"--accepted: {text!r} has no reason after ' # '")
            found[line.strip()] = reason.strip()
    return found


def report(o: argparse.Namespace) -> int:
    """Print what differs, and whether it was decided; 1 where something was not."""
    started = time.perf_counter()
    base, decided = commit(o.base), accepted(o.accepted)
    gathered = gather()
    lines = chosen(gathered.lines, o.only)
    differing = set()
    places = collections.Counter[str]()
    for line, found in compared(base, gathered, lines, max(1, o.jobs)):
        differing.add(line.label)
        places.update({re.sub(r"\[\d+\]", "[]", d.where) for d in found})
        print(f"{line.label}: {described(found)}{_decided(decided.get(line.label))}")
    # where the differences are, so that many lines of one cause are seen as that
    for place, count in places.most_common(MOST) if len(differing) > 1 else ():
        print(f"{count:5} × {place.lstrip('.')}")
    for label in sorted({line.label for line in lines} & decided.keys() - differing):
        print(f"{label}: accepted, and does not differ any more")
    for label in sorted(decided.keys() - {line.label for line in gathered.lines}):
        print(f"{label}: accepted, and is not a command line of --list")
    undecided = differing - decided.keys()
    took = time.perf_counter() - started
    print(f"{len(lines)} command lines: {len(differing)} differ, {len(differing) - len(undecided)} "
          f"of them accepted ({took:.0f} s)")  # fmt: skip
    return int(bool(undecided))


def described(found: list[Difference]) -> str:
    """The first difference, and how many there are beside it."""
    first = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    values = f"{shortened(first.before)} → {shortened(first.now)}"
    return f"{first.where.lstrip('.')}: {values}{more}"


def _decided(reason: str | None) -> str:
    return "" if reason is None else f"  (accepted: {reason})"


def listed(only: str | None) -> int:
    gathered = gather()
    for line in chosen(gathered.lines, only):
        print(line.label)
    for text, reason in gathered.left_out:
        print(f"# left out: {text}: {reason}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("base", metavar="BASE", nargs="?", help="the commit to compare with")
    parser.add_argument("--only", metavar="PATTERN", help="command lines that have it (re.search)")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="processes at a time")
    parser.add_argument("--accepted", metavar="FILE", help="decided differences: LINE # REASON")
    parser.add_argument("--list", action="store_true", help="print the command lines")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.work:
        work(*o.work)
        return 0
    for name in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what was made is removed
        signal.signal(name, lambda *_: sys.exit(130))
    try:
        if o.list:
            return listed(o.only)
        if o.base is None:
            parser.error("BASE: which commit to compare with")
        return report(o)
    except Unusable as error:
        sys.stderr.write(f"golden: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
