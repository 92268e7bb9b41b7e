"""The type of a quantity over layouts."""

from __future__ import annotations

from typing import Any

# A quantity of one layout or of many: a numpy scalar or array whose shapes broadcast against each other
# (axes of an open mesh, ``np.ix_`` style). It is Any because one formula serves a float, a 0-d array and
# a mesh, and no type that numpy exports has the arithmetic of all three.
Array = Any
