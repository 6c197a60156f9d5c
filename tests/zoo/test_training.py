"""The families that people fine-tune, trained in stages and asked many times.

What moves is compared with what was announced, weight by weight: which, and at which
rate.
"""

import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from families import FAMILIES
from inputs import inputs

from keras_finetune import (
    DiscriminativeLR,
    GradualUnfreeze,
    convert_dropout,
    layer_groups,
    mc_predict,
)
from keras_finetune._engine import KERAS_3, backend, keras, structure

RATE = 0.01
# On JAX and PyTorch: `test_backends.py`.
ELSEWHERE = (
    "bert_classifier",
    "vit_classifier",
    "gpt2_causal_lm",
    "efficientnet_classifier",
)
# Weights that take no part in what is computed here.
UNUSED = {
    "bert_masked_lm": "pooled_dense",
    "dinov2_backbone": "mask_token",
    "sam_backbone": "mask_downscaler|not_a_point",
}
# Models whose configuration their library does not read back, or not to the same model.
NOT_REBUILT = {"efficientnet_classifier", "swin_backbone", "vit_backbone"} | {
    name for name in FAMILIES if name.startswith(("kimm_", "hf_"))
}
# KerasHub saves trained position embeddings only where the sum of their changes has a
# certain sign (`save_own_variables` of DINOv2's embeddings), also after a plain `fit`.
NOT_SAVED = {"dinov2_backbone"}
NAMES = list(FAMILIES) if backend() == "tensorflow" else ELSEWHERE


@pytest.fixture(autouse=True)
def new_session():
    keras.backend.clear_session()


def to_numpy(variable):
    if KERAS_3:
        return np.array(keras.ops.convert_to_numpy(variable))
    return np.array(keras.backend.get_value(variable))


def paths(model):
    """The path of each weight, by its key."""
    weights = structure.weights(model)
    numbered = structure.numbered(map(structure.variable_path, weights))
    return dict(zip(map(structure.variable_key, weights), numbered, strict=True))


class Moves(keras.callbacks.Callback):
    """Notes how far each epoch moves each variable, by its path."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_train_begin(self, logs=None):
        self.paths = paths(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        weights = structure.weights(self.model)
        self.before = [(v, to_numpy(v)) for v in weights]

    def on_epoch_end(self, epoch, logs=None):
        moved = {}
        for v, old in self.before:
            far = np.max(np.abs(to_numpy(v).astype("f8") - old), initial=0.0)
            if far:
                moved[self.paths[structure.variable_key(v)]] = far
        self.epochs.append(moved)


def build(name):
    """A model of a family without weights that are all 0 or all 1."""
    model = FAMILIES[name]()
    rng = np.random.default_rng(0)
    arrays = model.get_weights()
    constant = [bool(a.size) and a.min() == a.max() for a in arrays]
    noise = [rng.uniform(0.01, 0.05, a.shape).astype(a.dtype) for a in arrays]
    model.set_weights(
        [
            a + far if same else a
            for a, far, same in zip(arrays, noise, constant, strict=True)
        ]
    )
    return model


def predict(model, x):
    """What `predict` returns, of Hugging Face's outputs those that are trained."""
    return of_interest(model.predict(x, verbose=0))


def of_interest(outputs):
    return outputs if KERAS_3 else outputs.logits


