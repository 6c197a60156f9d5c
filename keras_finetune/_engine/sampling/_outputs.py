"""What the outputs of a model stand for, as far as its layers and its loss tell."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine.graphs.cut import Graph
from keras_finetune._engine.sampling._lane import lane

# The functions that make probabilities of scores.
_ACTIVATIONS = {"softmax": "probabilities", "sigmoid": "binary"}


def kinds(model: Any, graph: Graph | None, count: int) -> list[str | None]:
    """One of `"probabilities"`, `"logits"`, `"binary"`, `"binary_logits"` an output.

    `None` where neither the last layer nor the compiled loss says it.
    """
    losses = _losses(getattr(model, "loss", None), count)
    if graph is None:
        activations = [""] * count
    else:
        activations = [_activation(graph.last_operation(key)) for key in graph.outputs]
    return [_kind(a, loss) for a, loss in zip(activations, losses, strict=True)]


def _kind(activation: str, loss: Any) -> str | None:
    if activation in _ACTIVATIONS:
        return _ACTIVATIONS[activation]
    given = loss if isinstance(loss, str) else getattr(loss, "name", None)
    name = str(given or getattr(loss, "__name__", ""))
    options = getattr(loss, "_fn_kwargs", None) or {}
    logits = bool(getattr(loss, "from_logits", options.get("from_logits", False)))
    if "binary" in name:
        return "binary_logits" if logits else "binary"
    if "categorical" in name:
        return "logits" if logits else "probabilities"
    return None


def _losses(loss: Any, count: int) -> list[Any]:
    if isinstance(loss, (list, tuple, dict)):
        flat = list(loss.values()) if isinstance(loss, dict) else list(loss)
        # Names of a dict need not be in the order of the outputs.
        same = len({str(x) for x in flat}) == 1
        ordered = isinstance(loss, (list, tuple)) and len(flat) == count
        return flat if ordered else [flat[0] if same else None] * count
    return [loss if count == 1 else None] * count


def _activation(operation: Any) -> str:
    """Return the name of the activation that an operation ends with."""
    if operation is None:
        return ""
    function = getattr(operation, "activation", None)
    if function is not None:
        return str(getattr(function, "__name__", type(function).__name__)).lower()
    symbol = lane.symbol(operation).rpartition(".")[2]
    return symbol or type(operation).__name__.lower()
