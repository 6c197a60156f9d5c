"""Which `fit` runs, and where an exception leaves it.

`fit` does not tell its callbacks of an exception: it skips `on_train_end`. But an
exception passes through what `fit` calls, and all of that is ours to wrap on the
instance while a `fit` runs: the step, the hooks of Keras's list of callbacks,
`evaluate`, and the iterators that data comes from. So whatever is to be put back is
put back there, before the exception reaches the user, whoever keeps the traceback.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from keras_finetune._engine import keras
from keras_finetune._engine.active import lane

_HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_epoch_end",
)
# What else `fit` calls that may run a user's code: data, metrics, layers.
_METHODS = ("evaluate", "reset_metrics", "_get_metrics_result_or_logs")


class Fit:
    """One `fit` of one model, told from others by Keras's list of its callbacks.

    Args:
        model: The model.
        callbacks: Keras's list of the callbacks, which `fit` makes; None outside.
    """

    def __init__(self, model: Any, callbacks: Any | None) -> None:
        self.model = model
        self.callbacks = callbacks
        self._wrapped: list[tuple[dict[str, Any], str, Any]] = []
        self._depth = threading.local()
        self._hidden: set[str] = set()
        self._fails: Callable[[], None] = _nothing
        self._ended: Callable[[], None] = _nothing

    def runs(self) -> bool:
        """Return whether we are called from this `fit`.

        A later `fit` has another list; `train_on_batch` after an interrupted `fit` has
        no `fit` that it is called from. (`model.history` does not tell: on Keras 2
        `predict` within a callback replaces it.)
        """
        frame = frame_of_fit(self.model)
        return frame is not None and _list_of_callbacks(frame) is self.callbacks

    def watch(self, fails: Callable[[], None]) -> None:
        """Have `fails` called once an exception is about to leave this `fit`."""
        self._fails = fails
        if self.callbacks is not None:
            for name in _HOOKS:
                self._wrap(self.callbacks, name, self.guarded)
            self._wrap(self.callbacks, "on_train_end", self._ending)
        for name in _METHODS:
            if hasattr(self.model, name):
                self._wrap(self.model, name, self.guarded)
        for bar in flat(self.callbacks):
            if isinstance(bar, keras.callbacks.ProgbarLogger):
                self._wrap(bar, "on_epoch_end", self._hiding)
        for owner, name in lane.data_of_fit(variables_of_fit(self.model)):
            self._wrap(owner, name, self._guarded_iterator)

    def after_callbacks(self, ended: Callable[[], None]) -> None:
        """Have `ended` called when all callbacks have ended, or now without a list."""
        if self.callbacks is None:
            ended()
        else:
            self._ended = ended

    def _ending(self, function: Callable[..., Any]) -> Callable[..., Any]:
        guarded = self.guarded(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> None:
            guarded(*args, **kwargs)
            self._ended()

        return call

    def hide_from_bar(self, keys: Iterable[str]) -> None:
        """Keep keys of the logs out of Keras's progress bar."""
        self._hidden.update(keys)

    def _hiding(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(when: Any, logs: Mapping[str, Any] | None = None) -> Any:
            shown = {k: v for k, v in (logs or {}).items() if k not in self._hidden}
            return function(when, shown)

        return call

    def let_go(self) -> None:
        """Take all of `watch` back."""
        self._fails = self._ended = _nothing
        while self._wrapped:
            attributes, name, ours = self._wrapped.pop()
            if attributes.get(name) is ours:
                del attributes[name]

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that reports its exceptions, if `fit` itself called it.

        An exception in what a callback calls is the callback's to handle, until it
        leaves the callback. The end of data is no failure.
        """

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            depth = getattr(self._depth, "value", 0)
            self._depth.value = depth + 1
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                if depth == 0 and not _is_end_of_data(error):
                    self._fails()
                raise
            finally:
                self._depth.value = depth

        return call

    def _guarded_iterator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def iterate(*args: Any, **kwargs: Any) -> _Guarded:
            return _Guarded(self, function(*args, **kwargs))

        return iterate

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        if name in vars(owner):
            return  # somebody else's, who knows nothing of us
        ours = wrapper(getattr(owner, name))
        vars(owner)[name] = ours
        self._wrapped.append((vars(owner), name, ours))


class _Guarded:
    """An iterator that reports its exceptions."""

    def __init__(self, fit: Fit, iterable: Iterable[Any]) -> None:
        self._iterator = fit.guarded(iter)(iterable)
        self._next = fit.guarded(next)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._next(self._iterator)


def current(model: Any) -> Fit:
    """Return the `fit` of a model that we are called from."""
    frame = frame_of_fit(model)
    return Fit(model, None if frame is None else _list_of_callbacks(frame))


def callbacks_of_fit(model: Any) -> list[Any]:
    """Return the callbacks of the `fit` that we are called from, each once."""
    return flat(variables_of_fit(model).get("callbacks"))


def variables_of_fit(model: Any) -> Mapping[str, Any]:
    """Return the local variables of the `fit` that we are called from, if any."""
    frame = frame_of_fit(model)
    return {} if frame is None else _variables(frame)


def frame_of_fit(model: Any) -> FrameType | None:
    """Return the frame of the `fit` of this model that we are called from, if any."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "fit" and _variables(frame).get("self") is model:
            return frame
        frame = frame.f_back
    return None


def _list_of_callbacks(frame_of_fit: FrameType) -> Any | None:
    """Keras's list of the callbacks of a `fit`."""
    callbacks = _variables(frame_of_fit).get("callbacks")
    kind = keras.callbacks.CallbackList
    if isinstance(callbacks, kind):
        return callbacks
    # The list calls `set_model` while it makes itself.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not frame_of_fit:
        owner = _variables(frame).get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


def _variables(frame: FrameType) -> dict[str, Any]:
    """Return a copy of the local variables of a function.

    Up to Python 3.12 a frame keeps what `f_locals` has seen, and with it what the
    function lets go of later: in `fit` the iterator of an epoch, which TensorFlow takes
    up to .3 s to end if that is put off to the next epoch.
    """
    seen = frame.f_locals
    found = dict(seen)
    if isinstance(seen, dict) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        seen.clear()
    return found


def flat(callbacks: Any) -> list[Any]:
    """Return the callbacks in what `fit` takes: one, lists in lists, `CallbackList`."""
    if callbacks is None:
        return []
    callbacks = getattr(callbacks, "callbacks", callbacks)
    if isinstance(callbacks, Iterable) and not isinstance(callbacks, str):
        return [one for some in callbacks for one in flat(some)]
    return [callbacks]


def _is_end_of_data(error: BaseException) -> bool:
    # TensorFlow's `OutOfRangeError`, told by its name: not every backend has it.
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, StopIteration) or "OutOfRangeError" in names


def _nothing() -> None:
    pass
