"""Which groups a callback works on: its own, its neighbours', or a few."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from keras_finetune._groups.layer_groups import LayerGroups, layer_groups

# The head, and the body in up to four: each is worth a stage and a rate.
FEW = 5


def shared_groups(model: Any, callback: Any, neighbours: Sequence[Any]) -> LayerGroups:
    """Return the groups that a callback works on.

    Args:
        model: A built model.
        callback: A callback with an argument `groups`.
        neighbours: The callbacks of the same `fit`, itself among them or not. Those
            that give groups say so by `gives_groups`, have an attribute `groups`, and
            may have one `group_count` if their `multipliers` tell how many there must
            be.
    """
    others = [
        c for c in neighbours if c is not callback and getattr(c, "gives_groups", False)
    ]
    others = [c for c in others if hasattr(c, "groups")]
    given = [c for c in (callback, *others) if c.groups is not None]
    if given:
        return layer_groups(model, given[0].groups)
    counting = [
        c for c in (callback, *others) if getattr(c, "group_count", None) is not None
    ]
    if not counting:
        return few_groups(model)
    automatic, count = layer_groups(model), counting[0].group_count
    if not 1 <= count <= len(automatic):
        raise ValueError(
            f"Argument `multipliers` must have a number for each of at most "
            f"{len(automatic)} groups, as the model has {list(automatic.names)}. "
            f"Received: multipliers={counting[0].multipliers!r}"
        )
    return layer_groups(model, count)


def few_groups(model: Any) -> LayerGroups:
    """Return the automatic groups, merged into at most five."""
    automatic = layer_groups(model)
    return automatic if len(automatic) <= FEW else layer_groups(model, FEW)


def warn_of_other_groups(
    model: Any, callback: Any, ours: LayerGroups, neighbours: Sequence[Any]
) -> None:
    """Warn if a callback earlier in the list was given other groups."""
    if callback.groups is None:
        return
    for other in neighbours:
        if other is callback:
            return
        gives = getattr(other, "gives_groups", False)
        if not gives or getattr(other, "groups", None) is None:
            continue
        theirs = layer_groups(model, other.groups)
        if [g.variables for g in theirs] != [g.variables for g in ours]:
            warnings.warn(
                f"`{type(other).__name__}` and `{type(callback).__name__}` divide the "
                f"model into different groups: {list(theirs.names)} and "
                f"{list(ours.names)}. Give `groups` to one of them only, and the other "
                "takes the same.",
                stacklevel=2,
            )
