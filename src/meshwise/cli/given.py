"""What a command line says: the values of a command's options, read with their types."""

from __future__ import annotations


class Given(dict[str, object]):
    """The values of a command's options by parameter, as click leaves them: text, switches, or None
    where nothing is said. A value of another type than is asked for is a mistake of ours."""

    def text(self, name: str) -> str | None:
        """The text of an option; None where it is not given."""
        value = self.get(name)
        assert value is None or isinstance(value, str), f"{name} is {value!r}, no text"
        return value

    def word(self, name: str) -> str:
        """The text of an option that is given, or has a default."""
        value = self[name]
        assert isinstance(value, str), f"{name} is {value!r}, no text"
        return value

    def flag(self, name: str) -> bool:
        """Whether a switch is on."""
        value = self[name]
        assert isinstance(value, bool), f"{name} is {value!r}, no switch"
        return value

    def switch(self, name: str) -> bool | None:
        """A switch with two spellings (``--overlap-experts``, ``--no-overlap-experts``); None where
        neither is given."""
        value = self.get(name)
        assert value is None or isinstance(value, bool), f"{name} is {value!r}, no switch"
        return value

    def has(self, name: str) -> bool:
        """Whether an option says anything; an option that the command does not have does not."""
        return self.get(name) is not None

    def number(self, name: str, *, low: int = 1, high: int | None = None) -> int | None:
        """The whole number of an option; None where it is not given."""
        return self.count(name, low=low, high=high) if self.has(name) else None

    def count(self, name: str, *, low: int = 1, high: int | None = None) -> int:
        """The whole number of an option that is given, or has a default."""
        from meshwise.strict_tables import MAX_COUNT, count

        most = MAX_COUNT if high is None else high
        return count(self.word(name), option_of(name), low=low, high=most)

    def but(self, **changed: object) -> Given:
        """The same with some values changed."""
        return Given({**self, **changed})


def option_of(name: str) -> str:
    """A parameter as an option: ``micro_batch`` is ``--micro-batch``."""
    return "--" + name.replace("_", "-")
