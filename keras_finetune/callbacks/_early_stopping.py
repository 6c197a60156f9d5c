"""Keras's `EarlyStopping`, for the time of a `fit` a judge of stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_finetune._engine import fit, keras
from keras_finetune._schedule.progress import Progress


def judge_stages(model: Any, progress: Progress, last: int) -> Callable[[], None]:
    """Let `EarlyStopping` end stages instead of `fit`, but for the last one.

    Args:
        model: The model, in `fit`.
        progress: How far the unfreezing has come.
        last: The last stage.

    Returns:
        A function that takes it back.

    Raises:
        ValueError: If there is no `EarlyStopping` in the `fit`.
    """
    neighbours = fit.callbacks_of_fit(model)
    judges = [c for c in neighbours if isinstance(c, keras.callbacks.EarlyStopping)]
    if not judges:
        raise ValueError(
            "Argument `early_stopping='stage'` needs a "
            "`keras.callbacks.EarlyStopping` in the same `fit`. "
            f"Received: callbacks={neighbours}"
        )
    hooks = [(judge, _ending_stages(judge, model, progress, last)) for judge in judges]
    for judge, hook in hooks:
        judge.__dict__["on_epoch_end"] = hook

    def take_back() -> None:
        for judge, hook in hooks:
            if judge.__dict__.get("on_epoch_end") is hook:
                del judge.__dict__["on_epoch_end"]

    return take_back


def _ending_stages(
    judge: Any, model: Any, progress: Progress, last: int
) -> Callable[..., None]:
    judges = judge.on_epoch_end

    def on_epoch_end(epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        stopped = bool(model.stop_training)
        judges(epoch, logs)
        stops = bool(model.stop_training) and not stopped
        if stops and (progress.stage or 0) < last:
            model.stop_training = False
            judge.wait = judge.stopped_epoch = 0
            progress.end_stage()

    return on_epoch_end
