"""The kinds of files that are read, one entry each. Adding one is a reader and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from xml.etree import ElementTree

from meshwise.evidence.readers.collectives.nccl_json import claims_nccl, read_nccl
from meshwise.evidence.readers.collectives.nccl_log import CollectiveLog
from meshwise.evidence.readers.documents import DocumentKind
from meshwise.evidence.readers.records import Found, TextReader
from meshwise.evidence.readers.topology.nccl_xml import claims_topology, read_topology
from meshwise.evidence.readers.topology.nvidia_smi import NvidiaTopology
from meshwise.evidence.readers.topology.rocm_smi import RocmTopology


class XmlKind(NamedTuple):
    """A kind of XML document."""

    claims: Callable[[ElementTree.Element], bool]
    read: Callable[[ElementTree.Element], Found]


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
