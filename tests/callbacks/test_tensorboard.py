"""What our callbacks log arrives in TensorBoard, by Keras's own callback."""

import importlib.util

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, WeightNormLogger
from keras_finetune._engine import keras

GROUPS = ["low", "middle", "head"]
# Keras's callback writes with TensorFlow, on every backend.
HAS_TENSORBOARD = importlib.util.find_spec("tensorboard") is not None
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TENSORBOARD, reason="tensorboard is not installed")
@pytest.mark.skipif(not HAS_TENSORFLOW, reason="Keras's callback needs TensorFlow")
def test_stage_rates_and_norms_are_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    model = reference.compile_model(reference.make_model(), "adam")
    callbacks = [
        GradualUnfreeze(groups=GROUPS, every=2),
        DiscriminativeLR(decay=2.0, groups=GROUPS),
        WeightNormLogger(by="group", groups=GROUPS),
        keras.callbacks.TensorBoard(tmp_path),
    ]
    history = reference.fit(
        model, reference.make_data(), epochs=5, callbacks=callbacks
    ).history
    events = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0})
    events.Reload()

    tags = {tag for tag in events.Tags()["tensors"] if tag.startswith("epoch_")}
    kinds = ("learning_rate", "weight_norm")
    ours = {f"{kind}/{group}" for kind in kinds for group in GROUPS}
    ours |= {"stage", "weight_norm"}
    assert {f"epoch_{name}" for name in ours} <= tags
    assert ours <= set(history)
    assert history["stage"] == [0, 0, 1, 1, 2]
    for name in ours:
        found = events.Tensors(f"epoch_{name}")
        assert [event.step for event in found] == [0, 1, 2, 3, 4]
        values = [float(make_ndarray(event.tensor_proto)) for event in found]
        np.testing.assert_allclose(values, history[name], rtol=1e-6)
