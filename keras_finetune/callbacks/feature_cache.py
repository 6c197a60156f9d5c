"""The features of frozen layers, computed once a row within one `fit`."""

from __future__ import annotations

import os
from typing import Any, Literal

from keras_finetune import _checks
from keras_finetune._engine import fit, keras, processes
from keras_finetune._engine.structure import is_built
from keras_finetune._tables import Report
from keras_finetune.callbacks._caching import Caching, plan_of
from keras_finetune.callbacks._callback import FineTuningCallback

_FROZEN_MODES = ("training", "inference")


@keras.saving.register_keras_serializable(package="keras_finetune")
class FeatureCache(FineTuningCallback):
    """Computes what frozen layers return once for each row, not once an epoch.

    The model is cut behind the largest part of it that gives the same for the same row
    in every step: no weight in it trains, no layer draws random numbers, uses the
    statistics of the batch, keeps a state or adds a loss. In the first epoch of a
    stage the features of each row at that cut are computed and kept; from then on a
    step reads them and runs what comes after the cut only. Validation is cached too.
    It works beside `GradualUnfreeze`, `TrainOnly`, or layers that you have frozen by
    hand. At the end of a stage its features are dropped, and a stage that trains more
    keeps its own.

    Rows are known by their bytes (SHA-256), so that shuffling, repeated rows and any
    source of data need nothing. Rows that change in every epoch, as with augmentation
    in the data pipeline, never come again: this is noticed after two epochs, and
    caching stops.

    Training goes on as without the cache: weights, optimizer state and logs are the
    same, bit for bit, where the features of a row do not depend on the batch that it
    comes in (see the documentation for what was measured), with one exception that
    `frozen_mode` decides about: dropout between frozen layers.

    Layers that augment rows inside the model, such as `RandomFlip`, end the cached
    part, so that in front of a frozen backbone nothing is cached. With `copies` each
    row keeps several variants that they have drawn.

    Args:
        memory: The bytes that features may take in memory, as a number or in words
            such as `"4GB"` or `"500 MB"`. Defaults to a quarter of the memory that is
            free when a stage begins. Rows beyond it are computed in each epoch; with
            `jit_compile=True` the whole batches that they are in.
        folder: A folder in which features are kept in files, mapped into memory, in
            the place of `memory`; it may grow as large as the features are. The next
            run uses them if the frozen layers have the same weights.
        frozen_mode: `"inference"` (default): dropout and other noise between frozen
            layers rests, so that these are fixed feature extractors, as when features
            are computed by `predict` before training. `"training"`: it stays active,
            as in plain Keras, and the cut is before it. Noise after the last frozen
            layer, as in a head, is active in any case.
        copies: How many variants of a row training keeps where layers in the cached
            part augment it: random layers before the first weights, and Keras's own
            augmentation layers; with `frozen_mode="training"` also dropout between
            frozen layers. In the first `copies` epochs of a stage every row is
            computed with new random numbers, and kept; later epochs go through the
            variants again, in the same order. An approximation of augmentation that
            is new in every epoch, for `copies` times the memory. Validation has no
            augmentation. A run that resumes starts with no variants. Defaults to 1:
            none are drawn.
        verbose: 1 (default) says in one line at the start of each stage what is
            cached, 0 is silent.

    Attributes:
        history: One dictionary for each stage: `epoch` (counted from 0), `layer` (the
            last one whose results are cached, `None` if none is), `row_bytes`,
            `copies` (variants of a row, 1 where nothing draws them), and, up to now,
            `rows` (different rows that are kept, each variant counted), `bytes` (of
            their features), `hits` (rows that training and validation did not compute
            again), `misses`.

    Raises:
        TypeError: If an argument has the wrong type, or the optimizer is of a make
            whose state cannot be carried over.
        ValueError: If an argument has a wrong value or, before the first epoch, if the
            model has no graph that could be cut: its class has a `call` of its own.

    Example:

    >>> callback = FeatureCache("2GB")
    >>> callback
    FeatureCache(memory='2GB')

    References:
        - [Liu et al., 2021](https://arxiv.org/abs/2102.01386) (AutoFreeze, which
          caches the results of layers as they freeze)
    """

    gives_groups = False

    def __init__(
        self,
        memory: int | str | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        frozen_mode: Literal["training", "inference"] = "inference",
        copies: int = 1,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        self.memory = memory
        self.limit = None if memory is None else _checks.size("memory", memory)
        self.folder = None if folder is None else _checks.folder("folder", folder)
        self.frozen_mode = _checks.choice("frozen_mode", frozen_mode, _FROZEN_MODES)
        self.copies = _checks.integer("copies", copies, 1)
        self.verbose = _checks.choice("verbose", verbose, (0, 1))
        self.history: list[dict[str, Any]] = []

    def plan(self, model: keras.Model) -> Report:
        """Print what would be cached while the weights train that train now.

        Args:
            model: A built model; it is left as it is.

        Returns:
            What was printed.
        """
        if not is_built(model):
            raise ValueError(
                "Argument `model` must have weights: build it, or call it on data. "
                f"Received: model={model!r}"
            )
        report = Report(plan_of(self, model, model.trainable_variables))
        return report.show() if processes.is_chief(model) else report

    # --- the hooks -------------------------------------------------------------------

    def _prepare(self, model: Any) -> None:
        self.refuse_another(fit.callbacks_of_fit(model))
        self.history = []
        self._run = Caching(self, model)

    def on_train_begin(self, logs: Any = None) -> None:
        self._run.begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._run.begin_epoch(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._run.end_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        self._run.end()
