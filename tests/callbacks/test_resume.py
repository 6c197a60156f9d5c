"""A killed run goes on where it was: BackupAndRestore beside our callbacks."""

import contextlib

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune._engine import KERAS_3, keras

pytestmark = pytest.mark.slow

GROUPS = ["low", "middle", "head"]
DATA = reference.make_data()


class Killed(Exception):
    pass


def all_groups():
    return [
        GradualUnfreeze(groups=GROUPS, every=2, learning_rate_factor=0.5),
        DiscriminativeLR(groups=GROUPS),
    ]


def run(
    directory,
    *,
    order,
    kill_after=None,
    epochs=6,
    optimizer=None,
    ours=all_groups,
    body=lambda: None,
):
    """One process: builds everything from scratch, fits, and may be killed."""
    model = reference.make_model(body=body())
    optimizer = optimizer or (
        lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1, use_ema=True)
    )
    reference.compile_model(model, optimizer())
    backup = keras.callbacks.BackupAndRestore(str(directory))

    def kill(epoch, logs):
        if epoch == kill_after:
            raise Killed

    # It dies in the epoch after the backup, so that one is there.
    killer = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs=None: kill(epoch - 1, logs)
    )
    callbacks = [backup, *ours()] if order == "backup first" else [*ours(), backup]
    history = reference.fit(model, DATA, epochs=epochs, callbacks=[*callbacks, killer])
    return model, history.history


def resumes_exactly(directory, kill_after, **arguments):
    whole, history = run(directory / "whole", **arguments)
    with pytest.raises(Killed):
        run(directory / "killed", kill_after=kill_after, **arguments)
    resumed, rest = run(directory / "killed", **arguments)
    one, other = reference.weights(resumed), reference.weights(whole)
    assert reference.difference(one, other) == 0
    one, other = reference.optimizer_state(resumed), reference.optimizer_state(whole)
    assert reference.difference(one, other) == 0
    for key, values in rest.items():
        assert np.array_equal(values, history[key][kill_after + 1 :]), key


@pytest.mark.parametrize("order", ["backup first", "backup last"])
@pytest.mark.parametrize("kill_after", [0, 1, 2, 4])
def test_a_killed_run_resumes_exactly(order, kill_after, tmp_path):
    resumes_exactly(tmp_path, kill_after, order=order)


@pytest.mark.parametrize("order", ["backup first", "backup last"])
@pytest.mark.parametrize("kill_after", [1, 2])  # between two stages, and within one
def test_a_killed_run_resumes_with_the_rates_of_its_stages(order, kill_after, tmp_path):
    def ours():
        rates = [0.01, 0.002, 0.005]
        unfreeze = GradualUnfreeze(
            groups=GROUPS, every=2, learning_rates=rates, bias_correction="group"
        )
        return [unfreeze]

    resumes_exactly(tmp_path, kill_after, order=order, ours=ours, epochs=5)


FROZEN = {
    "a selection": lambda: [TrainOnly("kernel")],
    "a factor of 0": lambda: [DiscriminativeLR(multipliers=[0.0, 0.5, 1.0], groups=3)],
    "all": lambda: [TrainOnly("kernel"), *all_groups()],
}


@pytest.mark.parametrize("order", ["backup first", "backup last"])
@pytest.mark.parametrize("ours", FROZEN)
def test_a_killed_run_resumes_with_single_weights_frozen(order, ours, tmp_path):
    resumes_exactly(tmp_path, 1, order=order, ours=FROZEN[ours], epochs=4)


@pytest.mark.parametrize("order", ["backup first", "backup last"])
@pytest.mark.parametrize(
    "other", [{"every": 3}, {"groups": [["low", "middle"], "head"]}]
)
def test_a_backup_of_another_plan_is_refused(order, other, tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, order=order, kill_after=1)
    model = reference.compile_model(reference.make_model(), "sgd")
    before = reference.weights(model)
    plan = {"groups": GROUPS, "every": 2, "learning_rate_factor": 0.5, **other}
    callbacks = [
        keras.callbacks.BackupAndRestore(str(tmp_path)),
        GradualUnfreeze(**plan),
    ]
    if order == "backup last":
        callbacks.reverse()
    with pytest.raises(ValueError, match="backup to resume from was written with") as e:
        reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    (name,) = other
    assert str(e.value).count(f"{name}=") == 2
    assert reference.difference(reference.weights(model), before) == 0


