"""What every function of the API returns: a record that knows its JSON, its text and its HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page


class Answer:
    """A result: a record, its JSON and its renderings."""

    def to_dict(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no record")

    def page(self) -> Page:
        raise TypeError(f"{type(self).__name__} has no page")

    def __str__(self) -> str:
        from meshwise.answers.text.tables import plain

        return plain(self.page())

    @property
    def brief(self) -> str:
        """The answer in one line."""
        page = self.page()
        return page.answer or " ".join(page.heading.splitlines())

    def detail(self) -> str:
        """The whole page: every table."""
        from meshwise.answers.text.tables import DETAIL, plain

        return plain(self.page(), much=DETAIL)

    def __repr__(self) -> str:
        heading = self.page().heading.splitlines()
        return f"<{type(self).__name__}: {' '.join(heading)}>"

    def _repr_html_(self) -> str:
        from meshwise.answers.text.tables import html

        return html(self.page())
