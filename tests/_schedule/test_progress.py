"""Where a schedule of stages stands, without any Keras."""

import json

import pytest

from keras_finetune._schedule.progress import Progress


def by_metric(**arguments):
    arguments = {"every": None, "mode": "min", "min_delta": 0.0, **arguments}
    return Progress(monitor="loss", patience=1, **arguments)


def run(progress, losses, first=0, last=2):
    """The stages of some epochs, as the callback goes through them."""
    stages = []
    progress.fix(last, len(losses))
    for epoch, loss in enumerate(losses, start=first):
        before, stage = progress.stages_at(epoch, None, last)
        progress.enter(stage)
        if stage != before:
            progress.add({"epoch": epoch, "stage": stage})
        progress.observe(epoch, {"loss": loss}, bool)
        stages.append(stage)
    return stages


def test_by_the_calendar():
    progress = Progress([1, 4], None, "auto", 0.0, None)
    assert run(progress, [0.0] * 6) == [0, 1, 1, 1, 2, 2]
    assert [entry["epoch"] for entry in progress.history] == [0, 1, 4]


def test_by_a_metric():
    assert run(by_metric(), [3, 2, 2, 1, 1, 0]) == [0, 0, 0, 1, 1, 2]


def test_a_metric_that_never_stalls_has_a_limit():
    assert run(by_metric(every=2), [5, 4, 3, 2, 1, 0]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("killed", range(1, 6))
def test_what_json_kept_goes_on_as_if_nothing_had_happened(killed):
    losses = [3, 2, 2, 1, 1, 0]
    progress = by_metric()
    before = run(progress, losses[:killed])
    resumed = by_metric()
    resumed.restore(json.loads(json.dumps(progress.state())))
    after = run(resumed, losses[killed:], first=killed)
    assert before + after == run(by_metric(), losses)


def test_an_epoch_is_observed_once():
    progress = by_metric()
    run(progress, [3])
    for _ in range(3):
        progress.observe(1, {"loss": 3}, bool)
    assert progress.state()["wait"] == 1


def test_epochs_that_run_again_are_forgotten():
    progress = Progress(1, None, "auto", 0.0, None)
    history = progress.history
    run(progress, [0.0] * 3)
    progress.begin_fit()
    progress.forget_from(1)
    assert [entry["epoch"] for entry in history] == [0]
    assert progress.stages_at(1, None, 2) == (0, 1)
    progress.forget_from(0)
    assert history == []
    assert progress.stages_at(0, None, 2) == (None, 0)
    assert progress.stages_at(2, 1, 2) == (1, 2)  # a checkpoint tells


def test_stages_are_spread_over_the_first_half():
    progress = Progress(None, None, "auto", 0.0, None)
    assert run(progress, [0.0] * 8) == [0, 0, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("epochs", range(1, 7))
def test_all_groups_train_in_the_last_epoch(epochs):
    progress = Progress(None, None, "auto", 0.0, None)
    assert run(progress, [0.0] * epochs, last=4)[-1] == 4


def test_a_longer_run_keeps_the_boundaries():
    progress = Progress(None, None, "auto", 0.0, None)
    run(progress, [0.0] * 8)
    progress.begin_fit()
    assert run(progress, [0.0] * 100, first=8)[0] == 2
    resumed = Progress(None, None, "auto", 0.0, None)
    resumed.restore(json.loads(json.dumps(progress.state())))
    assert resumed.starts == [0, 2, 4]


def test_the_best_epoch_is_that_of_the_stage():
    progress = Progress(2, "loss", "min", 0.0, None, restore_best=True)
    assert not progress.waits
    seen = []
    progress.fix(2, 6)
    for epoch, loss in enumerate([3, 1, 2, 2, float("nan"), 5]):
        before, stage = progress.stages_at(epoch, None, 2)
        progress.enter(stage)
        if stage != before:
            progress.add({"epoch": epoch, "stage": stage})
        progress.observe(epoch, {"loss": loss}, bool)
        seen.append(progress.best_epoch)
    # The first of equals; a NaN never is the best.
    assert seen == [0, 1, 2, 2, None, 5]


def test_the_best_epoch_is_kept_by_json():
    progress = Progress(3, "accuracy", "auto", 0.0, None, restore_best=True)
    resumed = Progress(3, "accuracy", "auto", 0.0, None, restore_best=True)
    for epoch, accuracy in enumerate([0.5, 0.7]):
        progress.observe(epoch, {"accuracy": accuracy}, bool)
    resumed.restore(json.loads(json.dumps(progress.state())))
    resumed.observe(2, {"accuracy": 0.6}, bool)
    assert resumed.best_epoch == 1


def test_a_verdict_ends_a_stage():
    progress = Progress(3, None, "auto", 0.0, None, verdicts=True)
    stages = []
    for epoch in range(6):
        before, stage = progress.stages_at(epoch, None, 2)
        progress.enter(stage)
        if stage != before:
            progress.add({"epoch": epoch, "stage": stage})
        if epoch == 1:
            progress.end_stage()
        stages.append(stage)
    assert stages == [0, 0, 1, 1, 1, 2]
