"""Before which layers the part ends that gives the same for the same row."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.evaluation import names_loaded
from keras_finetune._engine.graphs.active import lane
from keras_finetune._engine.graphs.interface import Node
from keras_finetune._engine.graphs.noise import is_active, may_rest
from keras_finetune._engine.structure import own_weights, variable_key

# What a user's layer does in `call` if it keeps something from one step to the next.
_KEEPS = frozenset(
    ("add_loss", "add_metric", "assign", "assign_add", "assign_sub", "update_state")
)
# Where that is no part of a step.
_NOT_CALLED = (
    *("__init__", "build", "get_config", "from_config", "adapt", "update_state"),
    *("load_own_variables", "save_own_variables", "load_assets", "save_assets"),
)
# Layers of these packages do to each row the same, but for the exceptions below.
_KNOWN = ("keras", "tf_keras", "keras_hub", "keras_nlp", "keras_cv", "keras_finetune")

# What Keras's own classes are made of.
_BASES = ("tensorflow", "torch")


@dataclass(frozen=True)
class Obstacle:
    """What the cached part ends before.

    Args:
        layer: The name of the layer.
        reason: Why it cannot be computed once and for all.
        noise: Whether it could if noise in frozen layers rested.
        augments: Whether it augments rows, of which variants could be kept.
    """

    layer: str
    reason: str
    noise: bool = False
    augments: bool = False


class Ends:
    """Tells before which calls the cached part ends, and remembers why.

    Args:
        trains: The keys of the variables that train.
        at_rest: The ids of layers whose noise ends nothing: they behave as at
            inference, or draw what is kept.
        flags: Flags of layers, by their ids, in the place of those they have.
        ignore_noise: Whether noise that could be put to rest is taken to be.
    """

    def __init__(
        self,
        trains: Collection[Hashable],
        at_rest: Collection[int],
        flags: Mapping[int, bool],
        *,
        ignore_noise: bool = False,
    ) -> None:
        self._trains = trains
        self._at_rest = at_rest
        self._flags = flags
        self._ignore_noise = ignore_noise
        self.obstacles: dict[int, Obstacle] = {}

    def __call__(self, node: Node) -> bool:
        obstacle = self._obstacle(node)
        if obstacle is not None:
            self.obstacles[id(node)] = obstacle
        return obstacle is not None

    def _obstacle(self, node: Node) -> Obstacle | None:
        for layer in lane.flatten_layers(node.operation):
            reason = self._trains_here(layer) or _keeps(layer) or _mixes(layer)
            if reason is None and not node.silenced and self._uses_the_batch(layer):
                reason = "uses the statistics of the batch"
            if reason is not None:
                return Obstacle(layer.name, reason)
            if not node.silenced and self._is_noisy(layer):
                return Obstacle(
                    layer.name, "is random while it trains", may_rest(layer)
                )
        if not all(_is_batched(x) for x in node.outputs):
            name = getattr(node.operation, "name", type(node.operation).__name__)
            return Obstacle(name, "returns no batch")
        return None

    def _trains_here(self, layer: Any) -> str | None:
        if any(variable_key(v) in self._trains for v in own_weights(layer)):
            return "trains"
        return None

    def _uses_the_batch(self, layer: Any) -> bool:
        if id(layer) in self._at_rest:
            return False
        if isinstance(layer, keras.layers.BatchNormalization):
            return bool(self._flags.get(id(layer), layer.trainable))
        return type(layer).__name__ == "SpectralNormalization"

    def _is_noisy(self, layer: Any) -> bool:
        if id(layer) in self._at_rest or not is_active(layer):
            return False
        return not (self._ignore_noise and may_rest(layer))


def _keeps(layer: Any) -> str | None:
    """Why a layer does more than return something, if it does."""
    if getattr(layer, "activity_regularizer", None) is not None:
        return "has an activity regularizer"
    if isinstance(layer, keras.layers.ActivityRegularization):
        return "adds a loss"
    if getattr(layer, "_metrics", None) and not isinstance(layer, keras.Model):
        return "has a metric of its own"
    if isinstance(layer, keras.layers.RNN) and layer.stateful:
        return "keeps its state from batch to batch"
    names = names_loaded(layer.__class__, (*_KNOWN, *_BASES), _NOT_CALLED)
    if is_foreign(layer) and not _KEEPS.isdisjoint(names):
        return "may add a loss or keep a state"
    return None


def _mixes(layer: Any) -> str | None:
    """Why the rows of a layer of Keras depend on one another, if they do."""
    axis = getattr(layer, "axis", None)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if any(isinstance(a, int) and not isinstance(a, bool) and a == 0 for a in axes):
        return "works along the batch"
    return None


def is_foreign(operation: Any) -> bool:
    """Whether it is not known that each row of the result has a row of its own."""
    if not isinstance(operation, keras.layers.Layer):
        return operation is not None
    if isinstance(operation, keras.layers.Lambda) or lane.symbol(operation):
        return True
    return type(operation).__module__.partition(".")[0] not in _KNOWN


def _is_batched(symbolic: Any) -> bool:
    return bool(symbolic.shape) and symbolic.shape[0] is None
