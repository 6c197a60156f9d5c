"""Scalars for TensorBoard, whatever the backend."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any


class ScalarWriter:
    """Writes scalars into a directory between `open` and `close`; copies are closed.

    Args:
        log_dir: The directory, or `None` to write nothing.
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None) -> None:
        if log_dir is not None:
            if not isinstance(log_dir, (str, os.PathLike)):
                raise TypeError(
                    "Argument `log_dir` must be a path or None. "
                    f"Received: log_dir={log_dir!r}"
                )
            _writer_class()
        self.log_dir = log_dir
        self._writer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_writer": None}

    def open(self) -> None:
        """Start a new file of events."""
        self.close()
        if self.log_dir is not None:
            self._writer = _writer_class()(os.fspath(self.log_dir))

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Write values by name, if open."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def close(self) -> None:
        """Finish the file of events, if any."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _writer_class() -> Any:
    try:
        return importlib.import_module("tensorboard.summary").Writer
    except ImportError as error:
        raise ImportError(
            "Argument `log_dir` needs the package `tensorboard`: "
            "`pip install keras-finetune[tensorboard]`."
        ) from error
