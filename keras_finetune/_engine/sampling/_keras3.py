"""What Monte Carlo prediction asks of Keras 3."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from types import GeneratorType
from typing import Any

from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.models.functional import Functional
from keras.src.random.seed_generator import SeedGenerator, global_seed_generator
from keras.src.saving.serialization_lib import SafeModeScope
from keras.src.trainers.data_adapters import get_data_adapter, is_tf_dataset

from .. import backend, keras
from ..patches import Patch, patched
from ._draws import Fold, fold_draw, fold_dropout
from ._forcing import forced
from ._lane import array

# ------------------------------------------------------------------ layers of a model


def flatten_layers(layer: Any) -> list[Any]:
    """A layer and all layers inside it, each once; nothing for a plain function."""
    if not isinstance(layer, keras.layers.Layer):
        return []
    found = {id(part): part for part in layer._flatten_layers()}
    return list(found.values())


def call_parameters(layer: Any) -> list[str]:
    return list(inspect.signature(layer.call).parameters)


def symbol(layer: Any) -> str:
    """The framework function that a layer wraps; Keras 3 has no such layers."""
    return ""


def owns_generator(layer: Any) -> bool:
    return bool(getattr(layer, "_seed_generators", None))


def variables(model: Any) -> list[Any]:
    """What a compiled call must be given: only JAX cannot see variables by itself."""
    return list(model.variables) if backend() == "jax" else []


def seeds(layers: Iterable[Any]) -> list[Any]:
    """The seed generators that layers own."""
    found = [g for layer in layers for g in getattr(layer, "_seed_generators", [])]
    return list({id(g): g for g in found}.values())


def can_follow(layer: Any) -> bool:
    """Whether the draws of a random layer can be keyed and folded.

    A generator in the closure of a `Lambda` is met when it draws.
    """
    inside = flatten_layers(layer)
    return isinstance(layer, keras.layers.Lambda) or any(map(owns_generator, inside))


# ------------------------------------------------------------------ functional graphs


def opened(model: Any) -> Any | None:
    """The graph that a call of `model` walks, or `None` if `call` is the user's."""
    if not isinstance(model, keras.Model):
        return None
    kind = type(model)
    graph = None
    if isinstance(model, keras.Sequential):
        if kind.call is keras.Sequential.call:
            graph = model._functional
    elif kind.call is Functional.call:
        graph = model
    return graph if kind.__call__ is keras.Model.__call__ else None


class Node:
    """One call of one operation."""

    # A functional model hands its own `training` to every node, so an argument that
    # was given when the node was made has no effect.
    silenced = False

    def __init__(self, node: Any) -> None:
        self._arguments = node.arguments
        self.operation = node.operation
        self.inputs = node.input_tensors
        self.outputs = node.outputs
        # A nested model that is called with more than its inputs stays closed.
        named = {k for k, v in node.arguments.kwargs.items() if v is not None}
        self.plain = len(node.arguments.args) == 1 and named <= {"training"}

    def arguments(self, tensors: dict[int, Any]) -> tuple[Any, Any]:
        return self._arguments.fill_in(tensors)


def nodes(model: Any) -> Iterator[Node]:
    """The calls of a graph, in the order in which Keras runs them."""
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                yield Node(node)


def call(node: Node, args: Any, kwargs: Any) -> list[Any]:
    """Call an operation in inference mode, as the functional model would."""
    operation = node.operation
    # Newer releases of Keras 3 keep a set of such arguments, older ones this flag.
    has_training = getattr(operation, "_call_has_training_arg", False)
    if has_training or "training" in getattr(operation, "_call_context_args", ()):
        kwargs = {**kwargs, "training": False}
    return tree.flatten(operation(*args, **kwargs))


def standardize(graph: Any, inputs: Any) -> list[Any]:
    """Inputs in the order, rank and dtype of the graph's own."""
    return graph._standardize_inputs(inputs)


def input_names(graph: Any) -> list[str]:
    return [x.name for x in graph.inputs]


def output_structure(graph: Any) -> Any:
    outputs = graph._outputs_struct
    if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        return outputs[0]
    return outputs


def flatten(structure: Any) -> list[Any]:
    return tree.flatten(structure)


def pack(structure: Any, flat: Sequence[Any]) -> Any:
    return tree.pack_sequence_as(structure, list(flat))


def get_mask(x: Any) -> Any:
    return keras_backend.get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    keras_backend.set_keras_mask(x, mask)


# ----------------------------------------------------------------------------- copies


