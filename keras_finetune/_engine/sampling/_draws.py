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

from keras_finetune._engine.sampling._interface import Arrays


class Fold:
    """How the rows of the batch that is being traced are made up.

    Args:
        samples: Number of samples in the batch, an integer or a scalar tensor.
        rows: Number of inputs in the batch, an integer or a scalar tensor.
        shared: Whether all inputs of a sample get the same draw.
    """

    def __init__(self, samples: Any, rows: Any, shared: bool) -> None:
        self.samples = samples
        self.rows = rows
        self.shared = shared
        # Set when a draw is met that cannot be told apart by sample: the sampler
        # then runs one sample at a time.
        self.broken = False

    def repeats(self, leading: Any) -> Any | None:
        """How many rows of a tensor belong to one input; `None` if it is not known.

        A layer may fold time or windows into the batch, so the leading size is a
        multiple of the rows. Where it is not (a table of positions, a batch size
        written into the model) no row can be given to a sample.
        """
        total = self.samples * self.rows
        known = isinstance(total, int)
        if isinstance(leading, int) and (not known or leading % total):
            return None
        return leading // total


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
