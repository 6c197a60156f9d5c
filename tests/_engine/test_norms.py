"""The norms of weights: every backend's pass against NumPy in float64."""

import math

import numpy as np
import pytest

from keras_finetune._engine import keras
from keras_finetune._engine.norms import WeightNorms, combine, kind_of_pass

# float32 sums against float64.
CLOSE = {"rtol": 1e-6, "atol": 0}

ORDERS = (1, 2, math.inf, "spectral")


def norm(values, order):
    if order == "spectral":
        return np.linalg.norm(values.reshape(-1, values.shape[-1]), 2)
    return np.linalg.norm(values.ravel(), order)


def assign(weight, value):
    weight.assign(np.asarray(value, "float32"))


@pytest.fixture
def traces(monkeypatch):
    """A list that grows whenever a pass is traced."""
    seen = []
    kind = kind_of_pass()
    rows = kind._rows
    monkeypatch.setattr(
        kind, "_rows", lambda self, *args: seen.append(self) or rows(self, *args)
    )
    return seen


def variable(value, dtype="float32"):
    if hasattr(keras, "Variable"):
        return keras.Variable(value, dtype=dtype)
    import tensorflow as tf

    return tf.Variable(tf.cast(value, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("order", ORDERS)
def test_half_types_are_summed_in_more_digits(dtype, order):
    # The sum of squares is 480,000: more than float16 holds.
    values = np.linspace(-20, 20, 3600).reshape(60, 60).astype("float32")
    weight = variable(values, dtype)
    if hasattr(keras, "ops"):
        stored = keras.ops.convert_to_numpy(keras.ops.cast(weight, "float32"))
    else:
        import tensorflow as tf

        stored = tf.cast(weight, "float32").numpy()
    norms = WeightNorms(order, "norm", ["change"])
    norms.remember([weight])
    measured = norms.measure([weight])
    expected = norm(stored.astype("float64"), order)
    np.testing.assert_allclose(measured["norm"], [expected], **CLOSE)
    assert measured["change"].tolist() == [0.0]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(60, 60), (32, 32), (9, 1111), (2**24 + 2**20 + 3,)])
@pytest.mark.parametrize("value", [0.1, 1.9])
def test_equal_terms_lose_no_digits(order, shape, value):
    # The worst case: each addition of a chain rounds in the same direction, and one
    # long chain in float32 would end at 2**24 terms.
    values = np.full(shape, value, "float32")
    expected = np.linalg.norm(values.astype("float64").ravel(), order)
    measured = WeightNorms(order, "norm").measure([variable(values)])
    np.testing.assert_allclose(measured["norm"], [expected], **CLOSE)


def three_weights():
    random = np.random.RandomState(0)
    return [
        variable(random.standard_normal((4, n)).astype("float32")) for n in (2, 3, 5)
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_a_pass_over_many_gives_those_that_are_asked_for(order):
    weights = three_weights()
    norms = WeightNorms(order, "norm", ["change"])
    values = np.random.RandomState(0)
    values = [values.standard_normal((4, n)).astype("float32") for n in (2, 3, 5)]
    for asked in ([2], [2, 1], [0, 1, 2], [1]):
        chosen = [weights[i] for i in asked]
        norms.remember(chosen)
        found = norms.measure(chosen, later=weights)
        expected = [norm(values[i].astype("float64"), order) for i in asked]
        np.testing.assert_allclose(found["norm"], expected, **CLOSE)
        assert found["change"].tolist() == [0.0] * len(asked)


@pytest.mark.backend("tensorflow", "jax")
@pytest.mark.parametrize("order", ORDERS)
def test_weights_that_may_train_later_share_the_trace(order, traces):
    weights = three_weights()
    norms = WeightNorms(order, "norm", ["change", "distance"])
    for asked in (weights[2:], weights[1:], weights, weights[:1]):
        norms.remember(asked)
        norms.measure(asked, later=weights)
    assert len(traces) == 1


@pytest.mark.backend("tensorflow", "jax")
def test_only_weights_that_were_not_announced_cost_a_trace(traces):
    first, second, third = three_weights()
    norms = WeightNorms(2, "norm")
    norms.measure([first], later=[second])
    norms.measure([second])
    norms.measure([third])
    norms.measure([first, second, third])
    assert len(traces) == 2


def test_only_what_was_remembered_is_copied(monkeypatch):
    kind = kind_of_pass()
    copied, copy = [], kind.copy
    monkeypatch.setattr(
        kind, "copy", staticmethod(lambda v: copied.append(id(v)) or copy(v))
    )
    first, *later = three_weights()
    norms = WeightNorms(2, "norm", ["change", "distance"])
    norms.remember([first])
    norms.measure([first], later)
    assert copied == [id(first)] * 2
    norms.renew("change", [first])
    assert copied == [id(first)] * 3


def test_a_copy_stays_when_the_weight_moves():
    (weight,) = three_weights()[:1]
    norms = WeightNorms(2, "norm", ["change", "distance"])
    norms.remember([weight])
    assign(weight, np.zeros((4, 2)))
    norms.renew("change", [weight])
    assign(weight, np.ones((4, 2)))
    start = norm(np.random.RandomState(0).standard_normal((4, 2)) - 1, 2)
    found = norms.measure([weight])
    np.testing.assert_allclose(found["change"], [math.sqrt(8)], **CLOSE)
    np.testing.assert_allclose(found["distance"], [start], rtol=1e-5)


def test_nothing_has_no_norm():
    assert WeightNorms(2, "norm", ["change"]).measure([])["change"].size == 0
    assert math.isnan(combine(np.zeros(0), 2))


@pytest.mark.parametrize(("order", "whole"), [(1, 7), (2, 5), (math.inf, 4)])
def test_norms_combine_to_that_of_all_together(order, whole):
    assert combine(np.array([3.0, 4.0]), order) == whole
