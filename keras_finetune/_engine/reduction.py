"""Norms of many weights in one compiled pass, on every backend.

The pass gives one number for each weight; sums over layers, groups and the model are
left to the caller, in float64. Half types are widened first. How a weight is summed
matters: on a CPU PyTorch's own float32 norm of a layer of 100 million weights is 1%
off, 21% for order 1, and TensorFlow's sums lose the sixth digit when many terms are
equal (the update of a sign optimizer). So both add short pieces, in float64 or into
it, at nearly the speed of reading. JAX, and all three on other devices, add in float32
as a tree. `tests/callbacks/test_weight_norm_logger.py` has the cases.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_finetune._engine import KERAS_3, backend, session
from keras_finetune._engine.structure import all_layers, variable_key

Vector: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float64]
Variables: TypeAlias = Sequence[Any]

# On a CPU, TensorFlow and PyTorch add a row in few chains, so that rows must be short;
# a small weight is widened as a whole: in PyTorch one that a single thread takes.
_ROW = 128
_SMALL = 2**12
_ONE_THREAD = 2**15

# For order 1 TensorFlow widens block by block, while the block is in the cache.
_BLOCK = 2**18


class WeightNorms:
    """Norms of weights, and of their changes since copies of them were taken.

    Args:
        order: The norm: 1, 2, `inf` or `"spectral"`.
        weights: What the norms of the weights themselves are called.
        changes: What the norms of changes are called; each has copies of its own.
    """

    def __init__(
        self, order: float | str, weights: str, changes: Sequence[str] = ()
    ) -> None:
        self._weights = weights
        self._copies: dict[str, dict[Hashable, Any]] = {name: {} for name in changes}
        self._pass: _Pass
        if backend() == "jax":
            self._pass = _JaxPass(order)
        elif backend() == "torch":
            self._pass = _TorchPass(order)
        else:
            self._pass = _TensorFlowPass(order)

    @property
    def traces(self) -> int:
        """How often the pass was traced: once for each set of variables."""
        return self._pass.traces

    @property
    def remembered(self) -> int:
        """How many weights there are copies of."""
        return min((len(copies) for copies in self._copies.values()), default=0)

    def remember(self, variables: Variables) -> None:
        """Copies the weights of which there is no copy yet."""
        for copies in self._copies.values():
            new = [v for v in variables if variable_key(v) not in copies]
            if new:
                copies.update(
                    zip(map(variable_key, new), self._pass.copy(new), strict=True)
                )

    def renew(self, change: str, variables: Variables) -> None:
        """Copies the weights anew: the next change counts from now."""
        if variables:
            self._copies[change].clear()
            self.remember(variables)

    def forget(self) -> None:
        """Lets all copies go."""
        for copies in self._copies.values():
            copies.clear()

    def measure(self, variables: Variables) -> dict[str, Vector]:
        """The norm of each weight and of its changes, in one pass."""
        names = [self._weights, *self._copies]
        if not variables:
            return {name: np.zeros(0) for name in names}
        keys = [variable_key(v) for v in variables]
        copies = [[copies[key] for key in keys] for copies in self._copies.values()]
        return dict(zip(names, self._pass(variables, copies), strict=True))


def combine(norms: Vector, order: float | str) -> float:
    """The norm of all weights together, from the norm of each; NaN if there is none."""
    if len(norms) == 0:
        return math.nan
    if order == 1:
        return float(np.sum(norms))
    if order == 2:
        return float(np.sqrt(np.sum(np.square(norms))))
    # The spectral norm of a block-diagonal matrix is that of its largest block.
    return float(np.max(norms))


def pull_state(model: Any) -> None:
    """Brings weights that live inside `fit` (JAX) back to the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def batches_done(model: Any, batch: int, batches: int | None) -> int:
    """How many batches of an epoch are over when Keras calls a hook with `batch`.

    Several pass at once with `steps_per_execution`. Keras gives the last of them,
    Keras 3.8 the first.
    """
    at_once = int(model.steps_per_execution) if KERAS_3 else 1
    if at_once > 1 and batch % at_once == 0:
        return min(batch + at_once, batches or batch + at_once)
    return batch + 1


def training_variables(model: Any) -> list[Any]:
    """The weights that train now, each once."""
    away = {id(variable) for variable in session.frozen_for_now(model)}
    unique = {
        variable_key(variable): variable
        for variable in model.trainable_variables
        if id(variable) not in away
    }
    return list(unique.values())


