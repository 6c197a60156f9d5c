"""The graphs of models of Keras 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.models.functional import Functional

from keras_finetune._engine import keras
from keras_finetune._engine.graphs.interface import Graphs, Node
from keras_finetune._engine.patches import Patch


class _Node(Node):
    # Never `silenced`: a functional model hands its own `training` to every node, so
    # an argument that was given when the node was made has no effect.

    def __init__(self, node: Any) -> None:
        self._arguments = node.arguments
        self.operation = node.operation
        self.inputs = node.input_tensors
        self.outputs = node.outputs
        # A nested model that is called with more than its inputs stays closed.
        # (Keras names the masks of a dictionary of inputs, also where there is none.)
        named = {
            name
            for name, value in node.arguments.kwargs.items()
            if any(leaf is not None for leaf in tree.flatten(value))
        }
        self.plain = len(node.arguments.args) == 1 and named <= {"training"}

    def arguments(self, tensors: dict[int, Any]) -> tuple[Any, Any]:
        return self._arguments.fill_in(tensors)

    def call(self, args: Any, kwargs: Any) -> list[Any]:
        return self.call_as_in(False, args, kwargs)

    def call_as_in(self, training: bool | None, args: Any, kwargs: Any) -> list[Any]:
        operation = self.operation
        # Newer releases of Keras 3 keep a set of such arguments, older ones this flag.
        has_training = getattr(operation, "_call_has_training_arg", False)
        takes = has_training or "training" in getattr(
            operation, "_call_context_args", ()
        )
        if takes and training is not None:
            kwargs = {**kwargs, "training": training}
        return tree.flatten(operation(*args, **kwargs))

    def constants(self) -> Any:
        given = [self._arguments.args, self._arguments.kwargs]
        return tree.map_structure(
            lambda x: "tensor" if isinstance(x, keras.KerasTensor) else x, given
        )


class Keras3(Graphs):
    """Keras 3, on any backend."""

    def flatten_layers(self, layer: Any) -> list[Any]:
        # A node of a graph may call a plain function.
        if not isinstance(layer, keras.layers.Layer):
            return []
        found = {id(part): part for part in layer._flatten_layers()}
        return list(found.values())

    def value(self, variable: Any) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(variable))

    def owns_generator(self, layer: Any) -> bool:
        return bool(getattr(layer, "_seed_generators", None))

    def opened(self, model: Any, *, own_call: bool = False) -> Any | None:
        if not isinstance(model, keras.Model):
            return None
        kind = type(model)
        if not own_call and kind.__call__ is not keras.Model.__call__:
            return None
        if isinstance(model, keras.Sequential):
            return model._functional if kind.call is keras.Sequential.call else None
        return model if kind.call is Functional.call else None

    def nodes(self, graph: Any, silenced: bool = False) -> Iterator[Node]:
        del silenced
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.operation is not None and not node.is_input:
                    yield _Node(node)

    def standardize(self, graph: Any, inputs: Any) -> list[Any]:
        return graph._standardize_inputs(inputs)

    def input_names(self, graph: Any) -> list[str]:
        return [x.name for x in graph.inputs]

    def output_structure(self, graph: Any) -> Any:
        outputs = graph._outputs_struct
        if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
            return outputs[0]
        return outputs

    def flatten(self, structure: Any) -> list[Any]:
        return tree.flatten(structure)

    def pack(self, structure: Any, flat: Sequence[Any]) -> Any:
        return tree.pack_sequence_as(structure, list(flat))

    def get_mask(self, x: Any) -> Any:
        return keras_backend.get_keras_mask(x)

    def set_mask(self, x: Any, mask: Any) -> None:
        keras_backend.set_keras_mask(x, mask)

    def as_given(self, model: Any) -> list[Patch]:
        names = (
            ("_convert_input_args", False),
            ("_allow_non_tensor_positional_args", True),
        )
        return [Patch(model, name, value) for name, value in names]

    def converted(self, model: Any, inputs: Any) -> Any:
        # A Sequential model casts its inputs to its own dtype, a functional one does
        # not. Keras gives the result the mask of what it converts.
        if not isinstance(model, keras.Sequential):
            return inputs

        def convert(x: Any) -> Any:
            mask = keras_backend.get_keras_mask(x)
            y = model.dtype_policy.convert_input(x, model.autocast, model.input_dtype)
            if mask is not None:
                keras_backend.set_keras_mask(y, mask)
            return y

        return tree.map_structure(convert, inputs)
