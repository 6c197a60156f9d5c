"""Features: the store, and graphs in two parts against graphs in one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_finetune._engine import keras
from keras_finetune._engine.features import Obstacle, part
from keras_finetune._engine.features._store import (
    Folder,
    Kind,
    Limit,
    Table,
    digests,
)
from keras_finetune._engine.graphs.active import lane

KINDS = [Kind((2,), "float32"), None, Kind((), "int64")]


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(count, 2)).astype("float32"),
        None,
        rng.integers(9, size=count),
    ]


def keys(count, start=0):
    return digests([np.arange(start, start + count)])


def test_a_row_is_known_by_its_bytes_in_all_inputs():
    x = np.arange(12.0).reshape(4, 3)
    assert digests([x])[1] == digests([x[1:2].copy(order="F")])[0]
    assert len({*digests([x]), *digests([x.astype("float32")])}) == 8
    a, b = digests([x, x[::-1]]), digests([x, x])
    assert not {*a} & {*b}
    words = np.array([["a", "bc"], ["ab", "c"]], object)
    assert len({*digests([words])}) == 2
    assert digests([words])[0] == digests([np.array([[b"a", b"bc"]])])[0]


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_what_is_put_in_comes_out(block, monkeypatch, tmp_path):
    for folder in (None, Folder(tmp_path, pytest.fail)):
        table = Table(KINDS, Limit(10**9, pytest.fail), folder)
        size = table._dtype.itemsize
        monkeypatch.setattr(
            "keras_finetune._engine.features._store.BLOCK_BYTES", block * size
        )
        given_, known = rows(7), keys(7)
        table.add(known[:4], [None if x is None else x[:4] for x in given_])
        table.add(known, given_)
        assert len(table) == 7
        order = [6, 0, 3, 3]
        places = table.find([known[i] for i in order])
        for found, x in zip(table.rows(places), given_):
            assert (found is None) is (x is None)
            if x is not None:
                np.testing.assert_array_equal(found, x[order])
                assert found.dtype == x.dtype
        assert table.find(keys(1, start=50)) == [None]
        table.close()
    again = Table(KINDS, Limit(0, pytest.fail), Folder(tmp_path, pytest.fail))
    np.testing.assert_array_equal(again.rows(again.find(known))[2], given_[2])


def test_a_limit_is_kept_and_told_once():
    told = []
    table = Table(KINDS, Limit(3 * (32 + 16) + 5, lambda: told.append(1)))
    for _ in range(2):
        table.add(keys(7), rows(7))
    assert len(table) == 3
    assert told == [1]


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path):
    told = []
    (tmp_path / "file").write_text("")
    table = Table(
        KINDS, Limit(10**9, pytest.fail), Folder(tmp_path / "file", told.append)
    )
    table.add(keys(2), rows(2))
    table.close()
    assert len(told) == 1


LAYERS = ("dense", "activation", "add", "join", "shared")


@pytest.mark.slow
@settings(max_examples=12)
@given(st.lists(st.sampled_from(LAYERS), min_size=3, max_size=7), st.data())
def test_any_graph_in_two_parts_is_the_graph(names, data):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    shared = layers.Dense(3)
    inputs = [keras.Input((3,)), keras.Input((3,))]
    tensors = list(inputs)

    def one():
        return tensors[data.draw(st.integers(0, len(tensors) - 1))]

    for name in names:
        if name == "dense":
            x = layers.Dense(3)(one())
        elif name == "activation":
            x = layers.Activation("tanh")(one())
        elif name == "add":
            x = layers.Add()([one(), one()])
        elif name == "join":
            x = layers.Dense(3)(layers.Concatenate()([one(), one()]))
        else:
            x = shared(one())
        tensors.append(x)
    outputs = layers.Add()([tensors[-1], layers.Dense(3)(tensors[-2])])
    model = keras.Model(inputs, [outputs, tensors[-1]])
    weights = [layer for layer in model.layers if layer.weights]
    trained = [layer for layer in weights if data.draw(st.booleans())]
    variables = [v for layer in trained for v in layer.weights]
    found = part(model, variables, [], rests=False)
    if isinstance(found, Obstacle):
        return
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(4, 3)).astype("float32") for _ in inputs]
    given_ = lane.standardize(lane.opened(model), x)
    features = found.compute(given_, True)
    whole = model(x, training=True)
    for a, b in zip(whole, found.go_on(given_, features, True)):
        np.testing.assert_array_equal(lane.value(a), lane.value(b))
    frozen = [v for layer in weights if layer not in trained for v in layer.weights]
    below = {id(v) for s in found.prefix if s.node for v in s.operation.weights}
    assert below <= {id(v) for v in frozen}
