"""What each backend implements: one pass over weights and copies of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float64]


class Pass(ABC):
    """One norm for each of some weights, and for each difference from a copy of it.

    A backend that compiles traces the pass once, for all weights, whichever of them
    are asked for.

    Args:
        order: The norm: 1, 2, `inf` or `"spectral"`.
        variables: The weights, each once.
    """

    def __init__(self, order: float | str, variables: Sequence[Any]) -> None:
        self.order = order
        self.variables = variables

    @abstractmethod
    def norms(self, places: Sequence[int], copies: Sequence[Sequence[Any]]) -> Matrix:
        """Return one row for the weights, and one for each list of copies.

        Args:
            places: The places, in `variables`, of the weights that are asked for; a
                row has a number for each.
            copies: Lists of what `copy` has returned for each of `variables`, or of
                `value` for those that are not asked for.
        """

    @staticmethod
    @abstractmethod
    def value(variable: Any) -> Any:
        """Return the value that a weight has now, good until it is next trained."""

    @staticmethod
    @abstractmethod
    def copy(variable: Any) -> Any:
        """Return the value that a weight has now, which later training leaves alone."""
