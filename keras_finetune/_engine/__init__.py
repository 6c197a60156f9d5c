"""The one place that knows which Keras, and which backend, is running.

Every other file imports `keras` from here, so that the package works on the Keras
that the user's project already uses: Keras 3, Keras 2.15, or `tf_keras` when
`TF_USE_LEGACY_KERAS=1` asks TensorFlow for it.
"""

import os

if os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
    # The switch TensorFlow itself reads: `tf.keras` is `tf_keras` then.
    import tf_keras as keras
else:
    import keras

_version = tuple(int(part) for part in keras.__version__.split(".")[:2])
if not ((2, 15) <= _version < (3,) or _version >= (3, 8)):
    # Not refused by the package's metadata: pip would exchange the user's Keras.
    raise ImportError(
        "keras_finetune works with Keras 2.15, with tf_keras, and with Keras 3.8 or "
        f"later. Received: {keras.__name__} {keras.__version__}"
    )

KERAS_3: bool = _version[0] == 3


def backend() -> str:
    """Return the name of the running backend: `"tensorflow"`, `"jax"` or `"torch"`."""
    return str(keras.backend.backend())


__all__ = ["KERAS_3", "backend", "keras"]