@pytest.mark.parametrize("order", ["backup first", "backup last"])
def test_a_backup_of_a_run_without_us_is_taken_up_with_a_message(
    order, tmp_path, capsys
):
    for ours in (list, all_groups):
        with pytest.raises(Killed):
            run(tmp_path, order=order, kill_after=2, ours=ours)
        run(tmp_path, order=order)
        said = " ".join(capsys.readouterr().out.split())
        assert ("run without `GradualUnfreeze`" in said) == (ours is list)


@pytest.mark.keras2
@pytest.mark.parametrize("generator", [False, True])
def test_dropout_that_starts_again_is_named(generator, tmp_path, capsys):
    layers = keras.layers

    def body():
        noisy = [layers.Dropout(0.5, name="noise"), layers.Dropout(0.0, name="none")]
        return [layers.Dense(6, name="low"), *noisy, layers.Dense(5, name="middle")]

    if generator:
        keras.backend.experimental.enable_tf_random_generator()
    try:
        with pytest.raises(Killed):
            run(tmp_path, order="backup first", kill_after=1, body=body)
        assert "start again" not in capsys.readouterr().out
        run(tmp_path, order="backup first", body=body)
    finally:
        keras.backend.experimental.disable_tf_random_generator()
    said = " ".join(capsys.readouterr().out.split())
    assert ("start again" in said) == ("['noise']" in said) == (not generator)


@pytest.mark.keras3
def test_a_file_of_another_optimizer_is_refused(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, order="backup first", kill_after=1)
    for record in tmp_path.glob("keras_finetune_step_*.json"):
        record.unlink()
    model = reference.compile_model(reference.make_model(), "sgd")
    callbacks = [
        keras.callbacks.BackupAndRestore(str(tmp_path)),
        GradualUnfreeze(groups=GROUPS, every=1),
    ]
    with pytest.raises(ValueError, match="file to resume from"):
        reference.fit(model, DATA, epochs=3, callbacks=callbacks)


HOOKS = {"_save_model", "_load_model", "_backup", "on_epoch_end"}


def test_the_users_backup_callback_is_as_it_was(tmp_path):
    model = reference.compile_model(reference.make_model(), "sgd")
    backup = keras.callbacks.BackupAndRestore(str(tmp_path))
    kept = []

    def stop(epoch, logs):
        raise Killed

    stopper = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    for more in ([stopper], []):
        ours = GradualUnfreeze(groups=GROUPS, every=1)
        try:
            reference.fit(model, DATA, epochs=3, callbacks=[backup, ours, *more])
        except Killed as error:
            kept.append(error)  # and with it the list of callbacks of that `fit`
            records = list(tmp_path.rglob("keras_finetune_step_*.json"))
            assert len(records) == 1
    assert [entry["epoch"] for entry in ours.history] == [0, 1, 2]
    assert not HOOKS & set(vars(backup))


def fit_again_and_again(directory, optimizer, kills):
    """Fits one model until it is through; `None` stands for a new process."""
    model = None
    for kill_in in [*kills, -1]:
        if kill_in is None:
            model = None
            continue
        if model is None:
            model = reference.compile_model(reference.make_model(), optimizer())

        def stop(epoch, logs, kill_in=kill_in):
            if epoch == kill_in:
                raise Killed

        callbacks = [
            keras.callbacks.BackupAndRestore(str(directory)),
            GradualUnfreeze(groups=GROUPS, every=2),
            keras.callbacks.LambdaCallback(on_epoch_begin=stop),
        ]
        with contextlib.suppress(Killed):
            reference.fit(model, DATA, epochs=6, callbacks=callbacks)
    return model


# The second: a checkpoint of `tf_keras` kept the slots of the first `fit`.
@pytest.mark.parametrize("kills", [[1], [1, 3, None]])
def test_an_interrupted_fit_goes_on_in_the_same_process(kills, tmp_path):
    optimizers = [lambda: keras.optimizers.Adam(0.01)]
    if not KERAS_3:
        optimizers.append(lambda: keras.optimizers.legacy.Adam(0.01))
    for i, optimizer in enumerate(optimizers):
        whole = fit_again_and_again(tmp_path / f"whole_{i}", optimizer, [])
        again = fit_again_and_again(tmp_path / f"again_{i}", optimizer, kills)
        one, other = reference.weights(again), reference.weights(whole)
        assert reference.difference(one, other) == 0
        one, other = reference.optimizer_state(again), reference.optimizer_state(whole)
        assert reference.difference(one, other) == 0
