"""What is legal but surely not meant, in a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# Below this share of the base rate a group is frozen, at the price of training.
_TINY = 1e-4


def of_stages_not_reached(
    starts: Sequence[int], epochs: int, added: Sequence[str], default: bool
) -> str | None:
    """Say which groups never train because `fit` ends before their stage.

    Args:
        starts: The epochs at which the stages start.
        epochs: The epochs that `fit` runs.
        added: The group that each stage adds.
        default: Whether the stages were spread by default.
    """
    late = [
        group for start, group in zip(starts, added, strict=True) if start >= epochs
    ]
    if not late:
        return None
    count = f"{epochs} epoch ends" if epochs == 1 else f"{epochs} epochs end"
    way_out = (
        "They were fixed by an earlier `fit`; a new `GradualUnfreeze` spreads them "
        "over the epochs of its own"
        if default
        else "Train longer, merge groups with `groups=`, or leave `every` out to "
        "spread the stages over the epochs of `fit`"
    )
    return f"{count} before these groups train: {', '.join(late)}. {way_out}."


def of_one_epoch() -> str:
    """Say that stages that are spread over one epoch start together."""
    return (
        "In a `fit` of one epoch `GradualUnfreeze()` trains all groups from the first "
        "step. Give `fit` more epochs or, where several runs follow each other, say "
        "when stages start with `every`."
    )


def of_scheduler(argument: str) -> str:
    """Say that `LearningRateScheduler` may override the rates of stages.

    Args:
        argument: That of `GradualUnfreeze` which gives them.
    """
    return (
        "`LearningRateScheduler` sets the learning rate at the start of every epoch, "
        f"and overrides what `{argument}` gives a stage, unless its function returns a "
        "multiple of the rate that it is passed."
    )


def of_direction(monitor: str, mode: str, named: str | None) -> str | None:
    """Say that the name of a metric does not tell its direction, or another one.

    Args:
        monitor: The key of the logs.
        mode: `"min"`, `"max"` or `"auto"`, as given.
        named: The direction that the name tells, if it does.
    """
    if mode == "auto" and named is None:
        return (
            f"The name of `monitor={monitor!r}` does not tell whether it is to fall or "
            "to rise, and `mode='auto'` takes it as one that falls. Give `mode='min'` "
            "or `mode='max'`."
        )
    if mode != "auto" and named not in (None, mode):
        return (
            f"`mode={mode!r}` takes `{monitor}` as better the "
            f"{'higher' if mode == 'max' else 'lower'} it is, and by its name it is "
            f"the other way round. Give `mode={named!r}`, or leave `mode` out."
        )
    return None


def of_long_cycle(name: str, steps: int, most: int) -> str | None:
    """Say that `fit` ends before a schedule has come to the end of its cycle.

    Args:
        name: The kind of the schedule.
        steps: Those of the cycle.
        most: Those of the `fit`.
    """
    if steps <= most:
        return None
    return (
        f"`{name}` takes {steps} steps, and this `fit` has {most}: the learning rate "
        "never comes to the end of it."
    )


def of_rate_in_mid_run(stage: int, rate: float, factor: float) -> str:
    """Say that a stage starts at the rate that the optimizer has.

    Args:
        stage: The first stage of a run that begins in the middle.
        rate: The rate of the optimizer.
        factor: That of each stage.
    """
    return (
        f"This run begins in stage {stage}, and a new `GradualUnfreeze` cannot know "
        "whether the optimizer's rate has been multiplied before: it stays "
        f"{rate:.3g}. If that is the rate of stage 0, compile with "
        f"{rate * factor**stage:.3g}, or give the rate of each stage as "
        "`learning_rates`."
    )


def of_bias_correction(optimizer: str) -> str:
    """Say that an optimizer's correction goes on counting all of its updates."""
    return (
        f"{optimizer} goes on correcting its averages by the count of all its updates: "
        "`bias_correction='group'` is for Adam, AdamW and Adamax. Groups that begin "
        "late take larger steps at first than their learning rate says."
    )


def of_tiny_multipliers(multipliers: Mapping[str, float]) -> str | None:
    """Say which groups hardly train, or that none does.

    Args:
        multipliers: The highest multiplier in each group, by its name.
    """
    if not any(multipliers.values()):
        return (
            "All multipliers are 0: no weight trains in this `fit`, and only moving "
            "statistics change."
        )
    tiny = {name: m for name, m in multipliers.items() if 0.0 < m < _TINY}
    if not tiny:
        return None
    said = ", ".join(f"{name} ({m:.1e})" for name, m in tiny.items())
    return (
        f"These groups train at less than {_TINY:g} of the base learning rate, which "
        f"costs as much as training and changes nothing: {said}. Merge groups with "
        "`groups=`, use a smaller `decay`, or freeze them with a multiplier of 0."
    )


def of_multipliers_upside_down(multipliers: Sequence[float]) -> str | None:
    """Say that the head trains slowest, as it does if a list begins with it.

    Args:
        multipliers: From the input to the head.
    """
    if multipliers[-1] >= multipliers[0]:
        return None
    return (
        "`multipliers` are listed from the input to the head, so that the head trains "
        f"at {multipliers[-1]:g} and the lowest layers at {multipliers[0]:g} of the "
        "base learning rate. Reverse the list if you began with the head."
    )


def of_early_stopping(theirs: int, ours: int) -> str | None:
    """Say that `EarlyStopping` ends `fit` before a stalled metric starts a stage.

    Args:
        theirs: The patience of `EarlyStopping`.
        ours: The patience of `GradualUnfreeze`.
    """
    if theirs > ours:
        return None
    return (
        f"`EarlyStopping` with patience={theirs} ends `fit` before, or when, "
        f"`GradualUnfreeze` with patience={ours} starts the next stage. Give "
        f"`EarlyStopping` a patience of more than {ours}."
    )


def of_penalties(monitor: str, groups: Sequence[str]) -> str | None:
    """Say that the monitored loss rises where a stage adds weights with penalties.

    Args:
        monitor: The key of the logs.
        groups: The groups that a later stage adds and that have penalties.
    """
    if not groups or monitor not in ("loss", "val_loss"):
        return None
    return (
        f"`{monitor}` rises at each stage that adds one of these groups, by their "
        f"weight penalties, which count only while they train: {', '.join(groups)}. "
        "The rise is taken for a stall. Monitor a metric, which has no penalties in it."
    )


def of_ending_early(stage: int, last: int, frozen: Sequence[str]) -> str:
    """Say which groups never trained.

    Args:
        stage: The stage in which `fit` ended.
        last: The last stage.
        frozen: The groups that did not train.
    """
    return (
        f"`fit` ended in stage {stage} of {last}: {', '.join(frozen)} never trained "
        f"and {'is' if len(frozen) == 1 else 'are'} still frozen. Train longer, or let "
        "stages follow each other sooner."
    )
