"""Random draws for a batch that holds several Monte Carlo samples.

A folded batch is sample-major: sample 0 of every input, then sample 1, and so on.
Drawing for it as if it were one large batch gives every row a draw of its own. Two
cases need more care, and both are handled here by giving the draw a shape of
`(samples, rows, repeats, ...)` with ones where something is shared:

- `shared`: one draw per sample, the same for all inputs;
- a layer whose own `noise_shape` starts with 1 shares its mask across the batch. It
  must not share it across samples as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras_finetune._engine.sampling._interface import Arrays, Fold


def fold_dropout(
    dropout: Callable[[Any, Sequence[Any] | None], Any],
    inputs: Any,
    noise_shape: Sequence[Any] | None,
    fold: Fold,
    array: Arrays,
) -> Any:
    """Call `dropout(inputs, noise_shape)` with the mask that `fold` asks for."""
    shape = array.shape(inputs)
    repeats = fold.repeats(shape[0])
    if repeats is None:
        fold.broken = True
        return dropout(inputs, noise_shape)
    noise = [None] * len(shape) if noise_shape is None else list(noise_shape)
    over_batch = isinstance(noise[0], int) and noise[0] == 1
    if not (over_batch or fold.shared):
        return dropout(inputs, noise_shape)
    sizes = [s if n is None else n for n, s in zip(noise, shape, strict=True)]
    grouped = array.reshape(inputs, [fold.samples, fold.rows, repeats, *shape[1:]])
    masked = dropout(
        grouped, [fold.samples, 1, 1 if over_batch else repeats, *sizes[1:]]
    )
    return array.reshape(masked, shape)


def fold_draw(
    draw: Callable[[Sequence[Any]], Any],
    shape: Sequence[Any],
    fold: Fold,
    array: Arrays,
) -> Any:
    """Call `draw(shape)` so that the draw is shared where `fold` asks for it."""
    shape = array.sizes(shape)
    repeats = fold.repeats(shape[0]) if len(shape) else None
    if repeats is None:
        fold.broken = True
        return draw(shape)
    if not fold.shared:
        return draw(shape)
    noise = draw([fold.samples, 1, repeats, *shape[1:]])
    full = [fold.samples, fold.rows, repeats, *shape[1:]]
    return array.reshape(array.broadcast_to(noise, full), shape)
