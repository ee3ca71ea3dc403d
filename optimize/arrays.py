"""The array types that everything shares."""

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

Arrays = dict[str, Array]
"""Arrays by the name of the input, output or column that they belong to."""