def clone(model: Any, function: Callable[[Any], Any]) -> Any:
    """A model of the layers that `function` gives for those of `model`."""
    tensors = None
    if not isinstance(model, keras.Sequential):
        # Keras names the new inputs after tensors, and dicts of inputs miss them.
        tensors = tree.map_structure(
            lambda x: keras.Input(
                batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name
            ),
            model._inputs_struct,
        )
    return keras.models.clone_model(
        model, input_tensors=tensors, clone_function=function
    )


def trusting() -> AbstractContextManager[None]:
    """Let a `Lambda` be made from a configuration that is in memory anyway."""
    return SafeModeScope(safe_mode=False)


# --------------------------------------------------------------------------- sampling


@contextmanager
def isolated(
    model: Any,
    layers: Sequence[Any],
    seeds: Sequence[Any],
    keys: Any,
    states: Sequence[tuple[Any, Any]],
    fold: Fold | None,
) -> Iterator[None]:
    """Call layers so that nothing of them changes.

    A stateless scope takes every assignment: statistics, recurrent states and seeds.
    With a `fold`, `layers` run as in training and draw with `keys`, one row a seed.
    """
    mapping = list(states)
    if keys is not None:
        mapping += [(seed.state, keys[i]) for i, seed in enumerate(seeds)]
    with ExitStack() as stack:
        stack.enter_context(keras.StatelessScope(state_mapping=mapping))
        if fold is not None:
            stack.enter_context(patched(forced(layers)))
            stack.enter_context(patched(_folded_draws(seeds, keys, fold)))
        yield


# What layers draw with, in the module that all of Keras takes it from.
_random = keras_backend.random
_SHAPED = ("uniform", "normal", "truncated_normal", "randint", "binomial", "gamma")


def _folded_draws(seeds: Sequence[Any], keys: Any, fold: Fold) -> list[Patch]:
    """Patches under which everything that this thread draws follows `fold`."""
    thread = threading.get_ident()
    known = {id(seed) for seed in seeds}

    def is_ours(seed: Any) -> bool:
        return threading.get_ident() == thread and not isinstance(seed, int)

    def keyed(seed: Any) -> Any:
        """A generator that no layer owns gets a key too, when it is first met."""
        if seed is None:
            # On JAX a compiled call cannot use the global one; Keras says so itself.
            seed = global_seed_generator()
        if isinstance(seed, SeedGenerator) and id(seed) not in known:
            key = keys[-1] + keras_backend.convert_to_tensor(
                [len(known), 0], dtype=keys.dtype
            )
            seed.state.assign(keras_backend.cast(key, seed.state.dtype))
            known.add(id(seed))
        return seed

    dropout = _random.dropout

    def folded_dropout(
        inputs: Any, rate: float, noise_shape: Any = None, seed: Any = None
    ) -> Any:
        if not is_ours(seed):
            return dropout(inputs, rate, noise_shape=noise_shape, seed=seed)
        seed = keyed(seed)
        return fold_dropout(
            lambda x, noise: dropout(x, rate, noise_shape=noise, seed=seed),
            inputs,
            noise_shape,
            fold,
            array,
        )

    def folded(draw: Callable[..., Any]) -> Callable[..., Any]:
        def folded_draw(shape: Any, *args: Any, seed: Any = None, **kwargs: Any) -> Any:
            if not is_ours(seed):
                return draw(shape, *args, seed=seed, **kwargs)
            seed = keyed(seed)
            return fold_draw(
                lambda new: draw(new, *args, seed=seed, **kwargs), shape, fold, array
            )

        return folded_draw

    return [Patch(_random, "dropout", folded_dropout)] + [
        Patch(_random, name, folded(getattr(_random, name))) for name in _SHAPED
    ]


# ------------------------------------------------------------------------------- data


def batches(
    model: Any, x: Any, batch_size: int, steps: int | None
) -> tuple[Generator[Any, None, None], int | None]:
    """The inputs batch by batch, as `predict` would read them, and how many."""
    if isinstance(x, GeneratorType):
        # Keras 2 takes arrays from a generator, Keras 3 only tuples of them.
        x = (part if isinstance(part, tuple) else (part,) for part in x)
    adapter = get_data_adapter(x=x, batch_size=batch_size, steps_per_epoch=steps)
    total = adapter.num_batches
    if steps is not None:
        total = steps if total is None else min(steps, total)

    def read() -> Generator[Any, None, None]:
        adapter.on_epoch_begin()
        # As TensorFlow's own tensors, a dataset may hold ragged ones.
        direct = backend() == "tensorflow" and is_tf_dataset(x)
        try:
            source = iter(x if direct else adapter.get_numpy_iterator())
            for data in source if total is None else islice(source, total):
                yield keras.utils.unpack_x_y_sample_weight(data)[0]
        finally:
            # Stops the threads that a `PyDataset` may have started.
            adapter.on_epoch_end()

    return read(), total
