"""What a model and its callbacks are about to do, before training."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from keras_finetune import _checks
from keras_finetune._engine import flags, optimizer, processes
from keras_finetune._engine.features import Obstacle, Part
from keras_finetune._engine.structure import variable_key, weights
from keras_finetune._groups.layer_groups import layer_groups
from keras_finetune._rules.sharing import shared_groups
from keras_finetune._rules.stages import Stages
from keras_finetune._schedule import epochs as _epochs
from keras_finetune._tables import Report, Table
from keras_finetune.callbacks import (
    DiscriminativeLR,
    FeatureCache,
    GradualUnfreeze,
    TrainOnly,
)
from keras_finetune.callbacks._caching import copies_of, plan_of, told, would_cache
from keras_finetune.callbacks._callback import check_callbacks

# The title of a column: the last layer whose results are kept, and their bytes.
_CACHED = "cached (bytes a row)"


def summary(model: Any, callbacks: Any = (), *, epochs: int | None = None) -> Report:
    """Print what would train, when, and at which rate: `model.summary` for a `fit`.

    A table of the groups, bottom to top: layers, parameters, how many of these train
    in the end, the epochs (counted from 0) in which they do, and the learning rate
    with which the group begins; where the base rate changes from stage to stage, also
    that of the last stage. With `GradualUnfreeze` also a table of its stages;
    with `FeatureCache` what is computed once a row, in each stage or in the whole fit.
    The model, its flags and its optimizer are left as they are.

    Args:
        model: A built model. Without `compile` the table has factors in the place of
            rates.
        callbacks: What `fit` will be given: `GradualUnfreeze`, `DiscriminativeLR`,
            `TrainOnly` and `FeatureCache` are taken into account, others have no part
            in it.
        epochs: The epochs that `fit` will run, if known.

    Returns:
        What was printed, as an object that a notebook shows as tables; its `str` is
        the text.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model has no weights yet, or a callback does not fit it.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     keras.layers.Dense(8, name="body"),
    ...     keras.layers.Dense(2, name="classifier"),
    ... ], name="small")
    >>> model.compile(keras.optimizers.SGD(0.1), "mse")
    >>> report = summary(model, [DiscriminativeLR(decay=2.0)])
    Model "small": 58 parameters in 2 groups, of which 58 train. SGD at the learning
    rate 0.1.
    <BLANKLINE>
    group  layers  parameters  trainable  epochs  learning rate
    -----  ------  ----------  ---------  ------  -------------
    body        1          40         40  from 0           0.05
    head        1          18         18  from 0            0.1
    """
    if epochs is not None:
        epochs = _checks.integer("epochs", epochs, 1)
    training = _Training(model, check_callbacks(callbacks))
    parts: list[str | Table] = [training.headline(), training.groups_table(epochs)]
    if training.stages is not None and training.unfreeze is not None:
        cached = training.cached(training.stages, training.unfreeze)
        cells = [_briefly(training.cache, stage) for stage in cached]
        parts.append(
            training.stages.table(
                training.unfreeze.when(training.stages, epochs),
                training.unfreeze.base_rates(training.rate, training.stages),
                training.selects,
                {_CACHED: cells} if cached else None,
            )
        )
        parts += [*training.stages.never_trained(), *_nothing_cached(cached)]
    elif training.cache is not None:
        trained = training.trained()
        parts.append(plan_of(training.cache, model, trained))
    report = Report(*parts)
    return report.show() if processes.is_chief(model) else report


class _Training:
    """A model beside the callbacks that decide what trains."""

    def __init__(self, model: Any, callbacks: list[Any]) -> None:
        unfreezes = [c for c in callbacks if isinstance(c, GradualUnfreeze)]
        scalers = [c for c in callbacks if isinstance(c, DiscriminativeLR)]
        selectors = [c for c in callbacks if isinstance(c, TrainOnly)]
        caches = [c for c in callbacks if isinstance(c, FeatureCache)]
        self.model = model
        self.cache = caches[-1] if caches else None
        self.unfreeze = unfreezes[-1] if unfreezes else None
        self.stages: Stages | None = None
        if self.unfreeze is not None:
            self.stages = self.unfreeze.stages(model, callbacks)
            self.groups = self.stages.groups
        elif scalers:
            self.groups = tuple(shared_groups(model, scalers[0], callbacks))
        else:
            self.groups = tuple(layer_groups(model))
        self._factors = [
            scaler.by_variable(model, shared_groups(model, scaler, callbacks))
            for scaler in scalers
        ]
        self._selected = [
            {variable_key(v) for v in selector.selected(model)}
            for selector in selectors
        ]
        self.rate: float | None = None
        if getattr(model, "optimizer", None) is not None:
            self.rate = optimizer.learning_rate(model)
        # The base rates of the stages, or what they are multiplied by.
        self.bases = [1.0 if self.rate is None else self.rate]
        if self.stages is not None and self.unfreeze is not None:
            known = self.unfreeze.base_rates(self.bases[0], self.stages)
            self.bases = known or self.bases

    def selects(self, variable: Any) -> bool:
        """Whether a variable trains when its group does."""
        key = variable_key(variable)
        return self.factor(variable) != 0.0 and all(key in s for s in self._selected)

    def factor(self, variable: Any) -> float:
        """Return the factor on the rate of a variable."""
        product = 1.0
        for factors in self._factors:
            product *= factors[variable_key(variable)]
        return product

    def trained(self) -> list[Any]:
        """Return what trains in the end."""
        if self.stages is not None:
            trained = self.stages.variables(self.stages.last)
        else:
            trained = list(self.model.trainable_variables)
        return [v for v in trained if self.selects(v)]

    def cached(
        self, stages: Stages, unfreeze: GradualUnfreeze
    ) -> list[Part | Obstacle]:
        """Return what is computed once a row in each stage; nothing without a cache."""
        if self.cache is None:
            return []
        found = []
        for stage in range(stages.last + 1):
            trained = [v for v in stages.variables(stage) if self.selects(v)]
            at_rest = []
            if unfreeze.frozen_mode == "inference":
                at_rest = stages.frozen_layers(stage)
            says = stages.flags(stage).layers
            found.append(would_cache(self.cache, self.model, trained, at_rest, says))
        return found

    def headline(self) -> str:
        """Return what there is, in a sentence or two."""
        total = flags.count(weights(self.model))
        said = (
            f'Model "{self.model.name}": {total:,} parameters in {len(self.groups)} '
            f"groups, of which {flags.count(self.trained()):,} train."
        )
        if self.rate is None:
            return f"{said} Not compiled."
        name = type(self.model.optimizer).__name__
        if optimizer.is_scheduled(self.model):
            return f"{said} {name} with a schedule, now at {self.rate:.3g}."
        return f"{said} {name} at the learning rate {self.rate:.3g}."

    def groups_table(self, epochs: int | None) -> Table:
        """Return a row for each group."""
        given = self.unfreeze is not None and self.unfreeze.learning_rates is not None
        rate = "factor" if self.rate is None and not given else "learning rate"
        header = ["group", "layers", "parameters", "trainable", "epochs", rate]
        trained: dict[Hashable, Any] = {variable_key(v): v for v in self.trained()}
        rows = []
        for i, group in enumerate(self.groups):
            own = [v for v in group.variables if variable_key(v) in trained]
            row = [group.name, f"{len(group.layers):,}", f"{group.parameters:,}"]
            row += [f"{flags.count(own):,}", *self._when_and_rate(i, own, epochs)]
            rows.append(row)
        return Table(header, rows, right=(1, 2, 3, 5))

    def _when_and_rate(
        self, index: int, own: list[Any], epochs: int | None
    ) -> tuple[str, str]:
        if not own:
            return "never", "-"
        stage, when = 0, _epochs.spans([0], epochs)[0]
        if self.stages is not None and self.unfreeze is not None:
            # Stage s trains the groups from `last - s` on.
            stage = max(self.stages.last - index, 0)
            when = self.unfreeze.when_from(stage, self.stages, epochs)
        factors = [self.factor(v) for v in own]
        low, high = min(factors), max(factors)
        # Of the first stage in which the group trains, and of the last one.
        bases = dict.fromkeys((self.bases[stage], self.bases[-1]))
        said = [
            f"{base * low:.3g}"
            if low == high
            else f"{base * low:.3g} - {base * high:.3g}"
            for base in bases
        ]
        return when, " to ".join(said)


def _briefly(asks: FeatureCache | None, stage: Part | Obstacle) -> str:
    if isinstance(stage, Obstacle):
        return "-"
    copies = copies_of(asks, stage)
    times = f"{copies} x " if copies > 1 else ""
    return f"{stage.layer} ({times}{stage.row_bytes:,})"


def _nothing_cached(stages: list[Part | Obstacle]) -> list[str]:
    """Return a sentence for each reason why nothing is cached in some stages."""
    why: dict[str, list[str]] = {}
    for number, stage in enumerate(stages):
        if isinstance(stage, Obstacle):
            why.setdefault(told(stage), []).append(str(number))
    return [
        f"In stage{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} {said}"
        for said, numbers in why.items()
    ]
