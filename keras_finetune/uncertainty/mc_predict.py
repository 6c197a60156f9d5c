"""Monte Carlo prediction: one call, any trained model, only its dropout active."""

from __future__ import annotations

import random
from contextlib import closing
from typing import Any

import numpy as np

from .. import _checks
from .._engine import sampling
from . import _streams
from .mc_prediction import MCPrediction


def mc_predict(
    model: Any,
    x: Any,
    samples: int = 100,
    batch_size: int = 32,
    seed: int | None = None,
    masks: str = "independent",
    keep_samples: bool = False,
    verbose: str | int = "auto",
    output: Any = "auto",
    random_layers: Any = (),
    steps: int | None = None,
) -> Any:
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
        x: Inputs, as `Model.predict` takes them: an array, a list or dict of arrays,
            a dataset, `PyDataset` or `Sequence`, or a generator.
        samples: Number of samples `T`.
        batch_size: Inputs a batch. Of no effect where `x` comes in batches.
        seed: Integer that makes the draw repeatable, or `None` for a new one each
            time (from Python's `random`, which `keras.utils.set_random_seed` sets).
            The draw depends on `samples` and `batch_size` too, and on the backend.
        masks: `"independent"` draws anew for every input, which is best for means and
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
            Keras is sampled one pass at a time, and its draw is not repeatable.
        steps: Number of batches to read from `x`, `None` for all.

    Returns:
        An `MCPrediction`; for a model of several outputs one for each, in the
        structure that the model returns.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If an argument has a wrong value, if no layer of the model is
            random, if the inputs do not fit the model, or if an output is NaN.

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
    batch_size = _checks.integer("batch_size", batch_size, minimum=1)
    if seed is not None:
        seed = _checks.integer("seed", seed, minimum=0)
    if steps is not None:
        steps = _checks.integer("steps", steps, minimum=1)
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
    sampler: sampling.Sampler | None = None
    streams: list[_streams.Stream] = []
    plan: list[int] = []
    done = 0
    with closing(batches):
        for index, inputs in enumerate(batches):
            if sampler is None:
                sampler = sampling.sampler(model, inputs, chosen, masks == "shared")
            batch = sampler.prepare(inputs)
            if not plan:
                plan = sampler.plan(batch, samples)
            for part, count in enumerate(plan):
                entropy = (seed, part) if masks == "shared" else (seed, part, index)
                drawn = sampler.draw(batch, count, entropy, size=plan[0])
                outputs = _all_outputs(sampler, batch, drawn, count)
                if not streams:
                    streams = _make_streams(sampler, outputs, output, keep_samples)
                for position, (stream, values) in enumerate(
                    zip(streams, outputs, strict=True)
                ):
                    _check_finite(values, position, index)
                    stream.update(values)
                done += count
                bar.add(count)
            for stream in streams:
                stream.end_batch()
    if sampler is None:
        raise ValueError(
            f"Argument `x` must hold at least one batch. Received: x={x!r}"
        )
    if total is None:
        # Keras 2 cannot end a bar whose length it was not told.
        bar.target = done
        bar.update(done, finalize=True)
    method = "prefix once" if sampler.split else "whole model"
    results = [
        MCPrediction(stream.result(), stream.kind, samples, method, seed)
        for stream in streams
    ]
    return sampler.pack(results)


def _all_outputs(
    sampler: sampling.Sampler,
    batch: sampling.Batch,
    drawn: list[np.ndarray],
    count: int,
) -> list[np.ndarray]:
    """The sampled outputs and, as often, those that no random layer comes before."""
    sampled = iter(drawn)
    return [
        next(sampled)
        if is_random
        else np.broadcast_to(batch.fixed[i], (count, *batch.fixed[i].shape))
        for i, is_random in enumerate(sampler.random_outputs)
    ]


def _make_streams(
    sampler: sampling.Sampler, outputs: list[np.ndarray], output: Any, keep: bool
) -> list[_streams.Stream]:
    if isinstance(output, str):
        wanted = [output] * len(outputs)
    else:
        wanted = list(output)
    if len(wanted) != len(outputs):
        raise ValueError(
            f"Argument `output` must name {len(outputs)} kind(s), one for each output "
            f"of the model. Received: output={output!r}"
        )
    kinds = []
    for values, kind, told in zip(outputs, wanted, sampler.kinds(), strict=True):
        if kind == "auto":
            kind = _streams.recognize(values, told)
        elif not _streams.is_kind(values, kind):
            raise ValueError(
                "Argument `output` must be what the model gives: values in [0, 1]"
                + (" that sum to 1 over the last axis" if kind[0] == "p" else "")
                + f". Received: output={output!r} for values from {values.min():.3g} "
                f"to {values.max():.3g}"
            )
        kinds.append(kind)
    return [_streams.Stream(kind, keep) for kind in kinds]


def _check_output(output: Any) -> None:
    several = isinstance(output, (list, tuple))
    for kind in output if several else [output]:
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
