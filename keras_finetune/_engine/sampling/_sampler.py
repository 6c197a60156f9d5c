"""Samples of a model, drawn batch by batch and a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.cut import Cut, Graph
from keras_finetune._engine.sampling import _inputs, _outputs, _predicting
from keras_finetune._engine.sampling._lane import array, lane
from keras_finetune._engine.sampling._program import (
    Batch,
    Prefix,
    Program,
    Subject,
    Suffix,
)
from keras_finetune._engine.sampling._random import RandomLayers, settings

# Samples are folded into the batch until its largest activation has this many bytes,
# so that memory does not grow with their number. On a CPU more is not faster: a call
# costs little next to what a tensor of that size costs to compute.
CHUNK_BYTES = 16 * 2**20

# Where a model keeps its samplers, so that a second prediction need not trace again.
_CACHE = "_keras_finetune_samplers"


class Draws(NamedTuple):
    """Some samples of all outputs, for one batch of inputs.

    Attributes:
        values: For each output, in flat order, an array (samples, rows, ...).
        structure: How the model returns its outputs: their positions as leaves.
        ends_batch: Whether the samples of these inputs are complete.
    """

    values: list[np.ndarray]
    structure: Any
    ends_batch: bool


class Sampler:
    """A model, cut at its first random layers and compiled.

    Args:
        subject: The model, and where it is cut.
        shared: Whether all inputs of a sample get the same random draw.

    Attributes:
        subject: The model, and where it is cut.
        split: Whether the deterministic part is apart, to be run once.
    """

    def __init__(self, subject: Subject, shared: bool) -> None:
        self.subject = subject
        self.split = subject.cut is not None
        self._shared = shared
        self._prefix = Prefix(subject)
        self._suffix = Suffix(subject, shared)
        self._program: Program | None = None

    def sample(
        self, batches: Iterable[Any], samples: int, seed: int
    ) -> Iterator[Draws]:
        """Yield samples of batches of inputs: all of the first batch, and so on."""
        sizes: list[int] = []
        for index, x in enumerate(batches):
            batch, program = self.prepare(x)
            # The first batch decides for all, so that a draw can be repeated.
            sizes = sizes or self.plan(program, batch, samples)
            for part, count in enumerate(sizes):
                entropy = (seed, part) if self._shared else (seed, part, index)
                # With one shape for all calls a compiled one is not compiled again.
                drawn = sizes[0] if array.pads else count
                values = self._suffix.draw(program, batch, drawn, entropy)
                yield Draws(
                    self._all_outputs(batch, [x[:count] for x in values], count),
                    program.structure,
                    part == len(sizes) - 1,
                )

    def prepare(self, x: Any) -> tuple[Batch, Program]:
        """Run the deterministic part on a batch, and return what samples the rest."""
        graph = self.subject.graph
        flat = _inputs.check(None if graph is None else graph.source, x)
        batch = self._prefix(flat)
        if self._program is None:
            self._program = self._suffix.trace(batch)
        return batch, self._program

    def plan(self, program: Program, batch: Batch, samples: int) -> list[int]:
        """Return how many samples each call draws, so that memory is bounded."""
        if samples == 1 or not program.foldable:
            return [1] * samples
        per_sample = self._suffix.measure(program, batch)
        limit = int(CHUNK_BYTES // max(1.0, per_sample))
        calls = -(-samples // max(1, limit))
        size = -(-samples // calls)
        return [size] * (samples // size) + [samples % size] * (samples % size > 0)

    def kinds(self, count: int) -> list[str | None]:
        """Return what each of `count` outputs stands for, where the model tells."""
        return _outputs.kinds(self.subject.model, self.subject.graph, count)

    def _all_outputs(
        self, batch: Batch, drawn: list[np.ndarray], count: int
    ) -> list[np.ndarray]:
        """Add, as often, the outputs that no random layer comes before."""
        cut = self.subject.cut
        if cut is None:
            return drawn
        varying, fixed = iter(drawn), iter(batch.fixed)
        outputs = []
        for varies in cut.varying:
            if varies:
                outputs.append(next(varying))
            else:
                values = next(fixed)
                outputs.append(np.broadcast_to(values, (count, *values.shape)))
        return outputs


class _Kept(dict[bool, tuple[Any, Sampler]]):
    """The samplers of a model. Its copies, and files of it, have none of them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Kept, ()


