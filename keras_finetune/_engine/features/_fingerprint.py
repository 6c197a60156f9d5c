"""What features depend on, but for the rows themselves, as one digest."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_finetune._engine import backend, keras
from keras_finetune._engine.features._ends import is_foreign
from keras_finetune._engine.features._plan import Part
from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.graphs.cut import Graph, Key, Step
from keras_finetune._engine.structure import own_weights


def fingerprint(model: Any, part: Part) -> str:
    """Return a digest of a part of a model: its graph, its layers, their weights.

    Names that Keras counts up are left out, so that the same model has the same digest
    in another process.
    """
    digest = hashlib.sha256()
    world = [keras.__name__, keras.__version__, backend(), bool(model.jit_compile)]
    digest.update(json.dumps(world).encode())
    rests = {id(layer) for layer in part.resting}
    draws = {id(layer) for layer in part.drawing}
    for line in _lines(part.prefix, part.graph.inputs, part.frontier):
        digest.update(line.encode())
    layers: dict[int, Any] = {}
    for step in part.prefix:
        if step.node is not None:
            layers.update((id(x), x) for x in lane.flatten_layers(step.operation))
    for layer in layers.values():
        mode = f"{id(layer) in rests} {id(layer) in draws}"
        digest.update(f"{type(layer).__name__} {mode}".encode())
        for variable in own_weights(layer):
            value = lane.value(variable)
            digest.update(f"{value.shape} {value.dtype}".encode())
            digest.update(value.tobytes())
    return digest.hexdigest()


def _lines(
    steps: Sequence[Step], inputs: Sequence[Key], outputs: Sequence[Key]
) -> Iterator[str]:
    """Yield what a graph does, a line for each step, tensors by their number."""
    order = {key: i for i, key in enumerate(inputs)}
    for step in steps:
        order.update((key, len(order) + i) for i, key in enumerate(step.writes))
        yield json.dumps([order[key] for key in step.reads])
        if step.node is not None:
            yield json.dumps(_plain(step.node.constants()), default=repr)
            yield from _operation(step.operation)
    yield json.dumps([order[key] for key in outputs])


def _operation(operation: Any) -> Iterator[str]:
    yield f"{type(operation).__module__}.{type(operation).__qualname__}"
    source = lane.opened(operation)
    if source is not None:
        graph = Graph(source, lambda node: False)
        yield from _lines(graph.steps, graph.inputs, graph.outputs)
        return
    if is_foreign(operation):
        try:
            yield inspect.getsource(type(operation))
        except (OSError, TypeError):
            pass
    try:
        config = operation.get_config()
    except Exception:
        config = vars(operation)
    yield json.dumps(_plain(config), default=repr, sort_keys=True)


def _plain(value: Any) -> Any:
    """Return a configuration without names, and without seeds, drawn for a process."""
    if isinstance(value, Mapping):
        left_out = ("name", "seed")
        return {str(k): _plain(v) for k, v in value.items() if k not in left_out}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value
