"""``-o``: a regular file whole or not at all, with its mode; anything else is written to."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from running import run

MODEL = ("model", "gpt2")
CONFIG = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512}
CONFIG |= {"num_hidden_layers": 2, "num_attention_heads": 8, "vocab_size": 1000}


@pytest.fixture
def said():
    return run(*MODEL).out


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def leftovers(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".meshwise")]


@pytest.mark.parametrize("kind", [(), ("--json",), ("--csv",)])
def test_a_link_stays_and_its_target_gets_the_answer(kind, tmp_path):
    target, link = tmp_path / "sub" / "target", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to("sub/target")
    for _ in range(2):  # the target does not exist yet, then it does
        assert run(*MODEL, *kind, "-o", str(link)).code == 0
        assert link.is_symlink()
        assert target.read_text() == run(*MODEL, *kind).out
    assert leftovers(tmp_path) == leftovers(target.parent) == []


@pytest.mark.parametrize("old", [0o600, 0o640, 0o666, 0o444])
def test_a_files_mode_is_kept(old, tmp_path, said):
    path = tmp_path / "out"
    path.write_text("before")
    path.chmod(old)
    assert run(*MODEL, "-o", str(path)).code == 0
    assert (mode(path), path.read_text()) == (old, said)


def test_a_new_file_has_the_mode_of_the_mask(tmp_path):
    before = os.umask(0o027)
    try:
        assert run(*MODEL, "-o", str(tmp_path / "out")).code == 0
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == 0o640


@pytest.mark.parametrize("argv", [MODEL, (*MODEL, "--csv"), ("export", "vllm", "gpt2", "--json")])
def test_a_fifo_is_written_to(argv, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    assert run(*argv, "-o", str(path)).code == 0
    reader.join(timeout=30)
    assert got == [run(*argv).out.encode()]
    assert path.is_fifo()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_is_written_to(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("w").close()
    except OSError:
        pytest.skip("no device nodes here")
    assert run(*MODEL, "-o", str(path)).code == 0
    assert path.is_char_device()


def test_minus_is_stdout(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*MODEL, "-o", "-").out == said
    for kind in ("--json", "--csv"):
        assert run(*MODEL, kind, "-o", "-").out == run(*MODEL, kind).out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_a_descriptor_of_the_shell_is_appended_to(tmp_path, said):
    path = tmp_path / "log"
    script = f"echo first; {sys.executable} -m meshwise model gpt2 -o /dev/stdout; echo last"
    with path.open("w") as out:
        subprocess.run(["bash", "-c", script], stdout=out, check=True, timeout=60)
    assert path.read_text() == f"first\n{said}last\n"


@pytest.mark.parametrize("how", [KeyboardInterrupt, MemoryError, OSError(28, "full"), SystemExit])
def test_no_part_of_a_file_is_left(how, tmp_path, monkeypatch):
    path = tmp_path / "out"
    path.write_text("before")

    def fail(self, target):
        raise how

    monkeypatch.setattr(Path, "replace", fail)
    with contextlib.suppress(MemoryError, SystemExit):
        assert run(*MODEL, "-o", str(path)).code == (130 if how is KeyboardInterrupt else 2)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert path.read_text() == "before"


def test_a_name_outside_utf8_is_written_as_on_stdout(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xff"))
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for kind in ((), ("--csv",), ("--json",)):
        done = [
            subprocess.run(
                [sys.executable, "-m", "meshwise", "model", folder, *kind, "-o", out],
                capture_output=True,
                timeout=60,
                env=os.environ | {"PYTHONUTF8": "1"},
            )
            for out in ("-", str(tmp_path / "out"))
        ]
        assert [d.returncode for d in done] == [0, 0], done
        assert (tmp_path / "out").read_bytes() == done[0].stdout
    assert leftovers(tmp_path) == []


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for path in ("", ".", str(tmp_path / "none" / "x"), str(tmp_path / "loop"), "a\0b"):
        ran = run(*MODEL, "-o", path)
        assert (ran.code, ran.out) == (2, "")
        assert ran.err.startswith("meshwise: -o: cannot write ")
        assert len(ran.err.splitlines()) == 1


def test_parquet_goes_where_the_others_go(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    target, link = tmp_path / "t", tmp_path / "l"
    target.touch(mode=0o600)
    link.symlink_to("t")
    assert run(*MODEL, "--parquet", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert mode(target) == 0o600
    assert parquet.read_table(target).num_rows == 1
    done = subprocess.run(
        [sys.executable, "-m", "meshwise", *MODEL, "--parquet", "-o", "-"],
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, target.read_bytes())
