"""Redirects of a shell's commands, here-documents among them."""

from __future__ import annotations

from typing import Any

from meshwise.launch.shell.syntax.statements import Redirect
from meshwise.launch.shell.syntax.words import Piece, Word, WordReader, raw

REDIRECTS = ("file_redirect", "heredoc_redirect", "herestring_redirect")


class RedirectReader:
    """Redirects of a source's nodes; None for what is not readable."""

    def __init__(self, reader: WordReader) -> None:
        self.source, self.reader = reader.source, reader

    def redirects(self, node: Any) -> list[Redirect] | None:
        if node.type == "heredoc_redirect":
            return self._here_document(node)
        if node.has_error:
            return None
        operator = descriptor = ""
        targets: list[Any] = []
        for child in node.children:
            if child.type == "file_descriptor":
                descriptor = self.source.text(child.start_byte, child.end_byte)
            elif not operator and not child.is_named:
                operator = child.type
            else:
                targets.append(child)
        words = self.reader.words(targets)
        if operator == "<<<":
            text = tuple(p for w in words for p in w.pieces)
            return [Redirect(operator, descriptor, None, text)]
        return [Redirect(operator, descriptor, words[0] if words else None, None)]

    def _here_document(self, node: Any) -> list[Redirect] | None:
        source = self.source
        found: list[Redirect] = []
        quoted = False
        operator, body = "<<", None
        for child in node.children:
            if child.type in ("<<", "<<-"):
                operator = child.type
            elif child.type == "heredoc_start":
                said = source.text(child.start_byte, child.end_byte)
                quoted = any(c in said for c in "'\"\\")
            elif child.type == "heredoc_body":
                body = child
            elif child.type in REDIRECTS:
                more = self.redirects(child)
                if more is None:
                    return None
                found += more
            elif child.type == "ERROR":
                return None
        pieces: list[Piece] = []
        if body is not None:
            start, end = body.start_byte, body.end_byte
            if quoted:
                pieces = raw(source.text(start, end), source.line(body))
            else:
                pieces = self.reader.between(body.children, start, end, "h")
        if operator == "<<-":
            pieces = _without_tabs(pieces)
        return [Redirect("<<", "", None, tuple(pieces)), *found]

    def more_words(self, node: Any) -> list[Word]:
        """Arguments after a here-document's delimiter."""
        return self.reader.words(node.children_by_field_name("argument"))

    def tail(self, node: Any) -> list[tuple[str, Any]]:
        """What follows a here-document's delimiter in its line: (operator, statement)."""
        found = []
        operator = ""
        for child in node.children:
            if child.type in ("&&", "||"):
                operator = child.type
            elif child.type == "pipeline":
                found.append(("|", child))
            elif operator and child.type not in ("heredoc_body", "heredoc_end", *REDIRECTS):
                found.append((operator, child))
                operator = ""
        return found


def _without_tabs(pieces: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    begins = True
    for piece in pieces:
        if piece.kind == "text":
            if begins:
                piece = piece._replace(text=piece.text.lstrip("\t"))
            begins = piece.text.endswith("\n") or (begins and not piece.text)
        else:
            begins = False
        found.append(piece)
    return found
