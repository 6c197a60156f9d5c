"""Our callbacks over several devices and processes, against one device.

Each run is a process of its own; `worker.py` says what it trains.
"""

import functools
import os
import subprocess
import sys
import textwrap

import pytest
import reference
from distribution import run

from keras_finetune import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune._engine import keras

pytestmark = pytest.mark.slow

ENGINES = run.engines()


@functools.cache
def attempt(engine):
    try:
        return run.run(engine, ENGINES.get(engine, 1))
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return error  # processes that wait for each other are waited for once


def results(engine):
    found = attempt(engine)
    if isinstance(found, Exception):
        raise found
    return found


def single():
    return results("single")[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_several_devices_train_what_one_trains(engine):
    for result in results(engine):
        for kind, difference in run.differences(single(), result).items():
            assert difference <= run.TOLERANCE, kind


@pytest.mark.parametrize("engine", ENGINES)
def test_stages_and_rates_are_the_same_on_all_devices(engine):
    stages = [2, 2, 4, 6]  # weights that train: a metric has stalled in two epochs
    assert [len(x) for x in single().facts["stages"]["trainable"]] == stages
    for case, facts in single().facts.items():
        for result in results(engine):
            assert result.facts[case]["trainable"] == facts["trainable"]
            assert result.facts[case]["rates"] == facts["rates"]


@pytest.mark.parametrize("engine", ENGINES)
def test_all_devices_hold_the_same_weights(engine):
    first, *others = results(engine)
    assert {facts["replicas_apart"] for facts in first.facts.values()} == {0}
    for other in others:
        assert run.differences(first, other) == dict.fromkeys(run.KINDS, 0)


@pytest.mark.parametrize("engine", ["single", *ENGINES])
def test_frozen_weights_do_not_move(engine):
    for result in results(engine):
        assert {facts["frozen_moved"] for facts in result.facts.values()} == {0}


@pytest.mark.parametrize("engine", ["single", *ENGINES])
def test_nothing_is_left_behind(engine):
    for result in results(engine):
        for facts in result.facts.values():
            assert facts["left_behind"] == []


@pytest.mark.parametrize("engine", ENGINES)
def test_plans_and_stages_are_announced_once(engine):
    def announced(results):
        lines = [line for one in results for line in one.output.splitlines()]
        return [line for line in lines if "stage" in line or "head" in line]

    assert announced(results(engine)) == announced([single()])
    assert announced([single()])


@pytest.mark.keras3
@pytest.mark.backend("tensorflow")
def test_keras_3_refuses_several_workers_itself():
    # If this fails, a new Keras can do it: test the callbacks there.
    with pytest.raises(RuntimeError, match="_maybe_symbolic_build|PerReplica"):
        run.run("multi_worker", 2)


def test_a_loop_of_ones_own_is_refused():
    model = reference.compile_model(reference.make_model(), "sgd")
    for callback in (GradualUnfreeze(every=1), DiscriminativeLR(), TrainOnly("bias")):
        callbacks = keras.callbacks.CallbackList([callback], model=model)
        with pytest.raises(ValueError, match="training step of `model.fit`"):
            callbacks.on_train_begin()
        assert "make_train_function" not in vars(model)


@pytest.mark.backend("jax")
def test_shardings_are_recorded_at_each_stage():
    # Keras 3.8 records them as `fit` begins, and asks for them at each step.
    model = reference.compile_model(reference.make_model(), "adam")
    recorded = []
    vars(model)["_record_training_state_sharding_spec"] = lambda: recorded.append(
        len(model.trainable_variables)
    )
    gradual = GradualUnfreeze(groups=["low", "middle", "head"], every=1)
    reference.fit(model, reference.make_data(), epochs=3, callbacks=[gradual])
    assert recorded == [2, 4, 6]


def script(text):
    """Runs a script over two host devices."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.backend("jax")
def test_a_compiled_step_knows_the_sharding_of_what_trained_when_it_was_made():
    # Why a new stage needs new functions: see `new_train_function`.
    said = script("""
        import keras
        import numpy as np

        keras.distribution.set_distribution(keras.distribution.DataParallel())
        data = np.ones((8, 4)), np.ones((8, 1))

        def evaluate_and_freeze():
            layers = [keras.layers.Dense(3), keras.layers.Dense(1)]
            model = keras.Sequential([keras.Input((4,)), *layers])
            model.compile("sgd", "mse")
            loss = model.evaluate(*data, verbose=0)
            layers[0].trainable = False
            return model, loss

        model, loss = evaluate_and_freeze()
        model.test_function = None
        print(model.evaluate(*data, verbose=0) == loss)
        model, loss = evaluate_and_freeze()
        try:
            model.evaluate(*data, verbose=0)
        except ValueError as error:
            print("pytree" in str(error))
    """)
    assert said.split() == ["True", "True"]
