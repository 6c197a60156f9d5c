"""Any nesting of parts is divided so that each weight is in exactly one group."""

import numpy as np
import pytest
from _groups.models import (
    CONTAINERS,
    Block,
    InAttributes,
    WithToken,
)
from _groups.models import build as build_layer
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_finetune._engine import keras, structure
from keras_finetune._groups.layer_groups import layer_groups

pytestmark = pytest.mark.once
layers = keras.layers
WIDTH = 4


class Tied(layers.Layer):
    """Uses the kernel of another layer beside a bias of its own."""

    def __init__(self, other, **kwargs):
        super().__init__(**kwargs)
        self.kernel = other

    def build(self, shape):
        self.bias = self.add_weight(name="b", shape=(WIDTH,), initializer="zeros")
        super().build(shape)

    def call(self, x):
        return x @ self.kernel + self.bias


class Subclassed(keras.Model):
    """A model with its parts in a list and a weight of its own."""

    def __init__(self, parts, **kwargs):
        super().__init__(**kwargs)
        self.all_parts = parts
        self.scale = self.add_weight(name="scale", shape=(WIDTH,), initializer="ones")

    def build(self, shape):
        for part in self.all_parts:
            build_layer(part, shape)
        self.built = True

    def call(self, x):
        x = x * self.scale
        for part in self.all_parts:
            x = part(x)
        return x


KINDS = ["dense", "norm", "block", "dropout", "shared", "tied"]
NESTED = ["container", "token", "pair", "wrapper", "sequential", "functional", "model"]
leaves = st.sampled_from(KINDS).map(lambda kind: (kind, 0, ()))
specs = st.recursive(
    leaves,
    lambda inner: st.tuples(
        st.sampled_from(NESTED),
        st.integers(0, len(CONTAINERS) - 1),
        st.lists(inner, min_size=2, max_size=4),
    ),
    max_leaves=8,
)


class Builder:
    """Builds a model from what was drawn, the same each time."""

    def __init__(self):
        self.count = 0
        self.made = []

    def name(self, kind):
        self.count += 1
        return f"{kind}_{'abcdefghijklmnopqrstuvwxyz'[self.count % 26]}{self.count}"

    def part(self, spec):
        kind, number, inner = spec
        if kind in ("shared", "tied") and not self.made:
            kind = "dense"
        if kind == "shared":
            return self.made[-1]
        name = self.name(kind)
        if kind == "tied":
            return Tied(self.made[0].kernel, name=name)
        if kind == "dense":
            layer = layers.Dense(WIDTH, name=name)
            layer.build((None, 3, WIDTH))
            self.made.append(layer)
            return layer
        if kind in ("norm", "block", "dropout"):
            make = {"norm": layers.LayerNormalization, "block": Block}
            return make.get(kind, lambda name: layers.Dropout(0.1, name=name))(
                name=name
            )
        return self.nested(kind, number, [self.part(x) for x in inner], name)

    def nested(self, kind, number, parts, name):
        if kind == "container":
            return CONTAINERS[number](*unique(parts), name=name)
        if kind == "token":
            return WithToken(*unique(parts), name=name)
        if kind == "pair":
            return InAttributes(*parts[:2], name=name)
        if kind == "wrapper":
            inner = keras.Sequential(
                [keras.Input((WIDTH,)), layers.Dense(WIDTH), layers.Dense(WIDTH)],
                name=f"{name}_inner",
            )
            return layers.TimeDistributed(inner, name=name)
        if kind == "sequential":
            return keras.Sequential(
                [keras.Input((3, WIDTH)), *unique(parts)], name=name
            )
        if kind == "model":
            return Subclassed(unique(parts), name=name)
        inputs = keras.Input((3, WIDTH))
        x = inputs
        for part in parts:
            x = layers.Add()([x, part(x)]) if number % 2 else part(x)
        return keras.Model(inputs, x, name=name)


def unique(parts):
    """Each part once: some of Keras's containers take none twice."""
    return list({id(part): part for part in parts}.values())


def build(spec, outer):
    builder = Builder()
    parts = [builder.part(x) for x in spec]
    top = layers.Dense(2, name="top")
    if outer == "subclassed":
        model = Subclassed([*unique(parts), top], name="whole")
    elif outer == "sequential":
        parts = [keras.Input((3, WIDTH)), *unique(parts), top]
        model = keras.Sequential(parts, name="whole")
    else:
        inputs = keras.Input((3, WIDTH))
        x = inputs
        for part in parts:
            x = part(x)
        model = keras.Model(inputs, top(x), name="whole")
    model(np.zeros((1, 3, WIDTH), "float32"))
    return model


def division(model):
    """The groups as positions of weights, which equal models have in common."""
    place = {structure.variable_key(v): i for i, v in enumerate(model.weights)}
    return [
        (group.name, [place[structure.variable_key(v)] for v in group.variables])
        for group in layer_groups(model)
    ]


@pytest.mark.once
@settings(max_examples=25, deadline=None)
@given(
    st.lists(specs, min_size=1, max_size=4),
    st.sampled_from(["functional", "sequential", "subclassed"]),
)
def test_every_weight_is_in_one_group_and_equal_models_are_divided_equally(spec, outer):
    model = build(spec, outer)
    groups = layer_groups(model)
    keys = [structure.variable_key(v) for group in groups for v in group.variables]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {structure.variable_key(v) for v in model.weights}
    assert all(group.variables for group in groups)
    layers_in = [id(layer) for group in groups for layer in group.layers]
    assert len(set(layers_in)) == len(layers_in)
    assert len(set(groups.names)) == len(groups)
    for number in range(1, len(groups) + 1):
        merged = layer_groups(model, number)
        assert len(merged) == number
        assert merged.covers(model)
    assert division(model) == division(build(spec, outer))
