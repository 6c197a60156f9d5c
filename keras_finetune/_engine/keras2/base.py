"""Keras 2 (2.15 and `tf_keras`): optimizers of two generations, and TFA's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_finetune._engine import generators, gradients, keras
from keras_finetune._engine.keras2 import flags, slots
from keras_finetune._engine.keras2.rates import Legacy, NewStyle, Table, rate_of
from keras_finetune._engine.lane import (
    Flags,
    Lane,
    Scaling,
    SetAside,
    Trained,
    Unsaid,
)
from keras_finetune._engine.patches import Patch, Snapshot, unchanged_if_it_fails
from keras_finetune._engine.structure import all_layers, weights

# Keras 2.15 or `tf_keras`: the same module under another name.
_backend = import_module(f"{keras.__name__}.src.backend")


class Keras2(Lane):
    """Keras 2, which runs on TensorFlow only."""

    # --- optimizers ------------------------------------------------------------------

    def inner_optimizers(self, optimizer: Any) -> list[Any]:
        return slots.all_optimizers(optimizer)[-1:]

    def is_built(self, optimizer: Any) -> bool:
        return slots.is_built(optimizer)

    def slot_key(self, optimizer: Any, variable: Any) -> Hashable:
        del optimizer
        key: Hashable = slots.key_of(variable)
        return key

    def check_optimizer(self, optimizer: Any) -> None:
        kinds = keras.optimizers.legacy.Optimizer, keras.optimizers.Optimizer
        if not isinstance(optimizer, kinds):
            raise TypeError(
                "The model must be compiled with a `keras.optimizers.Optimizer`. "
                f"Received: optimizer={optimizer!r}"
            )
        if hasattr(optimizer, "optimizer_specs"):
            raise TypeError(
                "`tfa.optimizers.MultiOptimizer` fixes its variables when it is made: "
                "compile with one optimizer, and use `DiscriminativeLR` for learning "
                f"rates per group. Received: optimizer={optimizer!r}"
            )

    def check_scalable(self, inner: Any) -> None:
        super().check_scalable(inner)
        if slots.is_legacy(inner) and "learning_rate" not in inner._hyper:
            raise ValueError(
                "Learning rates per group need an optimizer that has a learning rate; "
                f"{type(inner).__name__} has none. Received: optimizer={inner!r}"
            )

    def warn_inexact(self, optimizer: Any) -> None:
        inner = self.inner_optimizers(optimizer)[0]
        if type(inner).__name__ == "Nadam" and not slots.is_legacy(inner):
            # `_u_product_counter` is a Python number that changes at each trace.
            warnings.warn(
                "Nadam of Keras 2 counts the traces of its step, so a run that is "
                "traced again, as at each stage, differs slightly from one that is "
                "not. Use `keras.optimizers.legacy.Nadam` for exact results.",
                stacklevel=3,
            )

    def warn_of_checkpoints(self, optimizer: Any, callbacks: Iterable[Any]) -> None:
        if slots.is_legacy(slots.holders(optimizer)[0]):
            return
        for callback in callbacks:
            if not isinstance(callback, keras.callbacks.ModelCheckpoint):
                continue
            path = str(callback.filepath)
            if callback.save_weights_only and not path.endswith((".h5", ".hdf5")):
                warnings.warn(
                    "With `save_weights_only=True` and no suffix `ModelCheckpoint` "
                    "writes checkpoints of TensorFlow, which address the optimizer's "
                    "slots by their position. While some weights are frozen for the "
                    "time of `fit`, these slots are not those that the optimizer has "
                    "afterwards, unless the last stage was reached. Give it a filepath "
                    f"that ends in `.weights.h5`. Received: filepath={path!r}",
                    stacklevel=3,
                )

    def learning_rate(self, inner: Any) -> float:
        rate = rate_of(inner)
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            return float(rate(inner.iterations))
        return float(keras.backend.get_value(rate() if callable(rate) else rate))

    def is_scheduled(self, inner: Any) -> bool:
        rate = rate_of(inner)
        return callable(rate) and not isinstance(rate, tf.Variable)

    def iterations(self, optimizer: Any) -> int:
        return int(self.inner_optimizers(optimizer)[0].iterations.numpy())

    def at_update(
        self, optimizer: Any, values: Sequence[float], start: int
    ) -> Callable[[], Any]:
        counter, last = self.inner_optimizers(optimizer)[0], len(values) - 1
        table = np.asarray(values, "float32")

        def value() -> Any:
            index = tf.clip_by_value(counter.iterations - start, 0, last)
            return tf.gather(table, index)

        return value

    def rate_patches(self, inner: Any, scaling: Scaling) -> list[Patch]:
        name = None if scaling.momentum is None else self.momentum_name(inner)
        kind = Legacy if slots.is_legacy(inner) else NewStyle
        return kind(inner, scaling, name).patches()

    def hyperparameter(self, inner: Any, name: str) -> float:
        if slots.is_legacy(inner):
            return float(keras.backend.get_value(inner._hyper[name]))
        return super().hyperparameter(inner, name)

    def schedule(self, inner: Any, rates: npt.NDArray[np.float32]) -> None:
        schedule, attributes = Table(rates, int(inner.iterations.numpy())), vars(inner)
        if slots.is_legacy(inner):
            attributes["_hyper"] = {**inner._hyper, "learning_rate": schedule}
            attributes["_initial_decay"] = 0.0
        else:
            attributes["_learning_rate"] = schedule
            # Else made within a step, where no variable can be.
            attributes["_current_learning_rate"] = tf.Variable(
                float(rates[0]), trainable=False
            )

    # --- the state of an optimizer ---------------------------------------------------

    def scope(self, model: Any) -> AbstractContextManager[Any]:
        manager: AbstractContextManager[Any] = model.distribute_strategy.scope()
        return manager

    def snapshot(self, optimizer: Any, *others: dict[Any, Any]) -> Snapshot:
        every = slots.all_optimizers(optimizer)
        return Snapshot(every, slots.set_variables, *others)

    def rebuild(self, model: Any, trained: Trained, aside: SetAside) -> None:
        safely = unchanged_if_it_fails(self.snapshot(model.optimizer, aside))
        with self.scope(model), safely:
            slots.rebuild(model.optimizer, trained, aside)

    def slot_variables(
        self, model: Any, variables: Iterable[Any], hidden: Collection[int]
    ) -> list[Any]:
        if getattr(self.inner_optimizers(model.optimizer)[0], "use_ema", False):
            # `fit` ends by assigning the averages of all trainable variables.
            return list(variables)
        return super().slot_variables(model, variables, hidden)

    def slots_of(
        self, optimizer: Any, variables: Sequence[Any]
    ) -> list[dict[str, Any]]:
        holders = slots.holders(optimizer)
        rows = {i: slots.rows(one) for i, one in enumerate(holders)}
        return [
            {
                f"{i}/{name}": slot
                for i, by_variable in rows.items()
                for name, slot in by_variable.get(slots.key_of(variable), {}).items()
            }
            for variable in variables
        ]

    def value(self, variable: Any) -> npt.NDArray[Any]:
        return np.asarray(variable.numpy())

    # --- all that a `fit` changes ----------------------------------------------------

    def state_variables(self, model: Any) -> list[Any]:
        # Those that a checkpoint would hold: states of generators and of recurrent
        # layers are among them.
        view = tf.train.TrackableView
        found = [v for metric in model.metrics for v in metric.variables]
        found += model.weights
        for root in (model, *slots.all_optimizers(model.optimizer)):
            found += [v for v in view(root).descendants() if isinstance(v, tf.Variable)]
        for one in slots.holders(model.optimizer):
            found += list(one.variables() if slots.is_legacy(one) else one.variables)
        return list({id(v): v for v in found}.values())

    def compiled(self, model: Any) -> list[Any]:
        return [model.compiled_metrics, model.compiled_loss]

    def generators(self, model: Any) -> Callable[[], None]:
        # A seeded layer counts its traces, or calls, in Python.
        of_layers = [
            (vars(value), dict(vars(value)))
            for layer in all_layers(model)
            for value in vars(layer).values()
            if hasattr(value, "make_legacy_seed")
        ]
        seeds = getattr(_backend._SEED_GENERATOR, "generator", None)
        state = None if seeds is None else seeds.getstate()

        def put_back() -> None:
            if any(now["_seed"] != before["_seed"] for now, before in of_layers):
                generators.begin_operations_again()
            for now, before in of_layers:
                now.update(before)
            if seeds is not None:
                seeds.setstate(state)

        return put_back

    def one_step_an_execution(self, model: Any) -> None:
        # A variable, which is put back with the others.
        if model.steps_per_execution is not None:
            model.__dict__["_steps_per_execution"] = tf.Variable(1, dtype="int64")
        model.__dict__["_autotune_steps_per_execution"] = False

    # --- files -----------------------------------------------------------------------

    def variables_in_file(self, optimizer: Any) -> list[Any]:
        return slots.variables_in_file(optimizer)

    def load_patch(
        self, optimizer: Any, prepare: Callable[[int], None]
    ) -> Patch | None:
        # For files only: checkpoints of Keras 2 do not depend on the stage.
        if slots.is_legacy(self.inner_optimizers(optimizer)[0]):
            return None  # files do not hold its state
        load = optimizer.load_own_variables

        def load_own_variables(store: Any) -> None:
            count = len(store.keys())
            if count:  # else it is a file of weights only
                prepare(count)
            variables = slots.variables_in_file(optimizer)
            if len(variables) != count:
                load(store)  # Keras says what it leaves out
                return
            for i, variable in enumerate(variables):
                variable.assign(store[str(i)])

        return Patch(optimizer, "load_own_variables", load_own_variables)

    def epoch_of_checkpoint(self, model: Any) -> int | None:
        state = getattr(model, "_training_state", None)
        if state is None:
            return None
        epoch = int(state._ckpt_saved_epoch.numpy())
        return None if epoch == state.CKPT_SAVED_EPOCH_UNUSED_VALUE else epoch

    def make_room(self, model: Any, variables: Sequence[Any]) -> None:
        # A checkpoint finds slots by position. Those of later stages fall away when a
        # `fit` ends, also when it is interrupted; and an optimizer that is not built
        # yet is built by tf_keras for what the flags say before a stage is entered.
        order = {id(v): i for i, v in enumerate(weights(model))}
        variables = sorted(variables, key=lambda v: order[id(v)])
        self.rebuild(model, Trained(variables), {})

    # --- flags -----------------------------------------------------------------------

    def can_train(self, layer: Any) -> list[Any]:
        return list(getattr(layer, "_trainable_weights", ()))

    def trained(self, model: Any) -> list[Any]:
        return list({id(v): v for v in model.trainable_variables}.values())

    def set_flags(self, model: Any, flags_: Flags, *, ends: bool) -> Unsaid:
        return flags.set_flags(model, flags_, ends=ends)

    def freeze(self, layers: Sequence[Any], variables: Sequence[Any]) -> list[Patch]:
        return flags.freeze(layers, variables)

    # --- the model and its compiled functions ----------------------------------------

    def build(self, model: Any, variables_of_fit: Mapping[str, Any]) -> None:
        # Called on zeros that are like the data of `fit`.
        handler = variables_of_fit.get("data_handler")
        spec = getattr(getattr(handler, "_dataset", None), "element_spec", None)
        x = spec[0] if isinstance(spec, tuple) and spec else spec
        specs = tf.nest.flatten(x)
        if all(isinstance(s, tf.TensorSpec) and s.shape.rank for s in specs):
            zeros = [tf.zeros([n or 1 for n in s.shape], s.dtype) for s in specs]
            with self.scope(model):
                model(tf.nest.pack_sequence_as(x, zeros), training=False)

    def around_step(self) -> AbstractContextManager[Any]:
        return gradients.forgotten()

    def new_train_function(self, model: Any) -> Callable[..., Any]:
        function: Callable[..., Any] = type(model).make_train_function(
            model, force=True
        )
        model.train_function = function
        return gradients.traced_on_purpose(function)

    def new_test_function(self, model: Any) -> Callable[..., Any]:
        function: Callable[..., Any] = type(model).make_test_function(model, force=True)
        return function

    def renew_compiled_state(self, model: Any) -> None:
        # Without it the next `fit` goes back to the flags at `compile`. Not by
        # assignment: the tracker of attributes would sort the layers in it.
        model.__dict__["_compiled_trainable_state"] = model._get_trainable_state()

    def data_of_fit(self, variables_of_fit: Mapping[str, Any]) -> list[tuple[Any, str]]:
        handler = variables_of_fit.get("data_handler")
        return (
            []
            if handler is None
            else [(handler, "enumerate_epochs"), (handler, "steps")]
        )
