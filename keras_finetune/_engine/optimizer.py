"""A model's optimizer, as callbacks see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keras_finetune._engine import bias_correction, fit
from keras_finetune._engine.active import lane
from keras_finetune._engine.structure import is_built


def check(model: Any, *, scale: bool = False) -> None:
    """Raise, before anything has changed, if this model cannot be worked on.

    Args:
        model: The model.
        scale: Whether rates will be scaled.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            "The model must be compiled with an optimizer before `fit`. "
            f"Received: model={model!r}, optimizer=None"
        )
    lane.check_optimizer(optimizer)
    if scale:
        for inner in lane.inner_optimizers(optimizer):
            lane.check_scalable(inner)
    if fit.frame_of_fit(model) is None:
        # There is no step of Keras to change, and nothing would be frozen or scaled.
        raise ValueError(
            "This callback acts on the training step of `model.fit`; a loop of one's "
            "own cannot use it. To train with `DistributedDataParallel` of PyTorch, "
            "call it in the model's `train_step`. "
            f"Received: model={model!r}, which is not in `fit`"
        )
    build(model)


def build(model: Any) -> None:
    """Give a model that has no weights yet those that the running `fit` is to train.

    Keras does so itself before `fit` calls back, on JAX and PyTorch.
    """
    if not is_built(model) and fit.frame_of_fit(model) is not None:
        lane.build(model, fit.variables_of_fit(model))


def learning_rate(model: Any) -> float:
    """Return the base learning rate."""
    return lane.learning_rate(lane.inner_optimizers(model.optimizer)[0])


def learning_rates(model: Any, variables: Iterable[Any]) -> list[float]:
    """Return the base rate of the optimizer that updates each of the variables."""
    optimizer_of = lane.optimizer_of(model.optimizer)
    rates: dict[int, float] = {}
    found = []
    for variable in variables:
        inner = optimizer_of(variable)
        if id(inner) not in rates:
            rates[id(inner)] = lane.learning_rate(inner)
        found.append(rates[id(inner)])
    return found


def is_scheduled(model: Any) -> bool:
    """Return whether the base rate is computed by a schedule, not assigned."""
    return any(map(lane.is_scheduled, lane.inner_optimizers(model.optimizer)))


def set_learning_rate(model: Any, change: Callable[[float], float]) -> None:
    """Assign `change(rate)` to every base rate that can be assigned."""
    for inner in lane.inner_optimizers(model.optimizer):
        if not lane.is_scheduled(inner):
            inner.learning_rate = change(lane.learning_rate(inner))


def steps_taken(model: Any) -> int:
    """Return the steps that the optimizer has taken."""
    return lane.iterations(model.optimizer)


def updates(model: Any, steps: int) -> int:
    """Return the updates that the optimizer makes in its first so many steps."""
    return steps // lane.steps_an_update(model.optimizer)


def updates_made(model: Any) -> int:
    """Return the updates that the optimizer has made."""
    return lane.updates(model.optimizer)


def without_exact_correction(model: Any) -> str | None:
    """Return the optimizer whose bias correction cannot count from another update."""
    for one in (model.optimizer, *lane.inner_optimizers(model.optimizer)):
        if not bias_correction.is_exact(one):
            return type(one).__name__
    return None


def check_momentum(model: Any) -> None:
    """Raise if the optimizer's momentum cannot move exactly."""
    for inner in lane.inner_optimizers(model.optimizer):
        lane.momentum_name(inner)


def variables_in_file(model: Any) -> int:
    """Return the number of variables that a file of now holds of the optimizer."""
    return len(lane.variables_in_file(model.optimizer))


def warn_inexact(model: Any) -> None:
    """Warn if the optimizer is one that cannot be carried over exactly."""
    lane.warn_inexact(model.optimizer)
