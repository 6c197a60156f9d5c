"""What a `FeatureCache` does in one `fit`, and how it says so."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_finetune._engine import fit, optimizer, processes, session
from keras_finetune._engine.features import (
    Features,
    Obstacle,
    Part,
    part,
    refusal,
    unsuited,
)
from keras_finetune._tables import bold

# A share of known rows in an epoch below which caching does not pay.
_FEW = 0.01


class Caching:
    """The caching of one `fit`.

    Args:
        asks: The callback, whose arguments say what to do.
        model: The model.
    """

    def __init__(self, asks: Any, model: Any) -> None:
        self._asks = asks
        self._model = model
        self._features: Features | None = None
        self._epoch = 0
        # Since the stage began: its epochs, and the rows and hits at the last of them.
        self._epochs = 0
        self._before = (0, 0)

    def begin(self) -> None:
        """Take part in the `fit`, unless the model cannot be cut."""
        asks, model = self._asks, self._model
        optimizer.check(model)
        check(model)
        refused = refusal(model)
        if refused is not None:
            warnings.warn(
                f"`FeatureCache` stands aside, and nothing is cached: {refused}.",
                stacklevel=4,
            )
            return
        self._features = Features(
            model,
            rests=asks.frozen_mode == "inference",
            memory=asks.limit,
            folder=None if asks.folder is None else Path(asks.folder),
            copies=asks.copies,
            began=self._begin_stage,
            full=self._say_full,
            stopped=self._say_stopped,
        )
        session.join(model).demand(asks, features=self._features)

    def begin_epoch(self, epoch: int) -> None:
        """Begin to cache, or stop where it does not pay."""
        self._epoch = epoch
        if self._features is None:
            return
        running, feeding = session.join(self._model), self._features.feeding
        running.begin()
        if feeding is None or feeding is not self._features.feeding:
            return
        if feeding.computed["train"] + feeding.hits["train"] and not feeding.used:
            warnings.warn(
                "`FeatureCache` stands aside: the `train_step` of this model calls it "
                "with something else than the inputs of a batch.",
                stacklevel=4,
            )
            self._features.turn_off()
            running.apply()

    def end_epoch(self) -> None:
        """Count rows and hits, and stop if no row has come again."""
        feeding = None if self._features is None else self._features.feeding
        if feeding is None:
            return
        self._epochs += 1
        rows, hits = feeding.rows["train"], feeding.hits["train"]
        new, again = rows - self._before[0], hits - self._before[1]
        self._before = rows, hits
        self._count()
        feeding.end_epoch()
        # As many epochs compute every row as there are variants of it.
        seen = self._epochs > feeding.copies
        # Of rows that found no room none comes again.
        could = min(new, feeding.stored)
        if seen and feeding.stopped is None and again < _FEW * could:
            feeding.stop(
                f"of {new:,} rows in epoch {self._epoch} only {again:,} had been seen "
                "before. Are they augmented before they reach the model? Random "
                "layers inside the model, after the frozen ones, cost nothing here"
            )

    def end(self) -> None:
        """Leave the `fit`."""
        self._count()
        if self._features is not None:
            session.join(self._model).leave(self._asks)

    # --- what is said ----------------------------------------------------------------

    def _begin_stage(self, stage: Part | Obstacle) -> None:
        self._epochs, self._before = 0, (0, 0)
        # Another callback may begin a stage before our turn comes.
        self._epoch = int(fit.variables_of_fit(self._model).get("epoch") or 0)
        cached = isinstance(stage, Part)
        entry = {
            "epoch": self._epoch,
            "layer": stage.layer if cached else None,
            "row_bytes": stage.row_bytes if isinstance(stage, Part) else 0,
            "copies": copies_of(self._asks, stage),
            "rows": 0,
            "bytes": 0,
            "hits": 0,
            "misses": 0,
        }
        if self._asks.history[-1:] == [entry]:
            return  # begun again, for another callback, before its first row
        self._asks.history.append(entry)
        if self._asks.verbose:
            said = f"Epoch {self._epoch}: {bold('feature cache')}: "
            processes.announce(self._model, said + told(stage, self._asks.copies))

    def _count(self) -> None:
        feeding = None if self._features is None else self._features.feeding
        if feeding is not None and self._asks.history:
            hits = sum(feeding.hits.values())
            self._asks.history[-1].update(
                rows=feeding.stored,
                bytes=feeding.bytes,
                hits=hits,
                misses=sum(feeding.rows.values()) - hits,
            )

    def _say_full(self, why: str) -> None:
        warnings.warn(
            f"`FeatureCache` keeps no more rows: {why}. Rows beyond those it has are "
            "computed in each epoch. Give it more with `memory`, or a `folder`.",
            stacklevel=2,
        )

    def _say_stopped(self, why: str) -> None:
        warnings.warn(
            f"`FeatureCache` has stopped, and has let go of its memory: {why}.",
            stacklevel=2,
        )


def check(model: Any, needs: str = "FeatureCache") -> None:
    """Raise where a model has no graph that could be cut, as `needs` has to."""
    why = unsuited(model)
    if why is not None:
        raise ValueError(
            f"`{needs}` needs a functional or Sequential model, of which it knows "
            f"which layer comes after which. Received: model={model.name!r}: {why}"
        )


def plan_of(asks: Any, model: Any, trained: Iterable[Any]) -> str:
    """Return what a callback would cache of a model with the flags of now, in words."""
    said = told(would_cache(asks, model, trained), asks.copies)
    return said[0].upper() + said[1:]


def would_cache(
    asks: Any,
    model: Any,
    trained: Iterable[Any],
    at_rest: Iterable[Any] = (),
    flags: Mapping[int, bool] | None = None,
) -> Part | Obstacle:
    """Return what a callback would cache in a stage that has not begun.

    Args:
        asks: The callback.
        model: The model, which is left as it is.
        trained: The variables that train in the stage.
        at_rest: Layers that another callback lets behave as at inference.
        flags: What flags of layers say in the stage, by the id of a layer; others say
            what they say now.
    """
    check(model)
    refused = refusal(model)
    if refused is not None:
        return Obstacle("", refused)
    rests = asks.frozen_mode == "inference"
    varies = asks.copies > 1
    return part(model, trained, at_rest, rests=rests, varies=varies, flags=flags)


def copies_of(asks: Any, stage: Part | Obstacle) -> int:
    """Return how many variants of a row are kept: 1 where nothing in the part draws."""
    return asks.copies if isinstance(stage, Part) and stage.drawing else 1


def told(stage: Part | Obstacle, copies: int = 1) -> str:
    """Return what is cached, in a few sentences.

    Args:
        stage: What is cached, or why nothing is.
        copies: How many variants of a row are kept where the part draws them.
    """
    if isinstance(stage, Obstacle):
        name = f"{stage.layer!r}, which " if stage.layer else ""
        where = " before " if stage.layer else ": "
        return f"nothing is cached{where}{name}{stage.reason}.{_remedy(stage)}"
    said = _kept(stage, copies)
    if stage.resting:
        said += (
            f" Noise between frozen layers is switched off: {_named(stage.resting)}; "
            'with `frozen_mode="training"` it stays active.'
        )
    if stage.noisy:
        name = stage.noisy[0].name
        said += (
            f" More could be cached if {name!r} did not draw random numbers between "
            'frozen layers: `frozen_mode="inference"` switches it off.'
        )
    if stage.augmenting:
        name = stage.augmenting[0].name
        said += f" It ends before {name!r}, which augments rows.{_COPIES}"
    for obstacle in stage.obstacles:
        if _remedy(obstacle) and not obstacle.noise:
            said += f" It ends before {obstacle.layer!r}, which {obstacle.reason}."
            said += _remedy(obstacle)
            break
    return said


def _kept(stage: Part, copies: int) -> str:
    if not stage.drawing:
        return (
            f"what comes out of {stage.layer!r} is computed once a row and kept: "
            f"{stage.row_bytes:,} bytes a row."
        )
    draw = "draws" if len(stage.drawing) == 1 else "draw"
    return (
        f"what comes out of {stage.layer!r} is computed and kept for {copies} variants "
        f"of each row, {stage.row_bytes:,} bytes each. {_named(stage.drawing)} {draw} "
        f"them in the first {copies} epochs, and later epochs go through them again: "
        "an approximation of new ones in every epoch."
    )


def _named(layers: Sequence[Any]) -> str:
    first = repr(layers[0].name)
    return first if len(layers) == 1 else f"{len(layers)} layers, such as {first}"


_COPIES = " With `copies=4` four variants of each row are kept that it draws."


def _remedy(obstacle: Obstacle) -> str:
    if obstacle.augments:
        return _COPIES
    if obstacle.noise:
        return ' `frozen_mode="inference"` lets noise between frozen layers rest.'
    if "statistics" in obstacle.reason:
        return (
            " Freeze it (`layer.trainable = False`, or `GradualUnfreeze("
            'batch_norm="frozen")`) to cache more.'
        )
    return ""
