"""Features of frozen layers, computed once a row while a stage of a `fit` lasts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_finetune._engine.features._active import running
from keras_finetune._engine.features._ends import Obstacle
from keras_finetune._engine.features._extracting import extract
from keras_finetune._engine.features._feeding import Feeding
from keras_finetune._engine.features._fingerprint import fingerprint
from keras_finetune._engine.features._plan import Part, part, unsuited
from keras_finetune._engine.features._store import (
    Folder,
    Kind,
    Limit,
    Table,
    free_memory,
)

__all__ = ["Features", "Obstacle", "Part", "extract", "part", "refusal", "unsuited"]


def refusal(model: Any) -> str | None:
    """Return why a model's steps are left alone, if they are."""
    return running.refusal(model)


class Features:
    """The features of a model's frozen layers in one `fit`, stage by stage.

    Args:
        model: The model.
        rests: Whether the noise of frozen layers rests.
        memory: The bytes that features may take in memory, `None` for a quarter of
            what is free.
        folder: Where they are kept instead, if anywhere.
        copies: How many variants of a row are kept; with more than 1, layers that
            augment rows draw them.
        began: Called when a stage begins, with what is cached in it.
        full: Called when there is no more room, with the reason.
        stopped: Called when no more rows are looked up in a stage, with the reason.

    Attributes:
        feeding: The steps of the stage, `None` where nothing is cached.
    """

    def __init__(
        self,
        model: Any,
        *,
        rests: bool,
        memory: int | None,
        folder: Path | None,
        copies: int,
        began: Callable[[Part | Obstacle], None],
        full: Callable[[str], None],
        stopped: Callable[[str], None],
    ) -> None:
        self.model = model
        self.feeding: Feeding | None = None
        self._rests, self._memory, self._folder = rests, memory, folder
        self._copies = copies
        self._began, self._full, self._stopped = began, full, stopped
        self._stage: Part | Obstacle | None = None
        self._test_function: Any = None
        self._plain_test_function: Any = None
        self._is_off = False

    def turn_off(self) -> None:
        """Leave the steps of all stages alone from the next `begin` on."""
        self._is_off = True

    # --- for the session -------------------------------------------------------------

    def resting(self, trained: Iterable[Any], at_rest: Iterable[Any]) -> list[Any]:
        """Look at the stage that begins; return the layers whose noise rests."""
        self.end()
        if self._is_off:
            self._stage = None
            return []
        varies = self._copies > 1
        self._stage = part(
            self.model, trained, at_rest, rests=self._rests, varies=varies
        )
        return list(self._stage.resting) if isinstance(self._stage, Part) else []

    def begin(self) -> Feeding | None:
        """Return the steps of the stage, or `None` where plain steps do."""
        stage = self._stage
        if stage is None:
            return None
        if isinstance(stage, Part):
            self.feeding = Feeding(
                self.model, stage, *self._tables(stage), self._stopped, self._copies
            )
        self._began(stage)
        return self.feeding

    def begin_evaluation(self) -> None:
        """Give the model a step of `evaluate` that is fed as well."""
        if self.feeding is not None:
            self._plain_test_function = self.model.test_function
            self._test_function = self.feeding.test_function()
            self.model.test_function = self._test_function

    def end_evaluation(self) -> None:
        """Give the model back the step of `evaluate` that it had."""
        if self._test_function is not None:
            if self.model.test_function is self._test_function:
                self.model.test_function = self._plain_test_function
            self._test_function = self._plain_test_function = None

    def end(self) -> None:
        """Let go of the features of a stage."""
        self.end_evaluation()
        if self.feeding is not None:
            self.feeding.close()
            self.feeding = None

    # --- stores ----------------------------------------------------------------------

    def _tables(
        self, stage: Part
    ) -> tuple[
        Callable[[str, Sequence[Kind | None]], Table], Callable[[str], Table | None]
    ]:
        size = free_memory() // 4 if self._memory is None else self._memory
        limit = Limit(size, lambda: self._full(f"{size:,} bytes of memory are used up"))
        folder = self._folder
        if folder is None:
            return (lambda name, kinds: Table(kinds, limit)), (lambda name: None)
        root = folder / f"features-{fingerprint(self.model, stage)[:16]}"

        def own(name: str) -> Path:
            return root / hashlib.sha256(name.encode()).hexdigest()[:16]

        def new(name: str, kinds: Sequence[Kind | None]) -> Table:
            path = own(name)
            Folder(path, self._full).describe(kinds)
            return Table(kinds, limit, Folder(path, self._full))

        def known(name: str) -> Table | None:
            path = own(name)
            kinds = Folder(path, self._full).described()
            if kinds is None:
                return None
            return Table(kinds, limit, Folder(path, self._full))

        return new, known
