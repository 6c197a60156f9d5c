"""Random inputs for the models of `families.py`, made from what a model takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_finetune._engine import KERAS_3

LENGTH = 8
VOCABULARY = 30

# Inputs whose values are no free choice, by the end of their names.
MEANINGS = {
    "padding_mask": (1, 2),
    "segment_ids": (0, 2),
    "mask_positions": (0, LENGTH),
    "labels": (0, 2),
}
# The images of SAM are larger than the grid of its prompts.
SIZES = {"boxes": (1, 2, 2), "points": (1, 2), "labels": (1,), "masks": (0, 8, 8, 1)}


def inputs(model: Any, rows: int = 4) -> Any:
    """Return a batch of inputs in the structure that the model takes."""
    rng = np.random.default_rng(0)
    if not KERAS_3:
        return _hugging_face(model, rng, rows)
    tensors = model.input
    if isinstance(tensors, dict):
        return {name: _array(name, t, rng, rows) for name, t in tensors.items()}
    if isinstance(tensors, list):
        return [_array(t.name, t, rng, rows) for t in tensors]
    return _array("", tensors, rng, rows)


def _array(name: str, tensor: Any, rng: Any, rows: int) -> Any:
    shape = (rows, *(size or LENGTH for size in tensor.shape[1:]))
    if name in SIZES:
        shape = (rows, *SIZES[name])
    ends = (limits for end, limits in MEANINGS.items() if name.endswith(end))
    if "int" in str(tensor.dtype) or name.endswith("labels"):
        return rng.integers(*next(ends, (0, VOCABULARY)), shape).astype("int32")
    return rng.uniform(size=shape).astype("float32")


def _hugging_face(model: Any, rng: Any, rows: int) -> Any:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": rng.normal(size=(rows, 3, 16, 16)).astype("float32")}
    tokens = rng.integers(0, VOCABULARY, (rows, LENGTH)).astype("int32")
    found = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        found["decoder_input_ids"] = tokens[:, ::-1].copy()
    return found
