"""The Keras version and the backend that run, chosen once."""

from importlib import import_module
from types import ModuleType

from .. import KERAS_3, backend

# Typed as modules: the two lanes offer the same functions, and no type checker sees
# both Kerases at once.
array: ModuleType = import_module(f"._{backend()}", __package__)
lane: ModuleType = import_module("._keras3" if KERAS_3 else "._keras2", __package__)
