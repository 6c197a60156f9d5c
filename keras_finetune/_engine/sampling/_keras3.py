"""What Monte Carlo prediction asks of Keras 3."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from types import GeneratorType
from typing import Any

from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.random.seed_generator import SeedGenerator, global_seed_generator
from keras.src.saving import saving_lib
from keras.src.saving.serialization_lib import SafeModeScope
from keras.src.trainers.data_adapters import get_data_adapter, is_tf_dataset

from keras_finetune._engine import backend, keras
from keras_finetune._engine.graphs import keras3 as graphs
from keras_finetune._engine.patches import Patch, patched
from keras_finetune._engine.sampling._draws import fold_draw, fold_dropout
from keras_finetune._engine.sampling._forcing import forced
from keras_finetune._engine.sampling._interface import Arrays, Fold, Lane

# What layers draw with, in the module that all of Keras takes it from.
_random = keras_backend.random
_SHAPED = ("uniform", "normal", "truncated_normal", "randint", "binomial", "gamma")


class _FoldedDraws:
    """Stands for the random functions of Keras: keyed, and folded.

    Args:
        seeds: Generators that have a row of `keys` each.
        keys: Their keys, and one more for generators that no layer owns.
        fold: How the batch at hand is made up.
        arrays: The backend.
    """

    def __init__(
        self, seeds: Sequence[Any], keys: Any, fold: Fold, arrays: Arrays
    ) -> None:
        self._known = {id(seed) for seed in seeds}
        self._key = keys[-1]
        self._fold = fold
        self._arrays = arrays
        self._thread = threading.get_ident()

    def patches(self) -> list[Patch]:
        """Return patches under which all that this thread draws follows the fold."""
        return [Patch(_random, "dropout", self._dropout(_random.dropout))] + [
            Patch(_random, name, self._shaped(getattr(_random, name)))
            for name in _SHAPED
        ]

    def _is_ours(self, seed: Any) -> bool:
        return threading.get_ident() == self._thread and not isinstance(seed, int)

    def _keyed(self, seed: Any) -> Any:
        """Give a generator that no layer owns a key too, when it is first met."""
        if seed is None:
            # On JAX a compiled call cannot use the global one; Keras says so itself.
            seed = global_seed_generator()
        if isinstance(seed, SeedGenerator) and id(seed) not in self._known:
            key = self._key + keras_backend.convert_to_tensor(
                [len(self._known), 0], dtype=self._key.dtype
            )
            seed.state.assign(keras_backend.cast(key, seed.state.dtype))
            self._known.add(id(seed))
        return seed

    def _dropout(self, dropout: Callable[..., Any]) -> Callable[..., Any]:
        def folded_dropout(
            inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None
        ) -> Any:
            if not self._is_ours(seed):
                return dropout(inputs, rate, noise_shape=noise_shape, seed=seed)
            seed = self._keyed(seed)
            return fold_dropout(
                lambda x, noise: dropout(x, rate, noise_shape=noise, seed=seed),
                inputs,
                noise_shape,
                self._fold,
                self._arrays,
            )

        return folded_dropout

    def _shaped(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        def folded_draw(shape: Any, *args: Any, seed: Any = None, **kwargs: Any) -> Any:
            if not self._is_ours(seed):
                return draw(shape, *args, seed=seed, **kwargs)
            seed = self._keyed(seed)
            return fold_draw(
                lambda new: draw(new, *args, seed=seed, **kwargs),
                shape,
                self._fold,
                self._arrays,
            )

        return folded_draw


class Keras3(graphs.Keras3, Lane):
    """Keras 3, on any backend."""

    # On JAX `stateless_call` goes straight to `call`.
    predicts_by_call = backend() != "jax"

    def seeds(self, layers: Iterable[Any]) -> list[Any]:
        found = [g for layer in layers for g in getattr(layer, "_seed_generators", [])]
        return list({id(g): g for g in found}.values())

    def can_follow(self, layer: Any) -> bool:
        # A generator in the closure of a `Lambda` is met when it draws.
        return isinstance(layer, keras.layers.Lambda) or super().can_follow(layer)

    def variables(self, model: Any) -> list[Any]:
        # Only JAX cannot see variables by itself.
        return list(model.variables) if backend() == "jax" else []

    def clone(self, model: Any, function: Callable[[Any], Any]) -> Any:
        tensors = None
        if not isinstance(model, keras.Sequential):
            # Keras names the new inputs after tensors, and dicts of inputs miss them.
            tensors = tree.map_structure(
                lambda x: keras.Input(
                    batch_shape=x.shape,
                    dtype=x.dtype,
                    name=x._keras_history.operation.name,
                ),
                model._inputs_struct,
            )
        return keras.models.clone_model(
            model, input_tensors=tensors, clone_function=function
        )

    def trusting(self) -> AbstractContextManager[None]:
        return SafeModeScope(safe_mode=False)

    def saving_lib(self) -> Any:
        return saving_lib

    def load_assets(self, model: Any, store: Any) -> None:
        # Keras 3.8 reads both collections whether or not it was given them.
        failed: set[int] = set()
        errors: dict[int, tuple[Any, Exception]] = {}
        saving_lib._load_state(model, None, store, "", False, set(), failed, errors)
        for _, error in errors.values():
            raise error

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
        mapping = list(states)
        if keys is not None:
            mapping += [(seed.state, keys[i]) for i, seed in enumerate(seeds)]
        with ExitStack() as stack:
            # It takes every assignment: statistics, recurrent states and seeds.
            stack.enter_context(keras.StatelessScope(state_mapping=mapping))
            if fold is not None:
                stack.enter_context(patched(forced(layers, named)))
                draws = _FoldedDraws(seeds, keys, fold, self.arrays)
                stack.enter_context(patched(draws.patches()))
            yield

    def predict_step(self, model: Any, x: Any) -> Any:
        if backend() != "jax":
            return super().predict_step(model, x)
        state = (
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
        )
        return model.predict_step(state, (x,))[0]

    def batches(
        self, model: Any, x: Any, batch_size: int, steps: int | None
    ) -> tuple[Generator[Any, None, None], int | None]:
        if isinstance(x, GeneratorType):
            # Keras 2 takes arrays from a generator, Keras 3 only tuples of them.
            x = (part if isinstance(part, tuple) else (part,) for part in x)
        adapter = get_data_adapter(x=x, batch_size=batch_size, steps_per_epoch=steps)
        total = adapter.num_batches
        if steps is not None:
            total = steps if total is None else min(steps, total)

        def read() -> Generator[Any, None, None]:
            adapter.on_epoch_begin()
            # As TensorFlow's own tensors, a dataset may hold ragged ones.
            direct = backend() == "tensorflow" and is_tf_dataset(x)
            try:
                source = iter(x if direct else adapter.get_numpy_iterator())
                for data in source if total is None else islice(source, total):
                    yield keras.utils.unpack_x_y_sample_weight(data)[0]
            finally:
                # Stops the threads that a `PyDataset` may have started.
                adapter.on_epoch_end()

        return read(), total
