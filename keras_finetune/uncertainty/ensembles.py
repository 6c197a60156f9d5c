"""Prediction with several trained models, measured as Monte Carlo samples are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from keras_finetune import _checks
from keras_finetune._engine import keras, sampling
from keras_finetune._engine.rehearsed_data import goes_on_shuffling
from keras_finetune._engine.sampling import predicted
from keras_finetune.uncertainty import _streams
from keras_finetune.uncertainty.mc_prediction import MCPrediction

_Output = _streams.Kind | Literal["auto"]


# Models of several outputs give their own structure, which no annotation can know:
# `| Any` lets `isinstance` narrow it.
def ensemble_predict(
    models: Iterable[Any],
    x: Any,
    *,
    batch_size: int | None = None,
    keep_samples: bool = False,
    verbose: Literal["auto", 0, 1, 2] = "auto",
    output: _Output | list[_Output] = "auto",
) -> MCPrediction | Any:
    """Predict with several trained models, each a sample of the measures.

    For networks that were trained from different starts (a deep ensemble), the
    networks at the ends of stages or epochs, or averages of weights. Each model is
    asked by its own `predict` before the next is taken from `models`: a generator may
    load them one after another, or set other weights of one model, so that only one
    is in memory.

    Args:
        models: At least two trained Keras models with the same outputs.
        x: Inputs, as `Model.predict` takes them, read once by each model: arrays, or a
            dataset, `PyDataset` or `Sequence` that comes in the same order each time.
        batch_size: Inputs a batch. `None`, as of `Model.predict`, for 32, and where
            `x` comes in batches.
        keep_samples: Whether to keep the predictions of each model, in memory.
        verbose: As of `Model.predict`.
        output: What the outputs stand for: `"probabilities"`, `"logits"`, `"binary"`,
            `"binary_logits"` or `"values"`, see `MCPrediction`; a list of these for
            models of several outputs. `"auto"` goes by the last activation, then by
            the compiled loss, then by whether rows sum to 1.

    Returns:
        An `MCPrediction`; for models of several outputs one for each, in the structure
        that the models return.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value, if the models' outputs do not
            agree, if one is NaN, or if `x` is a dataset that shuffles in each pass.

    Example:

    >>> models = []
    >>> for seed in range(3):
    ...     keras.utils.set_random_seed(seed)
    ...     models.append(
    ...         keras.Sequential(
    ...             [keras.Input((4,)), keras.layers.Dense(2, activation="softmax")]
    ...         )
    ...     )
    >>> prediction = ensemble_predict(models, np.ones((5, 4)), verbose=0)
    >>> prediction
    <MCPrediction: 3 samples (not kept) of probabilities (5, 2), ensemble>

    References:

    - [Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles](
      https://arxiv.org/abs/1612.01474) (Lakshminarayanan et al., 2017)
    - [Snapshot Ensembles: Train 1, Get M for Free](
      https://arxiv.org/abs/1704.00109) (Huang et al., 2017)
    """
    _check_models(models)
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    _checks.choice("keep_samples", keep_samples, (True, False))
    _checks.choice("verbose", verbose, ("auto", 0, 1, 2))
    for kind in output if isinstance(output, (list, tuple)) else [output]:
        _checks.choice("output", kind, ("auto", *_streams.KINDS))
    if hasattr(x, "__next__"):
        raise ValueError(
            "Argument `x` must be data that each model can read from the start, not an "
            f"iterator. Received: x={x!r}"
        )
    if goes_on_shuffling(x):
        raise ValueError(
            "Argument `x` must come in the same order each time, so that the models "
            "predict the same rows; this dataset reshuffles in each pass. "
            f"Received: x={x!r}"
        )
    streams: list[_streams.Stream] = []
    structure: Any = None
    shapes: list[tuple[int, ...]] = []
    first: list[np.ndarray] = []
    count = 0
    for model in models:
        _check_model(model, count)
        outputs = model.predict(x, batch_size=batch_size, verbose=verbose)
        flat = [np.asarray(values) for values in predicted.flatten(outputs)]
        if not streams:
            structure, shapes = outputs, [values.shape for values in flat]
            streams = _make_streams(model, flat, output, keep_samples)
            first = flat
        _check_outputs(flat, shapes, count)
        if count and all(map(np.array_equal, first, flat)):
            warnings.warn(
                f"Model {count} of the ensemble predicts exactly what model 0 does: do "
                "they have the same weights? Such models say nothing about "
                "uncertainty.",
                stacklevel=2,
            )
        for stream, values in zip(streams, flat, strict=True):
            stream.update(values[np.newaxis])
        count += 1
    if count < 2:
        raise ValueError(
            f"Argument `models` must hold at least two models. Received: {count}"
        )
    for stream in streams:
        stream.end_batch()
    results = [
        MCPrediction(stream.result(), stream.kind, count, "ensemble", None)
        for stream in streams
    ]
    return sampling.pack(structure, results)


def _make_streams(
    model: Any, flat: list[np.ndarray], output: Any, keep: bool
) -> list[_streams.Stream]:
    wanted = [output] * len(flat) if isinstance(output, str) else list(output)
    if len(wanted) != len(flat):
        raise ValueError(
            f"Argument `output` must name {len(flat)} kind(s), one for each output of "
            f"the models. Received: output={output!r}"
        )
    told = predicted.kinds(model, len(flat))
    kinds = []
    for values, kind, known in zip(flat, wanted, told, strict=True):
        if kind == "auto":
            kind = _streams.recognize(values[np.newaxis], known)
        elif not _streams.is_kind(values[np.newaxis], kind):
            raise ValueError(
                "Argument `output` must be what the models give. "
                f"Received: output={output!r} for values from {values.min():.3g} "
                f"to {values.max():.3g}"
            )
        kinds.append(kind)
    return [_streams.Stream(kind, keep) for kind in kinds]


def _check_models(models: Any) -> None:
    if isinstance(models, str) or not isinstance(models, Iterable):
        raise TypeError(
            "Argument `models` must be a list of models, or something else that gives "
            f"one after another. Received: models={models!r}"
        )
    if isinstance(models, (list, tuple)):
        if len(models) < 2:
            raise ValueError(
                "Argument `models` must hold at least two models. "
                f"Received: {len(models)}"
            )
        for position, model in enumerate(models):
            _check_model(model, position)


def _check_model(model: Any, position: int) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `models` must hold models of the Keras in use "
            f"({keras.__name__} {keras.__version__}). "
            f"Received: {model!r} of {type(model).__module__} at position {position}"
        )


def _check_outputs(
    flat: list[np.ndarray], shapes: list[tuple[int, ...]], position: int
) -> None:
    found = [values.shape for values in flat]
    if found != shapes:
        raise ValueError(
            f"Argument `models` must hold models with the same outputs, {shapes} for "
            f"these inputs. Received: {found} at position {position}"
        )
    if any(np.isnan(values).any() for values in flat):
        raise ValueError(
            "Argument `models` must not predict NaN. "
            f"Received: NaN of the model at position {position}"
        )
