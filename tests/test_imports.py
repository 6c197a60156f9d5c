"""Importing the package costs nothing and loads nothing that Keras does not load."""

import json
import subprocess
import sys

import pytest

from keras_finetune import _engine

MEASURE = """
import json, os, sys, time
start = time.process_time()
if os.environ.get("TF_USE_LEGACY_KERAS") in ("1", "true"):
    import tf_keras
else:
    import keras
before, end = set(sys.modules), time.process_time()
import keras_finetune
share = (time.process_time() - end) / (end - start)
new = sorted(set(sys.modules) - before)
print(json.dumps({"share": share, "new": new}))
"""

TRAIN = """
import builtins, json, sys
asked = []
load = builtins.__import__

def watched(name, globals=None, *args, **kwargs):
    if ((globals or {}).get("__name__") or "").startswith("keras_finetune"):
        asked.append(name.partition(".")[0])
    return load(name, globals, *args, **kwargs)

builtins.__import__ = watched
import numpy as np
import keras_finetune as kf
from keras_finetune import optimizers
from keras_finetune._engine import KERAS_3, keras

layers = keras.layers
model = keras.Sequential(
    [keras.Input((4,)), layers.Dense(3), layers.Dropout(0.5), layers.Dense(2)]
)
model.compile(optimizers.ConditionalGradient(0.9, 1.0) if KERAS_3 else "sgd", "mse")
x, y = np.ones((4, 4)), np.ones((4, 2))
model.fit(x, y, verbose=0, callbacks=[kf.WeightNormLogger(), kf.TrainOnly("bias")])
model.compile("adam", "mse")
callbacks = [kf.GradualUnfreeze(), kf.DiscriminativeLR()]
model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
kf.mc_predict(kf.convert_dropout(model), x, samples=2, verbose=0)
print(json.dumps({"loaded": sorted(sys.modules), "asked": asked}))
"""
BACKENDS = {"tensorflow", "jax", "torch"}


def measure(source=MEASURE):
    output = subprocess.run(
        [sys.executable, "-c", source],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    ).stdout
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def first_import():
    return measure()


def foreign(modules):
    """The top-level packages among `modules` that are neither ours nor Python's."""
    found = {name.partition(".")[0] for name in modules}
    return found - {"keras_finetune"} - set(sys.stdlib_module_names)


@pytest.mark.slow
def test_import_loads_nothing_that_keras_does_not_load(first_import):
    assert "keras_finetune" in first_import["new"]
    assert foreign(first_import["new"]) == set()


@pytest.mark.slow
def test_the_guard_sees_a_foreign_package():
    loads_more = MEASURE.replace(
        "import keras_finetune\n", "import keras_finetune, hypothesis\n"
    )
    assert "hypothesis" in foreign(measure(loads_more)["new"])


@pytest.mark.slow
def test_training_and_predicting_import_no_other_backend():
    """Keras itself may look for TensorFlow: we do not even ask."""
    found = measure(TRAIN)
    other = {*BACKENDS, "tensorflow_addons"} - {_engine.backend()}
    assert "keras" in foreign(found["loaded"]) or not _engine.KERAS_3
    assert not other & set(found["asked"])
    if _engine.backend() != "tensorflow":
        assert not other & {name.partition(".")[0] for name in found["loaded"]}


@pytest.mark.slow
def test_import_takes_a_fraction_of_what_keras_takes(first_import):
    # Seconds of the processor, beside those of Keras in the same process, so that the
    # speed of the machine does not matter: 0.04 to 0.07 in the six lanes. The first
    # import may compile bytecode.
    assert min(first_import["share"], measure()["share"]) < 0.15
