"""The work of a division grows as the number of layers."""

import sys
from pathlib import Path

import pytest
from _groups.models import Chain

from keras_finetune import _groups
from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups

pytestmark = pytest.mark.once
layers = keras.layers
OURS = (str(Path(_groups.__file__).parent), structure.__file__)


class Scale(layers.Layer):
    """The cheapest layer with a weight."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", shape=(1,), initializer="ones")
        super().build(shape)

    def call(self, x):
        return x * self.scale


class Stack(keras.Model):
    """Layers that are built, but not connected, which would take most of the time."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts
        self.built = True

    def call(self, x):
        return x


def built(name):
    layer = Scale(name=name)
    layer.build((None, 2))
    return layer


def stack(count):
    """Blocks of two layers, with dropout after each."""
    parts = []
    for i in range(count // 2):
        parts += [built(f"stage{i // 10}_block{i % 10}_{part}") for part in "ab"]
        parts.append(layers.Dropout(0.1, name=f"drop{i}"))
    return Stack(parts)


def nested(count):
    """Blocks of two layers in a composite layer, two to a block."""
    blocks = []
    for i in range(count // 2):
        block = Chain(built("a"), built("b"), name=f"block_{i}")
        block.built = True
        blocks.append(block)
    encoder = Chain(*blocks, name="encoder")
    encoder.built = True
    return Stack([encoder, built("top")])


def residual(count):
    """A functional model with a skip around every second layer, and a mask."""
    inputs, mask = keras.Input((2,)), keras.Input((2,), dtype="int32")
    x = inputs
    for i in range(count // 2):
        y = Scale(name=f"first{i}")(x)
        y = Scale(name=f"second{i}")(y)
        x = layers.Add(name=f"add{i}")([x, y])
    x = layers.Multiply()([x, keras.layers.Rescaling(1.0)(mask)])
    return keras.Model([inputs, mask], layers.Dense(2, name="top")(x))


def visits(model, groups):
    """How many lines of ours a division runs."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        layer_groups(model, groups)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.once
@pytest.mark.parametrize(
    ("build", "counts"),
    [(stack, (200, 1_000)), (nested, (200, 800)), (residual, (50, 200))],
)
def test_more_layers_are_as_much_more_work(build, counts):
    work = [visits(build(count), 20) / count for count in counts]
    assert max(work) < 1.25 * min(work)
