"""Monte Carlo prediction: one call, any trained model, only its dropout active."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, Literal, overload

import numpy as np

from keras_finetune import _checks
from keras_finetune._engine import sampling
from keras_finetune.uncertainty import _streams
from keras_finetune.uncertainty.mc_prediction import MCPrediction

# What an output stands for, see `MCPrediction`.
Kind = Literal["auto", "probabilities", "logits", "binary", "binary_logits", "values"]


# A model of several outputs gives its own structure, which no annotation can know:
# `| Any` lets `isinstance` narrow it, and a list of kinds says that there are several.
@overload
def mc_predict(
    model: Any,
    x: Any,
    *,
    samples: int = ...,
    batch_size: int | None = ...,
    seed: int | None = ...,
    masks: Literal["independent", "shared"] = ...,
    keep_samples: bool = ...,
    verbose: Literal["auto", 0, 1, 2] = ...,
    output: Kind = ...,
    random_layers: Iterable[Any] = ...,
    steps: int | None = ...,
) -> MCPrediction | Any: ...
@overload
def mc_predict(
    model: Any,
    x: Any,
    *,
    samples: int = ...,
    batch_size: int | None = ...,
    seed: int | None = ...,
    masks: Literal["independent", "shared"] = ...,
    keep_samples: bool = ...,
    verbose: Literal["auto", 0, 1, 2] = ...,
    output: Sequence[Kind],
    random_layers: Iterable[Any] = ...,
    steps: int | None = ...,
) -> Any: ...
def mc_predict(
    model: Any,
    x: Any,
    *,
    samples: int = 100,
    batch_size: int | None = None,
    seed: int | None = None,
    masks: Literal["independent", "shared"] = "independent",
    keep_samples: bool = False,
    verbose: Literal["auto", 0, 1, 2] = "auto",
    output: Kind | Sequence[Kind] = "auto",
    random_layers: Iterable[Any] = (),
    steps: int | None = None,
) -> MCPrediction | Any:
    """Predict many times with the random layers of a trained model active.

    Only layers that are random by design are active: dropout and noise of any kind,
    Keras's own and `keras_finetune`'s, dropout inside recurrent and attention layers,
    and your own layers without sublayers that draw from a seed generator and take
    `training`. `BatchNormalization` stays in inference mode and random augmentation
    is off; weights, statistics, seeds and compiled functions of the model are as
    before, also after an exception. No conversion of the model is needed.

    A functional or Sequential model, nested ones included, is cut where randomness
    begins: what lies before the first random layers runs once a batch, only the rest
    is sampled, many samples in one compiled call whose memory is bounded. A model
    whose `call` is your own cannot be cut; it is sampled as a whole, in one compiled
    call likewise. The result says which (`method`). Rows of a batch must not
    interact.

    Statistics are computed while samples arrive; memory does not grow with their
    number unless `keep_samples=True`.

    Args:
        model: A trained Keras model. It need not be compiled.
        x: Inputs, as `model.predict` takes them: an array, a list or dict of arrays,
            a dataset, `PyDataset` or `Sequence`, or a generator. Where the class of
            the model prepares them in a `predict`, `predict_step` or `call` of its
            own, as a task of KerasHub does with raw strings, they are prepared in the
            same way.
        samples: Number of samples `T`.
        batch_size: Inputs a batch, `None` for 32. Ignored if `x` comes in
            batches.
        seed: Integer that makes the draw repeatable, or `None` for a new one each
            time (from Python's `random`, which `keras.utils.set_random_seed` sets).
            The draw depends on `samples` and `batch_size` too, and on the backend.
        masks: `"independent"` draws again for every input, which is best for means and
            variances. `"shared"` draws once a sample for all inputs: each sample is a
            function of its own, for quantities over several inputs.
        keep_samples: Whether to keep all samples, in memory.
        verbose: `"auto"` or 1 for a progress bar, 2 for one line, 0 for silence. It
            counts passes: samples times batches.
        output: What the outputs stand for: `"probabilities"`, `"logits"`, `"binary"`,
            `"binary_logits"` or `"values"`, see `MCPrediction`; a list of these for a
            model of several outputs. `"auto"` goes by the last activation, then by
            the compiled loss, then by whether rows sum to 1.
        random_layers: Further layers of the model, or their names, that are random in
            training although Keras cannot know. One that draws without a generator of
            Keras is sampled one pass at a time, and its draw is not repeatable. On
            Keras 2, layers inside a call with `training=False`, as of a backbone, are
            sampled only if they are named here: `fit` does not make them random.
        steps: Number of batches to read from `x`, `None` for all.

    Returns:
        An `MCPrediction`; for a model of several outputs one for each, in the
        structure that the model returns.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value, if no layer of the model is
            random, if the inputs do not fit the model, if its `predict` does more
            than prepare them, or if an output is NaN.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, activation="relu"),
    ...         keras.layers.Dropout(0.5),
    ...         keras.layers.Dense(3, activation="softmax"),
    ...     ]
    ... )
    >>> prediction = mc_predict(model, np.ones((2, 4)), samples=10, verbose=0)
    >>> prediction.mutual_information.shape
    (2,)
    >>> prediction.method
    'prefix once'

    References:

    - [Dropout as a Bayesian Approximation](https://arxiv.org/abs/1506.02142)
      (Gal & Ghahramani, 2016)
    """
    samples = _checks.integer("samples", samples, minimum=1)
    for name, value, minimum in (
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("steps", steps, 1),
    ):
        if value is not None:
            _checks.integer(name, value, minimum=minimum)
    _checks.choice("masks", masks, ("independent", "shared"))
    _checks.choice("keep_samples", keep_samples, (True, False))
    _checks.choice("verbose", verbose, ("auto", 0, 1, 2))
    _check_output(output)
    chosen = _check_random_layers(random_layers)
    sampling.check(model, chosen)
    batches, total = sampling.batches(model, x, batch_size, steps)
    if seed is None:
        seed = random.randrange(2**31)

    bar = sampling.progress(
        None if total is None else total * samples,
        1 if verbose == "auto" else int(verbose),
    )
    with closing(batches):
        first = next(batches, None)
        if first is None:
            raise ValueError(
                f"Argument `x` must hold at least one batch. Received: x={x!r}"
            )
        sampler = sampling.sampler(model, first, chosen, masks == "shared")
        collected = _Collector(sampler, output, keep_samples)
        for draws in sampler.sample(chain([first], batches), samples, seed):
            collected.add(draws)
            bar.add(len(draws.values[0]))
    if total is None:
        # Keras 2 cannot end a bar whose length it was not told.
        bar.target = collected.passes
        bar.update(collected.passes, finalize=True)
    method = "prefix once" if sampler.split else "whole model"
    results = [
        MCPrediction(stream.result(), stream.kind, samples, method, seed)
        for stream in collected.streams
    ]
    return sampling.pack(collected.structure, results)


class _Collector:
    """Statistics of each output, filled by draws as they arrive."""

    def __init__(self, sampler: sampling.Sampler, output: Any, keep: bool) -> None:
        self._sampler = sampler
        self._output = output
        self._keep = keep
        self._batch = 0
        self.streams: list[_streams.Stream] = []
        self.structure: Any = None
        self.passes = 0

    def add(self, draws: sampling.Draws) -> None:
        for position, values in enumerate(draws.values):
            _check_finite(values, position, self._batch)
        if not self.streams:
            told = self._sampler.kinds(len(draws.values))
            kinds = _kinds(draws.values, told, self._output)
            self.streams = [_streams.Stream(kind, self._keep) for kind in kinds]
            self.structure = draws.structure
        for stream, values in zip(self.streams, draws.values, strict=True):
            stream.update(values)
            if draws.ends_batch:
                stream.end_batch()
        self.passes += len(draws.values[0])
        self._batch += draws.ends_batch


def _kinds(outputs: list[np.ndarray], told: list[str | None], output: Any) -> list[str]:
    wanted = [output] * len(outputs) if isinstance(output, str) else list(output)
    if len(wanted) != len(outputs):
        raise ValueError(
            f"Argument `output` must name {len(outputs)} kind(s), one for each output "
            f"of the model. Received: output={output!r}"
        )
    kinds = []
    for values, kind, known in zip(outputs, wanted, told, strict=True):
        if kind == "auto":
            kind = _streams.recognize(values, known)
        elif not _streams.is_kind(values, kind):
            raise ValueError(
                "Argument `output` must be what the model gives: values in [0, 1]"
                + (" that sum to 1 over the last axis" if kind[0] == "p" else "")
                + f". Received: output={output!r} for values from {values.min():.3g} "
                f"to {values.max():.3g}"
            )
        kinds.append(kind)
    return kinds


def _check_output(output: Any) -> None:
    for kind in output if isinstance(output, (list, tuple)) else [output]:
        _checks.choice("output", kind, ("auto", *_streams.KINDS))


def _check_random_layers(random_layers: Any) -> list[Any]:
    try:
        found = list(random_layers)
    except TypeError:
        found = [None]
    named = [isinstance(x, str) or hasattr(x, "call") for x in found]
    if isinstance(random_layers, str) or not all(named):
        raise TypeError(
            "Argument `random_layers` must be a list of layers or names of layers. "
            f"Received: random_layers={random_layers!r}"
        )
    return found


def _check_finite(values: np.ndarray, position: int, batch: int) -> None:
    if np.isnan(values).any():
        raise ValueError(
            "Argument `model` must not predict NaN. "
            f"Received: NaN in output {position} for inputs of batch {batch}"
        )
