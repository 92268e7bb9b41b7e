"""The kinds of files that are read, one entry each. Adding one is a reader and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from xml.etree import ElementTree

from meshwise.evidence.readers.collectives.nccl_json import claims_nccl, read_nccl
from meshwise.evidence.readers.collectives.nccl_log import CollectiveLog
from meshwise.evidence.readers.documents import DocumentKind
from meshwise.evidence.readers.records import FileFound, TextReader
from meshwise.evidence.readers.serving.clients import claims_client, read_client
from meshwise.evidence.readers.serving.engine_log import EngineLog
from meshwise.evidence.readers.serving.llama_bench import (
    LlamaBenchTable,
    LlamaPromptTable,
    claims_generation,
    claims_prompt,
    read_generation,
    read_prompt,
)
from meshwise.evidence.readers.serving.reports import (
    claims_perf,
    claims_trtllm,
    read_perf,
    read_trtllm,
)
from meshwise.evidence.readers.topology.nccl_xml import claims_topology, read_topology
from meshwise.evidence.readers.topology.nvidia_smi import NvidiaTopology
from meshwise.evidence.readers.topology.rocm_smi import RocmTopology
from meshwise.evidence.readers.training.deepspeed import DeepSpeedLog
from meshwise.evidence.readers.training.hf_trainer import TrainerLog, claims_trainer, read_trainer
from meshwise.evidence.readers.training.megatron import MegatronLog
from meshwise.evidence.readers.training.nanotron import NanotronLog
from meshwise.evidence.readers.training.torchtitan import TorchtitanLog


class XmlKind(NamedTuple):
    """A kind of XML document."""

    claims: Callable[[ElementTree.Element], bool]
    read: Callable[[ElementTree.Element], FileFound]


class FileKind(NamedTuple):
    """A kind of file: its title, the kind of its rows, and its reader."""

    title: str
    rows: str
    reader: Callable[[], TextReader] | DocumentKind | XmlKind


FILE_KINDS: tuple[FileKind, ...] = (
    FileKind("output of nccl-tests and rccl-tests", "collectives", CollectiveLog),
    FileKind("JSON of nccl-tests (-J)", "collectives", DocumentKind(claims_nccl, read_nccl)),
    FileKind("nvidia-smi topo -m", "topology", NvidiaTopology),
    FileKind("rocm-smi --showtopo", "topology", RocmTopology),
    FileKind("NCCL's topology XML", "topology", XmlKind(claims_topology, read_topology)),
    FileKind("logs of Megatron-LM, Megatron-Bridge and NeMo", "training", MegatronLog),
    FileKind("logs of torchtitan", "training", TorchtitanLog),
    FileKind("logs of nanotron", "training", NanotronLog),
    FileKind("logs of DeepSpeed", "training", DeepSpeedLog),
    FileKind("logs of the Hugging Face Trainer", "training", TrainerLog),
    FileKind("trainer_state.json", "training", DocumentKind(claims_trainer, read_trainer)),
    FileKind(
        "JSON of vLLM's bench serve and SGLang's bench_serving",
        "serving",
        DocumentKind(claims_client, read_client),
    ),
    FileKind("JSON of trtllm-bench", "serving", DocumentKind(claims_trtllm, read_trtllm)),
    FileKind("JSON of genai-perf and AIPerf", "serving", DocumentKind(claims_perf, read_perf)),
    FileKind(
        "llama-bench as JSON",
        "serving",
        DocumentKind(claims_generation, read_generation),
    ),
    FileKind("llama-bench as JSON", "prefill", DocumentKind(claims_prompt, read_prompt)),
    FileKind("llama-bench as Markdown", "serving", LlamaBenchTable),
    FileKind("llama-bench as Markdown", "prefill", LlamaPromptTable),
    FileKind("start-up logs of vLLM, SGLang and TensorRT-LLM", "engine", EngineLog),
)


def text_readers() -> list[TextReader]:
    """A reader of each kind of text."""
    kinds = [k.reader for k in FILE_KINDS]
    return [k() for k in kinds if not isinstance(k, (DocumentKind, XmlKind))]


def document_kinds() -> list[DocumentKind]:
    """Every kind of JSON."""
    return [k.reader for k in FILE_KINDS if isinstance(k.reader, DocumentKind)]


def xml_kinds() -> list[XmlKind]:
    """Every kind of XML."""
    return [k.reader for k in FILE_KINDS if isinstance(k.reader, XmlKind)]
