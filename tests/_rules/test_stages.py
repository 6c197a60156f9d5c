"""Stages say what trains, and their own work grows with the model, not its square."""

import sys

import numpy as np
import pytest

from keras_finetune import GradualUnfreeze, layer_groups
from keras_finetune._engine import keras
from keras_finetune._rules.stages import Stages

layers = keras.layers


def chain(depth):
    """A model of many small layers, each a group of its own."""
    body = [layers.Dense(1, name=f"dense_of_{i}_units") for i in range(depth)]
    model = keras.Sequential([keras.Input((1,)), *body, layers.Dense(1, name="head")])
    return model, [layer.name for layer in model.layers]


def calls(act):
    """How many functions of the package a call enters."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        ours = "keras_finetune" in frame.f_code.co_filename
        count += event == "call" and ours

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
def test_a_plan_with_a_stage_a_layer_is_linear():
    counts = []
    for depth in (50, 100, 200):
        model, names = chain(depth)
        groups = layer_groups(model, names)

        def plan(model=model, groups=groups, depth=depth):
            stages = Stages(model, groups, 1, "frozen")
            stages.table(["1"] * (depth + 1), [0.1] * (depth + 1))

        counts.append(calls(plan))
    # Twice the layers are at most twice the work, and a little.
    assert counts[2] - counts[1] <= 2.1 * (counts[1] - counts[0])


@pytest.mark.slow
@pytest.mark.parametrize("reached", [0, 1, 2])
def test_what_a_fit_has_not_reached_is_no_choice_of_the_users(reached):
    model, names = chain(3)
    model.compile("sgd", "mse")
    x = np.ones((4, 1), "float32")
    arguments = {"epochs": reached + 1, "verbose": 0}
    model.fit(x, x, callbacks=[GradualUnfreeze(names, every=1)], **arguments)
    assert len(model.trainable_variables) == 2 * (reached + 1)
    # Another callback, which knows nothing of the first one.
    again = GradualUnfreeze("auto", every=1)
    model.fit(x, x, epochs=5, verbose=0, callbacks=[again])
    assert len(model.trainable_variables) == len(model.weights)


def test_a_body_of_which_a_part_trains_keeps_what_is_frozen():
    model, names = chain(3)
    model.layers[0].trainable = False
    stages = Stages(model, layer_groups(model, 2), 1, "frozen")
    assert len(stages.variables(stages.last)) == 6
    assert stages.never_trained() == [
        f"Never trained, frozen before `fit`: 2 in {stages.groups[0].name}."
    ]
    # A list that names it wants it to train.
    stages = Stages(model, layer_groups(model, names), 1, "frozen")
    assert len(stages.variables(stages.last)) == 8


def test_a_body_of_which_nothing_trains_is_there_to_be_unfrozen():
    model, _ = chain(3)
    for layer in model.layers[:-1]:
        layer.trainable = False
    stages = Stages(model, layer_groups(model), 1, "frozen")
    assert len(stages.variables(0)) == 2
    assert len(stages.variables(stages.last)) == 8
