"""Which part of a model gives the same for the same row, as long as a stage lasts.

It is the largest part of the graph, from the inputs on, in which a training step
changes nothing and draws nothing: no weight that trains, no active noise, no state that
the step updates, no loss or metric of its own. It ends at a place where every row has
its own features, and where these take the fewest bytes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.features._ends import Ends, Obstacle, is_foreign
from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.graphs.cut import Call, Graph, Key, Step, run
from keras_finetune._engine.graphs.interface import Node
from keras_finetune._engine.graphs.noise import augments, is_active, may_rest
from keras_finetune._engine.structure import own_weights, variable_key


@dataclass(frozen=True)
class Part:
    """The part of a model that is computed once a row, and what comes after it.

    Args:
        graph: The graph of the model.
        prefix: The steps that are computed once a row.
        suffix: The steps of every epoch.
        frontier: What the suffix reads of what the prefix computes.
        resting: Layers whose noise rests so that the part is as large as it is.
        drawing: Layers that draw random numbers whenever the part is computed for
            training, so that what is kept is one variant of a row.
        noisy: Layers whose noise could rest, if that would make the part larger.
        augmenting: Layers before which it ends since they augment rows.
        obstacles: What it ends before, the first ones of the graph.
        layer: The name of the last layer before the frontier.
        foreign: Whether it has layers whose rows may depend on one another.
        by_mode: Whether it has layers that may differ between training and validation.
        row_bytes: The bytes of a row's features, axes of open length counted as 1.
    """

    graph: Graph
    prefix: Sequence[Step]
    suffix: Sequence[Step]
    frontier: Sequence[Key]
    resting: Sequence[Any]
    drawing: Sequence[Any]
    noisy: Sequence[Any]
    augmenting: Sequence[Any]
    obstacles: Sequence[Obstacle]
    layer: str
    foreign: bool
    by_mode: bool
    row_bytes: int

    def compute(self, given: Iterable[Any], training: bool | None) -> list[Any]:
        """Return the features of a batch: the tensors of the frontier."""
        known = run(self.prefix, self.graph.inputs, given, _calling(training))
        return [known[key] for key in self.frontier]

    def go_on(
        self, given: Iterable[Any], features: Iterable[Any], training: bool | None
    ) -> list[Any]:
        """Return the outputs of the model, from a batch and its features."""
        keys = [*self.graph.inputs, *self.frontier]
        values = [*given, *features]
        known = run(self.suffix, keys, values, _calling(training))
        return [known[key] for key in self.graph.outputs]


def part(
    model: Any,
    trained: Iterable[Any],
    resting: Iterable[Any],
    *,
    rests: bool,
    varies: bool = False,
    flags: Mapping[int, bool] | None = None,
) -> Part | Obstacle:
    """Return the part of a model that can be cached in a stage, or why there is none.

    Args:
        model: A model that `unsuited` says nothing against.
        trained: The variables that train.
        resting: Layers that behave as at inference already.
        rests: Whether the noise of other frozen layers may be put to rest.
        varies: Whether several variants of a row are kept, so that what augments it
            may draw; other noise may where it does not rest.
        flags: What the flags of layers will say in the stage, by the id of a layer,
            where they say something else now.
    """
    # Its own `__call__`, if any, is what runs both parts.
    source = lane.opened(model, own_call=True)
    trains = {variable_key(variable) for variable in trained}
    at_rest = {id(layer) for layer in resting}
    flags = flags or {}
    quiet_ends = Ends(trains, at_rest, flags, ignore_noise=True)
    quiet = Graph(source, quiet_ends)
    noise = _Noise(quiet, at_rest, rests, varies)
    ends = Ends(trains, at_rest | {id(x) for x in noise.allowed}, flags)
    graph = Graph(source, ends)
    prefix = _prefix(graph)
    if not _have_weights(prefix):
        if not _have_weights(_prefix(quiet)):
            # It is not the noise that is in the way.
            graph, ends = quiet, quiet_ends
        return _first_obstacle(graph, ends, noise)
    places = _places(graph, prefix)
    if not places:
        return Obstacle(model.name, "has no place where each row has its own features")
    return _at(graph, min(places, key=lambda place: place[2]), noise, ends)


def _first_obstacle(graph: Graph, ends: Ends, noise: _Noise) -> Obstacle:
    """Return what ends the part of a graph before the first layer with weights."""
    found = _obstacles(graph, _prefix(graph), ends)
    first = next(iter(found), _NO_WEIGHTS)
    return replace(
        first,
        noise=first.noise and bool(noise.noisy),
        augments=first.layer in [layer.name for layer in noise.augmenting],
    )


def _at(
    graph: Graph,
    place: tuple[Sequence[Step], list[Key], int],
    noise: _Noise,
    ends: Ends,
) -> Part:
    """Return the part that ends at a place."""
    kept, frontier, size = place
    free = _free(graph, kept)
    chosen = {id(step) for step in kept}
    suffix = [
        step
        for step in graph.steps
        if id(step) not in chosen or (step.node is None and free.issuperset(step.reads))
    ]
    layers = [layer for step in kept for layer in _layers(step)]
    last = graph.last_operation(frontier[-1])
    return Part(
        graph,
        kept,
        suffix,
        frontier,
        noise.resting,
        noise.drawing,
        noise.noisy,
        noise.augmenting,
        _obstacles(graph, _prefix(graph), ends),
        str(getattr(last, "name", type(last).__name__)),
        any(is_foreign(step.operation) for step in kept if step.node is not None)
        or any(map(is_foreign, layers)),
        bool(noise.drawing)
        or any(is_foreign(x) and "training" in lane.call_parameters(x) for x in layers),
        size,
    )


_NO_WEIGHTS = Obstacle("", "no layer with weights is frozen")


def unsuited(model: Any) -> str | None:
    """Return why a model cannot be cut into two parts, or `None` if it can."""
    if lane.opened(model, own_call=True) is None:
        kind = type(model)
        if kind.call is not keras.Model.call and not hasattr(model, "_nodes_by_depth"):
            return f"its class {kind.__name__} has a `call` of its own"
        return f"Keras knows no graph of its class {kind.__name__}"
    return None


class _Noise:
    """What becomes of the noise that stands between the inputs and frozen weights.

    Args:
        graph: A graph whose prefix ends before no noise that can rest.
        at_rest: The ids of layers that behave as at inference already.
        rests: Whether noise may be put to rest; what augments rows never is.
        varies: Whether what augments rows may draw, and other noise that does not rest.

    Attributes:
        resting: Layers that are put to rest.
        drawing: Layers that draw one variant of a row after the other.
        noisy: Layers before which the part ends although they could rest.
        augmenting: Layers before which it ends since they augment rows.
    """

    def __init__(
        self, graph: Graph, at_rest: Collection[int], rests: bool, varies: bool
    ) -> None:
        noisy = _noise_before_weights(graph, at_rest)
        before = {id(layer) for layer in _before_weights(graph)}
        rows = {id(x) for x in noisy if id(x) in before or augments(x)}
        draws = {id(x) for x in noisy if varies and (id(x) in rows or not rests)}
        others = [x for x in noisy if id(x) not in draws | rows]
        self.resting = others if rests else []
        self.drawing = [x for x in noisy if id(x) in draws]
        self.noisy = [] if rests else others
        self.augmenting = [x for x in noisy if id(x) in rows - draws]

    @property
    def allowed(self) -> list[Any]:
        """Layers before which the part does not end."""
        return [*self.resting, *self.drawing]


def _before_weights(graph: Graph) -> list[Any]:
    """Return the layers that see rows as they come, before any weight."""
    after: set[Key] = set()
    found = []
    for step in _prefix(graph):
        if _has_weights(step) or not after.isdisjoint(step.reads):
            after.update(step.writes)
        else:
            found += _layers(step)
    return found


def _noise_before_weights(graph: Graph, at_rest: Collection[int]) -> list[Any]:
    """Return the noise that stands between the inputs and frozen weights.

    What comes after the last of them belongs to the head, and stays active.
    """
    found: dict[int, Any] = {}
    needed: set[Key] = set()
    for step in reversed(_prefix(graph)):
        if _has_weights(step) or not needed.isdisjoint(step.writes):
            needed.update(step.reads)
            for layer in _layers(step):
                if is_active(layer) and may_rest(layer) and id(layer) not in at_rest:
                    found[id(layer)] = layer
    return list(reversed(found.values()))


def _prefix(graph: Graph) -> list[Step]:
    after: set[Key] = set()
    prefix = []
    for step in graph.steps:
        if step.ends or not after.isdisjoint(step.reads):
            after.update(step.writes)
        else:
            prefix.append(step)
    return prefix


def _places(
    graph: Graph, prefix: Sequence[Step]
) -> list[tuple[Sequence[Step], list[Key], int]]:
    """Return where the part may end: its steps, its frontier, the bytes of a row.

    All layers with weights are in it. Later places come first: less is left to do.
    """
    weighted = [i for i, step in enumerate(prefix) if _has_weights(step)]
    places = []
    for end in range(len(prefix), weighted[-1], -1):
        kept = prefix[:end]
        frontier = _frontier(graph, kept)
        tensors = [graph.symbolic(key) for key in frontier]
        if frontier and all(_is_storable(x) for x in tensors):
            places.append((kept, frontier, sum(map(_row_bytes, tensors))))
    return places


def _frontier(graph: Graph, kept: Sequence[Step]) -> list[Key]:
    chosen = {id(step) for step in kept}
    computed = {key for step in kept for key in step.writes} - _free(graph, kept)
    reads = [
        key for step in graph.steps if id(step) not in chosen for key in step.reads
    ]
    read = dict.fromkeys(key for key in (*reads, *graph.outputs) if key in computed)
    return list(read)


def _free(graph: Graph, kept: Sequence[Step]) -> set[Key]:
    """Return the inputs of the model, under all names that they have inside it."""
    free = set(graph.inputs)
    for step in kept:
        if step.node is None and free.issuperset(step.reads):
            free.update(step.writes)
    return free


def _obstacles(graph: Graph, prefix: Sequence[Step], ends: Ends) -> list[Obstacle]:
    """Return what stands right behind the prefix, each layer once."""
    known = {key for step in prefix for key in step.writes} | set(graph.inputs)
    found: dict[Obstacle, None] = {}
    for step in graph.steps:
        if step.ends and step.node is not None and known.issuperset(step.reads):
            found[ends.obstacles[id(step.node)]] = None
    return list(found)


def _have_weights(steps: Sequence[Step]) -> bool:
    return any(map(_has_weights, steps))


def _has_weights(step: Step) -> bool:
    return any(map(own_weights, _layers(step)))


def _layers(step: Step) -> list[Any]:
    return [] if step.node is None else lane.flatten_layers(step.operation)


def _is_storable(symbolic: Any) -> bool:
    dense = not getattr(symbolic, "sparse", False) and not _is_ragged(symbolic)
    return dense and "string" not in _dtype(symbolic)


def _is_ragged(symbolic: Any) -> bool:
    spec = getattr(symbolic, "type_spec", None)
    return "Ragged" in type(spec).__name__ or "Sparse" in type(spec).__name__


def _row_bytes(symbolic: Any) -> int:
    name = _dtype(symbolic)
    bits = "".join(c for c in name.partition("_")[0] if c.isdigit())
    size = int(bits) // 8 if bits else 1
    return math.prod(int(n or 1) for n in symbolic.shape[1:]) * size


def _dtype(symbolic: Any) -> str:
    return str(getattr(symbolic.dtype, "name", symbolic.dtype))


def _calling(training: bool | None) -> Call:
    def call(node: Node, args: Any, kwargs: Any) -> list[Any]:
        return node.call_as_in(training, args, kwargs)

    return call
