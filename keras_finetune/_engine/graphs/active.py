"""The Keras that runs, as graphs see it."""

from __future__ import annotations

from keras_finetune._engine import KERAS_3
from keras_finetune._engine.graphs.interface import Graphs


def _lane() -> Graphs:
    if KERAS_3:
        from keras_finetune._engine.graphs.keras3 import Keras3

        return Keras3()
    from keras_finetune._engine.graphs.keras2 import Keras2

    return Keras2()


lane: Graphs = _lane()
