"""What a model is made of: the few facts that Keras 2 and Keras 3 tell differently.

Nothing here decides anything. Layers come in the order in which Keras lists them,
variables get an identity that holds on every backend, and the graph of a functional
model becomes a plain list of calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

from keras_finetune._engine import KERAS_3, keras


class Call(NamedTuple):
    """One call in the graph of a functional model.

    Args:
        layer: The layer that is called, or an operation that is no layer
            (`keras.ops.add(x, y)`).
        inputs: The positions, in the list of calls, of the calls it reads from.
        taken: For each of these, which of its results is read.
        floating: Whether a result is a floating-point tensor: no token, no mask.
    """

    layer: Any
    inputs: tuple[int, ...]
    taken: tuple[int, ...] = ()
    floating: bool = True


def is_model(layer: Any) -> bool:
    """Whether `layer` is a model: something made of layers, with its own `fit`."""
    return isinstance(layer, keras.Model)


def is_sequential(layer: Any) -> bool:
    """Whether `layer` is a `keras.Sequential`."""
    return isinstance(layer, keras.Sequential)


def is_built(layer: Any) -> bool:
    """Whether the weights of `layer` exist."""
    return bool(layer.built)


def sublayers(layer: Any) -> tuple[Any, ...]:
    """Return the direct children of a layer, each once.

    A functional model lists the layers of its graph in topological order and after
    them those that were only attached to it; everything else lists its children in
    the order in which they were created.
    """
    children = list(layer.layers) if is_model(layer) else []
    if not is_sequential(layer):
        # Keras 3 Sequential also tracks the functional model it builds inside.
        children += layer._flatten_layers(include_self=False, recursive=False)
    unique = {id(child): child for child in children if child is not layer}
    return tuple(unique.values())


def all_layers(layer: Any) -> tuple[Any, ...]:
    """Return the layer itself and every layer in it at any depth, each once."""
    found: dict[int, Any] = {}

    def visit(current: Any) -> None:
        if id(current) not in found:
            found[id(current)] = current
            for child in sublayers(current):
                visit(child)

    visit(layer)
    return tuple(found.values())


def weights(layer: Any) -> tuple[Any, ...]:
    """All weights of a built layer, trainable or not, each once.

    Metrics and the states of random generators are no weights, nor is the vocabulary
    that Keras 2 lists among those of a `TextVectorization`.
    """
    variables = [v for v in layer.weights if _is_weight(v)]
    unique = {variable_key(variable): variable for variable in variables}
    return tuple(unique.values())


def _is_weight(variable: Any) -> bool:
    # Keras 2 lists the vocabulary of a `TextVectorization` among its weights.
    return KERAS_3 or hasattr(variable, "_unique_id")


def own_weights(layer: Any) -> list[Any]:
    """Return the weights that a layer holds itself, not those of the layers in it."""
    kind = "variables" if KERAS_3 else "weights"
    own = [getattr(layer, f"_{x}trainable_{kind}", ()) for x in ("", "non_")]
    return [v for variables in own for v in variables if _is_weight(v)]


def variable_key(variable: Any) -> Hashable:
    """Return an identity of a variable that can be compared and hashed.

    It is good for as long as the variable lives.
    """
    if KERAS_3:
        return id(variable)
    # A replica's part of a mirrored variable stands for the whole of it.
    container = getattr(variable, "_distributed_container", None)
    if container is not None and container() is not None:
        variable = container()
    return str(variable._unique_id)


def variable_path(variable: Any) -> str:
    """Return the path of a variable, such as `"block5_conv1/kernel"`."""
    if KERAS_3:
        return str(variable.path)
    return str(variable.name).split(":", maxsplit=1)[0]


def numbered(names: Iterable[str]) -> list[str]:
    """Return the names, each once: what comes again is followed by `#2`, `#3`, ...

    Variables may share a path, as those of two towers with equal layers do.
    """
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return distinct


def has_graph(layer: Any) -> bool:
    """Whether Keras knows how the direct children of a layer are connected."""
    return is_sequential(layer) or hasattr(layer, "_nodes_by_depth")


def calls(model: Any) -> tuple[Call, ...] | None:
    """Return the calls in a functional model's graph, a call after those it reads from.

    Returns `None` where Keras knows no graph: for subclassed models. A `Sequential`
    model needs none either.
    """
    if is_sequential(model) or not has_graph(model):
        return None
    nodes = _nodes(model)
    position = {id(node): i for i, node in enumerate(nodes)}
    found = []
    for node in nodes:
        tensors = node.input_tensors if KERAS_3 else node.keras_inputs
        reads = _origins(position, tensors)
        found.append(
            Call(
                node.operation if KERAS_3 else node.layer,
                tuple(read[0] for read in reads),
                tuple(read[1] for read in reads),
                _is_floating(node.outputs),
            )
        )
    return tuple(found)


def results(model: Any) -> tuple[tuple[int, int], ...]:
    """Return, for each output of a functional model, its position in `calls`."""
    position = {id(node): i for i, node in enumerate(_nodes(model))}
    return tuple(_origins(position, model.outputs))


def _nodes(model: Any) -> list[Any]:
    by_depth = model._nodes_by_depth
    return [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]


def _origins(position: dict[int, int], tensors: Any) -> list[tuple[int, int]]:
    """Return the nodes that make symbolic tensors, and which result each is."""
    found = []
    for tensor in tensors:
        layer, node, index = tensor._keras_history
        place = position.get(id(layer._inbound_nodes[node]))
        if place is not None:
            found.append((place, index))
    return found


def _is_floating(tensors: Any) -> bool:
    if isinstance(tensors, dict):
        tensors = list(tensors.values())
    if isinstance(tensors, (list, tuple)):
        return any(map(_is_floating, tensors))
    return "float" in str(tensors.dtype)


def attributes(layer: Any) -> dict[str, tuple[Any, ...]]:
    """Return the direct children of a layer by the attribute that holds them.

    Lists, tuples and dictionaries are looked into, however they are nested, and so is
    a `Sequential`. What Keras keeps for itself is left out.
    """
    children = {id(child) for child in sublayers(layer)}
    found: dict[str, tuple[Any, ...]] = {}
    for name, value in vars(layer).items():
        if name not in ("_layers", "_metrics") and not name.startswith("_self_"):
            held = [x for x in _held(value) if id(x) in children]
            if is_sequential(value) and id(value) in children:
                held = list(sublayers(value))
            if held:
                found[name] = tuple(held)
    return found


def _held(value: Any) -> list[Any]:
    """Return the layers in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [layer for part in value for layer in _held(part)]
    return [value] if isinstance(value, keras.layers.Layer) else []


def foreign_keras(model: Any) -> str | None:
    """Return the name of the other Keras that `model` comes from, if it does."""
    for base in type(model).__mro__:
        root = base.__module__.split(".", maxsplit=1)[0]
        if base.__name__ == "Model" and root in ("keras", "tf_keras"):
            return root
    return None


def trainable_if_unfrozen(layer: Any) -> list[Any]:
    """Return the weights that train as long as no layer is frozen, each once."""
    name = "_trainable_variables" if KERAS_3 else "_trainable_weights"
    unique = {
        variable_key(variable): variable
        for part in all_layers(layer)
        for variable in getattr(part, name, ())
    }
    return list(unique.values())
