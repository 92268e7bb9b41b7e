"""What bad input gets: one line with field, value, what is legal and the nearest; exit code 2."""

import os

import pytest
from running import refusal, run

SCALE = ("scale", "gpt2", "--on", "dgx-a100")
TRAIN = (*SCALE, "--seq", "1024")
DECODE = (*SCALE, "--phase", "decode", "--context", "1024")
ESTIMATE = ("estimate", "gpt2", "--on", "dgx-a100", "--seq", "1024")
REDUCE = ("collective", "all_reduce", "1MB", "--on", "dgx-a100")
MILLION = "a whole number from 1 to 1000000"
TP = [1, 2, 3, 4, 6, 12]

CASES = [
    # argv, field, in value, in legal, nearest
    # numbers
    ((*TRAIN, "--tp", "0"), "--tp", "0", TP, 1),
    ((*TRAIN, "--tp", "-1"), "--tp", "-1", TP, 1),
    ((*TRAIN, "--tp", "3.5"), "--tp", "3.5", TP, 4),
    ((*TRAIN, "--tp", "8,"), "--tp", "8,", "1,2,4", "8"),
    ((*TRAIN, "--tp", ","), "--tp", ",", "1,2,4", "1,2,4"),
    ((*TRAIN, "--tp", "1,,2"), "--tp", "1,,2", "1,2,4", "1,2"),
    ((*TRAIN, "--tp", ""), "--tp", "", "1,2,4", "1,2,4"),
    ((*TRAIN, "--tp", "7-8"), "--tp", "7-8", TP, 6),
    ((*TRAIN, "--tp", "8-1"), "--tp", "8-1", "LOW-HIGH", "1-8"),
    ((*TRAIN, "--tp", "1-"), "--tp", "1-", TP, 1),
    ((*TRAIN, "--tp", "0x8"), "--tp", "0x8", TP, 1),
    ((*TRAIN, "--tp", "8"), "--tp", 8, TP, 6),
    ((*TRAIN, "--tp", "1000"), "--tp", 1000, TP, 12),
    ((*TRAIN, "--tp", "9" * 5000), "--tp", "999", TP, 12),
    (
        ("scale", "gpt3-175b", "--on", "hgx-h100", "--nodes", "1", "--seq", "8", "--tp", "16"),
        "--tp",
        16,
        [1, 2, 3, 4, 6, 8],
        8,
    ),
    ((*ESTIMATE, "--tp", "0"), "--tp", "0", TP, 1),
    ((*TRAIN, "--batch", "nan"), "--batch", "nan", MILLION, 1),
    ((*TRAIN, "--batch", "inf"), "--batch", "inf", MILLION, 1000000),
    ((*TRAIN, "--batch", "0"), "--batch", "0", MILLION, 1),
    ((*TRAIN, "--batch", "1e7"), "--batch", "1e7", MILLION, 1000000),
    ((*TRAIN, "--batch", ""), "--batch", "", MILLION, 1),
    ((*TRAIN, "--batch", " "), "--batch", " ", MILLION, 1),
    ((*TRAIN, "--batch", "²"), "--batch", "²", MILLION, 1),
    ((*TRAIN, "--batch", "true"), "--batch", "true", MILLION, 1),
    ((*SCALE, "--seq", "1e30"), "--seq", "1e30", "1 to 100000000", 100000000),
    ((*SCALE, "--seq", "-inf"), "--seq", "-inf", "1 to 100000000", 1),
    ((*TRAIN, "--batch", "8", "--micro-batch", "3"), "--micro-batch", 3, [1, 2, 4, 8], 2),
    ((*TRAIN, "--limit-threshold", "nan"), "--limit-threshold", "nan", "0.01 to 1", None),
    ((*TRAIN, "--limit-threshold", "80"), "--limit-threshold", "80", "0.01 to 1", 1.0),
    ((*TRAIN, "--nodes", "0"), "--nodes", "0", "1 to 100000", 1),
    ((*TRAIN, "--nics", "8.5"), "--nics", "8.5", "1 to 4096", 8),
    ((*REDUCE, "--ranks", "161"), "--ranks", 161, "1 to 160", 160),
    ((*REDUCE, "--ranks-per-node", "3"), "--ranks-per-node", 3, [1, 2, 4, 8], 2),
    # quantities
    (("collective", "all_reduce", "1gb", *REDUCE[3:]), "SIZE", "1gb", "1.6 GB", "1 GB"),
    (("collective", "all_reduce", "1.6G", *REDUCE[3:]), "SIZE", "1.6G", "1.6 GB", "1.6 GB"),
    (("collective", "all_reduce", "1,6 GB", *REDUCE[3:]), "SIZE", "1,6 GB", "1.6 GB", "1.6 GB"),
    (("collective", "all_reduce", "25GB/s", *REDUCE[3:]), "SIZE", "25GB/s", "size", "25 GB"),
    (("collective", "all_reduce", "nan", *REDUCE[3:]), "SIZE", "nan", "size", "1.6 GB"),
    (("collective", "all_reduce", "inf GB", *REDUCE[3:]), "SIZE", "inf GB", "size", "1.6 GB"),
    (("collective", "all_reduce", "0", *REDUCE[3:]), "SIZE", "0", "size", "1.6 GB"),
    (("collective", "all_reduce", "1e30 GB", *REDUCE[3:]), "SIZE", "1e30", "size", "1.6 GB"),
    (("collective", "all_reduce", "-1GB", *REDUCE[3:]), "-1GB", "-1GB", "positive", "1GB"),
    # names
    (("model", "gtp2"), "MODEL", "gtp2", "gpt2", "gpt2"),
    (("model", "llama-3.1-70"), "MODEL", "llama-3.1-70", "llama-3.1-70b", "llama-3.1-70b"),
    (("model", "x" * 5000), "MODEL", "xxx", "catalog", None),
    ((*SCALE[:3], "dgx-a10", "--seq", "8"), "--on", "dgx-a10", "dgx-a100", "dgx-a100"),
    ((*SCALE[:3], "16xh100", "--seq", "8"), "--on", "16xh100", "hgx-h100", "hgx-h100"),
    ((*SCALE[:3], "x" * 5000, "--seq", "8"), "--on", "xxx", "catalog", None),
    ((*SCALE[:3], "", "--seq", "8"), "--on", "", "catalog", None),
    ((*TRAIN, "--stack", "vlm"), "--stack", "vlm", "vllm", "vllm"),
    ((*TRAIN, "--stack", ""), "--stack", "", "vllm", None),
    (
        (*REDUCE, "--stack", "megatroncore"),
        "--stack",
        "megatroncore",
        "megatron-core",
        "megatron-core",
    ),
    (("catalog", "device", "h10"), "NAME", "h10", "h100-80gb-sxm", "h100"),
    (
        ("catalog", "foo"),
        "KIND",
        "foo",
        ["models", "devices", "fabrics", "clusters", "stacks"],
        None,
    ),
    ((*SCALE, "--phase", "trian"), "--phase", "trian", ["train", "prefill", "decode"], "train"),
    ((*TRAIN, "--recompute", "ful"), "--recompute", "ful", ["none", "selective", "full"], "full"),
    ((*TRAIN, "--dtype", "bf17"), "--dtype", "bf17", "bf16", "bf16"),
    ((*DECODE, "--kv-dtype", "tf32"), "--kv-dtype", "tf32", "fp8", "fp32"),
    ((*DECODE, "--weight-dtype", "itn4"), "--weight-dtype", "itn4", "int4", "int4"),
    ((*TRAIN, "--comm-dtype", "int4"), "--comm-dtype", "int4", "int8", "int8"),
    ((*TRAIN, "--grad-dtype", "fp8"), "--grad-dtype", "fp8", "fp32", "fp16"),
    ((*TRAIN, "--attention", "flsh"), "--attention", "flsh", ["flash", "unfused"], "flash"),
    ((*TRAIN, "--overlap", "splt"), "--overlap", "splt", ["none", "split", "decomposed"], "split"),
    (
        (*TRAIN, "--objective", "latncy"),
        "--objective",
        "latncy",
        ["efficiency", "latency"],
        "latency",
    ),
    (
        (*ESTIMATE, "--shard", "zero4"),
        "--shard",
        "zero4",
        ["none", "zero1", "zero2", "zero3"],
        "zero1",
    ),
    (("collective", "allreduc", *REDUCE[2:]), "OP", "allreduc", "all_reduce", "all_reduce"),
    # what belongs elsewhere, contradicts, or is missing
    ((*TRAIN, "--context", "8"), "--context", "8", "--phase", None),
    ((*TRAIN, "--kv-dtype", "fp8"), "--kv-dtype", "fp8", "--phase", None),
    ((*DECODE, "--recompute", "full"), "--recompute", "full", "--phase", None),
    ((*DECODE, "--micro-batch", "1"), "--micro-batch", "1", "--phase", None),
    ((*DECODE, "--seq", "8"), "--seq", "8", "--context", "1024"),
    ((*TRAIN, "--ideal", "--stack", "vllm"), "--ideal", "vllm", "--stack", None),
    ((*REDUCE, "--ideal", "--stack", "vllm"), "--ideal", "vllm", "--stack", None),
    ((*TRAIN, "--ideal", "--overlap", "split"), "--overlap", "split", "none", "none"),
    (
        (*TRAIN, "--stack", "ideal", "--attention", "flash"),
        "--attention",
        "flash",
        "unfused",
        "unfused",
    ),
    ((*SCALE,), "--seq", None, "--seq 2048", None),
    ((*SCALE, "--phase", "decode"), "--context", None, "--context 4096", None),
    (("scale", "gpt2", "--seq", "8"), "--on", None, "--on dgx-a100", None),
    (("scale", "--seq", "8"), "MODEL", None, "meshwise scale", None),
    (("collective",), "OP", None, "meshwise collective", None),
    (("collective", "all_reduce"), "SIZE", None, "meshwise collective", None),
    ((*TRAIN, "--on"), "--on", None, "meshwise scale", None),
    ((*TRAIN, "extra"), "ARGUMENT", None, "meshwise scale", None),
    ((*TRAIN, "--sequence-parallel=1"), "--sequence-parallel", None, "meshwise scale", None),
    (("catalog", "--toml"), "--toml", None, "catalog cluster", None),
    # unknown commands and options
    (("scal", "gpt2"), "COMMAND", "scal", "scale", "scale"),
    (("Scale", "gpt2"), "COMMAND", "Scale", "scale", "scale"),
    ((*TRAIN, "--onn", "x"), "--onn", "--onn", "meshwise scale --help", "--on"),
    ((*TRAIN, "--bacth", "8"), "--bacth", "--bacth", "--help", "--batch"),
    (
        (*TRAIN, "--tensor-parallel", "8"),
        "--tensor-parallel",
        "--tensor",
        "--help",
        "--tensor-parallel-size",
    ),
    (("--verison",), "--verison", "--verison", "--help", "--version"),
    (("scale", "-gpt2"), "-gpt2", "-gpt2", "--help", None),
    # layouts
    ((*ESTIMATE, "--gpus", "16", "--tp", "4"), "--gpus", 16, "4", "dp=4"),
    ((*ESTIMATE, "--dp", "1000"), "--dp", 1000, "160 GPUs", None),
    ((*ESTIMATE, "--pp", "13"), "--pp", 13, "1 to 12", 12),
    ((*ESTIMATE, "--ep", "2"), "--ep", 2, "1", 1),
    ((*ESTIMATE, "--vp", "2"), "--vp", 2, "1", 1),
    ((*ESTIMATE, "--cp", "3"), "--cp", 3, [1, 2, 4], 2),
    ((*ESTIMATE, "--batch", "8", "--dp", "3"), "--dp", 3, [1, 2, 4, 8], 2),
]