def trainable_if_unfrozen(layer: Any) -> list[Any]:
    """The weights that train as long as no layer is frozen, each once."""
    name = "_trainable_variables" if KERAS_3 else "_trainable_weights"
    unique = {
        variable_key(variable): variable
        for part in all_layers(layer)
        for variable in getattr(part, name, ())
    }
    return list(unique.values())


class _Pass(Protocol):
    """One norm for each weight, and for each difference from a copy of it."""

    traces: int

    def __call__(self, variables: Variables, copies: Sequence[Variables]) -> Matrix:
        """One row for the weights, and one for each list of copies."""

    def copy(self, variables: Variables) -> list[Any]:
        """Values of the weights that later training leaves alone."""


class _TensorFlowPass:
    """One `tf.function` for each set of variables.

    MobileNetV2 has 158 variables, most of them tiny: every operation in the graph
    counts. So the variables are captured, not passed, a small one costs a cast and a
    sum, a large one the norms of its rows, and the terms are put together outside.
    """

    def __init__(self, order: float | str) -> None:
        self.order = order
        self.traces = 0
        self._compiled: dict[tuple[Any, ...], tuple[Any, Any, Any]] = {}

    def __call__(self, variables: Variables, copies: Sequence[Variables]) -> Matrix:
        terms, _, counts = self._functions(variables)
        found = terms([list(row) for row in copies]).numpy()
        starts = np.cumsum([0, *counts[:-1]])
        if self.order in (1, 2):
            found = np.add.reduceat(found, starts, axis=1)
        else:
            found = np.maximum.reduceat(found, starts, axis=1)
        # Of the sum of squares TensorFlow's `l2_loss` gives half.
        return {2: np.sqrt(2 * found), "spectral": np.sqrt(found)}.get(
            self.order, found
        )

    def copy(self, variables: Variables) -> list[Any]:
        _, read, _ = self._functions(variables)
        return list(read())

    def _functions(self, variables: Variables) -> tuple[Any, Any, Any]:
        key = tuple(variable_key(variable) for variable in variables)
        if key not in self._compiled:
            self._compiled[key] = self._compile(variables)
        return self._compiled[key]

    def _compile(self, variables: Variables) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        values = [v.value for v in variables] if KERAS_3 else list(variables)
        on_cpu = all("CPU" in str(value.device) for value in values)

        def read() -> list[Any]:
            # Of a mirrored variable TensorFlow reads one replica.
            return [tf.convert_to_tensor(value) for value in values]

        def wide(x: Any) -> Any:
            return tf.cast(x, tf.float32) if x.dtype.size < 4 else x

        def widest(x: Any) -> Any:
            return tf.cast(x, tf.float64) if on_cpu else wide(x)

        def pieces(x: Any) -> list[Any]:
            """Short pieces in float64, or norms of short rows, on a CPU."""
            size = x.shape.num_elements()
            if not on_cpu or size <= _SMALL:
                return [widest(x)]
            x, rest, whole = wide(x), [], size // _ROW * _ROW
            if whole < size:
                flat = tf.reshape(x, (-1,))
                x, rest = flat[:whole], [widest(flat[whole:])]
            rows = tf.reshape(x, (-1, _ROW))
            return [widest(tf.math.reduce_euclidean_norm(rows, axis=1)), *rest]

        def blocks(x: Any) -> list[Any]:
            """Blocks in float64 that stay in the cache, on a CPU."""
            size = x.shape.num_elements()
            if not on_cpu or size <= _BLOCK:
                return [widest(x)]
            flat = tf.reshape(x, (-1,))
            starts = range(0, size, _BLOCK)
            return [widest(flat[start : start + _BLOCK]) for start in starts]

        def terms_of(x: Any) -> list[Any]:
            """What adds up to (1, 2), or is (other orders), the norm of a weight."""
            if self.order == 2:
                return [tf.nn.l2_loss(piece) for piece in pieces(x)]
            if self.order == 1:
                return [tf.reduce_sum(tf.abs(block)) for block in blocks(x)]
            if self.order == math.inf:
                return [tf.reduce_max(tf.abs(wide(x)))]
            matrix = tf.cast(tf.reshape(x, (-1, x.shape[-1])), tf.float64)
            tall = matrix.shape[0] >= matrix.shape[1]
            gram = tf.matmul(matrix, matrix, transpose_a=tall, transpose_b=not tall)
            return [tf.reduce_max(tf.linalg.eigvalsh(gram))]

        counts: list[int] = []

        def row(tensors: list[Any]) -> Any:
            found = [terms_of(x) for x in tensors]
            counts[:] = map(len, found)
            return tf.cast(tf.stack([term for x in found for term in x]), tf.float64)

        def terms(copies: Sequence[Variables]) -> Any:
            self.traces += 1
            now = read()
            rows = [row(now)]
            for then in copies:
                pairs = zip(now, then, strict=True)
                rows.append(row([wide(x) - wide(y) for x, y in pairs]))
            return tf.stack(rows)

        compiled = tf.function(terms)
        # Each logger has one for each set of weights that it meets: not the mistake of
        # a function made anew for each call, which TensorFlow warns of.
        compiled._omit_frequent_tracing_warning = True
        return compiled, tf.function(read), counts


