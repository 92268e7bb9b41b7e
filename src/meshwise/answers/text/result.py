"""What every function of the API returns: a record that knows its JSON, its text and its HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from meshwise.answers.attributes import Key, Record, by_attribute, flat, unknown

if TYPE_CHECKING:
    from meshwise.answers.text.tables import Page


class Answer:
    """A result: a record, its JSON and its renderings.

    Every key of the JSON is an attribute of the same name, in the same units; tables in it are
    dictionaries with attributes. An attribute that is not there is refused with the nearest.
    """

    ROWS: str = ""  # the key of the list that --csv writes; none: the answer is one row
    schema = Key[int]("Version of the JSON contract.")

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it (``docs/reference/json``): SI units, by name."""
        raise TypeError(f"{type(self).__name__} has no record")

    def page(self) -> Page:
        """What the command line shows."""
        raise TypeError(f"{type(self).__name__} has no page")

    @property
    def figures(self) -> Record:
        """:meth:`to_dict`, made once, its keys as attributes too."""
        kept: Record | None = self.__dict__.get("_figures")
        if kept is None:
            kept = self.__dict__["_figures"] = Record(
                {key: by_attribute(value) for key, value in self.to_dict().items()}
            )
        return kept

    def rows(self) -> list[dict[str, object]]:
        """What CSV has, as ``pandas.DataFrame`` and polars take it: a list of flat
        dictionaries with the JSON's names and SI units, nested names joined by ``_``."""
        if not self.ROWS:
            return [flat({k: v for k, v in self.to_dict().items() if not isinstance(v, list)})]
        return [flat(row) for row in self.to_dict()[self.ROWS]]

    if not TYPE_CHECKING:  # a type checker knows the attributes of each class

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_"):
                raise AttributeError(name)
            public = [known for known in dir(type(self)) if not known.startswith("_")]
            raise unknown(type(self).__name__, name, public)

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


class Placed(Answer):
    """An answer about a model on a cluster."""

    model = Key[str]("Name of the model.")
    cluster = Key[Record]("``name``, ``device``, ``devices`` and ``levels``.")
    workload = Key[Record]("The workload, with its ``phase``.")
    stack = Key[Record]("The software stack, switch by switch.")
