"""A functional model as one flat list of steps, cut where randomness begins.

Nested functional and Sequential models are opened, at any depth, so that the part of
a nested model before its first random layer belongs to the prefix as well. The user's
layers are called as they are; nothing is cloned and no node is added to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ._lane import lane
from ._random import RandomLayers

# A tensor of one call of one model: (number of the call, id of the symbolic tensor).
Key = tuple[int, int]


class Step(NamedTuple):
    """One call of one layer, or the passage into or out of a nested model."""

    operation: Any
    random: bool
    reads: list[Key]
    writes: list[Key]
    run: Callable[[dict[Key, Any]], list[Any]]


class Graph:
    """The steps of a functional model.

    Args:
        model: A model for which `can_open` holds.
        random: Its random layers.

    Attributes:
        prefix: Steps that no random layer comes before.
        suffix: All others.
        frontier: What the suffix reads and the prefix computes.
        outputs: The model's outputs, in its own flat order.
    """

    def __init__(self, model: Any, random: RandomLayers) -> None:
        self.model = model
        self._random = random
        self._calls = 0
        self._batched: dict[Key, bool] = {}
        steps: list[Step] = []
        scope, self.outputs = self._open(lane.opened(model), steps)
        self.inputs = [(scope, id(x)) for x in lane.opened(model).inputs]
        tainted: set[Key] = set()
        self.prefix: list[Step] = []
        self.suffix: list[Step] = []
        for step in steps:
            if step.random or not tainted.isdisjoint(step.reads):
                tainted.update(step.writes)
                self.suffix.append(step)
            else:
                self.prefix.append(step)
        inside = {key for step in self.suffix for key in step.writes}
        reads = [key for step in self.suffix for key in step.reads]
        self.frontier = list(dict.fromkeys(k for k in reads if k not in inside))
        self.random_outputs = [key in tainted for key in self.outputs]
        self._writers = {key: step for step in steps for key in step.writes}

    def is_batched(self, key: Key) -> bool:
        """Whether the first axis of a tensor is open, that is, the batch."""
        return self._batched[key]

    def last_operation(self, key: Key) -> Any:
        """The layer or function that computes a tensor, inside nested models too."""
        step = self._writers.get(key)
        while step is not None and step.operation is None:
            key = step.reads[step.writes.index(key)]
            step = self._writers.get(key)
        return None if step is None else step.operation

    def _open(self, model: Any, steps: list[Step]) -> tuple[int, list[Key]]:
        """Append the steps of `model` and return its call number and outputs."""
        scope = self._calls
        self._calls += 1
        for symbolic in model.inputs:
            self._batched[scope, id(symbolic)] = symbolic.shape[0] is None
        for node in lane.nodes(model):
            self._append(scope, node, steps)
        return scope, [(scope, id(x)) for x in model.outputs]

    def _append(self, scope: int, node: Any, steps: list[Step]) -> None:
        reads = [(scope, id(x)) for x in node.inputs]
        if any(key not in self._batched for key in reads):
            # What lies before an intermediate tensor that the model takes as input.
            return
        writes = [(scope, id(x)) for x in node.outputs]
        for key, symbolic in zip(writes, node.outputs, strict=True):
            self._batched[key] = symbolic.shape[0] is None if symbolic.shape else False
        # Keras 2 keeps `training=False` where a backbone was called with it, and
        # `fit` obeys: nothing under that call was ever random.
        random = not node.silenced and self._random.within(node.operation)
        nested = lane.opened(node.operation) if node.plain else None
        if nested is not None and random:
            # The inner keys are known only after opening; entering runs before.
            entry = len(steps)
            inner, outputs = self._open(nested, steps)
            entered = [(inner, id(x)) for x in nested.inputs]

            def enter(values: dict[Key, Any]) -> list[Any]:
                arguments, _ = node.arguments({k[1]: values[k] for k in reads})
                return list(lane.standardize(nested, arguments[0]))

            def leave(values: dict[Key, Any]) -> list[Any]:
                return [values[key] for key in outputs]

            steps.insert(entry, Step(_ENTRY, False, reads, entered, enter))
            steps.append(Step(None, False, outputs, writes, leave))
            return

        def call(values: dict[Key, Any]) -> list[Any]:
            arguments, named = node.arguments({k[1]: values[k] for k in reads})
            return list(lane.call(node, arguments, named))

        steps.append(Step(node.operation, random, reads, writes, call))


# Entering reads all arguments of a call at once, so it is not a plain alias.
_ENTRY = object()


def can_open(model: Any) -> bool:
    """Whether `model` is a graph of layers that can be walked."""
    return lane.opened(model) is not None


def run(steps: list[Step], values: dict[Key, Any]) -> dict[Key, Any]:
    """Run `steps` in order, adding what they compute to `values`."""
    for step in steps:
        values.update(zip(step.writes, step.run(values), strict=True))
    return values