def sampler(
    model: Any, first: Any, random_layers: Iterable[Any], shared: bool
) -> Sampler:
    """Return the sampler of a model, a new one only where the model has changed.

    Args:
        model: The model.
        first: A batch of its inputs.
        random_layers: Layers, or their names, that count as random in addition.
        shared: Whether all inputs of a sample get the same random draw.
    """
    if not model.built:
        model(first, training=False)
    extra = list(random_layers)
    layers = lane.flatten_layers(model)
    # A list and a dict of the same inputs are packed and unpacked differently.
    structure = lane.pack(first, range(len(lane.flatten(first))))
    state = (
        repr(structure),
        tuple(x if isinstance(x, str) else id(x) for x in extra),
        tuple((id(layer), type(layer), settings(layer)) for layer in layers),
        tuple(id(variable) for variable in model.variables),
    )
    kept = model.__dict__.setdefault(_CACHE, _Kept())
    found = kept.get(shared)
    if found is None or found[0] != state:
        found = (state, _made(model, first, structure, extra, shared))
        kept[shared] = found
    return found[1]


def check(model: Any, random_layers: Iterable[Any]) -> None:
    """Raise where there is nothing to sample, as far as an unbuilt model tells."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a model of the Keras in use "
            f"({keras.__name__} {keras.__version__}). "
            f"Received: model={model!r} of {type(model).__module__}"
        )
    if model.built:
        _random_layers(model, list(random_layers))


def pack(structure: Any, results: list[Any]) -> Any:
    """Return one result for each output, in the structure of the model's outputs."""
    return lane.pack(structure, results)


def progress(total: int | None, verbose: int) -> Any:
    """Return Keras's own progress bar."""
    return keras.utils.Progbar(total, verbose=verbose, unit_name="pass")


def _made(
    model: Any, first: Any, structure: Any, extra: list[Any], shared: bool
) -> Sampler:
    random = _random_layers(model, extra)
    if shared and random.unfollowed:
        names = ", ".join(repr(layer.name) for layer in random.unfollowed)
        raise ValueError(
            "Argument `masks` must be 'independent' for a model with layers that "
            f"draw without a generator of Keras: {names}. Received: masks='shared'"
        )
    source = None
    if not _predicting.overrides(model, "predict_step") and (
        not lane.predicts_by_call or _predicting.hands_on(model, first)
    ):
        source = lane.opened(model, own_call=True)
    cut = None if source is None else Cut(Graph(source, random.within))
    if cut is not None and not any(cut.varying):
        _raise_not_random(model, random)
    return Sampler(Subject(model, random, cut, structure), shared)


def _raise_not_random(model: Any, random: RandomLayers) -> None:
    names = ", ".join(repr(layer.name) for layer in random.forced)
    raise ValueError(
        "Argument `model` must have a random layer that `fit` makes random and that "
        "its outputs depend on. A layer inside a call with `training=False`, as of a "
        "backbone, is sampled if it is named: `random_layers=[...]`. Received: "
        f"model={model.name!r}, whose random layers are {names}"
    )


def _random_layers(model: Any, extra: list[Any]) -> RandomLayers:
    random = RandomLayers(lane.flatten_layers(model), extra)
    if not random:
        suspects = ", ".join(repr(layer.name) for layer in random.suspects)
        hint = f" (perhaps {suspects})" if suspects else ""
        raise ValueError(
            "Argument `model` must have a random layer with a positive rate: "
            "dropout, noise, or dropout inside a recurrent or attention layer. Name "
            f"layers of your own with `random_layers`{hint}. "
            f"Received: model={model.name!r}"
        )
    return random
