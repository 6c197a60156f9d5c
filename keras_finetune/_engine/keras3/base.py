"""Keras 3, as far as its backends agree."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from keras.src.backend.common import global_state

from keras_finetune._engine import keras
from keras_finetune._engine.keras3 import slots
from keras_finetune._engine.keras3.rates import ScaledUpdates, Table
from keras_finetune._engine.lane import (
    Flags,
    Lane,
    Scaling,
    SetAside,
    Trained,
    Unsaid,
)
from keras_finetune._engine.patches import (
    Patch,
    Snapshot,
    patched,
    unchanged_if_it_fails,
)
from keras_finetune._engine.structure import all_layers, variable_key, weights

_SEED_GENERATOR = "global_seed_generator"


class Keras3(Lane):
    """Keras 3 on any backend: its three backends are subclasses."""

    # --- optimizers ------------------------------------------------------------------

    def inner_optimizers(self, optimizer: Any) -> list[Any]:
        return [
            one
            for one in slots.all_optimizers(optimizer)
            if getattr(one, "inner_optimizer", None) is None and not slots.parts_of(one)
        ]

    def optimizer_of(self, optimizer: Any) -> Callable[[Any], Any]:
        inner = self.inner_optimizers(optimizer)
        owners = {id(v): one for one in inner for v in one._trainable_variables}
        return lambda variable: owners.get(id(variable), inner[0])

    def is_built(self, optimizer: Any) -> bool:
        return bool(optimizer.built)

    def slot_key(self, optimizer: Any, variable: Any) -> Hashable:
        key: Hashable = optimizer._var_key(variable)
        return key

    def check_optimizer(self, optimizer: Any) -> None:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "The model must be compiled with a `keras.optimizers.Optimizer`. "
                f"Received: optimizer={optimizer!r}"
            )
        for inner in self.inner_optimizers(optimizer):
            if type(inner).__module__.startswith("keras.src."):
                continue
            probe = inner
            if not inner.built:
                # A twin on two tiny variables shows how this class keeps its state.
                try:
                    probe = type(inner).from_config(inner.get_config())
                except Exception:
                    continue  # it is checked again when it is built
                probe.build([keras.Variable([[0.0]]), keras.Variable([0.0])])
            slots.check_known(probe)

    def learning_rate(self, inner: Any) -> float:
        return float(keras.ops.convert_to_numpy(inner.learning_rate))

    def is_scheduled(self, inner: Any) -> bool:
        return not isinstance(inner._learning_rate, keras.Variable)

    def iterations(self, optimizer: Any) -> int:
        return int(keras.ops.convert_to_numpy(self._counter(optimizer)._iterations))

    def steps_an_update(self, optimizer: Any) -> int:
        return int(self._counter(optimizer).gradient_accumulation_steps or 1)

    def at_update(
        self, optimizer: Any, values: Sequence[float], start: int
    ) -> Callable[[], Any]:
        counter, last = self._counter(optimizer), len(values) - 1
        table = self.constant(np.asarray(values, "float32"))

        def value() -> Any:
            index = keras.ops.clip(counter.iterations - start, 0, last)
            return keras.ops.take(table, index)

        return value

    def constant(self, array: npt.NDArray[np.float32]) -> Any:
        """Return what an operation takes for a constant, fast where it is eager."""
        return array

    def _counter(self, optimizer: Any) -> Any:
        """Return the optimizer whose iterations count the updates of all."""
        # Those in a `MultiOptimizer` stand still while all of theirs is frozen.
        every = slots.all_optimizers(optimizer)
        return next(
            (one for one in every if slots.parts_of(one)),
            self.inner_optimizers(optimizer)[0],
        )

    def rate_patches(self, inner: Any, scaling: Scaling) -> list[Patch]:
        name = None if scaling.momentum is None else self.momentum_name(inner)
        return ScaledUpdates(inner, scaling, name).patches()

    def schedule(self, inner: Any, rates: npt.NDArray[np.float32]) -> None:
        schedule = Table(rates, int(keras.ops.convert_to_numpy(inner._iterations)))
        if not self.is_scheduled(inner):
            rest = [v for v in inner._variables if v is not inner._learning_rate]
            slots.set_variables(inner, rest)
        vars(inner)["_learning_rate"] = schedule

    # --- the state of an optimizer ---------------------------------------------------

    def scope(self, model: Any) -> AbstractContextManager[Any]:
        strategy = getattr(model, "distribute_strategy", None)
        scope: AbstractContextManager[Any] = (
            nullcontext() if strategy is None else strategy.scope()
        )
        return scope

    def snapshot(self, optimizer: Any, *others: dict[Any, Any]) -> Snapshot:
        every = slots.all_optimizers(optimizer)
        return Snapshot(every, slots.set_variables, *others)

    def rebuild(self, model: Any, trained: Trained, aside: SetAside) -> None:
        optimizer, variables = model.optimizer, list(trained.now)
        safely = unchanged_if_it_fails(self.snapshot(optimizer, aside))
        with self.scope(model), safely:
            # Built eagerly: a build inside the first traced step would repeat its
            # initial assignments at every step (ScheduleFreeAdamW).
            if not optimizer.built:
                optimizer.build(variables)
                return
            known = optimizer._trainable_variables
            if list(map(id, known)) != list(map(id, variables)):
                hidden = {id(v) for v in trained.hidden}
                started = self.iterations(optimizer) > 0
                slots.rebuild(optimizer, variables, hidden, aside, started)

    def slots_of(
        self, optimizer: Any, variables: Sequence[Any]
    ) -> list[dict[str, Any]]:
        every = slots.all_optimizers(optimizer)
        states = {i: slots.State(one) for i, one in enumerate(every) if one.built}
        return [
            {
                f"{i}/{name}": slot
                for i, state in states.items()
                if id(variable) in state.position
                for name, slot in state.row(variable).items()
                # What is accumulated belongs to the iterations, which go on.
                if slot is not None and name != "_accumulated_gradients"
            }
            for variable in variables
        ]

    def value(self, variable: Any) -> npt.NDArray[Any]:
        return np.asarray(keras.ops.convert_to_numpy(variable))

    # --- all that a `fit` changes ----------------------------------------------------

    def state_variables(self, model: Any) -> list[Any]:
        every = slots.all_optimizers(model.optimizer)
        of_optimizers = [v for one in every for v in one._variables]
        return [*model.variables, *model.metrics_variables, *of_optimizers]

    def compiled(self, model: Any) -> list[Any]:
        return [model._compile_metrics, model._compile_loss]

    def flagged(self, model: Any) -> list[Any]:
        return list(model.variables)

    def generators(self, model: Any) -> Callable[[], None]:
        del model  # those of its layers are variables
        generator = global_state.get_global_attribute(_SEED_GENERATOR)
        state = None if generator is None else np.array(self.value(generator.state))

        def put_back() -> None:
            global_state.set_global_attribute(_SEED_GENERATOR, generator)
            if generator is not None:
                generator.state.assign(state)

        return put_back

    def one_step_an_execution(self, model: Any) -> None:
        model.steps_per_execution = 1

    # --- files -----------------------------------------------------------------------

    def variables_in_file(self, optimizer: Any) -> list[Any]:
        return list(optimizer.variables)

    def load_patch(
        self, optimizer: Any, prepare: Callable[[int], None]
    ) -> Patch | None:
        load = optimizer.load_own_variables

        def load_own_variables(store: Any) -> None:
            if len(store.keys()):  # else it is a file of weights only
                prepare(len(store.keys()))
            load(store)

        return Patch(optimizer, "load_own_variables", load_own_variables)

    # --- flags -----------------------------------------------------------------------

    def can_train(self, layer: Any) -> list[Any]:
        return list(layer._trainable_variables)

    def trained(self, model: Any) -> list[Any]:
        return [v for v in weights(model) if v.trainable]

    def frozen_alone(self, layers: Iterable[Any]) -> list[Any]:
        return [
            base
            for layer in layers
            if getattr(layer, "lora_enabled", False)
            for name in ("_kernel", "_embeddings")
            if isinstance(base := getattr(layer, name, None), keras.Variable)
        ]

    def set_flags(self, model: Any, flags: Flags, *, ends: bool) -> Unsaid:
        del ends
        for layer in all_layers(model):
            if id(layer) in flags.layers:
                # Not the property: it sets what is inside, on TensorFlow only if the
                # value is a new one.
                layer._trainable = flags.layers[id(layer)]
        for variable in weights(model):
            if variable_key(variable) in flags.variables:
                variable.trainable = flags.variables[variable_key(variable)]
        return Unsaid()

    def freeze(self, layers: Sequence[Any], variables: Sequence[Any]) -> list[Patch]:
        del layers
        for variable in variables:
            variable.trainable = False
        return []

    def thaw(self, layers: Sequence[Any], variables: Sequence[Any]) -> None:
        frozen = {
            id(v)
            for layer in layers
            if not layer.trainable
            for v in layer._trainable_variables
        }
        for variable in variables:
            if id(variable) not in frozen:
                variable.trainable = True

    # --- the model and its compiled functions ----------------------------------------

    def build(self, model: Any, variables_of_fit: Mapping[str, Any]) -> None:
        iterator = variables_of_fit.get("epoch_iterator")
        if iterator is not None:
            with self.scope(model):
                model._symbolic_build(iterator=iterator)
            iterator.reset()

    def new_train_function(self, model: Any) -> Callable[..., Any]:
        self._make_again(model, "train")
        function: Callable[..., Any] = model.train_function
        return function

    def new_test_function(self, model: Any) -> Callable[..., Any]:
        self._make_again(model, "test")
        function: Callable[..., Any] = model.test_function
        return function

    def _make_again(self, model: Any, kind: str) -> None:
        original = getattr(model, f"{kind}_step")

        @functools.wraps(original)  # programs have the name that Keras gives them
        def step(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs)

        # `jax.jit` finds its traces by the function it is given, and a bound method
        # equals itself whenever it is asked for: while the old step is alive, a stale
        # frozen set or stale rates would be reused silently. See
        # tests/_engine/test_jax.py
        with patched([Patch(model, f"{kind}_step", step)]):
            getattr(type(model), f"make_{kind}_function")(model, force=True)

    def penalized_while_training(self, variables: Iterable[Any]) -> list[Any]:
        return [v for v in variables if v.regularizer is not None]

    def read_by_evaluation(self, model: Any) -> list[Any]:
        return self.penalized_while_training(self.trained(model))

    def renew_compiled_state(self, model: Any) -> None:
        if hasattr(model, "_compiled_trainable_state"):  # since Keras 3.12
            # Keras compares it with the flags, to warn of those that have changed.
            state = {layer: layer.trainable for layer in model._flatten_layers()}
            model._compiled_trainable_state = state

    def data_of_fit(self, variables_of_fit: Mapping[str, Any]) -> list[tuple[Any, str]]:
        iterator = variables_of_fit.get("epoch_iterator")
        if iterator is None:
            return []
        return [(iterator, "_enumerate_iterator")]
