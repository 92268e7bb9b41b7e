"""Configurations of NeMo 1: the model and the layout that their keys write out."""

from __future__ import annotations

import pytest

from meshwise.commands import _model_of, same_model
from meshwise.errors import MeshwiseError
from meshwise.launch import parse
from meshwise.models.load import load_model

FILE = """\
trainer:
  num_nodes: 2
  devices: 8
  precision: bf16
model:
  encoder_seq_length: 1024
  max_position_embeddings: ${{.encoder_seq_length}}
  micro_batch_size: 2
  global_batch_size: ${{multiply:16, ${{.micro_batch_size}}}}
  tensor_model_parallel_size: 4
  pipeline_model_parallel_size: 2
  num_layers: 24
  hidden_size: 2048
  ffn_hidden_size: ${{multiply:4, ${{.hidden_size}}}}
  num_attention_heads: 16
  num_query_groups: {groups}
  activations_checkpoint_granularity: {granularity}
  activations_checkpoint_method: block
  activations_checkpoint_num_layers: {layers}
  ub_tp_comm_overlap: true
  sequence_parallel: true
  tokenizer:
    type: GPT2BPETokenizer
  data:
    seq_length: ${{whole.model.encoder_seq_length}}
"""


def text(granularity: str = "null", layers: str = "0", groups: str = "4") -> str:
    return FILE.format(granularity=granularity, layers=layers, groups=groups)


@pytest.mark.parametrize(
    ("granularity", "layers", "recompute", "many"),
    [
        ("null", "0", "none", None),
        ("null", "3", "none", None),
        ("full", "0", "none", None),
        ("full", "3", "full", 3),
    ],
)
def test_the_granularity_says_whether_layers_are_recomputed(
    granularity: str, layers: str, recompute: str, many: int | None
) -> None:
    job = parse(text(granularity, layers)).job
    assert (job.recompute, job.recompute_layers) == (recompute, many)


def test_a_key_that_names_another_is_its_value_also_by_a_larger_configuration() -> None:
    job = parse(text()).job
    assert (job.seq, job.global_batch, job.dp) == (1024, 32, 2)


def test_an_expression_of_what_is_elsewhere_is_named_with_its_key() -> None:
    with pytest.raises(MeshwiseError) as caught:
        parse(text().replace("${whole.model.", "${whole.other."))
    error = caught.value.to_dict()["error"]
    assert error["field"] == "model.data.seq_length"
    assert error["value"] == "${whole.other.encoder_seq_length}"


@pytest.mark.parametrize(("groups", "kv_heads"), [("4", 4), ("null", 16)])
def test_the_model_is_the_one_that_the_file_writes_out(groups: str, kv_heads: int) -> None:
    model = _model_of(parse(text(groups=groups)))
    attention = model.blocks[0].attention
    assert attention is not None
    assert (model.layers, model.hidden, attention.heads) == (24, 2048, 16)
    assert attention.kv_heads == kv_heads


def test_a_model_of_other_sizes_than_the_file_is_refused() -> None:
    read = parse(text(), model="llama-2-7b")
    with pytest.raises(MeshwiseError) as caught:
        same_model(read, load_model("llama-2-7b"))
    assert {"model.num_layers", "24"} <= set(caught.value.sentence.replace(",", "").split())


def test_values_are_named_by_the_files_own_keys_and_lines() -> None:
    words = {f.setting: f.origin for f in parse(text()).flags}
    assert words["tp_overlap"].word.startswith("model.ub_tp_comm_overlap")
    assert words["seq"].line == len(text().splitlines())
