"""The two parts of a model that is sampled, compiled.

What is known before any data stands in the cut. What only a trace can tell, the
structure of the outputs and whether samples may share a batch, comes back from it as
a `Program`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_finetune._engine.graphs.cut import Cut, Graph, run
from keras_finetune._engine.sampling._interface import Compiled, Fold
from keras_finetune._engine.sampling._lane import array, lane
from keras_finetune._engine.sampling._random import RandomLayers

# Layers are patched while they are traced, on PyTorch while they are called.
_lock = threading.RLock()


@dataclass(frozen=True)
class Subject:
    """A model that is to be sampled, and how it is called.

    Args:
        model: The model.
        random: Its random layers.
        cut: Where it is cut, or `None` where it is sampled as a whole.
        structure: The structure of its inputs.
    """

    model: Any
    random: RandomLayers
    cut: Cut | None
    structure: Any
    seeds: list[Any] = field(init=False)
    variables: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        layers = lane.flatten_layers(self.model)
        object.__setattr__(self, "seeds", lane.seeds(layers))
        object.__setattr__(self, "variables", lane.variables(self.model))

    @property
    def graph(self) -> Graph | None:
        """The graph of the model, where it has one."""
        return None if self.cut is None else self.cut.graph

    def states(self) -> list[Any]:
        """Return the values that a compiled call must be given."""
        return [variable.value for variable in self.variables]

    def keys(self, sequence: np.random.SeedSequence) -> Any:
        """Return a key for each seed, and one more for those that no layer owns."""
        rows = len(self.seeds) + 1
        keys = sequence.generate_state(2 * rows) >> np.uint32(2)
        return array.tensor(keys.astype("int32").reshape(rows, 2))

    def isolated(self, states: list[Any], keys: Any, fold: Fold | None) -> Any:
        """Return a block in which the model is called and nothing of it changes."""
        return lane.isolated(
            self.model,
            self.random.forced,
            self.random.named,
            self.seeds,
            keys,
            list(zip(self.variables, states, strict=True)),
            fold,
        )


@dataclass(frozen=True)
class Batch:
    """A batch of inputs after the deterministic part of the model.

    Args:
        rows: Number of inputs.
        padded: Number of rows, those that fill up included.
        values: Tensors that the random part reads.
        masks: Their Keras masks, or `None`.
        fixed: Outputs that no random layer comes before, in flat order.
        batched: Whether the first axis of each value is the batch, of any size.
    """

    rows: int
    padded: int
    values: list[Any]
    masks: list[Any]
    fixed: list[np.ndarray]
    batched: list[bool]


class Prefix:
    """The deterministic part of a model, run once a batch.

    Args:
        subject: The model.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._compiled = array.compile(self._run)
        self._padded = 0

    def __call__(self, flat: list[Any]) -> Batch:
        """Run on one batch of inputs, a flat list."""
        rows = int(flat[0].shape[0])
        padded = rows
        if array.pads:
            padded = self._padded = max(rows, self._padded)
            flat = [_pad(part, padded - rows) for part in flat]
        inputs = [array.tensor(part) for part in flat]
        cut = self._subject.cut
        if cut is None:
            masks = [None] * len(inputs)
            opens = [True] * len(inputs)
            return _batch(rows, padded, inputs, masks, [], opens)
        free = [cut.graph.is_batched(key) for key in cut.graph.inputs]
        states = self._subject.states()
        with _lock:
            values, masks, fixed = self._compiled(
                states, inputs, batched=[[False] * len(states), _like(free, inputs)]
            )
        known = [array.to_numpy(value)[:rows] for value in fixed]
        opens = [cut.graph.is_batched(key) for key in cut.frontier]
        return _batch(rows, padded, list(values), list(masks), known, opens)

    def _run(self, states: list[Any], inputs: list[Any]) -> Any:
        cut = self._subject.cut
        if cut is None:
            return inputs, [None] * len(inputs), []
        with self._subject.isolated(states, None, None):
            packed = lane.pack(self._subject.structure, inputs)
            given = lane.standardize(cut.graph.source, packed)
            values = run(cut.prefix, cut.graph.inputs, given)
            frontier = [values[key] for key in cut.frontier]
            masks = [lane.get_mask(x) for x in frontier]
            fixed = [array.widen(values[key]) for key in cut.fixed_outputs()]
        return frontier, masks, fixed


@dataclass(frozen=True)
class Program:
    """The random part of a model, compiled, and what its trace has told.

    Args:
        compiled: The call.
        structure: The structure of the model's outputs, their positions as leaves.
        foldable: Whether several samples may share a batch.
        batched: Whether the first axis of each value is the batch.
        bytes_per_row: Size of the largest tensor that a sample of a row computes, by
            the shapes of the values that were seen.
    """

    compiled: Compiled
    structure: Any
    foldable: bool
    batched: list[bool]
    bytes_per_row: dict[Any, float]


@dataclass
class _Told:
    structure: Any = None
    broken: bool = False


