"""What is asked of the graph of a functional model, on Keras 2 and Keras 3."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from keras_finetune._engine.patches import Patch


class Node(ABC):
    """One call of one layer in a functional model.

    Attributes:
        operation: The layer, or the function of the framework.
        inputs: The symbolic tensors that it reads.
        outputs: The symbolic tensors that it computes, flat.
        plain: Whether a nested model is called with its inputs and nothing else.
        silenced: Whether the call, or that of a model around it, was made with a
            `training=False` that `fit` obeys.
    """

    operation: Any
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    plain: bool
    silenced: bool = False

    @abstractmethod
    def arguments(self, tensors: dict[int, Any]) -> tuple[Any, Any]:
        """Return the arguments of the call, with tensors for symbolic ones by `id`."""

    @abstractmethod
    def call(self, args: Any, kwargs: Any) -> list[Any]:
        """Call the layer in inference mode, and return its flat outputs."""

    @abstractmethod
    def call_as_in(self, training: bool | None, args: Any, kwargs: Any) -> list[Any]:
        """Call the layer as a call of the model does, and return its flat outputs.

        Args:
            training: The argument that the model's `call` has got.
            args: The positional arguments of the layer's call.
            kwargs: Its other arguments.
        """

    @abstractmethod
    def constants(self) -> Any:
        """Return the arguments of the call, with a word for each tensor."""


class Graphs(ABC):
    """A Keras, as a walk along the graphs of its models sees it."""

    # Layers of a model

    @abstractmethod
    def flatten_layers(self, layer: Any) -> list[Any]:
        """Return a layer and all layers inside it, each once."""

    def call_parameters(self, layer: Any) -> list[str]:
        """Return the names of the parameters of a layer's `call`."""
        return list(inspect.signature(layer.call).parameters)

    def symbol(self, layer: Any) -> str:
        """Return the name of the framework function that a layer wraps, or `""`."""
        return ""

    @abstractmethod
    def value(self, variable: Any) -> np.ndarray:
        """Return the value of a variable."""

    @abstractmethod
    def owns_generator(self, layer: Any) -> bool:
        """Return whether a layer draws with a generator of its own."""

    # Functional graphs

    @abstractmethod
    def opened(self, model: Any, *, own_call: bool = False) -> Any | None:
        """Return the graph that a call of `model` walks, or `None`.

        `None` where `call`, or without `own_call` also `__call__`, is the user's.
        """

    @abstractmethod
    def nodes(self, graph: Any, silenced: bool = False) -> Iterator[Node]:
        """Yield the calls of a graph, in the order in which Keras runs them.

        Args:
            graph: The graph.
            silenced: Whether a call of it is.
        """

    @abstractmethod
    def standardize(self, graph: Any, inputs: Any) -> list[Any]:
        """Return inputs in the order, rank and dtype of the graph's own."""

    @abstractmethod
    def input_names(self, graph: Any) -> list[str]:
        """Return the names of a graph's inputs."""

    @abstractmethod
    def output_structure(self, graph: Any) -> Any:
        """Return what a call of the graph returns, with symbolic tensors."""

    @abstractmethod
    def flatten(self, structure: Any) -> list[Any]:
        """Return the leaves of a structure, in the order of Keras."""

    @abstractmethod
    def pack(self, structure: Any, flat: Sequence[Any]) -> Any:
        """Return leaves in a structure."""

    @abstractmethod
    def get_mask(self, x: Any) -> Any:
        """Return the mask that Keras carries on a tensor, or `None`."""

    @abstractmethod
    def set_mask(self, x: Any, mask: Any) -> None:
        """Put a mask on a tensor."""

    # Calls of a model

    def as_given(self, model: Any) -> list[Patch]:
        """Return patches under which `call` gets inputs as `__call__` got them."""
        del model
        return []

    def converted(self, model: Any, inputs: Any) -> Any:
        """Return inputs as `call` gets them without these patches."""
        del model
        return inputs
