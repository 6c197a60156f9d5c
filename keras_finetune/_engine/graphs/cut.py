"""A functional model as one flat list of steps, and where to cut it.

Nested functional and Sequential models are opened, at any depth, where the cut goes
through them, so that what lies before it inside a nested model belongs to the prefix
as well. The user's layers are called as they are; nothing is cloned and no node is
added to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.graphs.interface import Node

# A tensor of one call of one model: (number of the call, id of the symbolic tensor).
Key = tuple[int, int]

# Whether the prefix ends before a node: it, or a layer inside its layer, must not be
# computed once and for all.
Ends = Callable[[Node], bool]


# How a node is called: with its arguments, for its flat outputs.
Call = Callable[[Node, Any, Any], list[Any]]


class Step(NamedTuple):
    """One call of one layer, or the passage into or out of a nested model.

    `node` is the call; a passage has none.
    """

    operation: Any
    ends: bool
    reads: list[Key]
    writes: list[Key]
    run: Callable[[dict[Key, Any], Call], list[Any]]
    node: Node | None = None


class Graph:
    """The steps of a functional model, in the order in which Keras runs them.

    Args:
        graph: The graph of a model, as `lane.opened` gives it.
        ends: Whether the prefix ends before a node. A nested model for which this is
            true is opened and its own nodes are asked; any other is one step.

    Attributes:
        source: The graph that it was made of.
        steps: The steps.
        inputs: The keys of the model's inputs, in its own flat order.
        outputs: The keys of its outputs.
    """

    def __init__(self, graph: Any, ends: Ends) -> None:
        self.source = graph
        self._ends = ends
        self._calls = 0
        self._symbolic: dict[Key, Any] = {}
        self.steps: list[Step] = []
        scope, self.outputs = self._open(graph)
        self.inputs: list[Key] = [(scope, id(x)) for x in graph.inputs]
        self._writers = {key: step for step in self.steps for key in step.writes}

    def is_batched(self, key: Key) -> bool:
        """Return whether the first axis of a tensor is open, that is, the batch."""
        shape = self._symbolic[key].shape
        return bool(shape) and shape[0] is None

    def symbolic(self, key: Key) -> Any:
        """Return the symbolic tensor, which tells shape and dtype."""
        return self._symbolic[key]

    def last_operation(self, key: Key) -> Any:
        """Return the layer or function that computes a tensor, at any depth."""
        step = self._writers.get(key)
        while step is not None and step.operation is None:
            key = step.reads[step.writes.index(key)]
            step = self._writers.get(key)
        return None if step is None else step.operation

    def _open(self, graph: Any, silenced: bool = False) -> tuple[int, list[Key]]:
        """Append the steps of a graph, and return its call number and outputs."""
        scope = self._calls
        self._calls += 1
        for symbolic in graph.inputs:
            self._symbolic[scope, id(symbolic)] = symbolic
        for node in lane.nodes(graph, silenced):
            self._append(scope, node)
        return scope, [(scope, id(x)) for x in graph.outputs]

    def _append(self, scope: int, node: Node) -> None:
        reads = [(scope, id(x)) for x in node.inputs]
        if any(key not in self._symbolic for key in reads):
            # What lies before an intermediate tensor that the model takes as input.
            return
        writes = [(scope, id(x)) for x in node.outputs]
        for key, symbolic in zip(writes, node.outputs, strict=True):
            self._symbolic[key] = symbolic
        ends = self._ends(node)
        nested = lane.opened(node.operation) if ends and node.plain else None
        if nested is not None:
            self._append_nested(node, nested, reads, writes)
            return

        def compute(values: dict[Key, Any], call: Call) -> list[Any]:
            return list(call(node, *node.arguments(_by_id(reads, values))))

        self.steps.append(Step(node.operation, ends, reads, writes, compute, node))

    def _append_nested(
        self, node: Node, nested: Any, reads: list[Key], writes: list[Key]
    ) -> None:
        # The inner keys are known only after opening; entering runs before.
        entry = len(self.steps)
        inner, outputs = self._open(nested, node.silenced)
        entered = [(inner, id(x)) for x in nested.inputs]

        def enter(values: dict[Key, Any], call: Call) -> list[Any]:
            del call
            arguments, _ = node.arguments(_by_id(reads, values))
            return list(lane.standardize(nested, arguments[0]))

        def leave(values: dict[Key, Any], call: Call) -> list[Any]:
            del call
            return [values[key] for key in outputs]

        self.steps.insert(entry, Step(_ENTRY, False, reads, entered, enter))
        self.steps.append(Step(None, False, outputs, writes, leave))


class Cut:
    """A graph in two parts: what can be computed once, and what comes after.

    All of it is known from the graph alone, before any data.

    Args:
        graph: The graph.

    Attributes:
        graph: The graph.
        prefix: Steps that no ending step comes before.
        suffix: All others.
        frontier: What the suffix reads and the prefix computes.
        varying: Whether each output of the model, in its own flat order, is computed
            by the suffix.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.prefix: list[Step] = []
        self.suffix: list[Step] = []
        after: set[Key] = set()
        for step in graph.steps:
            if step.ends or not after.isdisjoint(step.reads):
                after.update(step.writes)
                self.suffix.append(step)
            else:
                self.prefix.append(step)
        reads = [key for step in self.suffix for key in step.reads]
        self.frontier = list(dict.fromkeys(key for key in reads if key not in after))
        self.varying = [key in after for key in graph.outputs]

    def fixed_outputs(self) -> list[Key]:
        """Return the outputs of the model that the prefix computes."""
        return [
            key
            for key, varies in zip(self.graph.outputs, self.varying, strict=True)
            if not varies
        ]

    def varying_outputs(self) -> list[Key]:
        """Return the outputs of the model that the suffix computes."""
        return [
            key
            for key, varies in zip(self.graph.outputs, self.varying, strict=True)
            if varies
        ]


# Entering reads all arguments of a call at once, so it is not a plain alias.
_ENTRY = object()


def at_inference(node: Node, args: Any, kwargs: Any) -> list[Any]:
    """Call a node in inference mode."""
    return node.call(args, kwargs)


def run(
    steps: Iterable[Step],
    keys: Iterable[Key],
    values: Iterable[Any],
    call: Call = at_inference,
) -> dict[Key, Any]:
    """Run steps in order on the values of `keys`, and return the values of all."""
    known = dict(zip(keys, values, strict=True))
    for step in steps:
        known.update(zip(step.writes, step.run(known, call), strict=True))
    return known


def _by_id(keys: Iterable[Key], values: dict[Key, Any]) -> dict[int, Any]:
    return {key[1]: values[key] for key in keys}
