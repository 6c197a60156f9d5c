"""Sampling a model with its random layers active, on every Keras and backend."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np

from .. import keras
from . import _graph, _outputs
from ._draws import Fold
from ._lane import array, lane
from ._random import RandomLayers, settings

# Samples are folded into the batch until its largest activation has this many bytes,
# so that memory does not grow with their number. On a CPU more is not faster: a call
# costs little next to what a tensor of that size costs to compute.
CHUNK_BYTES = 16 * 2**20

# Layers are patched while they are traced, on PyTorch while they are called.
_lock = threading.RLock()

# Where a model keeps its samplers, so that a second prediction need not trace again.
_CACHE = "_keras_finetune_samplers"


class Batch:
    """A batch of inputs after the deterministic part of the model.

    Attributes:
        rows: Number of inputs.
        values: Tensors that the random part reads.
        masks: Their Keras masks, or `None`.
        fixed: By output index, outputs that no random layer comes before.
    """

    def __init__(
        self, rows: int, padded: int, values: list[Any], masks: list[Any]
    ) -> None:
        self.rows = rows
        self.padded = padded
        self.values = values
        self.masks = masks
        self.fixed: dict[int, np.ndarray] = {}


class Sampler:
    """A model, cut at its first random layers and compiled.

    Args:
        model: A built Keras model.
        random: Its random layers.
        shared: Whether all inputs of a sample get the same random draw.

    Attributes:
        split: Whether the deterministic part is apart, to be run once.
    """

    def __init__(self, model: Any, random: RandomLayers, shared: bool) -> None:
        self.model = model
        self._random = random
        self._shared = shared
        self._seeds = lane.seeds(lane.flatten_layers(model))
        self._variables = lane.variables(model)
        self._graph = _graph.Graph(model, random) if _graph.can_open(model) else None
        self.split = self._graph is not None
        self._structure: Any = None
        self._input_structure: Any = None
        self._batched: list[bool] | None = None
        self._foldable = not random.unfollowed
        self._bytes_per_row: dict[Any, float] = {}
        self._rows: int | None = None
        self._prefix = array.Compiled(self._run_prefix)
        self._suffix = array.Compiled(self._run_suffix)

    # ------------------------------------------------------------ what is computed

    def _run_prefix(self, states: list[Any], inputs: list[Any]) -> Any:
        graph = self._graph
        assert graph is not None
        with self._isolated(states, None, None):
            opened = lane.opened(self.model)
            packed = lane.pack(self._input_structure, inputs)
            values = dict(
                zip(graph.inputs, lane.standardize(opened, packed), strict=True)
            )
            _graph.run(graph.prefix, values)
            frontier = [values[key] for key in graph.frontier]
            masks = [lane.get_mask(x) for x in frontier]
            fixed = [
                array.widen(values[key])
                for key, random in zip(graph.outputs, graph.random_outputs, strict=True)
                if not random
            ]
        return frontier, masks, fixed

    def _run_suffix(
        self,
        states: list[Any],
        values: list[Any],
        masks: list[Any],
        keys: Any,
        samples: Any,
        rows: Any,
    ) -> list[Any]:
        fold = Fold(samples, rows, self._shared)
        with self._isolated(states, keys, fold):
            folded = [self._fold(i, x, samples) for i, x in enumerate(values)]
            for i, mask in enumerate(masks):
                if mask is not None:
                    lane.set_mask(folded[i], self._fold(i, mask, samples))
            graph = self._graph
            if graph is None:
                packed = lane.pack(self._input_structure, folded)
                outputs = self.model(packed, training=False)
                flat = lane.flatten(outputs)
                self._structure = lane.pack(outputs, range(len(flat)))
            else:
                known = _graph.run(
                    graph.suffix, dict(zip(graph.frontier, folded, strict=True))
                )
                flat = [
                    known[key]
                    for key, random in zip(
                        graph.outputs, graph.random_outputs, strict=True
                    )
                    if random
                ]
            flat = [array.widen(x) for x in flat]
        if fold.broken:
            self._foldable = False
        return flat

    def _fold(self, index: int, x: Any, samples: Any) -> Any:
        once = isinstance(samples, int) and samples == 1
        batched = self._batched is not None and self._batched[index]
        return array.tile(x, samples) if batched and not once else x

    def _isolated(self, states: list[Any], keys: Any, fold: Fold | None) -> Any:
        return lane.isolated(
            self.model,
            self._random.forced,
            self._seeds,
            keys,
            list(zip(self._variables, states, strict=True)),
            fold,
        )

    # ------------------------------------------------------------------ how it is run

    def prepare(self, x: Any) -> Batch:
        """Run the deterministic part on one batch of inputs."""
        flat = lane.flatten(x)
        self._check_inputs(flat)
        rows = int(flat[0].shape[0])
        padded = rows
        if array.PADS:
            if self._rows is None or rows > self._rows:
                self._rows = rows
            padded = self._rows
            flat = [_pad(part, padded - rows) for part in flat]
        if self._input_structure is None:
            self._input_structure = lane.pack(x, range(len(flat)))
        inputs = [array.tensor(part) for part in flat]
        with _lock:
            if self._graph is None:
                batch = Batch(rows, padded, inputs, [None] * len(inputs))
                symbolic = [True] * len(inputs)
            else:
                opened = lane.opened(self.model)
                free = [symbolic.shape[0] is None for symbolic in opened.inputs]
                self._foldable = self._foldable and all(free)
                states = self._states()
                values, masks, fixed = self._prefix(
                    states, inputs, batched=[[False] * len(states), free]
                )
                batch = Batch(rows, padded, list(values), list(masks))
                positions = [
                    i for i, r in enumerate(self._graph.random_outputs) if not r
                ]
                for i, value in zip(positions, fixed, strict=True):
                    batch.fixed[i] = array.to_numpy(value)[:rows]
                symbolic = [self._graph.is_batched(k) for k in self._graph.frontier]
        if self._batched is None:
            self._batched = [
                open_ and int(value.shape[0]) % padded == 0
                if array.is_dense(value)
                else open_
                for open_, value in zip(symbolic, batch.values, strict=True)
            ]
            if not all(array.is_dense(value) for value in batch.values):
                self._foldable = False
        return batch

    def plan(self, batch: Batch, samples: int) -> list[int]:
        """How many samples go into each call: equal parts that bound the memory."""
        if samples == 1 or not self._foldable:
            return [1] * samples
        # Longer sequences or larger images are measured anew.
        sizes = tuple(tuple(getattr(x, "shape", ()))[1:] for x in batch.values)
        with _lock, array.seeded(0):
            if sizes not in self._bytes_per_row:
                largest = self._suffix.largest(
                    *self._arguments(batch, 1, self._keys((0,))),
                    rows=batch.padded,
                    batched=self._open_axes(batch),
                )
                self._bytes_per_row[sizes] = largest / batch.padded
        limit = 1
        if self._foldable:
            per_sample = self._bytes_per_row[sizes] * batch.padded
            limit = int(CHUNK_BYTES // max(1.0, per_sample))
        calls = -(-samples // max(1, limit))
        size = -(-samples // calls)
        return [size] * (samples // size) + [samples % size] * (samples % size > 0)

    def draw(
        self, batch: Batch, samples: int, entropy: tuple[int, ...], size: int
    ) -> list[np.ndarray]:
        """Draw `samples` of all random outputs, each of shape (samples, rows, ...)."""
        # With a fixed shape for all calls a compiled one is never compiled again.
        drawn = size if array.PADS else samples
        once = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        with _lock, array.seeded(once):
            outputs = self._suffix(
                *self._arguments(batch, drawn, self._keys(entropy)),
                batched=self._open_axes(batch),
            )
        return [
            _unfold(array.to_numpy(x), drawn, batch.padded)[:samples, : batch.rows]
            for x in outputs
        ]

    def pack(self, results: list[Any]) -> Any:
        """One result for each output, in the structure that the model returns."""
        structure = self._structure
        if self._graph is not None:
            structure = lane.output_structure(lane.opened(self.model))
        return lane.pack(structure, results)

    @property
    def random_outputs(self) -> list[bool]:
        """Which outputs, in flat order, are sampled. Known after the first draw."""
        if self._graph is not None:
            return self._graph.random_outputs
        return [True] * len(lane.flatten(self._structure))

    def kinds(self) -> list[str | None]:
        """What each output stands for, where the model tells."""
        return _outputs.kinds(self.model, self._graph, len(self.random_outputs))

    def _arguments(self, batch: Batch, samples: int, keys: Any) -> tuple[Any, ...]:
        # A number of samples that is open in the trace needs rows that are open.
        count = array.scalar(samples) if self._foldable else samples
        rows = array.scalar(batch.padded) if self._foldable else batch.padded
        return self._states(), batch.values, batch.masks, keys, count, rows

    def _open_axes(self, batch: Batch) -> list[Any]:
        batched = list(self._batched or [])
        if not self._foldable and self._graph is not None:
            batched = [False] * len(batched)
        states = [False] * len(self._variables)
        return [states, batched, batched, False, False, False]

    def _states(self) -> list[Any]:
        return [variable.value for variable in self._variables]

    def _keys(self, entropy: tuple[int, ...]) -> Any:
        sequence = np.random.SeedSequence(entropy)
        # One more than there are, for generators that no layer owns.
        rows = len(self._seeds) + 1
        keys = sequence.generate_state(2 * rows) >> np.uint32(2)
        return array.tensor(keys.astype("int32").reshape(rows, 2))

    def _check_inputs(self, flat: list[Any]) -> None:
        for part in flat:
            if not getattr(part, "shape", ()):
                raise ValueError(
                    "Argument `x` must yield batches of arrays, the batch axis first. "
                    f"Received: {type(part).__name__}"
                )
        if self._graph is None:
            return
        opened = lane.opened(self.model)
        if len(flat) < len(opened.inputs):
            raise ValueError(
                "Argument `x` must hold one array for each input of the model: "
                f"{', '.join(lane.input_names(opened))}. Received: {len(flat)} "
                f"array(s) of shape {', '.join(str(tuple(x.shape)) for x in flat)}"
            )


def _pad(x: Any, rows: int) -> Any:
    if rows == 0:
        return x
    x = np.asarray(x)
    return np.concatenate([x, np.repeat(x[-1:], rows, axis=0)])


def _unfold(x: np.ndarray, samples: int, rows: int) -> np.ndarray:
    if x.ndim == 0 or x.shape[0] != samples * rows:
        raise ValueError(
            "Every output of the model must have one row for each input. Received: "
            f"an output of shape {x.shape} for {samples} sample(s) of {rows} input(s)"
        )
    return x.reshape(samples, rows, *x.shape[1:])


def sampler(
    model: Any, first: Any, random_layers: Iterable[Any], shared: bool
) -> Sampler:
    """The sampler of a model, made anew only where the model has changed."""
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
    cache = model.__dict__.setdefault(_CACHE, {})
    found = cache.get(shared)
    if found is None or found[0] != state:
        random = _random_layers(model, extra)
        if shared and random.unfollowed:
            names = ", ".join(repr(layer.name) for layer in random.unfollowed)
            raise ValueError(
                "Argument `masks` must be 'independent' for a model with layers that "
                f"draw without a generator of Keras: {names}. Received: masks='shared'"
            )
        found = (state, Sampler(model, random, shared))
        cache[shared] = found
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


def batches(
    model: Any, x: Any, batch_size: int, steps: int | None
) -> tuple[Generator[Any, None, None], int | None]:
    """The inputs, batch by batch, as `Model.predict` reads them, and how many."""
    try:
        return lane.batches(model, x, batch_size, steps)
    except (TypeError, ValueError) as error:
        shape = getattr(x, "shape", None)
        received = f"x={x!r}" if shape is None else f"x of shape {tuple(shape)}"
        raise ValueError(
            "Argument `x` must be data that `Model.predict` takes. "
            f"Received: {received} ({error})"
        ) from error


def progress(total: int | None, verbose: int) -> Any:
    """Keras's own progress bar."""
    return keras.utils.Progbar(total, verbose=verbose, unit_name="pass")


__all__ = ["Batch", "Sampler", "batches", "check", "progress", "sampler"]
