"""Norms of many weights in one compiled pass, on every backend.

The pass gives one number for each weight; sums over layers, groups and the model are
left to the caller, in float64. Half types are widened first. How a weight is summed
matters: on a CPU PyTorch's own float32 norm of a layer of 100 million weights is 1%
off, 21% for order 1, and TensorFlow's sums lose the sixth digit when many terms are
equal (the update of a sign optimizer). So both add short pieces, in float64 or into
it, at nearly the speed of reading. JAX, and all three on other devices, add in float32
as a tree. `tests/_engine/test_norms.py` has the cases.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from keras_finetune._engine import backend
from keras_finetune._engine.norms._pass import Matrix, Pass, Vector
from keras_finetune._engine.structure import variable_key

__all__ = ["Matrix", "Pass", "Vector", "WeightNorms", "combine", "kind_of_pass"]


class WeightNorms:
    """Norms of weights, and of their changes since copies of them were taken.

    There is one pass over all weights that were ever asked for, so that it is traced
    once, however often the set of those that train changes. Only weights that have
    trained are copied: what the pass needs in place of other copies are the weights
    themselves, which takes no memory.

    Args:
        order: The norm: 1, 2, `inf` or `"spectral"`.
        weights: The name of the norms of the weights themselves.
        changes: The names of the norms of changes; each has copies of its own.
    """

    def __init__(
        self, order: float | str, weights: str, changes: Sequence[str] = ()
    ) -> None:
        self._order = order
        self._weights = weights
        self._copies: dict[str, dict[Hashable, Any]] = {name: {} for name in changes}
        self._kind = kind_of_pass()
        self._pass: Pass | None = None
        self._places: dict[Hashable, int] = {}

    @property
    def remembered(self) -> int:
        """The number of weights of which there are copies."""
        return min((len(copies) for copies in self._copies.values()), default=0)

    def remember(self, variables: Iterable[Any]) -> None:
        """Copy the weights of which there is no copy yet."""
        for copies in self._copies.values():
            for variable in variables:
                if variable_key(variable) not in copies:
                    copies[variable_key(variable)] = self._kind.copy(variable)

    def renew(self, change: str, variables: Sequence[Any]) -> None:
        """Copy the weights again: the next change counts from now."""
        if variables:
            self._copies[change].clear()
            self.remember(variables)

    def forget(self) -> None:
        """Let go of all copies and of the pass."""
        for copies in self._copies.values():
            copies.clear()
        self._pass, self._places = None, {}

    def measure(
        self, variables: Sequence[Any], later: Iterable[Any] = ()
    ) -> dict[str, Vector]:
        """Return the norm of each weight and of its changes, in one pass.

        Args:
            variables: The weights, all of which are remembered.
            later: Weights that may be asked for later; the pass is traced for them too.
        """
        names = [self._weights, *self._copies]
        if not variables:
            return {name: np.zeros(0) for name in names}
        measured = self._pass_over([*variables, *later])
        copies = [
            [
                copies[key] if key in copies else self._kind.value(variable)
                for key, variable in zip(self._places, measured.variables, strict=True)
            ]
            for copies in self._copies.values()
        ]
        places = [self._places[variable_key(v)] for v in variables]
        return dict(zip(names, measured.norms(places, copies), strict=True))

    def _pass_over(self, variables: Iterable[Any]) -> Pass:
        """Return a pass that covers `variables`: that of last time, if it does."""
        known = [] if self._pass is None else self._pass.variables
        unique = {variable_key(v): v for v in [*known, *variables]}
        if self._pass is None or len(unique) > len(known):
            self._pass = self._kind(self._order, list(unique.values()))
            self._places = {key: place for place, key in enumerate(unique)}
        return self._pass


def combine(norms: Vector, order: float | str) -> float:
    """Return the norm of all weights together, from that of each; NaN if none."""
    if len(norms) == 0:
        return math.nan
    if order == 1:
        return float(np.sum(norms))
    if order == 2:
        return float(np.sqrt(np.sum(np.square(norms))))
    # The spectral norm of a block-diagonal matrix is that of its largest block.
    return float(np.max(norms))


def kind_of_pass() -> type[Pass]:
    """Return the pass of the backend in use; only its framework is imported."""
    if backend() == "jax":
        from keras_finetune._engine.norms._jax import JaxPass

        return JaxPass
    if backend() == "torch":
        from keras_finetune._engine.norms._torch import TorchPass

        return TorchPass
    from keras_finetune._engine.norms._tensorflow import TensorFlowPass

    return TensorFlowPass
