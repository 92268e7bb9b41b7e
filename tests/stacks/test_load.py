"""Stacks from files: what a file takes of another stack, and what is refused of it."""

import json

import pytest

import meshwise as mw
from meshwise import catalog
from meshwise.errors import InputError
from meshwise.stacks.load import check_table, described, load_stack
from meshwise.stacks.stack import switch_values


def written(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_states_what_differs(tmp_path):
    path = written(
        tmp_path, 'like = "nemo"\n[kernels]\nloss_bytes = 40\n[source]\nloss_bytes = "me"'
    )
    found, base = mw.stack(path), mw.stack("nemo")
    assert mw.stack(str(path)) == found
    assert (found.name, found.software) == ("mine", "nemo")
    assert switch_values(found) == switch_values(base) | {"loss_bytes": 40.0}
    assert found.sources["loss_bytes"] == "me"
    assert found.sources["overlap"] == f"as nemo: {base.sources['overlap']}"
    assert found.sources["scatter_gather"].startswith("as nemo: as megatron-core: ")
    assert mw.stack(path, loss_bytes=52.0).loss_bytes == 52.0


def test_a_file_alone_has_the_defaults(tmp_path):
    found = mw.stack(written(tmp_path, 'title = "Mine"\n[host]\nhost_s = 1e-3'))
    assert (found.title, found.software, found.host_s) == ("Mine", "mine", 1e-3)
    assert switch_values(found) == switch_values(mw.Stack(name="x")) | {"host_s": 1e-3}


def test_like_a_version_and_like_a_file(tmp_path):
    written(tmp_path, 'like = "vllm-0.14"\n[memory]\nmemory_reserve = 0.2', "base.toml")
    found = mw.stack(written(tmp_path, 'like = "base.toml"'))
    assert (found.iteration_s, found.memory_reserve, found.software) == (0.0, 0.2, "vllm")


def test_a_file_is_priced_like_the_stack_that_it_is_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, 'like = "vllm"')
    work = mw.Decode(batch=8, context=512)
    own, usual = (
        mw.estimate("llama-3.1-8b", "hgx-h100", work, stack=s, tp=2).to_dict()
        for s in ("mine.toml", "vllm")
    )
    assert own["stack"].pop("name") == "mine"
    for record in (own, usual):
        record["stack"] = {k: v for k, v in record["stack"].items() if k not in ("name", "title")}
    assert own == usual


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("like = 'vlm'", "like: no stack is called 'vlm'.*nearest: vllm"),
        ("like = 3", "like: 3 is not text"),
        ("like = 'mine.toml'", "like: mine.toml → mine.toml is a circle"),
        ("like = 'other.toml'", "like: mine.toml → other.toml → mine.toml is a circle"),
        ("like = 'gone.toml'", "gone.toml: No such file"),
        ("colour = 1", "colour: unknown key 'colour'"),
        ("loss_byte = 1", r"nearest: \[kernels\] loss_bytes"),
        ("iteration_s = 1", r"a switch of \[host\]"),
        ("[kernels]\niteration_s = 1", r"kernels.iteration_s.*a switch of \[host\]"),
        ("[kernels]\natention = 'flash'", "kernels.atention: unknown key.*nearest: attention"),
        (
            "[kernels]\nattention = 'flas'",
            "kernels.attention: 'flas'.*flash, unfused; nearest: flash",
        ),
        ("[kernels]\nflash_version = 9", "kernels.flash_version=9 is above 4"),
        ("[can]\nshards = ['zero9']", r"can.shards\[0\]: 'zero9'"),
        ("kernels = 3", "kernels: 3 is not a table"),
        ("[kernel]\nattention = 'flash'", r"nearest: kernels"),
        ("[source]\nloss_byte = 'x'", "source.loss_byte: unknown key.*nearest: loss_bytes"),
        ("[source]\nloss_bytes = 3", "source.loss_bytes: 3 is not text"),
        ("[[version]]\nhost_s = 1", r"version\[0\]: missing: from or before"),
        ("[[version]]\nfrom = 'new'", r"version\[0\].from: 'new' is not a version"),
        ("[[version]]\nfrom = '1'\nhost = 1", r"version\[0\].host: unknown key"),
        ("[[version]]\nfrom = '1'\nhost_s = -1", r"version\[0\].host_s: -1 is below 0"),
        ("[[variant]]\nhost_s = 1", r"variant\[0\]: missing: named"),
        ("version = 3", "version: 3 is not a list of tables"),
        ("named_in_tables = 'x'", "named_in_tables: 'x' is not a list of names"),
        ("ideal = 'yes'", "ideal: 'yes' is not true or false"),
        ("[kernels", "not a TOML document"),
    ],
)
def test_what_is_refused_of_a_file(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "like = 'mine.toml'", "other.toml")
    written(tmp_path, text)
    with pytest.raises(InputError, match=said) as refused:
        mw.stack("mine.toml")
    assert "mine.toml" in str(refused.value)
    assert "\n" not in str(refused.value)
    json.dumps(refused.value.to_dict(), allow_nan=False)


def test_a_missing_file_is_refused():
    with pytest.raises(InputError, match=r"nowhere\.toml: No such file or directory"):
        mw.stack("nowhere.toml")
    with pytest.raises(InputError, match="folder/nowhere: No such file"):
        mw.stack("folder/nowhere")


@pytest.mark.parametrize("name", catalog.names("stacks"))
def test_a_stack_of_the_catalog_is_a_software_of_its_own(name):
    found = described(name)
    check_table(found.table)
    assert found.software == name == load_stack(name).software
