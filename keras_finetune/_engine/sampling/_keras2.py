"""What Monte Carlo prediction asks of Keras 2.15 and `tf_keras`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import import_module
from typing import Any

import tensorflow as tf

from keras_finetune._engine import keras
from keras_finetune._engine.graphs import keras2 as graphs
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.sampling._draws import fold_draw, fold_dropout
from keras_finetune._engine.sampling._forcing import forced
from keras_finetune._engine.sampling._interface import Arrays, Fold, Lane

# `keras.src.engine` or `tf_keras.src.engine`: the layer class knows which.
_engine = keras.layers.Layer.__module__.rpartition(".")[0]
_DataHandler = import_module(f"{_engine}.data_adapter").get_data_handler
_saving = f"{_engine.rpartition('.')[0]}.saving"
_saving_lib = import_module(f"{_saving}.saving_lib")
_SafeModeScope = import_module(f"{_saving}.serialization_lib").SafeModeScope


def _autograph() -> Any:
    current = tf.__internal__.autograph.control_status_ctx()
    return type(current)(status=type(current.status).ENABLED)


class _Draws:
    """Stands for the `RandomGenerator` of a layer: stateless, keyed, folded."""

    def __init__(self, layer: Any, key: Any, fold: Fold, arrays: Arrays) -> None:
        self._layer = layer
        self._arrays = arrays
        self._key = key
        self._fold = fold
        self._count = 0

    def _seed(self) -> Any:
        self._count += 1
        return self._key + tf.constant([0, self._count], self._key.dtype)

    def dropout(self, inputs: Any, rate: Any, noise_shape: Any = None) -> Any:
        seed = self._seed()
        noise = None if noise_shape is None else self._arrays.sizes(noise_shape)
        own = getattr(self._layer, "noise_shape", None)
        if noise is not None and own:
            # A shape that Keras turned into a tensor hides the ones in it.
            noise = [
                part if size is None else int(size)
                for part, size in zip(noise, own, strict=True)
            ]

        def draw(x: Any, noise: Any) -> Any:
            if noise is not None:
                sizes = self._arrays.shape(x)
                noise = [
                    s if n is None else n for n, s in zip(noise, sizes, strict=True)
                ]
            return tf.nn.experimental.stateless_dropout(
                x, rate=rate, seed=seed, noise_shape=noise
            )

        return fold_dropout(draw, inputs, noise, self._fold, self._arrays)

    def random_normal(
        self,
        shape: Any,
        mean: float = 0.0,
        stddev: float = 1.0,
        dtype: Any = None,
        nonce: Any = None,
    ) -> Any:
        return self._draw(
            tf.random.stateless_normal, shape, mean=mean, stddev=stddev, dtype=dtype
        )

    def random_uniform(
        self,
        shape: Any,
        minval: float = 0.0,
        maxval: float | None = None,
        dtype: Any = None,
        nonce: Any = None,
    ) -> Any:
        maxval = 1.0 if maxval is None else maxval
        return self._draw(
            tf.random.stateless_uniform,
            shape,
            minval=minval,
            maxval=maxval,
            dtype=dtype,
        )

    def truncated_normal(
        self,
        shape: Any,
        mean: float = 0.0,
        stddev: float = 1.0,
        dtype: Any = None,
        nonce: Any = None,
    ) -> Any:
        return self._draw(
            tf.random.stateless_truncated_normal,
            shape,
            mean=mean,
            stddev=stddev,
            dtype=dtype,
        )

    def make_seed_for_stateless_op(self) -> Any:
        return self._seed()

    def _draw(self, function: Any, shape: Any, dtype: Any, **options: Any) -> Any:
        seed = self._seed()
        dtype = dtype or keras.backend.floatx()
        return fold_draw(
            lambda new: function(new, seed=seed, dtype=dtype, **options),
            shape,
            self._fold,
            self._arrays,
        )


class Keras2(graphs.Keras2, Lane):
    """Keras 2.15 and `tf_keras`, on TensorFlow."""

    def seeds(self, layers: Iterable[Any]) -> list[Any]:
        return [layer for layer in layers if self.owns_generator(layer)]

    def clone(self, model: Any, function: Callable[[Any], Any]) -> Any:
        return keras.models.clone_model(model, clone_function=function)

    def trusting(self) -> AbstractContextManager[None]:
        return _SafeModeScope(safe_mode=False)

    def saving_lib(self) -> Any:
        return _saving_lib

    def load_assets(self, model: Any, store: Any) -> None:
        _saving_lib._load_state(model, None, store, "", False, set())

    @contextmanager
    def isolated(
        self,
        model: Any,
        layers: Sequence[Any],
        named: Sequence[Any],
        seeds: Sequence[Any],
        keys: Any,
        states: Sequence[tuple[Any, Any]],
        fold: Fold | None,
    ) -> Iterator[None]:
        # In inference mode Keras 2 assigns nothing. Random layers draw with a generator
        # of ours, so theirs do not advance; losses that calls add are taken off again.
        before = [
            (layer, list(layer._losses), list(layer._eager_losses))
            for layer in self.flatten_layers(model)
        ]
        try:
            with ExitStack() as stack:
                stack.enter_context(graphs.inference(model))
                if fold is not None:
                    stack.enter_context(patched(forced(layers, named)))
                    draws = [
                        _Draws(layer, keys[i], fold, self.arrays)
                        for i, layer in enumerate(seeds)
                    ]
                    stack.enter_context(
                        patched(
                            Patch(layer, "_random_generator", draw)
                            for layer, draw in zip(seeds, draws, strict=True)
                        )
                    )
                # A user's layer may hold `if tensor:`, as in Keras's own `predict`.
                stack.enter_context(_autograph())
                yield
        finally:
            for layer, losses, eager_losses in before:
                layer._losses[:] = losses
                layer._thread_local._eager_losses = eager_losses

    def batches(
        self, model: Any, x: Any, batch_size: int, steps: int | None
    ) -> tuple[Generator[Any, None, None], int | None]:
        handler = _DataHandler(
            x=x, batch_size=batch_size, steps_per_epoch=steps, epochs=1, model=model
        )

        def read() -> Generator[Any, None, None]:
            for _, iterator in handler.enumerate_epochs():
                with handler.catch_stop_iteration():
                    for _ in handler.steps():
                        yield keras.utils.unpack_x_y_sample_weight(next(iterator))[0]

        return read(), handler.inferred_steps