class _JaxPass:
    """One `jax.jit` function; JAX keeps a trace for each set of shapes."""

    def __init__(self, order: float | str) -> None:
        import jax
        import jax.numpy as jnp

        self.traces = 0

        def wide(x: Any) -> Any:
            return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x

        def norm(x: Any) -> Any:
            # XLA adds a vector as a tree, but a matrix of 60 by 60 in one chain.
            if order == 1:
                return jnp.sum(jnp.abs(x.reshape(-1)))
            if order == 2:
                return jnp.sqrt(jnp.sum(jnp.square(x.reshape(-1))))
            if order == math.inf:
                return jnp.max(jnp.abs(x))
            matrix = x.reshape(-1, x.shape[-1])
            if matrix.shape[0] < matrix.shape[1]:
                matrix = matrix.T
            gram = jnp.matmul(matrix.T, matrix, precision="highest")
            return jnp.sqrt(jnp.max(jnp.linalg.eigvalsh(gram)))

        def norms(values: Variables, copies: Sequence[Variables]) -> Any:
            self.traces += 1
            values = [wide(x) for x in values]
            rows = [[norm(x) for x in values]]
            for row in copies:
                rows.append(
                    [norm(x - wide(y)) for x, y in zip(values, row, strict=True)]
                )
            return jnp.stack([jnp.stack(row) for row in rows])

        self._norms = jax.jit(norms)
        # Copies, because `fit` gives the buffers of the weights away with each step.
        self._copy = jax.jit(lambda values: [jnp.copy(x) for x in values])

    def __call__(self, variables: Variables, copies: Sequence[Variables]) -> Matrix:
        values = [variable.value for variable in variables]
        return np.asarray(self._norms(values, copies), "float64")

    def copy(self, variables: Variables) -> list[Any]:
        return list(self._copy([variable.value for variable in variables]))


class _TorchPass:
    """PyTorch has no cheap compiler: few kernels for each weight, no autograd."""

    def __init__(self, order: float | str) -> None:
        self.order = order
        self.traces = 0

    def __call__(self, variables: Variables, copies: Sequence[Variables]) -> Matrix:
        import torch

        with torch.no_grad():
            values = [_wide(variable.value) for variable in variables]
            rows = [[self._norm(x) for x in values]]
            for row in copies:
                rows.append(
                    [self._norm(x - _wide(y)) for x, y in zip(values, row, strict=True)]
                )
            stacked = torch.stack([torch.stack(row) for row in rows])
        return np.asarray(stacked.cpu(), "float64")

    def copy(self, variables: Variables) -> list[Any]:
        return [variable.value.detach().clone() for variable in variables]

    def _norm(self, x: Any) -> Any:
        import torch

        if self.order == "spectral":
            matrix = x.reshape(-1, x.shape[-1]).double()
            if matrix.shape[0] < matrix.shape[1]:
                matrix = matrix.T
            return torch.linalg.eigvalsh(matrix.T @ matrix).max().sqrt()
        if x.device.type != "cpu" or self.order == math.inf:
            return torch.linalg.vector_norm(x, self.order)
        x = x.reshape(-1)
        if x.numel() <= _ONE_THREAD:
            return torch.linalg.vector_norm(x.double(), self.order)
        whole = x.numel() // _ROW * _ROW
        rows, rest = x[:whole].view(-1, _ROW), x[whole:].double()
        if self.order == 1:
            return rows.abs().sum(1).double().sum() + rest.abs().sum()
        rows = torch.linalg.vector_norm(rows, 2, 1).double()
        return torch.sqrt(torch.dot(rows, rows) + torch.dot(rest, rest))


def _wide(x: Any) -> Any:
    return x.float() if x.element_size() < 4 else x
