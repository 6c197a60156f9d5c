"""Optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_finetune._engine import conditional_gradient as _engine

if TYPE_CHECKING or not _engine.FROM_ADDONS:
    from keras_finetune.optimizers.conditional_gradient import ConditionalGradient
else:

    def __getattr__(name: str) -> Any:
        # TensorFlow Addons takes a second to import and warns that it is at its end:
        # only those who ask for it shall meet it.
        if name == "ConditionalGradient":
            return _engine.addons_class()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ConditionalGradient"]
