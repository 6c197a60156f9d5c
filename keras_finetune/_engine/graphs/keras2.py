"""The graphs of models of Keras 2.15 and `tf_keras`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
import tensorflow as tf

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.interface import Graphs, Node
from keras_finetune._engine.graphs.silence import silence

# `keras.src.engine` or `tf_keras.src.engine`: the layer class knows which.
_engine = keras.layers.Layer.__module__.rpartition(".")[0]
_Functional = import_module(f"{_engine}.functional").Functional
_call_context = import_module(f"{_engine}.base_layer_utils").call_context


def inference(layer: Any) -> AbstractContextManager[Any]:
    """Return the context of a call of `layer` with `training=False`."""
    context = _call_context()
    state = {"layer": layer, "inputs": None, "build_graph": True}
    # `tf_keras` after 2.15 carries any argument through the stack of calls.
    if "training" in inspect.signature(context.enter).parameters:
        return context.enter(training=False, **state)
    return context.enter(call_context_args={"training": False}, **state)


class _Node(Node):
    def __init__(self, node: Any, silenced: bool) -> None:
        self._node = node
        self.operation = node.layer
        self.inputs = node.keras_inputs
        self.outputs = tf.nest.flatten(node.outputs)
        # A nested model that is called with more than its inputs stays closed.
        named = {k: v for k, v in node.call_kwargs.items() if v is not None}
        self.plain = len(node.call_args) == 1 and set(named) <= {"training"}
        # What the transfer learning guide does with a backbone: its dropout is off
        # in `fit` too. A call inside it that says something else is obeyed.
        told = named.get("training")
        self.silenced = silenced if told is None else told is False

    def arguments(self, tensors: dict[int, Any]) -> tuple[Any, Any]:
        # Keras takes one value off the list for each use.
        uses = len(self._node.flat_input_ids)
        return self._node.map_arguments(
            {str(key): [value] * uses for key, value in tensors.items()}
        )

    def call(self, args: Any, kwargs: Any) -> list[Any]:
        # `training=True`, given when the model was made, would move statistics.
        if kwargs.get("training") is not None:
            kwargs = {**kwargs, "training": False}
        with silence(self.silenced):
            return tf.nest.flatten(self.operation(*args, **kwargs))

    def call_as_in(self, training: bool | None, args: Any, kwargs: Any) -> list[Any]:
        del training  # layers ask the context of the call
        around = inference(self.operation) if self.silenced else nullcontext()
        with around:
            return tf.nest.flatten(self.operation(*args, **kwargs))

    def constants(self) -> Any:
        given = [self._node.call_args, self._node.call_kwargs]
        return tf.nest.map_structure(
            lambda x: "tensor" if keras.backend.is_keras_tensor(x) else x, given
        )


class Keras2(Graphs):
    """Keras 2.15 and `tf_keras`, on TensorFlow."""

    def flatten_layers(self, layer: Any) -> list[Any]:
        found = {id(part): part for part in layer._flatten_layers()}
        return list(found.values())

    def value(self, variable: Any) -> np.ndarray:
        return variable.numpy()

    def symbol(self, layer: Any) -> str:
        return str(getattr(layer, "symbol", "") or "")

    def owns_generator(self, layer: Any) -> bool:
        return hasattr(layer, "_random_generator")

    def opened(self, model: Any, *, own_call: bool = False) -> Any | None:
        if not isinstance(model, keras.Model):
            return None
        kind = type(model)
        plain = kind.call in (_Functional.call, keras.Sequential.call)
        own_call = own_call or kind.__call__ is keras.Model.__call__
        return model if plain and own_call and model._is_graph_network else None

    def nodes(self, graph: Any, silenced: bool = False) -> Iterator[Node]:
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    yield _Node(node, silenced)

    def standardize(self, graph: Any, inputs: Any) -> list[Any]:
        flat = graph._flatten_to_reference_inputs(inputs)
        return [
            graph._conform_to_reference_input(x, ref_input=symbolic)
            for x, symbolic in zip(flat, graph.inputs, strict=True)
        ]

    def input_names(self, graph: Any) -> list[str]:
        return list(graph.input_names)

    def output_structure(self, graph: Any) -> Any:
        return graph._nested_outputs

    def flatten(self, structure: Any) -> list[Any]:
        return tf.nest.flatten(structure)

    def pack(self, structure: Any, flat: Sequence[Any]) -> Any:
        return tf.nest.pack_sequence_as(structure, list(flat))

    def get_mask(self, x: Any) -> Any:
        return getattr(x, "_keras_mask", None)

    def set_mask(self, x: Any, mask: Any) -> None:
        x._keras_mask = mask
