"""Steps that are fed on TensorFlow, for Keras 2 and Keras 3 alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_finetune._engine import KERAS_3, gradients
from keras_finetune._engine.features._interface import (
    Backend,
    Fed,
    Kind,
    Role,
    Step,
    one_by_one,
)


class TensorFlow(Backend):
    """TensorFlow: a step is one `tf.function` of one batch, whatever its size."""

    def refusal(self, model: Any) -> str | None:
        strategy = model.distribute_strategy
        if strategy.extended._in_multi_worker_mode() or (
            type(strategy).__name__ != "_DefaultDistributionStrategy"
        ):
            return f"the model is trained with a {type(strategy).__name__}"
        return super().refusal(model)

    def at_once(self, model: Any) -> int:
        if KERAS_3:
            return super().at_once(model)
        # A variable: Keras 2 lowers it for the rest of an epoch.
        steps = model._steps_per_execution
        return 1 if steps is None else int(steps.numpy())

    def step(self, model: Any, role: Role) -> Step:
        def one_step(features: Any, batch: Any) -> Any:
            logs = getattr(model, f"{role}_step")((features, batch))
            if not KERAS_3:
                getattr(model, f"_{role}_counter").assign_add(1)
            return logs

        compiled = self._compiled(model, one_step)
        made = None

        def call(fed: list[Fed]) -> Any:
            nonlocal made
            if made is None and compiled is not one_step:
                made = compiled.get_concrete_function(*_open(fed[0]))
            return one_by_one(lambda batch: compiled(*batch), fed)

        return call

    def prefix(
        self,
        model: Any,
        compute: Callable[[Any, bool], list[Any]],
        training: bool,
        drawing: Sequence[Any] = (),
    ) -> Step:
        del drawing  # their generators are variables, which a call moves on

        def features(x: Any) -> list[Any]:
            return compute(x, training)

        compiled = self._compiled(model, features)
        made = None

        def call(x: Any) -> tuple[list[Any], tuple[()]]:
            nonlocal made
            if made is None and compiled is not features:
                made = compiled.get_concrete_function(_open(x))
            return list(compiled(x)), ()

        return call

    def _compiled(self, model: Any, function: Callable[..., Any]) -> Any:
        if model.run_eagerly:
            return function
        compiled = tf.function(
            function,
            reduce_retracing=True,
            jit_compile=bool(model.jit_compile) or None,
            # As Keras does: on Keras 2 the code of a user's layer is converted.
            autograph=not KERAS_3,
        )
        return gradients.traced_on_purpose(compiled)

    def numpy(self, x: Any) -> np.ndarray | None:
        if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
            return None
        try:
            return np.asarray(memoryview(x))
        except (BufferError, TypeError, ValueError):
            return np.asarray(x)  # strings, bfloat16

    def kind(self, x: Any) -> Kind:
        return Kind(tuple(int(n) for n in x.shape[1:]), x.dtype.name)

    def tensor(self, x: np.ndarray, kind: Kind) -> Any:
        return tf.convert_to_tensor(x, dtype=kind.dtype)

    def input(self, x: np.ndarray, like: Any) -> Any:
        return tf.convert_to_tensor(x, dtype=like.dtype)


def _open(structure: Any) -> Any:
    """Return specs of tensors, in which the number of rows is open."""

    def spec(x: Any) -> Any:
        if not tf.is_tensor(x) or isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
            return x
        shape = [None, *x.shape[1:]] if x.shape.rank else x.shape
        return tf.TensorSpec(shape, x.dtype)

    return tf.nest.map_structure(spec, structure)
