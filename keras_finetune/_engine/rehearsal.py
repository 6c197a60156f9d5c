"""A block in which a model may be trained, and that leaves no trace of it.

What `fit` changes is in more places than the weights: the optimizer's state and what it
is made of, statistics, metrics, flags, compiled functions, and the generators that
layers, data and Keras draw from. All of it is noted before the block and put back after
it, whatever ends it. The values wait in the memory of the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_finetune._engine import generators, keras
from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import all_layers, is_built

_STEPS = ("train_function", "test_function", "predict_function")


def check(model: Any) -> None:
    """Raise, before anything has changed, if a model cannot be rehearsed.

    Args:
        model: The model.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Argument `model` must be a `{keras.__name__}.Model`. "
            f"Received: model={model!r} (of type {type(model).__name__})"
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            "The model must be compiled with an optimizer and a loss. "
            f"Received: model={model!r}, optimizer=None"
        )
    lane.check_optimizer(model.optimizer)
    for inner in lane.inner_optimizers(model.optimizer):
        lane.check_scalable(inner)
    if not is_built(model):
        raise ValueError(
            "The model must have its weights, or those that are drawn now could not "
            "be told from those of the training that follows. Call it on a batch "
            f"first: `model(x[:1])`. Received: model={model!r}"
        )


@contextmanager
def rehearsal(model: Any) -> Iterator[None]:
    """Let a block train a compiled and built model, and put everything back.

    One step is one batch in it, whatever `steps_per_execution` says.
    """
    # First what things are made of: looking for variables leaves notes on them.
    optimizer = lane.snapshot(model.optimizer).put_back
    made_of = [_attributes(model), _compiled(model), optimizer]
    restore = [
        generators.global_states(),
        lane.generators(model),
        _values(model),
        _flags(model),
        *made_of,
    ]
    try:
        lane.one_step_an_execution(model)
        # A step of before reads the rate that the optimizer had.
        model.train_function = None
        yield
    finally:
        # From what things are made of to what is in them; generators last, since
        # all of this may draw.
        while restore:
            restore.pop()()


def sweep(model: Any, rates: Sequence[float]) -> None:
    """Let the optimizer of a rehearsed model use these rates, one an update.

    Rates of several optimizers keep their ratios to that of the first.

    Args:
        model: The model.
        rates: The base rates; the last one stays.
    """
    inner = lane.inner_optimizers(model.optimizer)
    before = [lane.learning_rate(one) for one in inner]
    table = np.asarray(rates, "float64")
    with lane.scope(model):
        for one, rate in zip(inner, before, strict=True):
            ratio = rate / before[0] if before[0] else 1.0
            lane.schedule(one, np.asarray(table * ratio, "float32"))


def begin_batch(model: Any) -> int:
    """Let the logs of the next batch be its own; return the optimizer's steps so far.

    `fit` logs means over all batches since the epoch began.
    """
    lane.pull_state(model)
    model.reset_metrics()
    return lane.iterations(model.optimizer)


# --- what is put back ----------------------------------------------------------------


def _values(model: Any) -> Callable[[], None]:
    before = {id(v): (v, np.array(lane.value(v))) for v in lane.state_variables(model)}

    def put_back() -> None:
        with lane.scope(model):
            for variable, value in before.values():
                variable.assign(value)

    return put_back


def _flags(model: Any) -> Callable[[], None]:
    layers = [(layer, layer.__dict__.get("_trainable")) for layer in all_layers(model)]
    variables = [(v, v.trainable) for v in lane.flagged(model)]

    def put_back() -> None:
        for layer, trainable in layers:
            if trainable is not None:
                layer.__dict__["_trainable"] = trainable
        for variable, trainable in variables:
            if variable.trainable != trainable:
                variable.trainable = trainable

    return put_back


def _attributes(model: Any) -> Callable[[], None]:
    # Not the dictionary as a whole: Keras's trackers hold its lists.
    before = dict(vars(model))

    def put_back() -> None:
        now = vars(model)
        for name in _STEPS:
            # As Keras does it: TensorFlow tracks them.
            if name in before and now.get(name) is not before[name]:
                setattr(model, name, before[name])
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in before.items():
            if now.get(name) is not value:
                now[name] = value

    return put_back


def _compiled(model: Any) -> Callable[[], None]:
    # `fit` reads a batch more if it has to build them, and so draws from a generator.
    objects = [one for one in lane.compiled(model) if one is not None]
    before = [(vars(one), _copied(vars(one))) for one in objects]

    def put_back() -> None:
        for now, (values, lists) in before:
            if now.keys() != values.keys() or any(
                now[name] is not value for name, value in values.items()
            ):
                model.reset_metrics()  # those that the user has made and holds
                now.clear()
                now.update(values)
                for name, content in lists.items():
                    now[name][:] = content

    return put_back


def _copied(attributes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return attributes, and what is in those that are lists."""
    lists = {k: list(v) for k, v in attributes.items() if isinstance(v, list)}
    return dict(attributes), lists
