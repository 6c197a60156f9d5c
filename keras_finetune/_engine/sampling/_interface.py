"""What sampling asks of a Keras and of a backend: every question once.

`Lane` is implemented for Keras 2 and for Keras 3, `Arrays` and `Compiled` for each
backend. A question that has a harmless answer has it here; dropping a Keras or a
backend is deleting its implementation.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from keras_finetune._engine.graphs.interface import Graphs


class Fold:
    """How the rows of the batch that is being traced are made up.

    Args:
        samples: Number of samples in the batch, an integer or a scalar tensor.
        rows: Number of inputs in the batch, an integer or a scalar tensor.
        shared: Whether all inputs of a sample get the same draw.
    """

    def __init__(self, samples: Any, rows: Any, shared: bool) -> None:
        self.samples = samples
        self.rows = rows
        self.shared = shared
        # Set when a draw is met that cannot be told apart by sample: the sampler
        # then runs one sample at a time.
        self.broken = False

    def repeats(self, leading: Any) -> Any | None:
        """How many rows of a tensor belong to one input; `None` if it is not known.

        A layer may fold time or windows into the batch, so the leading size is a
        multiple of the rows. Where it is not (a table of positions, a batch size
        written into the model) no row can be given to a sample.
        """
        total = self.samples * self.rows
        known = isinstance(total, int)
        if isinstance(leading, int) and (not known or leading % total):
            return None
        return leading // total


# ------------------------------------------------------------------------- backends


class Compiled(ABC):
    """A function of lists of tensors that is traced once and called often.

    `batched` marks, in the structure of the arguments, the tensors whose first axis
    is the batch and may have another size in the next call.
    """

    @abstractmethod
    def __call__(self, *arguments: Any, batched: Any = None) -> Any:
        """Call the function. Integers among the arguments are constants."""

    @abstractmethod
    def largest(self, *arguments: Any, rows: int, batched: Any = None) -> int:
        """Trace, and return the bytes of the largest tensor a sample computes."""


class Arrays(ABC):
    """The few things that are done to tensors themselves."""

    # Whether each new shape is compiled again, so that a smaller last batch is
    # better filled up.
    pads: bool = False

    @abstractmethod
    def compile(self, function: Callable[..., Any]) -> Compiled:
        """Return `function`, compiled as the backend does it."""

    def shape(self, x: Any) -> list[Any]:
        """Return the sizes of a tensor: integers where static, else scalar tensors."""
        return [int(size) for size in x.shape]

    def sizes(self, values: Any) -> list[Any]:
        """Return a shape that a layer wrote, in whatever form, as `shape` does."""
        return [None if value is None else int(value) for value in values]

    @abstractmethod
    def reshape(self, x: Any, shape: Sequence[Any]) -> Any:
        """Return `x` in another shape."""

    @abstractmethod
    def broadcast_to(self, x: Any, shape: Sequence[Any]) -> Any:
        """Return `x`, its axes of size 1 repeated."""

    @abstractmethod
    def tile(self, x: Any, times: Any) -> Any:
        """Return `times` copies of a batch, one after the other."""

    @abstractmethod
    def widen(self, x: Any) -> Any:
        """Return half precision as float32, everything else as it is."""

    @abstractmethod
    def tensor(self, x: Any, dtype: Any = None) -> Any:
        """Return an array as a tensor of the backend."""

    @abstractmethod
    def is_dense(self, x: Any) -> bool:
        """Return whether `x` is an ordinary tensor, neither ragged nor sparse."""

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a tensor as a NumPy array."""
        return np.asarray(x)

    def scalar(self, value: int) -> Any:
        """Return a number that a compiled call leaves open, where it can."""
        return value

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """Return a block in which draws of a global generator are repeatable."""
        return nullcontext()


# --------------------------------------------------------------------------- Kerases


class Lane(Graphs):
    """A Keras, as sampling sees it."""

    # Whether `predict` goes through `__call__`, of which a class may have its own.
    predicts_by_call: bool = True

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays

    @abstractmethod
    def seeds(self, layers: Iterable[Any]) -> list[Any]:
        """Return what `isolated` takes a key for: generators, or their layers."""

    def can_follow(self, layer: Any) -> bool:
        """Return whether the draws of a random layer can be keyed and folded."""
        return any(map(self.owns_generator, self.flatten_layers(layer)))

    def variables(self, model: Any) -> list[Any]:
        """Return the variables that a compiled call must be given explicitly."""
        return []

    # Copies

    @abstractmethod
    def clone(self, model: Any, function: Callable[[Any], Any]) -> Any:
        """Return a model of the layers that `function` gives for those of `model`."""

    @abstractmethod
    def trusting(self) -> AbstractContextManager[None]:
        """Return a block in which a `Lambda` is made from its configuration."""

    @abstractmethod
    def saving_lib(self) -> Any:
        """Return the module of Keras that writes and reads the `.keras` format."""

    @abstractmethod
    def load_assets(self, model: Any, store: Any) -> None:
        """Read a model's assets, and no weights, from a store of `saving_lib`."""

    def carry_assets(self, model: Any, made: Any) -> None:
        """Give a copy what is in no configuration, such as a tokenizer's vocabulary.

        As a file would: Keras also finds layers that it does not track.
        """
        saving = self.saving_lib()
        with tempfile.TemporaryDirectory() as folder:
            # Read mode takes the folder as it is, and makes subfolders all the same.
            store = saving.DiskIOStore(folder, mode="r")
            saving._save_state(model, None, store, "", set())
            self.load_assets(made, store)

    # Sampling

    @abstractmethod
    def isolated(
        self,
        model: Any,
        layers: Sequence[Any],
        named: Sequence[Any],
        seeds: Sequence[Any],
        keys: Any,
        states: Sequence[tuple[Any, Any]],
        fold: Fold | None,
    ) -> AbstractContextManager[None]:
        """Return a block in which layers are called and nothing of them changes.

        With a `fold`, `layers` run as in training, `named` ones even inside a call
        that was made in inference mode, and draw with `keys`, one row a seed.
        `states` are pairs of a variable and the value that it has in the block.
        """

    def predict_step(self, model: Any, x: Any) -> Any:
        """Call the model's own `predict_step` on one batch of inputs."""
        return model.predict_step((x,))

    # Data

    @abstractmethod
    def batches(
        self, model: Any, x: Any, batch_size: int, steps: int | None
    ) -> tuple[Generator[Any, None, None], int | None]:
        """Return inputs batch by batch as `predict` reads them, and how many."""
