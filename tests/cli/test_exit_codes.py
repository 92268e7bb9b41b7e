"""What a command ends with: interrupted, in part answered, in part unreadable."""

import pytest
from running import refusal, run

HEAD = "id,op,device,ranks,bytes,time_us\n"
GOOD = "a,all_reduce,h100-80gb-sxm,8,1048576,40\n"
BAD = "b,all_reduce,h100-80gb-sxm,8,x,40\n"


@pytest.mark.parametrize(
    ("rows", "code"), [(GOOD, 0), (GOOD + BAD, 0), (BAD, 2), (BAD + "c,d\n", 2)]
)
def test_validate_fails_where_no_row_can_be_read(rows, code, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(HEAD + rows)
    ran = run("validate", str(path))
    assert ran.code == code
    bad = len(rows.splitlines()) - rows.count(GOOD)
    assert (f"Invalid rows: {bad}" in ran.out) == bool(bad)


def test_a_log_of_nccl_tests_is_refused_as_one(tmp_path):
    path = tmp_path / "log"
    path.write_text(
        "# nThread 1 nGpus 8\n"
        "#       size  count  type  redop  root  time  algbw  busbw #wrong\n"
        "     1048576  262144 float   sum    -1 34.10  30.75  53.81      0\n"
    )
    error = refusal("validate", str(path))
    assert "nccl-tests" in error["message"]
    assert "time_us" in error["legal"]


def test_a_bare_timeout_is_seconds(monkeypatch):
    from meshwise import runs

    got = []
    monkeypatch.setattr(runs, "run", lambda model, **o: got.append(o["timeout_s"]))
    for text in ("8", "8 s", "8000 ms"):
        assert run("run", "gpt2", "--timeout", text).code == 0
    assert got == [8.0, 8.0, 8.0]
    refusal("run", "gpt2", "--timeout", "-1")
