"""Facts about a model, told in the same way by Keras 2 and Keras 3."""

import numpy as np
import pytest

from keras_finetune._engine import keras, structure

layers = keras.layers


def names(found):
    return [layer.name for layer in found]


def functional():
    """Two branches of one layer, added: `join` reads from `left` and `right`."""
    inputs = keras.Input((4,), name="in")
    left = layers.Dense(3, name="left")(inputs)
    right = layers.Dense(3, name="right")(inputs)
    joined = layers.Add(name="join")([left, right])
    return keras.Model(inputs, layers.Dense(2, name="out")(joined), name="net")


class Composite(layers.Layer):
    """A layer with a layer in a list and a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, name="first")
        self.more = [layers.Dense(4, name="second")]

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(4,), initializer="ones")
        self.first.build(input_shape)
        self.more[0].build(input_shape)
        super().build(input_shape)

    def call(self, inputs):
        return self.more[0](self.first(inputs)) * self.scale


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = Composite(name="body")
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.body(inputs))


def built(model):
    model(np.ones((2, 4), "float32"))
    return model


def test_kinds_of_layers():
    sequential = keras.Sequential([layers.Dense(2)])
    assert structure.is_sequential(sequential)
    assert structure.is_model(sequential)
    assert structure.is_model(functional())
    assert structure.is_model(Subclassed())
    assert not structure.is_sequential(functional())
    assert not structure.is_model(Composite())


def test_a_layer_is_built_once_it_has_its_weights():
    layer = layers.Dense(2)
    assert not structure.is_built(layer)
    layer.build((None, 4))
    assert structure.is_built(layer)


def test_children_of_a_functional_model_come_in_the_order_of_its_graph():
    found = names(structure.sublayers(functional()))
    assert set(found) == {"in", "left", "right", "join", "out"}
    assert found[0] == "in"
    assert found[-2:] == ["join", "out"]


def test_a_layer_that_is_only_attached_comes_after_the_graph():
    model = functional()
    model.attached = layers.Dense(1, name="attached")
    found = names(structure.sublayers(model))
    tracked = ["attached"] if "attached" in found else []  # not by Keras 3.8
    assert found[found.index("out") :] == ["out", *tracked]


def test_children_of_a_sequential_model_are_its_layers():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    # Keras 3 holds a functional model inside, which is no child.
    found = [name for name in names(structure.sublayers(model)) if name in ("a", "b")]
    assert found == ["a", "b"]
    assert not any(map(structure.is_model, structure.sublayers(model)))


def test_children_in_lists_are_found_in_the_order_of_their_making():
    assert names(structure.sublayers(Composite())) == ["first", "second"]
    assert names(structure.sublayers(Subclassed())) == ["body", "head"]


def test_a_child_that_is_held_twice_comes_once():
    model = Subclassed()
    model.again = model.head
    assert names(structure.sublayers(model)) == ["body", "head"]


def test_all_layers_are_found_at_any_depth_each_once():
    inner = functional()
    inputs = keras.Input((4,), name="outer_in")
    model = keras.Model(inputs, inner(inner(inputs)[:, :1] * np.ones((1, 4))))
    found = structure.all_layers(model)
    assert found[0] is model
    assert len(set(map(id, found))) == len(found)
    assert {"net", "left", "right", "join", "out"} <= set(names(found))
    expected = ["body", "first", "second", "head"]
    assert names(structure.all_layers(Subclassed()))[1:] == expected


def test_weights_are_all_of_a_layer_each_once():
    model = built(Subclassed())
    model.again = model.head
    paths = [structure.variable_path(v) for v in structure.weights(model)]
    assert len(paths) == 7
    assert sorted(path.rsplit("/", 1)[-1] for path in paths) == sorted(
        ["scale", *["kernel", "bias"] * 3]
    )


def test_states_of_random_generators_and_metrics_are_no_weights():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2), layers.Dropout(0.5, seed=1)]
    )
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    assert len(structure.weights(model)) == 2


def test_frozen_and_non_trainable_weights_are_weights():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()])
    model.trainable = False
    assert len(structure.weights(model)) == 4


def test_keys_tell_variables_apart_and_stay():
    model = built(Subclassed())
    keys = [structure.variable_key(v) for v in model.weights]
    assert len(set(keys)) == len(model.weights)
    model.head.trainable = False  # It moves them in the list.
    later = {structure.variable_key(v) for v in model.weights}
    assert later == set(keys)


def test_a_path_has_no_device_and_no_number():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(inputs))
    paths = [structure.variable_path(v) for v in model.weights]
    assert paths == ["dense/kernel", "dense/bias"]


def test_names_that_come_again_are_numbered():
    assert structure.numbered(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]
    assert structure.numbered([]) == []


def test_calls_come_after_those_they_read_from():
    graph = structure.calls(functional())
    at = {call.layer.name: i for i, call in enumerate(graph)}
    assert set(at) == {"in", "left", "right", "join", "out"}
    assert all(max(call.inputs, default=-1) < i for i, call in enumerate(graph))
    assert set(graph[at["join"]].inputs) == {at["left"], at["right"]}
    assert graph[at["out"]].inputs == (at["join"],)
    assert graph[at["in"]].inputs == ()


def test_a_layer_that_is_called_twice_has_two_calls():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    graph = structure.calls(keras.Model(inputs, shared(shared(inputs))))
    assert [call.inputs for call in graph if call.layer is shared] == [(0,), (1,)]


@pytest.mark.parametrize(
    "make", [Subclassed, lambda: keras.Sequential([keras.Input((4,))])]
)
def test_there_is_no_graph_of_other_models(make):
    assert structure.calls(make()) is None


@pytest.mark.parametrize("module", ["keras.src.models", "tf_keras.src.engine.training"])
def test_a_model_of_another_keras_is_told_by_its_module(module):
    theirs = type("Model", (), {"__module__": module})
    model = type("Mine", (theirs,), {"__module__": "project"})()
    assert structure.foreign_keras(model) == module.split(".", maxsplit=1)[0]
    other = type("Model", (), {"__module__": "somebody"})()
    assert structure.foreign_keras(other) is None