def data(model):
    """Inputs and targets."""
    x, rng = inputs(model), np.random.default_rng(1)
    outputs = predict(model, x)
    if isinstance(outputs, dict):
        # SAM gives one row of positions for all inputs.
        shapes = {name: (4, *array.shape[1:]) for name, array in outputs.items()}
        return x, {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return x, rng.normal(size=outputs.shape)


def compiled(model, y):
    # Lion moves all that has a gradient by the learning rate, however small it is.
    # Most of what is tested here needs no graph, and tracing takes longer.
    loss = dict.fromkeys(y, "mse") if isinstance(y, dict) else "mse"
    # KerasHub's tasks have metrics of their own.
    metrics = {"metrics": [], "weighted_metrics": []} if KERAS_3 else {}
    eager = backend() == "tensorflow"
    model.compile(keras.optimizers.Lion(RATE), loss, run_eagerly=eager, **metrics)
    return model


def owned(model, groups):
    """The paths of the variables that can train in each group, by its name."""
    path = paths(model)
    trainable = {structure.variable_key(v) for v in model.trainable_variables}
    norms = {
        structure.variable_key(v)
        for layer in structure.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        for v in layer.weights
    }
    return {
        group.name: [
            path[key]
            for key in map(structure.variable_key, group.variables)
            if key in trainable and (group is groups[-1] or key not in norms)
        ]
        for group in groups
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_moves_is_what_is_announced(name, tmp_path):
    model = build(name)
    x, y = data(model)
    compiled(model, y)
    groups = layer_groups(model, min(4, len(layer_groups(model))))
    theirs, moves = owned(model, groups), Moves()
    multipliers = [*np.geomspace(0.01, 0.1, len(groups) - 1).tolist(), 1.0]
    factors = dict(zip(groups.names, multipliers, strict=True))
    unused = re.compile(UNUSED.get(name, "$^"))
    unfreeze = GradualUnfreeze(groups, every=1)
    rates = DiscriminativeLR(multipliers=multipliers, groups=groups)
    model.fit(x, y, epochs=len(groups), verbose=0, callbacks=[unfreeze, rates, moves])
    assert [entry["stage"] for entry in unfreeze.history] == list(range(len(groups)))
    for entry, moved in zip(unfreeze.history, moves.epochs, strict=True):
        assert tuple(entry["groups"]) == groups.names[-entry["stage"] - 1 :]
        expected = {
            path: RATE * factors[group]
            for group in entry["groups"]
            for path in theirs[group]
            if not unused.search(path)
        }
        assert moved == pytest.approx(expected, rel=0.01)
    assert len(model.trainable_variables) == sum(map(len, theirs.values()))
    assert_loads_without_us(name, model, x, tmp_path)


def assert_loads_without_us(name, model, x, folder):
    path = folder / "model.keras"
    if name in NOT_SAVED:
        again = FAMILIES[name]()
        again.set_weights(model.get_weights())
        assert_close(again, model, x)
        return
    if name in NOT_REBUILT:
        again = FAMILIES[name]()
        model.save_weights(folder / "model.weights.h5")
        again.load_weights(folder / "model.weights.h5")
        assert_close(again, model, x)
        return
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        assert "keras_finetune" not in archive.read("config.json").decode()
    assert_close(keras.models.load_model(path), model, x)


def assert_close(one, other, x):
    """Whether two models predict the same."""
    theirs, ours = predict(one, x), predict(other, x)
    if not isinstance(theirs, dict):
        theirs, ours = {"": theirs}, {"": ours}
    for output, array in theirs.items():
        np.testing.assert_allclose(array, ours[output], rtol=1e-4, atol=1e-5)


@pytest.mark.keras3
def test_stages_of_lora_train_adapters_and_the_head():
    model = FAMILIES["bert_classifier"]()
    model.backbone.enable_lora(4)
    x, y = data(model)
    compiled(model, y)
    moves = Moves()
    unfreeze = GradualUnfreeze(every=1)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[unfreeze, moves])
    # Keras leaves the biases of a layer with adapters on.
    # The matrices b start at 0, and the matrices a move only after them.
    expected = [
        {path for path in paths(model).values() if re.search(stage, path)}
        for stage in (
            "logits/",
            "logits/|layer_2/.*/(query|value)/(lora|bias)",
            "logits/|layer_[12]/.*/(query|value)/(lora|bias)",
            "logits/|layer_[012]/.*/(query|value)/(lora|bias)",
        )
    ]
    for stage, moved in zip(expected, moves.epochs, strict=True):
        assert set(moved) <= stage
        assert {path for path in stage if not path.endswith("_a")} <= set(moved)
    assert {v.path for v in model.trainable_variables} == expected[-1]
    counts = [entry["trainable_parameters"] for entry in unfreeze.history]
    sizes = {v.path: int(np.prod(v.shape)) for v in model.weights}
    assert counts == [sum(map(sizes.get, stage)) for stage in expected]


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_sampled_and_converted(name):
    model = build(name)
    x = inputs(model)
    predicted = predict(model, x)
    layers = structure.all_layers(model)
    random = [
        (layer, attribute)
        for layer in layers
        for attribute in ("rate", "drop_prob")
        if getattr(layer, attribute, 0.0) > 0.0
    ]
    if not random:
        with pytest.raises(ValueError, match="must have a random layer"):
            mc_predict(model, x, verbose=0)
        return
    options = {"samples": 3, "seed": 0, "verbose": 0}
    sampled = of_interest(mc_predict(model, x, **options))
    assert sampled.mean.shape == predicted.shape
    assert np.all(np.isfinite(sampled.std))
    assert np.any(sampled.std > 0)
    inplace = name in NOT_REBUILT
    stochastic = convert_dropout(model, inplace=inplace)
    one, other = (predict(stochastic, x) for _ in range(2))
    assert not np.array_equal(one, other)
    standard = convert_dropout(stochastic, to="standard", inplace=inplace)
    again = predict(standard, x)
    np.testing.assert_allclose(again, predicted, rtol=1e-4, atol=1e-5)
    for layer, attribute in random:
        setattr(layer, attribute, 1e-7)
    sampled = of_interest(mc_predict(model, x, **options, output="values"))
    np.testing.assert_allclose(sampled.mean, predicted, rtol=1e-3, atol=1e-4)
