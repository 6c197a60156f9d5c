"""How units depend on one another."""

from _groups.models import Chain, blocks

from keras_finetune._engine import keras, structure
from keras_finetune._groups.graph import connect, tie, with_parents
from keras_finetune._groups.units import flatten

layers = keras.layers


def connected(model, opens=lambda layer: False, **kwargs):
    units = flatten(model, opens)
    connect(model, units, **kwargs)
    return {unit.layer.name: unit for unit in units if unit.variables}


def two_outputs():
    inputs = keras.Input((4,))
    low = layers.Dense(4, name="low")(inputs)
    left = layers.Dense(4, name="left")(low)
    right = layers.Dense(4, name="right")(low)
    return keras.Model(inputs, [left, right])


def test_what_no_output_depends_on_is_not_used():
    inputs = keras.Input((4,))
    left, _ = two_outputs()(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="top")(left))
    units = connected(model)
    assert {name: unit.is_used for name, unit in units.items()} == {
        "low": True,
        "left": True,
        "right": False,
        "top": True,
    }
    assert not units["right"].is_main


def test_a_reader_of_one_output_of_a_nested_model_depends_on_that_one():
    inputs = keras.Input((4,))
    left, right = two_outputs()(inputs)
    tops = [layers.Dense(2, name=f"top{i}")(x) for i, x in enumerate((left, right))]
    units = connected(keras.Model(inputs, tops))
    assert units["top0"].parents == {units["left"]}
    assert units["top1"].parents == {units["right"]}


def test_a_later_use_of_a_layer_hands_on_what_it_reads():
    inputs = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    x = layers.Dense(4, name="middle")(shared(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="top")(shared(x)))
    units = connected(model)
    assert with_parents([units["top"]]) >= {units["shared"], units["middle"]}
    assert units["middle"].is_used


def test_depth_counts_what_makes_groups():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="a"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, name="b"),
        ]
    )
    depths = {name: unit.depth for name, unit in connected(model).items()}
    assert depths == {"a": 1, "norm": 1, "b": 2}


def test_the_children_of_a_composite_layer_are_a_chain_only_as_a_guess():
    encoder = Chain(*blocks(2), name="encoder")
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.Dense(2, name="top")(encoder(inputs)))

    def opens(layer):
        return layer is encoder

    units = connected(model, opens)
    assert units["block_0"] in units["block_1"].parents
    units = connected(model, opens, guess=False)
    assert units["block_0"] not in units["block_1"].parents
    assert units["top"].parents == {units["block_0"], units["block_1"]}


def test_tokens_and_masks_are_not_floating():
    tokens = keras.Input((3,), dtype="int32")
    x = layers.Embedding(5, 4)(tokens)
    calls = structure.calls(keras.Model(tokens, x))
    assert [call.floating for call in calls] == [False, True]


def test_a_mask_that_all_read_ties_nothing_and_a_skip_does():
    class Read(layers.Layer):
        def build(self, shapes):
            self.kernel = self.add_weight(name="k", shape=(4, 4), initializer="ones")
            super().build(shapes)

        def call(self, inputs):
            return inputs[0] @ self.kernel

    def ties(dtype):
        inputs, other = keras.Input((4,)), keras.Input((4,), dtype=dtype)
        x = inputs
        for i in range(3):
            x = Read(name=f"read{i}")([x, other])
        model = keras.Model([inputs, other], x)
        units = flatten(model, lambda layer: False)
        connect(model, units)
        tie(model, units, 0)
        return [unit.tied for unit in units if unit.variables]

    assert ties("int32") == [False, False, False]
    assert ties("float32") == [True, True, False]
