"""The lane of the Keras that runs: the one object the engine asks."""

from __future__ import annotations

from importlib import import_module

from keras_finetune._engine import KERAS_3
from keras_finetune._engine.lane import Lane

# Imported by name: the other world's module cannot be imported here.
_world = "keras3" if KERAS_3 else "keras2"
lane: Lane = import_module(f"keras_finetune._engine.{_world}").running()
