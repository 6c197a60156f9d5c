"""The data of a rehearsal: read without a trace where that can be done.

Arrays and datasets are read by `fit` as always. A `PyDataset` or `Sequence` is read
item by item, so that its own hooks hear of no epoch. An iterator cannot be rewound: its
batches are drawn once, for all runs of a rehearsal, and are gone.
"""

from __future__ import annotations

import itertools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_finetune._engine import keras

_SEQUENCES = tuple(
    getattr(keras.utils, name)
    for name in ("PyDataset", "Sequence")
    if hasattr(keras.utils, name)
)


class Data:
    """The data of a rehearsal.

    Args:
        x: Inputs, or all data, as `fit` takes them.
        steps: How many batches are read at most.
        shuffle: Whether items of a `PyDataset` or `Sequence` come in random order.
        arguments: What else `fit` gets beside `x`, such as `y` and `batch_size`.
    """

    def __init__(
        self, x: Any, steps: int, shuffle: bool, arguments: dict[str, Any]
    ) -> None:
        self._x = x
        self._steps = steps
        self._shuffle = shuffle
        self._arguments = {k: v for k, v in arguments.items() if v is not None}
        self._drawn: list[Any] | None = None
        if hasattr(x, "__next__"):
            self._drawn = list(itertools.islice(x, steps))
            if not self._drawn:
                raise ValueError(
                    f"Argument `x` must give at least one batch. Received: x={x!r}"
                )
            warnings.warn(
                f"Argument `x` cannot be rewound: its next {len(self._drawn)} batches "
                "are used up, and `fit` will start after them. Give a new iterator to "
                "`fit`, or a `PyDataset`, a dataset or arrays here.",
                stacklevel=3,
            )
        elif goes_on_shuffling(x):
            warnings.warn(
                "A `tf.data.Dataset` that shuffles keeps its own count of passes, "
                "which cannot be put back: `fit` will see the order of a later pass. "
                "Make the dataset again for `fit` if it must be the same.",
                stacklevel=3,
            )

    @contextmanager
    def read(self) -> Iterator[dict[str, Any]]:
        """Return arguments of `fit` for one run; nothing is read after the block."""
        of_loader = _loaders_generators(self._x)
        if self._drawn is None and not isinstance(self._x, _SEQUENCES):
            try:
                # Keras warns of it, True or not, beside a loader of PyTorch.
                order = {} if self._shuffle else {"shuffle": False}
                yield {"x": self._x, **order, **self._arguments}
            finally:
                of_loader()
            return
        count = len(self._drawn) if self._drawn is not None else self._steps
        batches = _Stoppable(self._batches(), count)
        given = {k: v for k, v in self._arguments.items() if k != "batch_size"}
        try:
            # Keras asks for a generator by its type.
            yield {"x": batches.generator(), "steps_per_epoch": count, **given}
        finally:
            batches.stop()

    @property
    def is_read_in_one_epoch(self) -> bool:
        """Whether `fit` must not be given more than one epoch."""
        return self._drawn is not None or isinstance(self._x, _SEQUENCES)

    def _batches(self) -> Iterator[Any]:
        if self._drawn is not None:
            yield from self._drawn
            return
        has_number = hasattr(type(self._x), "num_batches")  # Keras 2 has the length
        length = self._x.num_batches if has_number else len(self._x)
        if length is None:  # it does not end
            yield from map(self._x.__getitem__, itertools.count())
        while True:
            order = np.random.permutation(length) if self._shuffle else range(length)
            for i in order:
                yield self._x[int(i)]


class _Stoppable:
    """Batches that threads of Keras may hold, and that can be stopped for good."""

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        self._batches = itertools.islice(batches, count)
        self._lock = threading.Lock()
        self._is_stopped = False

    def generator(self) -> Iterator[Any]:
        """Yield the batches, until they are stopped."""
        while True:
            with self._lock:
                batch = None if self._is_stopped else next(self._batches, None)
            if batch is None:
                return
            yield batch

    def stop(self) -> None:
        """Wait for what is being read, and read nothing more."""
        with self._lock:
            self._is_stopped = True


def goes_on_shuffling(x: Any) -> bool:
    """Whether a `tf.data.Dataset` shuffles differently in each pass."""
    if not hasattr(x, "element_spec"):
        return False
    inputs: list[Any] = getattr(x, "_inputs", list)()
    again = getattr(x, "_reshuffle_each_iteration", False)
    return bool(again) or any(map(goes_on_shuffling, inputs))


def _loaders_generators(x: Any) -> Callable[[], None]:
    """Return what puts the generators of a PyTorch `DataLoader` back."""
    torch = sys.modules.get("torch")
    owners = (x, getattr(x, "sampler", None), getattr(x, "batch_sampler", None))
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [
        (generator, generator.get_state())
        for generator in generators
        if torch is not None and isinstance(generator, torch.Generator)
    ]

    def put_back() -> None:
        for generator, state in states:
            generator.set_state(state)

    return put_back
