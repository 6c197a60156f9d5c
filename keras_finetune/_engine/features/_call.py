"""A model's `call` in two parts, in the place of the whole of it.

Both parts run inside the model's own `__call__`, so that the context of the call,
casts and scopes are those of plain Keras. The second part runs only where the model is
called with the very inputs of the batch: a `train_step` that changes them first gets
the whole model.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.features._interface import Role
from keras_finetune._engine.features._plan import Part
from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.patches import Patch


class SplitCall:
    """Stands for the `call` of a model.

    Args:
        model: The model.
        part: Where it is cut.

    Attributes:
        used: Whether a step has gone on from features.
    """

    def __init__(self, model: Any, part: Part) -> None:
        self.model = model
        self.part = part
        self.used = False
        self._whole = model.call
        self._inputs: list[Any] | None = None
        self._features: Sequence[Any] = ()
        self._taken: list[Any] | None = None

    def patches(self, *roles: Role) -> list[Patch]:
        """Return the patches under which steps take pairs of features and a batch."""

        def call(
            inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any
        ) -> Any:
            return self._call(inputs, training, mask, kwargs)

        model = self.model
        steps = [f"{role}_step" for role in roles]
        return [
            Patch(model, "call", call),
            *lane.as_given(model),
            *(Patch(model, name, self._fed(getattr(model, name))) for name in steps),
        ]

    def features(self, x: Any, training: bool) -> list[Any]:
        """Return tensors of the frontier and their masks, `None` where there is none.

        To be called under `patches`.
        """
        with self.asked() as taken:
            self.model(x, training=training)
        return [*taken, *map(lane.get_mask, taken)]

    @contextmanager
    def asked(self) -> Iterator[list[Any]]:
        """Let a call of the model in a block give the tensors of the frontier.

        They are in the list when the block ends; the call itself returns nothing. To
        be used under `patches`.
        """
        taken: list[Any] = []
        self._taken = taken
        try:
            yield taken
        finally:
            self._taken = None

    def _fed(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def fed_step(*args: Any) -> Any:
            *state, (features, batch) = args
            with self._feeding(features, batch):
                return step(*state, batch)

        return fed_step

    @contextmanager
    def _feeding(self, features: Sequence[Any], batch: Any) -> Iterator[None]:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        self._inputs, self._features = lane.flatten(x), features
        try:
            yield
        finally:
            self._inputs, self._features = None, ()

    def _call(self, inputs: Any, training: Any, mask: Any, kwargs: Any) -> Any:
        if self._taken is None and not self._is_batch(inputs):
            inputs = lane.converted(self.model, inputs)
            return self._whole(inputs, training=training, mask=mask, **kwargs)
        graph = self.part.graph.source
        given = lane.standardize(graph, lane.converted(self.model, inputs))
        masks_given = [] if mask is None else lane.flatten(mask)
        for x, its in zip(given, masks_given, strict=False):
            if its is not None:
                lane.set_mask(x, its)
        if self._taken is not None:
            self._taken[:] = self.part.compute(given, training)
            return []
        self.used = True
        count = len(self.part.frontier)
        features, masks = self._features[:count], self._features[count:]
        for x, its in zip(features, masks, strict=True):
            if its is not None:
                lane.set_mask(x, its)
        outputs = self.part.go_on(given, features, training)
        return lane.pack(lane.output_structure(graph), outputs)

    def _is_batch(self, inputs: Any) -> bool:
        flat, known = lane.flatten(inputs), self._inputs
        return known is not None and list(map(id, flat)) == list(map(id, known))
