"""What a feature cache asks of a backend: every question once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np

from keras_finetune._engine.features._store import Kind, dtype_of

Role = Literal["train", "test"]
# Features and masks of a batch (`None` for a tensor without a mask), and the batch.
Fed = tuple[list[Any], Any]
# A function of the state that the backend's step is given, if any, and of a batch.
Step = Callable[..., Any]


class Backend(ABC):
    """A backend, as a step that is fed with features sees it."""

    def refusal(self, model: Any) -> str | None:
        """Return why the steps of a model cannot be fed, if they cannot."""
        del model
        return None

    def batches(self, model: Any, source: Any) -> list[Any]:
        """Return the batches that the next call of a step is for.

        Raises:
            StopIteration: If there is none.
        """
        found = list(islice(source, self.at_once(model)))
        if not found:
            raise StopIteration
        return found

    def at_once(self, model: Any) -> int:
        """Return for how many batches a step is called."""
        return int(model.steps_per_execution)

    def takes_any_size(self, model: Any) -> bool:
        """Return whether `prefix` takes fewer rows without being compiled again."""
        return bool(model.run_eagerly or not model.jit_compile)

    @abstractmethod
    def step(self, model: Any, role: Role) -> Step:
        """Return the compiled `train_step` or `test_step` of a model.

        Args:
            model: The model, whose step takes pairs of features and a batch.
            role: Which step.

        Returns:
            A function of the state and of a list of such pairs.
        """

    @abstractmethod
    def prefix(
        self,
        model: Any,
        compute: Callable[[Any, bool], list[Any]],
        training: bool,
        drawing: Sequence[Any] = (),
    ) -> Step:
        """Return a compiled function of the state and a batch of inputs.

        Args:
            model: The model.
            compute: Calls the model, and returns the features.
            training: The argument for `compute`.
            drawing: Layers whose generators have moved on after a call.

        Returns:
            A function that returns the features, and the state after it.
        """

    def numpy(self, x: Any) -> np.ndarray | None:
        """Return a tensor as an array, not copied if possible; `None` if not dense."""
        return np.asarray(x)

    def kind(self, x: Any) -> Kind:
        """Return what a row of a tensor is."""
        return Kind(tuple(int(n) for n in x.shape[1:]), str(np.dtype(x.dtype)))

    @abstractmethod
    def tensor(self, x: np.ndarray, kind: Kind) -> Any:
        """Return stored rows as a tensor of the kind that `prefix` returns."""

    def input(self, x: np.ndarray, like: Any) -> Any:
        """Return rows of inputs as a tensor such as another batch has."""
        del like
        return x


def one_by_one(step: Callable[[Any], Any], fed: Iterable[Fed]) -> Any:
    """Call a step for each batch, and return what it returns for the last one."""
    logs = None
    for batch in fed:
        logs = step(batch)
    return logs


__all__ = ["Backend", "Fed", "Kind", "Role", "Step", "dtype_of", "one_by_one"]
