"""A small training run in a process of its own that can be killed at any moment.

Processes come from a fork server that has imported the frameworks once, so that one
costs about as much as its `fit`.
"""

import importlib
import multiprocessing
import os
import signal
import sys

import numpy as np

EPOCHS, BATCHES = 6, 4
GROUPS = ["low", "middle", "head"]

# Arguments of `GradualUnfreeze` and of `BackupAndRestore`; `decay` is that of a
# `DiscriminativeLR` beside them, `per` that of a `OneCycle`.
CHAINS = [
    ({"every": 2, "learning_rate_factor": 0.5}, {"first": True}),
    ({"every": 2, "decay": 2.6}, {"first": False}),
    ({"monitor": "loss", "patience": 1, "min_delta": 0.2}, {"first": True}),
    (
        {"monitor": "loss", "patience": 1, "min_delta": 0.2, "restore_best": True},
        {"first": False},
    ),
    ({"every": [1, 3], "decay": 2.6, "per": "stage"}, {"first": True}),
]
# How a run that killed itself has ended: by SIGKILL or by `os._exit`.
KILLED = (-signal.SIGKILL, 9)


class Kill:
    """When a process kills itself, without a chance to tidy up.

    Args:
        save: The backup (from 0) during which it dies; `None`: not in a backup.
        calls: How many function calls after that backup has begun it dies; a backup is
            some thousand calls.
        batch: The batch (from 0) after which it dies if `save` is `None`.
        leave: Whether it leaves by `os._exit`; else by SIGKILL.
    """

    def __init__(self, save=None, calls=0, batch=0, leave=False):
        self.save, self.calls, self.batch, self.leave = save, calls, batch, leave

    def __repr__(self):
        how = "os._exit" if self.leave else "SIGKILL"
        if self.save is None:
            return f"{how} after batch {self.batch}"
        return f"{how} {self.calls} calls into backup {self.save}"

    def die(self):
        if self.leave:
            os._exit(9)
        os.kill(os.getpid(), signal.SIGKILL)


def _dying_callback(keras, kill):
    def begin_backup(callback):
        callback.backups += 1
        if callback.backups == (kill.save or 0) + 1:
            left = kill.calls

            def count(frame, event, argument):
                nonlocal left
                left -= 1
                if left < 0:
                    kill.die()

            sys.setprofile(count)

    class Dying(keras.callbacks.Callback):
        batches = backups = 0

        def on_train_batch_end(self, batch, logs=None):
            self.batches += 1
            if kill.save is None and self.batches == kill.batch + 1:
                kill.die()

        def on_epoch_end(self, epoch, logs=None):
            if kill.save is not None:
                begin_backup(self)

    return Dying()


class _Awake:
    """Put after the backup: ends the count if the process has survived it."""

    def __new__(cls, keras):
        return keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: sys.setprofile(None)
        )


def model_and_data(keras, dropout=0.3):
    """A model with seeded dropout between its groups."""
    if not hasattr(keras, "ops"):
        keras.backend.experimental.enable_tf_random_generator()
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", name="low"),
            layers.Dropout(dropout, seed=1, name="noise"),
            layers.Dense(4, activation="tanh", name="middle"),
            layers.Dropout(dropout, seed=2, name="more_noise"),
            layers.Dense(1, name="head"),
        ]
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4 * BATCHES, 4)).astype("float32")
    return model, (x, x[:, :1] * x[:, 1:2])