@pytest.mark.parametrize(
    ("argv", "field", "value", "legal", "nearest"),
    CASES,
    ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else "",
)
def test_command_line(argv, field, value, legal, nearest):
    error = refusal(*argv)
    assert error["field"] == field
    if isinstance(value, str):
        assert value in str(error["value"])
    else:
        assert error["value"] == value
    if isinstance(legal, str):
        assert legal in str(error["legal"])
    else:
        assert error["legal"] == legal
    assert error["nearest"] == nearest


GOOD = """title = "two racks"
device = "a100-80gb-sxm"
[[level]]
name = "node"
ranks = 8
fabric = "nvlink3-nvswitch"
[[level]]
ranks = 4
bandwidth = "25 GB/s"
latency = "5 us"
nics = 8
oversubscription = 2.0
"""
OWN = """[device]
title = "mine"
memory = "80 GiB"
memory_bandwidth = "2 TB/s"
[device.peak]
bf16 = "312 TFLOP/s"
[[level]]
ranks = 8
bandwidth = "300 GB/s"
latency = "2 us"
"""
FILES = [
    # file, what is replaced, by what, field, nearest
    (GOOD, "title", "titel", "cluster.titel", "title"),
    (GOOD, 'device = "a100-80gb-sxm"', 'devise = "a100"', "cluster.devise", "device"),
    (GOOD, "ranks = 8", "rank = 8", "level[0].rank", "ranks"),
    (GOOD, "bandwidth =", "bandwith =", "level[1].bandwith", "bandwidth"),
    (GOOD, "latency =", "latancy =", "level[1].latancy", "latency"),
    (GOOD, "nics =", "nic =", "level[1].nic", "nics"),
    (GOOD, "a100-80gb-sxm", "a100-80g", "device", "a100-80gb"),
    (GOOD, "nvlink3-nvswitch", "nvlink3-nvswich", "level[0].fabric", "nvlink3-nvswitch"),
    (GOOD, "ranks = 8\n", "", "level[0].ranks", None),
    (GOOD, "ranks = 8", "ranks = 0", "level[0].ranks", 1),
    (GOOD, "ranks = 8", "ranks = -8", "level[0].ranks", 1),
    (GOOD, "ranks = 8", "ranks = 8.5", "level[0].ranks", 8),
    (GOOD, "ranks = 8", 'ranks = "8"', "level[0].ranks", 8),
    (GOOD, "ranks = 8", "ranks = true", "level[0].ranks", 1),
    (GOOD, "ranks = 8", "ranks = [8]", "level[0].ranks", 1),
    (GOOD, "ranks = 8", "ranks = nan", "level[0].ranks", 1),
    (GOOD, "ranks = 8", "ranks = 10000000", "product of all level.ranks", 10000000),
    (GOOD, '"25 GB/s"', "25", "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"25"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"25GB"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"25 gb/s"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"25 GBs"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"-25 GB/s"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"inf GB/s"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"1e-320 GB/s"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', '"1e300 GB/s"', "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"25 GB/s"', "{}", "level[1].bandwidth", "25 GB/s"),
    (GOOD, '"5 us"', '"5"', "level[1].latency", "5 us"),
    (GOOD, '"5 us"', "1979-05-27", "level[1].latency", "2 us"),
    (GOOD, '"5 us"', '"5 GB"', "level[1].latency", "2 us"),
    (GOOD, "nics = 8", "nics = 0", "level[1].nics", 1),
    (GOOD, "nics = 8", 'nics = "8"', "level[1].nics", 8),
    (GOOD, "oversubscription = 2.0", "oversubscription = 0.5", "level[1].oversubscription", 1.0),
    (GOOD, "oversubscription = 2.0", 'oversubscription = "2"', "level[1].oversubscription", None),
    (GOOD, "oversubscription = 2.0", f"oversubscription = {'9' * 400}", "level[1].oversubscription", 1000.0),
    (GOOD, '"two racks"', "3", "title", None),
    (GOOD, '"a100-80gb-sxm"', "3", "device", None),
    (GOOD, '"node"', "[]", "level[0].name", None),
    (OWN, "latency =", 'kind = "torus"\nlatency =', "level[0].kind", "network"),
    (OWN, "latency =", "in_switch = 1\nlatency =", "level[0].in_switch", None),
    (OWN, "latency =", "efficiency = 0\nlatency =", "level[0].efficiency", 0.01),
    (OWN, "memory =", "memroy =", "device.memroy", "memory"),
    (OWN, "memory_bandwidth", "mem_bandwidth", "device.mem_bandwidth", "memory_bandwidth"),
    (OWN, "bf16", "bf61", "device.peak", "bf16"),
    (OWN, "bf16", "int4", "device.peak", "bf16"),
    (OWN, 'bf16 = "312 TFLOP/s"\n', "", "device.peak", "bf16"),
    (OWN, "312 TFLOP/s", "312 TB/s", "device.peak.bf16", "312 TFLOP/s"),
    (OWN, '"80 GiB"', "80", "device.memory", "80 GB"),
    (OWN, '"80 GiB"', '"80 Gib"', "device.memory", "80 GiB"),
    (OWN, 'memory = "80 GiB"\n', "", "device.memory", None),
    (OWN, 'title = "mine"', 'like = "h10"', "device.like", "h100"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "old", "new", "field", "nearest"), FILES, ids=[f[2][:40] for f in FILES]
)
def test_cluster_file(text, old, new, field, nearest, toml):
    assert old in text
    error = refusal("scale", "gpt2", "--seq", "64", "--on", toml(text.replace(old, new, 1)))
    assert (error["field"], error["nearest"]) == (field, nearest)


@pytest.mark.parametrize("text", [GOOD, OWN, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n")])
def test_good_cluster_files(text, toml):
    assert run("scale", "gpt2", "--seq", "64", "--on", toml(text), "--json").code == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing\n",
        b"\xff\xfe\x00",
        b"\x80abc",
        bytes(range(256)) * 8,
        b"a=" + b"[" * 100_000,
        b"a=" + b"[" * 5000 + b"]" * 5000,
        b"a" + b".a" * 20_000 + b"=1",
        b"a" + b".a" * 150 + b"=1",
        b"a={" + b"b={" * 3000,
        b"#" + b"x" * (2 << 20),
        b"a=" + b"9" * 5000,
        b"a=0x" + b"f" * 5000,
        b'device = "a100',
        b'device = "a100"\nlevel = []\n',
        b'device = "a100"\nlevel = 8\n',
        b'device = "a100"\nlevel = [8]\n',
        b'{"device": "a100"}',
        (GOOD + GOOD).encode(),
    ],
    ids=lambda c: repr(c[:16]),
)
def test_files_that_are_no_cluster(content, toml):
    refusal("scale", "gpt2", "--seq", "64", "--on", toml(content))


def _places(folder):
    fifo, loop, directory = folder / "fifo.toml", folder / "loop.toml", folder / "folder.toml"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    directory.mkdir()
    return [
        fifo,
        loop,
        directory,
        folder / "missing.toml",
        folder / "a\0b.toml",
        "/dev/zero",
        "/dev/null",
    ]


def test_paths_that_are_no_files(tmp_path):
    for place in _places(tmp_path):
        assert refusal("scale", "gpt2", "--seq", "64", "--on", str(place))["field"] == "--on"
        refusal("model", str(place).replace(".toml", ".json"))
        refusal("model", str(place) if "toml" not in str(place) else f"{place}/")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission(toml):
    path = toml(GOOD)
    os.chmod(path, 0)
    assert "ermission" in refusal("scale", "gpt2", "--seq", "64", "--on", path)["message"]


def test_control_characters_stay_out_of_the_line():
    for nasty in ("\x1b[31mred\x1b[0m", "a\nb", "a\r\tb", "\x00", "\udcff"):
        for argv in (("model", nasty), (*SCALE, "--seq", nasty), (nasty,), (*TRAIN, f"--{nasty}")):
            ran = run(*argv)
            assert ran.code == 2
            assert ran.err[:-1].isprintable(), ran.err


def test_the_catalog_takes_names_as_the_commands_do() -> None:
    assert "clusters/dgx-a100" in run("catalog", "cluster", "a100-sxm4").out
    assert refusal("catalog", "cluster", "v100")["nearest"] == "dgx-1-v100"
    assert refusal("catalog", "device", "p5.48xlarge")["nearest"] == "h100-80gb-sxm"
