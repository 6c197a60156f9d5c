"""Training a selection of a model's variables, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_finetune._engine import fit, keras, loading, optimizer, session
from keras_finetune._engine.structure import variable_path, weights
from keras_finetune._rules.selection import selector
from keras_finetune.callbacks._callback import FineTuningCallback


@keras.saving.register_keras_serializable(package="keras_finetune")
class TrainOnly(FineTuningCallback):
    """Trains only the selected variables in this `fit`; all others are frozen.

    The others stay bit-identical, take no memory in the optimizer, and cost no
    gradients. After `fit` the layers are as they were before, and so is the optimizer
    state of the variables that were frozen for it. Beside `GradualUnfreeze` it trains
    the selection among the groups that are unfrozen.

    Args:
        select: `"bias"`: every variable named `bias` or `beta`, as BitFit does;
            `"lora"`: the adapters that Keras's `enable_lora` makes; or a
            regular expression that is searched in the path of a variable, such as
            `"block5.*/kernel"`; or a callable that takes a variable and returns
            whether it trains. Variables that do not train without this callback do
            not train with it either.

    Raises:
        TypeError: If `select` is neither a string nor callable, or the state of the
            optimizer cannot be carried over.
        ValueError: If `select` is not a regular expression, or empty; before the first
            epoch if it selects nothing, or another `TrainOnly` is there.

    Example:

    >>> callback = TrainOnly("bias")
    >>> callback.select
    'bias'

    References:
        - [Ben Zaken et al., 2021](https://arxiv.org/abs/2106.10199) (BitFit)
    """

    def __init__(self, select: str | Callable[[Any], bool]) -> None:
        super().__init__()
        self.select = select
        word = _WORDS.get(select) if isinstance(select, str) else None
        expected = "'bias', 'lora', a regular expression or a callable of a variable"
        self._selects = word or selector(select, expected)
        if select == "":
            raise ValueError(
                f"Argument `select` must be {expected}; an empty one matches "
                "everything. Received: select=''"
            )

    def selected(self, model: Any) -> list[Any]:
        """Return the variables of a model that are selected, at least one.

        Args:
            model: A built model.
        """
        everything = weights(model)
        selected = [v for v in everything if self._selects(v)]
        if not selected:
            paths = [variable_path(v) for v in everything]
            hint = ""
            if self.select == "lora":
                hint = " Call `layer.enable_lora(rank)` on the layers first."
            raise ValueError(
                "Argument `select` must select at least one variable. Received: "
                f"select={self.select!r}, while the model has {paths}.{hint}"
            )
        return selected

    def _prepare(self, model: Any) -> None:
        self.refuse_another(fit.callbacks_of_fit(model))
        loading.await_file(model, self, self._fit_file)

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer.check(self.model)
        self._begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        loading.await_no_file(self)
        session.join(self.model).begin()

    def on_train_end(self, logs: Any = None) -> None:
        session.join(self.model).leave(self)

    def _begin(self) -> session.Session:
        chosen = {id(v) for v in self.selected(self.model)}
        running = session.join(self.model)
        frozen = [v for v in weights(self.model) if id(v) not in chosen]
        running.demand(self, frozen=frozen)
        return running

    def _fit_file(self, count: int) -> None:
        """Make the optimizer fit a file that was saved beside this selection."""
        self._begin().apply()


def _is_bias(variable: Any) -> bool:
    return variable_path(variable).rsplit("/", 1)[-1] in ("bias", "beta")


def _is_lora(variable: Any) -> bool:
    return variable_path(variable).rsplit("/", 1)[-1].startswith("lora_")


_WORDS: dict[str, Callable[[Any], bool]] = {"bias": _is_bias, "lora": _is_lora}
