"""The steps of one stage, which are fed with the features of each batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_finetune._engine import keras
from keras_finetune._engine.features._active import running
from keras_finetune._engine.features._call import SplitCall
from keras_finetune._engine.features._interface import Fed, Role
from keras_finetune._engine.features._plan import Part
from keras_finetune._engine.features._store import Kind, Table, digests
from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.patches import patched


class Feeding:
    """Features for the steps of a model, computed once a row.

    Args:
        model: The model.
        part: Where it is cut.
        table: Makes a table for rows of some kinds; its first argument is a name for
            what the inputs of these rows look like.
        known: Gives the table that an earlier run has kept under a name, if any.
        told: Called with the reason when no more rows are looked up.
        copies: How many variants of a row are kept where the part draws them.

    Attributes:
        rows: The rows that steps were given, by role.
        hits: The rows of these whose features were known, by role.
        computed: The batches for which features were computed, by role.
        stopped: Why no more rows are looked up, or `None`.
        copies: The variants of a row that training draws: 1 where nothing draws.
    """

    def __init__(
        self,
        model: Any,
        part: Part,
        table: Callable[[str, Sequence[Kind | None]], Table],
        known: Callable[[str], Table | None],
        told: Callable[[str], None],
        copies: int = 1,
    ) -> None:
        self.model = model
        self.part = part
        self.rows: Counter[Role] = Counter()
        self.hits: Counter[Role] = Counter()
        self.computed: Counter[Role] = Counter()
        self.stopped: str | None = None
        self.copies = copies if part.drawing else 1
        self._variant = 0
        self._call = SplitCall(model, part)
        self._new_table, self._known_table, self._told = table, known, told
        self._tables: dict[str, Table] = {}
        self._prefixes: dict[bool, Callable[..., Any]] = {}
        self._verify = part.foreign
        # On the instance while a step runs; the session puts those of training there.
        self.patches = self._call.patches("train")

    @property
    def used(self) -> bool:
        """Whether a step has gone on from features."""
        return self._call.used

    @property
    def bytes(self) -> int:
        """The bytes of all features that are kept."""
        return sum(len(table) * table.row_bytes for table in self._tables.values())

    @property
    def stored(self) -> int:
        """The rows whose features are kept."""
        return sum(map(len, self._tables.values()))

    def train_function(self) -> Callable[..., Any]:
        """Return what `fit` calls for training, to be called under `patches`."""
        with patched(self.patches):
            return self._function("train")

    def test_function(self) -> Callable[..., Any]:
        """Return what `evaluate` calls."""
        patches = self._call.patches("test")
        with patched(patches):
            function = self._function("test")

        def test(*args: Any) -> Any:
            with patched(patches):
                return function(*args)

        return test

    def end_epoch(self) -> None:
        """Go on to the next variant of the rows."""
        self._variant = (self._variant + 1) % self.copies

    def stop(self, why: str) -> None:
        """Look up no more rows, and let go of all features."""
        self.stopped = why
        self._told(why)
        self.close()

    def close(self) -> None:
        """Let go of all features, those in a folder apart."""
        for table in self._tables.values():
            table.close()
        self._tables.clear()

    # --- a step ----------------------------------------------------------------------

    def _function(self, role: Role) -> Callable[..., Any]:
        step = running.step(self.model, role)

        def function(*args: Any) -> Any:
            *state, source = args
            batches = running.batches(self.model, source)
            # What is computed may move the state on, which the step goes on from.
            fed = [self._fed(role, state, batch) for batch in batches]
            return step(*state, fed)

        return function

    def _fed(self, role: Role, state: list[Any], batch: Any) -> Fed:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if self.stopped is None:
            found = [running.numpy(part) for part in lane.flatten(x)]
            arrays = [a for a in found if a is not None and a.ndim > 0]
            if len(arrays) == len(found):
                return self._looked_up(role, state, x, arrays), batch
            self.stop("inputs that are ragged or sparse cannot be told apart")
        return self._computed(role, state, x), batch

    def _looked_up(
        self, role: Role, state: list[Any], x: Any, arrays: Sequence[np.ndarray]
    ) -> list[Any]:
        keys, name = digests(arrays), self._name(role, arrays)
        if name not in self._tables and (kept := self._known_table(name)) is not None:
            self._tables[name] = kept
        table = self._tables.get(name)
        places = [] if table is None else table.find(keys)
        known = [place for place in places if place is not None]
        self.rows[role] += len(keys)
        self.hits[role] += len(known)
        if table is not None and len(known) == len(keys):
            return _tensors(table, known)
        if table is not None and known and running.takes_any_size(self.model):
            missing = [row for row, place in enumerate(places) if place is None]
            new = self._computed(role, state, _chosen(x, arrays, missing))
            values = [None if f is None else running.numpy(f) for f in new]
            features = _joined(table, places, values)
            table.add([keys[row] for row in missing], values)
            return features
        features = self._computed(role, state, x)
        if table is None:
            why = self._why_not(role, state, x, arrays, features)
            if why is not None:
                self.stop(why)
                return features
            kinds = [None if f is None else running.kind(f) for f in features]
            table = self._tables[name] = self._new_table(name, kinds)
        table.add(keys, [None if f is None else running.numpy(f) for f in features])
        return features

    def _computed(self, role: Role, state: list[Any], x: Any) -> list[Any]:
        training = role == "train"
        if training not in self._prefixes:
            drawing = self.part.drawing if training else ()
            self._prefixes[training] = running.prefix(
                self.model, self._call.features, training, drawing
            )
        self.computed[role] += 1
        features, state[:] = self._prefixes[training](*state, x)
        return list(features)

    def _name(self, role: Role, arrays: Sequence[np.ndarray]) -> str:
        looks = [f"{array.shape[1:]} {array.dtype}" for array in arrays]
        if role == "train" and self.part.drawing:
            looks.append(f"variant {self._variant}")
        return "; ".join([role, *looks] if self.part.by_mode else looks)

    def _why_not(
        self,
        role: Role,
        state: list[Any],
        x: Any,
        arrays: Sequence[np.ndarray],
        features: Sequence[Any],
    ) -> str | None:
        """Return why features of rows cannot be kept, if they cannot."""
        rows = len(arrays[0])
        found = [None if f is None else running.numpy(f) for f in features]
        given = [f for f in found if f is not None]
        if any(f is None for f in features[: len(self.part.frontier)]) or any(
            not f.shape or len(f) != rows for f in given
        ):
            return "the features of a batch are not one for each row"
        if not self._verify or rows < 2:
            return None
        if self._mixes_rows(role, state, x, arrays, given):
            return "the features of a row depend on the other rows of its batch"
        self._verify = False
        return None

    def _mixes_rows(
        self,
        role: Role,
        state: list[Any],
        x: Any,
        arrays: Sequence[np.ndarray],
        given: Sequence[np.ndarray],
    ) -> bool:
        """Return whether other rows in the batch would change the features of a row."""
        if self.part.drawing:
            # Two draws differ; what does not draw shows it as well.
            role, given = "test", self._again("test", state, x)
        rows = len(arrays[0])
        # The first half of the batch again, with other rows behind it.
        half = rows // 2
        order = [*range(half), *range(rows - half)]
        others = self._again(role, state, _chosen(x, arrays, order))
        return not all(
            _are_close(a[:half], b[:half]) for a, b in zip(given, others, strict=True)
        )

    def _again(self, role: Role, state: list[Any], x: Any) -> list[np.ndarray]:
        """Return features that no step is given, and that do not count."""
        found = self._computed(role, state, x)
        self.computed[role] -= 1
        values = [None if f is None else running.numpy(f) for f in found]
        return [value for value in values if value is not None]


def _chosen(x: Any, arrays: Sequence[np.ndarray], rows: Sequence[int]) -> Any:
    """Return some rows of the inputs `x`, whose values are `arrays`."""
    inputs = [
        running.input(array[rows], like)
        for array, like in zip(arrays, lane.flatten(x), strict=True)
    ]
    return lane.pack(x, inputs)


def _tensors(table: Table, places: Sequence[tuple[int, int]]) -> list[Any]:
    return [
        None if rows is None or kind is None else running.tensor(rows, kind)
        for rows, kind in zip(table.rows(places), table.kinds, strict=True)
    ]


def _joined(
    table: Table,
    places: Sequence[tuple[int, int] | None],
    values: Sequence[np.ndarray | None],
) -> list[Any]:
    """Return features of a batch: `values` for the rows that have no place."""
    known = {row: place for row, place in enumerate(places) if place is not None}
    missing = [row for row in range(len(places)) if row not in known]
    order = np.argsort([*known, *missing])
    kept = table.rows(list(known.values()))
    return [
        None
        if kind is None or a is None or b is None
        else running.tensor(np.concatenate([a, b.view(a.dtype)])[order], kind)
        for kind, a, b in zip(table.kinds, kept, values, strict=True)
    ]


def _are_close(a: Any, b: Any) -> bool:
    a, b = (np.asarray(x).astype("float64") for x in (a, b))
    scale = float(np.max(np.abs(a), initial=0.0))
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True))
