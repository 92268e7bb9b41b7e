"""What the JSON of several answers shares: the parts as typed records, and results that know them."""

from typing import Literal

SCHEMA: Literal[1] = (
    1  # version of the JSON contract of ``docs/reference/json``; renaming breaks users
)
