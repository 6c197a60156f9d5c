"""What `Model.predict` returns: flat outputs, their structure, what they stand for."""

from __future__ import annotations

from typing import Any

from keras_finetune._engine.graphs.cut import Graph
from keras_finetune._engine.sampling import _outputs
from keras_finetune._engine.sampling._lane import lane


def flatten(structure: Any) -> list[Any]:
    """Return the arrays of a structure, in the order of a model's flat outputs."""
    return lane.flatten(structure)


def kinds(model: Any, count: int) -> list[str | None]:
    """Tell what each of `count` outputs stands for, where the model does."""
    source = lane.opened(model)
    # Every nested model is opened: its last layer tells as well as any.
    graph = None if source is None else Graph(source, lambda node: True)
    return _outputs.kinds(model, graph, count)
