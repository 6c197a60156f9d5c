"""What the engine asks of the Keras that runs: every question once, in one interface.

`Keras2` and `Keras3` answer it (on Keras 3 with a subclass for each backend), and
`keras_finetune._engine.active.lane` is the one that answers here. A question that not
every Keras has a problem with has its harmless answer here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from keras_finetune._engine.patches import Patch, Snapshot

# Optimizer state that waits: slots by attribute, by optimizer and variable.
SetAside: TypeAlias = dict[tuple[int, Hashable], dict[str, Any]]


# What an optimizer calls its momentum, by the name of its class; those without.
_MOMENTUM = {
    **dict.fromkeys(("SGD", "RMSprop"), "momentum"),
    **dict.fromkeys(("Adam", "AdamW", "Adamax", "Lamb", "LAMB"), "beta_1"),
    **dict.fromkeys(("Adadelta", "Adafactor", "Adagrad", "Ftrl")),
}


@dataclass(frozen=True)
class Trained:
    """The variables that an optimizer is to serve.

    Args:
        now: Those that train now, in the model's order.
        later: Those that train now or in a later stage; empty if there is none.
        hidden: Variables that are frozen for the time of this `fit` only. Their slots
            are set aside while they have none in the optimizer.
        begins: Whether a session begins. Slots from before it that do not belong to
            `now` are dropped then, so that a later stage starts with fresh ones.
    """

    now: Sequence[Any]
    later: Sequence[Any] = ()
    hidden: Sequence[Any] = ()
    begins: bool = False


@dataclass(frozen=True)
class Scaling:
    """What becomes of the learning rate in the updates of an optimizer.

    Args:
        multipliers: The multiplier of each variable, by `slot_key`; 1 elsewhere.
        factor: Gives, in a step, what all rates are multiplied by as well.
        momentum: Gives, in a step, the momentum, if the optimizer uses one.
        corrections: Give, in a step, by `slot_key`, what the rate of a variable's
            update is multiplied by, but not that of its weight decay.
    """

    multipliers: Mapping[Hashable, float]
    factor: Callable[[], Any] | None = None
    momentum: Callable[[], Any] | None = None
    corrections: Mapping[Hashable, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Flags:
    """What the flags of a model are to say.

    Args:
        layers: By the id of a layer: whether it trains. Others keep what they have.
        variables: By `variable_key`: whether a variable trains, likewise.
    """

    layers: Mapping[int, bool] = field(default_factory=dict)
    variables: Mapping[Hashable, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Unsaid:
    """What flags cannot say, for the step to see (Keras 2).

    Args:
        frozen: Variables that must not train although their flags let them.
        patches: Flags that only the step sees.
    """

    frozen: Sequence[Any] = ()
    patches: Sequence[Patch] = ()


class Lane(ABC):
    """One Keras on one backend."""

    # --- optimizers ------------------------------------------------------------------

    @abstractmethod
    def inner_optimizers(self, optimizer: Any) -> list[Any]:
        """Return those that update variables, inside loss scaling and the like."""

    def optimizer_of(self, optimizer: Any) -> Callable[[Any], Any]:
        """Return a function from a variable to the inner optimizer that updates it."""
        first = self.inner_optimizers(optimizer)[0]
        return lambda variable: first

    @abstractmethod
    def is_built(self, optimizer: Any) -> bool:
        """Return whether the optimizer has slots."""

    @abstractmethod
    def slot_key(self, optimizer: Any, variable: Any) -> Hashable:
        """Return the key under which the optimizer knows a variable."""

    @abstractmethod
    def check_optimizer(self, optimizer: Any) -> None:
        """Raise `TypeError` unless all state of the optimizer can be carried over."""

    def check_scalable(self, inner: Any) -> None:
        """Raise `ValueError` unless a multiplier on the rate means what it says."""
        if type(inner).__name__ == "ConditionalGradient":
            raise ValueError(
                "Learning rates per group have no meaning with ConditionalGradient: a "
                "smaller learning rate is a larger move there (the weights become "
                "`rate * weights - (1 - rate) * lambda_ * direction`). Use another "
                f"optimizer. Received: optimizer={inner!r}"
            )

    def warn_inexact(self, optimizer: Any) -> None:
        """Warn of an optimizer whose state cannot be carried over exactly."""
        del optimizer

    def warn_of_checkpoints(self, optimizer: Any, callbacks: Iterable[Any]) -> None:
        """Warn of files whose slots are not those of the optimizer after `fit`."""
        del optimizer, callbacks

    @abstractmethod
    def learning_rate(self, inner: Any) -> float:
        """Return the base learning rate as it stands now."""

    @abstractmethod
    def is_scheduled(self, inner: Any) -> bool:
        """Return whether the base rate is computed, so that it cannot be assigned."""

    @abstractmethod
    def iterations(self, optimizer: Any) -> int:
        """Return the steps taken."""

    def steps_an_update(self, optimizer: Any) -> int:
        """Return over how many steps gradients are accumulated for one update."""
        del optimizer
        return 1

    def updates(self, optimizer: Any) -> int:
        """Return the updates made; several steps make one under accumulation."""
        return self.iterations(optimizer) // self.steps_an_update(optimizer)

    @abstractmethod
    def at_update(
        self, optimizer: Any, values: Sequence[float], start: int
    ) -> Callable[[], Any]:
        """Return a function that gives, in a step, the value of the update it makes.

        Args:
            optimizer: The model's optimizer, which counts the updates.
            values: One for each update; the last holds for all later ones.
            start: The updates made before the first of these.
        """

    @abstractmethod
    def rate_patches(self, inner: Any, scaling: Scaling) -> list[Patch]:
        """Return patches that multiply the learning rate of each variable's update.

        Args:
            inner: An optimizer that updates variables.
            scaling: What is multiplied.
        """

    def momentum_name(self, inner: Any) -> str | None:
        """Return what an optimizer calls its momentum; None if it uses none.

        Raises:
            ValueError: If a momentum that moves would not be exact.
        """
        names = [kind.__name__ for kind in type(inner).__mro__]
        known = [_MOMENTUM[name] for name in names if name in _MOMENTUM]
        if not known:
            raise ValueError(
                "A momentum that moves is exact for SGD, RMSprop, Adam, AdamW, Adamax "
                "and LAMB only: others, such as Nadam, derive more from it than the "
                "update of one step. Give `momentum=None` to leave it as it is. "
                f"Received: optimizer={inner!r}"
            )
        name = known[0]
        return name if name is not None and self.hyperparameter(inner, name) else None

    def hyperparameter(self, inner: Any, name: str) -> float:
        """Return the value of a hyperparameter that an optimizer was made with."""
        return float(getattr(inner, name))

    @abstractmethod
    def schedule(self, inner: Any, rates: npt.NDArray[np.float32]) -> None:
        """Let an optimizer use these rates from now on, one a step.

        Only its snapshot takes it back.

        Args:
            inner: An optimizer that updates variables.
            rates: The rate of each step; the last one stays.
        """

    # --- the state of an optimizer ---------------------------------------------------

    @abstractmethod
    def scope(self, model: Any) -> AbstractContextManager[Any]:
        """Return the distribution scope in which the model's variables are made."""

    @abstractmethod
    def snapshot(self, optimizer: Any, *others: dict[Any, Any]) -> Snapshot:
        """Return what an optimizer, and other dictionaries, are made of now."""

    @abstractmethod
    def rebuild(self, model: Any, trained: Trained, aside: SetAside) -> None:
        """Make the model's optimizer one that was built for these variables.

        Kept are the optimizer object, its learning rate, its iterations, and the slots
        of variables that it knows. New slots are as a fresh build makes them, and no
        others are made. Should it fail, also by Ctrl-C, nothing has changed.
        """

    @abstractmethod
    def slots_of(
        self, optimizer: Any, variables: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Return the slots of each of the variables that has some, by name."""

    @abstractmethod
    def value(self, variable: Any) -> npt.NDArray[Any]:
        """Return the value of a variable."""

    def slot_variables(
        self, model: Any, variables: Iterable[Any], hidden: Collection[int]
    ) -> list[Any]:
        """Return those of the variables that need slots.

        Args:
            model: The model.
            variables: Those that are to train.
            hidden: The ids of variables that are frozen for now.
        """
        del model
        return [v for v in variables if id(v) not in hidden]

    # --- all that a `fit` changes ----------------------------------------------------

    @abstractmethod
    def state_variables(self, model: Any) -> list[Any]:
        """Return the variables of a model, its optimizer, metrics and generators."""

    @abstractmethod
    def compiled(self, model: Any) -> list[Any]:
        """Return what holds the losses and metrics that a model was compiled with."""

    def flagged(self, model: Any) -> list[Any]:
        """Return the variables that have flags of their own."""
        del model
        return []

    @abstractmethod
    def generators(self, model: Any) -> Callable[[], None]:
        """Return what puts Keras's generators back, but for their variables."""

    @abstractmethod
    def one_step_an_execution(self, model: Any) -> None:
        """Let a step take one batch."""

    # --- files -----------------------------------------------------------------------

    @abstractmethod
    def variables_in_file(self, optimizer: Any) -> list[Any]:
        """Return the variables of an optimizer that a file of now would hold."""

    @abstractmethod
    def load_patch(
        self, optimizer: Any, prepare: Callable[[int], None]
    ) -> Patch | None:
        """Return a patch that calls `prepare(count)` before `count` are loaded."""

    def epoch_of_checkpoint(self, model: Any) -> int | None:
        """Return the epoch of the checkpoint that `fit` resumes from, if it tells."""
        del model
        return None

    def make_room(self, model: Any, variables: Sequence[Any]) -> None:
        """Give an optimizer the slots that it had when a backup was written."""
        del model, variables

    # --- flags -----------------------------------------------------------------------

    @abstractmethod
    def can_train(self, layer: Any) -> list[Any]:
        """Return a layer's own variables that train if no flag freezes them."""

    @abstractmethod
    def trained(self, model: Any) -> list[Any]:
        """Return the variables whose flags let them train, whatever a step says."""

    def has_gradient(self, variable: Any) -> bool:
        """Return whether the backend's own flag lets a variable train."""
        del variable
        return True

    def frozen_alone(self, layers: Iterable[Any]) -> list[Any]:
        """Return variables that stay frozen even if their layer is thawed (LoRA)."""
        del layers
        return []

    @abstractmethod
    def set_flags(self, model: Any, flags: Flags, *, ends: bool) -> Unsaid:
        """Set flags, one by one, and return what they cannot say.

        Args:
            model: The model.
            flags: What trains.
            ends: Whether `fit` ends, so that no step of ours will see what is unsaid.
        """

    @abstractmethod
    def freeze(self, layers: Sequence[Any], variables: Sequence[Any]) -> list[Patch]:
        """Freeze single variables; return the patches that the step needs for it."""

    def thaw(self, layers: Sequence[Any], variables: Sequence[Any]) -> None:
        """Take `freeze` back, but for layers that were frozen since."""
        del layers, variables

    # --- the model and its compiled functions ----------------------------------------

    @abstractmethod
    def build(self, model: Any, variables_of_fit: Mapping[str, Any]) -> None:
        """Build a model that has no weights yet from the data of `fit`."""

    def around_step(self) -> AbstractContextManager[Any]:
        """Return the context of each call of a step."""
        return nullcontext()

    def pull_state(self, model: Any) -> None:
        """Bring weights that live inside `fit` back to the model's variables."""
        del model

    def hold_state(self, model: Any) -> None:
        """Let `fit` put back the weights of now should the next step fail."""
        del model

    @abstractmethod
    def new_train_function(self, model: Any) -> Callable[..., Any]:
        """Make a train function that shares no trace with any made before."""

    @abstractmethod
    def new_test_function(self, model: Any) -> Callable[..., Any]:
        """Make a test function that shares no trace with any made before."""

    def penalized_while_training(self, variables: Iterable[Any]) -> list[Any]:
        """Return variables whose penalty is in the loss only while they train."""
        del variables
        return []

    def read_by_evaluation(self, model: Any) -> list[Any]:
        """Return the trained variables that a compiled step of `evaluate` depends on.

        It must be made again when these change.
        """
        del model
        return []

    def renew_evaluation(self, model: Any) -> None:
        """Forget compiled functions of `evaluate` and `predict`; Keras makes them."""
        model.test_function = None
        model.predict_function = None

    @abstractmethod
    def renew_compiled_state(self, model: Any) -> None:
        """Make the flags of now those that Keras takes for the compiled ones."""

    @abstractmethod
    def data_of_fit(self, variables_of_fit: Mapping[str, Any]) -> list[tuple[Any, str]]:
        """Return the methods from which `fit` reads data outside of the step.

        Returns:
            Pairs of an object and the name of a method that returns an iterator.
        """
