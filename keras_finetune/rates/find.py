"""A learning rate for a fine-tuning that is about to begin."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, overload

from keras_finetune import _checks
from keras_finetune._engine import processes, rehearsal
from keras_finetune._engine.rehearsed_data import Data
from keras_finetune._rules.stages import memory_kept
from keras_finetune.callbacks import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune.callbacks._callback import check_callbacks
from keras_finetune.rates import _suggestions
from keras_finetune.rates._sweep import Sweep
from keras_finetune.rates.rate_search import RateSearch

_TAKING_PART = (DiscriminativeLR, GradualUnfreeze, TrainOnly)
_NEVER = 10**9  # an epoch that no search comes to


@overload
def find_learning_rate(
    model: Any,
    x: Any,
    y: Any = ...,
    *,
    callbacks: Sequence[Any] = ...,
    stage: int = ...,
    start: float = ...,
    end: float = ...,
    steps: int = ...,
    batch_size: int | None = ...,
    sample_weight: Any = ...,
    class_weight: Any = ...,
    shuffle: bool = ...,
    verbose: Literal[0, 1] = ...,
) -> RateSearch: ...
@overload
def find_learning_rate(
    model: Any,
    x: Any,
    y: Any = ...,
    *,
    callbacks: Sequence[Any] = ...,
    stage: Literal["each"],
    start: float = ...,
    end: float = ...,
    steps: int = ...,
    batch_size: int | None = ...,
    sample_weight: Any = ...,
    class_weight: Any = ...,
    shuffle: bool = ...,
    verbose: Literal[0, 1] = ...,
) -> list[RateSearch]: ...
def find_learning_rate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    callbacks: Sequence[Any] = (),
    stage: int | Literal["each"] = 0,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    batch_size: int | None = None,
    sample_weight: Any = None,
    class_weight: Any = None,
    shuffle: bool = True,
    verbose: Literal[0, 1] = 0,
) -> RateSearch | list[RateSearch]:
    """Search for a base learning rate by training some batches at rising rates.

    The model trains in an ordinary `fit` whose base learning rate rises geometrically
    from batch to batch, until the loss explodes. What the callbacks freeze stays
    frozen, and rates of groups keep their ratios, as in the training that follows.

    Then everything is restored, also after Ctrl-C: weights, the optimizer and all of
    its state, moving statistics, metrics, flags, compiled functions, the generators of
    Python, NumPy, Keras, its backend and the model's layers. The next `fit` is bit for
    bit what it would have been. Two things cannot be restored, and a warning says so:
    batches drawn from an iterator, and the count of passes of a `tf.data.Dataset` that
    shuffles. Meanwhile weights and optimizer state are kept in the memory of the host.

    Args:
        model: A compiled model that has its weights.
        x: Training data, as `fit` takes it.
        y: Targets, if they are not in `x`.
        callbacks: The callbacks of the training to come. `GradualUnfreeze`,
            `DiscriminativeLR` and `TrainOnly` take part, as copies; others, which
            watch, save, stop or schedule, do not.
        stage: The stage of `GradualUnfreeze` to search for, from the weights as they
            are now, or `"each"` for one search a stage. The rate is that of the stage,
            whatever `learning_rate_factor` or `learning_rates` say.
        start: The first rate.
        end: The rate that would follow the last one.
        steps: Batches to train on at most, in each search; they are then read once
            more without learning. Data are read again when they end.
        batch_size: As in `fit`.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.
        shuffle: As in `fit`.
        verbose: 0 is silent, 1 announces each stage that was searched.

    Returns:
        A `RateSearch`; with `stage="each"` a list of one for each stage. Its
        `suggestion` is `None` where the curve does not allow one, with a `reason`.

    Raises:
        TypeError: If an argument has a wrong type, or the state of the optimizer cannot
            be carried over.
        ValueError: If an argument has a wrong value, or the model is not compiled, has
            no weights yet, or returns no `loss` from its training step.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> found = find_learning_rate(model, np.ones((32, 4)), np.ones((32, 1)))
    >>> found.losses.shape == found.rates.shape
    True
    >>> [round(float(rate) * 1e7, 3) for rate in found.rates[:3]]
    [1.0, 1.202, 1.445]

    References:
        - [Smith, 2015](https://arxiv.org/abs/1506.01186), section 3.3
    """
    _check_data(x, y, sample_weight, class_weight)
    stage = _check_stage(stage)
    start = _checks.number("start", start, 0.0, exclusive=True)
    end = _checks.number("end", end, 0.0, exclusive=True)
    if end <= start:
        raise ValueError(
            "Argument `end` must be higher than `start`. "
            f"Received: start={start!r}, end={end!r}"
        )
    steps = _checks.integer("steps", steps, 2)
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)
    shuffle = _checks.boolean("shuffle", shuffle)
    verbose = _checks.choice("verbose", verbose, (0, 1))
    taking_part = _taking_part(callbacks)
    rehearsal.check(model)
    last = _last_stage(model, taking_part)
    stages = list(range(last + 1)) if stage == "each" else [int(stage)]
    if stages[-1] > last:
        raise ValueError(
            f"Argument `stage` must be at most {last}, the last stage that `callbacks` "
            f"make of this model, or 'each'. Received: stage={stage!r}"
        )
    rates = _suggestions.rising(start, end, steps)
    data = Data(
        x,
        steps,
        shuffle,
        {
            "y": y,
            "batch_size": batch_size,
            "sample_weight": sample_weight,
            "class_weight": class_weight,
        },
    )
    sweeps = [Sweep(rates) for _ in stages]
    for one, sweep in zip(stages, sweeps, strict=True):
        _run(model, data, taking_part, one, last, sweep)
        if verbose:
            processes.announce(
                model,
                f"Stage {one}: {len(sweep.rates)} batches at rates from "
                f"{sweep.rates[0]:.1e} to {sweep.rates[-1]:.1e}",
            )
    # The same batches and masks with next to no learning: the generators are back. One
    # for all stages, with what trains in the first, which takes the least time.
    still = Sweep([rates[0]] * max(len(sweep.rates) for sweep in sweeps))
    _run(model, data, taking_part, 0, last, still)
    found = [
        RateSearch.of(
            sweep.rates,
            sweep.losses,
            still.losses[: len(sweep.losses)],
            steps=steps,
            stage=one,
        )
        for one, sweep in zip(stages, sweeps, strict=True)
    ]
    return found if stage == "each" else found[0]


def _run(
    model: Any,
    data: Data,
    callbacks: Sequence[Any],
    stage: int,
    last: int,
    sweep: Sweep,
) -> None:
    """Train with the rates of a sweep, and put everything back."""
    copies = [_copy(callback, stage, last) for callback in callbacks]
    epochs = 1 if data.is_read_in_one_epoch else len(sweep.all)
    with (
        memory_kept(model),
        rehearsal.rehearsal(model),
        data.read() as arguments,
        warnings.catch_warnings(),
    ):
        # What `GradualUnfreeze` says of a `fit` that ends in the middle.
        warnings.filterwarnings("ignore", message="`fit` ended in stage ")
        warnings.filterwarnings("ignore", message=".* end before these groups train")
        rehearsal.sweep(model, sweep.all)
        model.fit(
            **arguments,
            initial_epoch=stage,
            epochs=stage + epochs,
            verbose=0,
            callbacks=[*copies, sweep],
        )


def _check_data(x: Any, y: Any, sample_weight: Any, class_weight: Any) -> None:
    """Raise `TypeError` for what is no data at all; `fit` checks the rest."""
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    for name, value in given.items():
        is_data = any(
            hasattr(value, a) for a in ("shape", "__iter__", "__next__", "__getitem__")
        )
        if isinstance(value, str) or not (is_data or (value is None and name != "x")):
            raise TypeError(
                f"Argument `{name}` must be data that `Model.fit` takes. "
                f"Received: {name}={value!r}"
            )
    if class_weight is not None and not isinstance(class_weight, dict):
        raise TypeError(
            "Argument `class_weight` must be a dictionary of weights by class, or "
            f"None. Received: class_weight={class_weight!r}"
        )


def _check_stage(stage: Any) -> Any:
    if isinstance(stage, str) and stage != "each":
        raise ValueError(
            "Argument `stage` must be the number of a stage, or 'each'. "
            f"Received: stage={stage!r}"
        )
    return stage if stage == "each" else _checks.integer("stage", stage, 0)


def _taking_part(callbacks: Any) -> list[Any]:
    found = [c for c in check_callbacks(callbacks) if isinstance(c, _TAKING_PART)]
    for callback in found:
        if getattr(callback, "bounds", None) is not None:
            raise ValueError(
                "`DiscriminativeLR(bounds=...)` fixes the rates of all groups, "
                "whatever the base rate is, so there is nothing to search for. Use "
                f"`decay` or `multipliers`. Received: callbacks={callbacks!r}"
            )
    return found


def _last_stage(model: Any, callbacks: Sequence[Any]) -> int:
    for callback in callbacks:
        if isinstance(callback, GradualUnfreeze):
            stages = callback.with_arguments().stages(model, callbacks)
            return int(stages.last)
    return 0


def _copy(callback: Any, stage: int, last: int) -> Any:
    """Return a callback of the same arguments that stays in one stage.

    The stage is that of the epoch with its number.
    """
    if not isinstance(callback, GradualUnfreeze):
        return callback.with_arguments()
    starts = [*range(1, stage + 1), *range(_NEVER, _NEVER + last - stage)]
    return callback.with_arguments(
        every=starts or None,
        monitor=None,
        patience=None,
        restore_best=False,
        early_stopping="run",
        learning_rate_factor=1.0,
        learning_rates=None,
        bias_correction="optimizer",
        verbose=0,
    )