class Suffix:
    """The random part of a model, run for every few samples.

    Args:
        subject: The model.
        shared: Whether all inputs of a sample get the same random draw.
    """

    def __init__(self, subject: Subject, shared: bool) -> None:
        self._subject = subject
        self._shared = shared

    def trace(self, batch: Batch) -> Program:
        """Return the program for batches such as `batch`."""
        cut = self._subject.cut
        foldable = not self._subject.random.unfollowed and all(
            array.is_dense(value) for value in batch.values
        )
        if cut is not None:
            foldable &= all(cut.graph.is_batched(key) for key in cut.graph.inputs)
        program, told = self._trace(batch, foldable)
        if foldable and told.broken:
            # A draw was met that cannot be told apart by sample.
            program, _ = self._trace(batch, False)
        return program

    def measure(self, program: Program, batch: Batch) -> float:
        """Return the bytes of the largest tensor that one sample computes."""
        # Longer sequences or larger images are another size.
        sizes = tuple(tuple(getattr(x, "shape", ()))[1:] for x in batch.values)
        known = program.bytes_per_row
        if sizes not in known:
            with _lock, array.seeded(0):
                largest = program.compiled.largest(
                    *self._arguments(program, batch, 1, np.random.SeedSequence(0)),
                    rows=batch.padded,
                    batched=self._open_axes(program),
                )
            known[sizes] = largest / batch.padded
        return known[sizes] * batch.padded

    def draw(
        self, program: Program, batch: Batch, samples: int, entropy: tuple[int, ...]
    ) -> list[np.ndarray]:
        """Draw samples of the random outputs, each of shape (samples, rows, ...)."""
        sequence = np.random.SeedSequence(entropy)
        with _lock, array.seeded(int(sequence.generate_state(1)[0])):
            outputs = program.compiled(
                *self._arguments(program, batch, samples, sequence),
                batched=self._open_axes(program),
            )
        return [
            _unfold(array.to_numpy(x), samples, batch.padded)[:, : batch.rows]
            for x in outputs
        ]

    def _trace(self, batch: Batch, foldable: bool) -> tuple[Program, _Told]:
        told = _Told()
        batched = batch.batched

        def run(*arguments: Any) -> list[Any]:
            return self._run(told, batched, *arguments)

        program = Program(array.compile(run), None, foldable, batched, {})
        self.measure(program, batch)
        return replace(program, structure=told.structure), told

    def _run(
        self,
        told: _Told,
        batched: list[bool],
        states: list[Any],
        values: list[Any],
        masks: list[Any],
        keys: Any,
        samples: Any,
        rows: Any,
    ) -> list[Any]:
        once = isinstance(samples, int) and samples == 1

        def repeat(x: Any, is_batched: bool) -> Any:
            return array.tile(x, samples) if is_batched and not once else x

        fold = Fold(samples, rows, self._shared)
        with self._subject.isolated(states, keys, fold):
            folded = [repeat(x, b) for x, b in zip(values, batched, strict=True)]
            for x, mask, is_batched in zip(folded, masks, batched, strict=True):
                if mask is not None:
                    lane.set_mask(x, repeat(mask, is_batched))
            structure, flat = self._outputs(folded)
            flat = [array.widen(x) for x in flat]
        told.structure = structure
        told.broken |= fold.broken
        return flat

    def _outputs(self, values: list[Any]) -> tuple[Any, list[Any]]:
        """Return the structure of all outputs, and the random ones."""
        cut = self._subject.cut
        if cut is None:
            packed = lane.pack(self._subject.structure, values)
            outputs = lane.predict_step(self._subject.model, packed)
            flat = lane.flatten(outputs)
        else:
            known = run(cut.suffix, cut.frontier, values)
            flat = [known[key] for key in cut.varying_outputs()]
            outputs = lane.output_structure(cut.graph.source)
        count = len(lane.flatten(outputs))
        return lane.pack(outputs, range(count)), flat

    def _arguments(
        self, program: Program, batch: Batch, samples: int, seed: np.random.SeedSequence
    ) -> tuple[Any, ...]:
        # A number of samples that is open in the trace needs rows that are open.
        count: Any = samples
        rows: Any = batch.padded
        if program.foldable:
            count, rows = array.scalar(count), array.scalar(rows)
        keys = self._subject.keys(seed)
        return self._subject.states(), batch.values, batch.masks, keys, count, rows

    def _open_axes(self, program: Program) -> list[Any]:
        batched = program.batched
        if not program.foldable and self._subject.cut is not None:
            batched = [False] * len(batched)
        states = [False] * len(self._subject.variables)
        return [states, batched, batched, False, False, False]


def _batch(
    rows: int,
    padded: int,
    values: list[Any],
    masks: list[Any],
    fixed: list[np.ndarray],
    opens: list[bool],
) -> Batch:
    batched = [
        is_open and (not array.is_dense(x) or int(x.shape[0]) % padded == 0)
        for is_open, x in zip(opens, values, strict=True)
    ]
    return Batch(rows, padded, values, masks, fixed, batched)


def _like(flags: list[bool], inputs: list[Any]) -> list[bool]:
    # A dict may hold more arrays than the model has inputs.
    return flags if len(flags) == len(inputs) else [all(flags)] * len(inputs)


def _pad(x: Any, rows: int) -> Any:
    if rows == 0:
        return x
    x = np.asarray(x)
    return np.concatenate([x, np.repeat(x[-1:], rows, axis=0)])


def _unfold(x: np.ndarray, samples: int, rows: int) -> np.ndarray:
    if x.ndim == 0 or x.shape[0] != samples * rows:
        raise ValueError(
            "Every output of the model must have one row for each input. Make a model "
            "without the others, or switch them off, such as the cache of Hugging "
            "Face's language models (`model.config.use_cache = False`). Received: "
            f"an output of shape {x.shape} for {samples} sample(s) of {rows} input(s)"
        )
    return x.reshape(samples, rows, *x.shape[1:])