def train(path, callback, kill=None, result=None, backup=None, dropout=0.3):
    """One process: builds everything, fits, and writes what it has at the end.

    Args:
        path: The directory of the backup.
        callback: Arguments of `GradualUnfreeze`, and `decay` and `per`; or the groups
            that are frozen by hand, in place of it.
        kill: A `Kill`, if it is to die.
        result: The `.npz` file for weights, optimizer and history.
        backup: Arguments of `BackupAndRestore`, with `first` for its place.
        dropout: The rate of the dropout layers.
    """
    import reference

    from keras_finetune import (
        DiscriminativeLR,
        GradualUnfreeze,
        OneCycle,
        WeightNormLogger,
    )
    from keras_finetune._engine import keras

    backup = dict(backup or {})
    first = backup.pop("first", True)
    model, data = model_and_data(keras, dropout)
    callbacks = [keras.callbacks.BackupAndRestore(path, **backup)]
    ours = None
    if isinstance(callback, dict):
        given = dict(callback)
        decay, per = given.pop("decay", None), given.pop("per", None)
        ours = GradualUnfreeze(groups=GROUPS, **given)
        callbacks.insert(len(callbacks) if first else 0, ours)
        if decay is not None:
            rates = DiscriminativeLR(decay, groups=GROUPS)
            callbacks.insert(len(callbacks) if first else 0, rates)
        if per is not None:
            callbacks.insert(len(callbacks) if first else 0, OneCycle(per=per))
    else:
        for name in callback:
            model.get_layer(name).trainable = False
    norms = WeightNormLogger(updates=True, distance=True)
    callbacks.insert(len(callbacks) if first else 0, norms)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    if kill is not None:
        callbacks = [_dying_callback(keras, kill), *callbacks, _Awake(keras)]
    fitted = model.fit(
        *data,
        epochs=EPOCHS,
        batch_size=4,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    if result is not None:
        arrays = [
            *reference.weights(model).values(),
            *reference.optimizer_state(model).values(),
        ]
        history = [] if ours is None else ours.history
        stages = [(entry["epoch"], entry["stage"]) for entry in history]
        logs = {f"log/{key}": values for key, values in fitted.history.items()}
        np.savez(result, *arrays, stages=stages, **logs)


def _quiet(function, arguments, log):
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        function(**arguments)


def _context():
    try:
        context = multiprocessing.get_context("forkserver")
    except ValueError:
        return multiprocessing.get_context("spawn")
    engine = importlib.import_module("keras_finetune._engine")
    context.set_forkserver_preload([engine.keras.__name__, "reference"])
    return context


def run(log, **arguments):
    """Runs `train` in a new process; returns its exit status and what it printed."""
    process = _context().Process(target=_quiet, args=(train, arguments, str(log)))
    process.start()
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    with open(log) as file:
        return process.exitcode, file.read()


# --- kills at random moments ---------------------------------------------------------


def random_kill(rng):
    """A moment after a batch, or in a backup or soon after it."""
    leave = bool(rng.random() < 0.5)
    if rng.random() < 0.4:
        return Kill(batch=int(rng.integers(2 * BATCHES)), leave=leave)
    # Most backups take some thousand calls; a long tail reaches what comes after.
    calls = int(10 ** rng.uniform(1, 4))
    return Kill(save=int(rng.integers(2)), calls=calls, leave=leave)


def chains(directory, rng, kills, callback, backup):
    """Runs one run whole, and others that are killed and started again to their end.

    Args:
        directory: Where `whole.npz` and the ends of the others are put.
        rng: Chooses the moments.
        kills: How many kills there are to be, in all runs together.
        callback: Arguments of `GradualUnfreeze`.
        backup: Arguments of `BackupAndRestore`.

    Returns:
        The files with the ends of the runs that were killed.
    """

    def start(result, kill=None):
        path = str(result.with_suffix(""))
        more = {"callback": callback, "backup": backup, "kill": kill}
        status, said = run(
            result.with_suffix(".log"), path=path, result=str(result), **more
        )
        if status not in (0, *KILLED) or "Traceback" in said:
            raise RuntimeError(f"{kill}: the run ended with {status} and said:\n{said}")
        return status == 0

    start(directory / "whole.npz")
    ends = []
    while kills > 0:
        end, attempts = directory / f"run_{len(ends)}.npz", 0
        while not start(end, random_kill(rng) if kills > 0 else None):
            kills, attempts = kills - 1, attempts + 1
        if attempts:
            ends.append(end)
    return ends
