"""`plot_history` draws what the sources say, and nothing else happens."""

import io
import sys

import numpy as np
import pytest

from keras_finetune._engine import keras
from keras_finetune.plotting import plot_history

STAGES = [
    {
        "epoch": epoch,
        "stage": stage,
        "groups": groups,
        "trainable_parameters": parameters,
        "learning_rate": rate,
    }
    for epoch, stage, groups, parameters, rate in (
        (0, 0, ["head"], 330, 1e-3),
        (2, 1, ["block2", "head"], 123456, 5e-4),
        (4, 2, ["block1", "block2", "head"], 23456789, 2.5e-4),
    )
]


class Callback:
    """What `plot_history` reads of a callback."""

    def __init__(self, history, steps=None):
        self.history = history
        self.params = {"steps": steps}


def panels(figure):
    return {axes.get_ylabel(): axes for axes in figure.axes}


def lines(axes):
    """The drawn series by label, without the marks of stages."""
    return {
        line.get_label(): line
        for line in axes.get_lines()
        if not line.get_label().startswith("_")
    }


def points(line):
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def marks(axes):
    return [
        line.get_xdata()[0]
        for line in axes.get_lines()
        if line.get_label().startswith("_") and len(set(line.get_xdata())) == 1
    ]


@pytest.mark.slow
def test_a_history_of_keras():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x = np.ones((8, 2))
    history = model.fit(
        x, x[:, 0], epochs=5, initial_epoch=2, validation_split=0.5, verbose=0
    )
    figure = plot_history(history, title="a title")
    name = next(n for n in history.history if n not in ("loss", "val_loss"))
    assert list(panels(figure)) == ["loss", name.removeprefix("val_")]
    drawn = lines(panels(figure)["loss"])
    assert list(drawn) == ["loss", "val_loss"]
    # The value of an epoch stands at its end.
    assert points(drawn["val_loss"]) == ([3.0, 4.0, 5.0], history.history["val_loss"])
    assert figure.get_suptitle() == "a title"
    assert figure.axes[-1].get_xlim()[0] == 2.0


def test_stages_mark_all_panels_and_are_named():
    losses = {"loss": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "accuracy": [0.5] * 6}
    figure = plot_history(losses, Callback(STAGES))
    found = panels(figure)
    assert list(found)[:3] == ["loss", "accuracy", "learning rate"]
    assert all(marks(found[name]) == [0, 2, 4] for name in ("loss", "accuracy"))
    (top,) = figure.axes[0].child_axes
    assert [label.get_text() for label in top.get_xticklabels()] == [
        "stage 0\n+ head\n330 parameters",
        "stage 1\n+ block2\n123k parameters",
        "stage 2\n+ block1\n23.5M parameters",
    ]
    # Without rates in the history those of the stages are drawn.
    (line,) = found["learning rate"].get_lines()[:1]
    assert points(line) == ([0.0, 2.0, 4.0, 6.0], [1e-3, 1e-3, 5e-4, 2.5e-4])
    assert line.get_drawstyle() == "steps-pre"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (999_499, "999k"),
        (999_500, "1M"),
        (1_034_997, "1.03M"),
        (999_600_000, "1G"),
        (175_000_000_000, "175G"),
        (2_000_000_000_000, "2T"),
        (3_000_000_000_000_000, "3e+15"),
    ],
)
def test_parameters_are_written_short(count, text):
    stages = [{"epoch": 0, "stage": 0, "groups": [], "trainable_parameters": count}]
    figure = plot_history({"loss": [1.0]}, Callback(stages))
    (top,) = figure.axes[0].child_axes
    (label,) = top.get_xticklabels()
    assert label.get_text() == f"stage 0\n{text} parameters"


def test_stages_of_the_logs_are_marked_too():
    logs = {"loss": [4.0, 3.0, 2.0, 1.0], "stage": [0, 0, 1, 1]}
    figure = plot_history(logs)
    assert list(panels(figure)) == ["loss"]
    assert marks(panels(figure)["loss"]) == [0, 2]
    (top,) = figure.axes[0].child_axes
    assert [t.get_text() for t in top.get_xticklabels()] == ["stage 0", "stage 1"]
    # The callback knows more.
    for sources in ([Callback(STAGES), logs], [logs, Callback(STAGES)]):
        assert len(marks(panels(plot_history(sources))["loss"])) == len(STAGES)


def a_history(epochs, **logs):
    history = keras.callbacks.History()
    history.epoch, history.history = epochs, logs
    return history


def test_validation_of_every_second_epoch_stands_where_it_was_measured():
    for losses, ends in ([5, 4], [2, 4]), ([5, 4, 3], [2, 3, 4]):
        history = a_history([0, 1, 2, 3], loss=[4, 3, 2, 1], val_loss=losses)
        drawn = lines(panels(plot_history(history))["loss"])
        assert points(drawn["val_loss"]) == (ends, losses)


def test_validation_in_a_dictionary_stands_where_it_was_measured():
    drawn = lines(
        panels(plot_history({"loss": [4, 3, 2, 1], "val_loss": [5, 4]}))["loss"]
    )
    assert points(drawn["val_loss"]) == ([2, 4], [5, 4])


def test_what_a_cache_has_kept_is_not_drawn():
    class Cache:
        history = [{"epoch": 0, "layer": "b", "row_bytes": 8, "hits": 0}]

    drawn = panels(plot_history([a_history([0], loss=[4]), Cache()]))
    assert list(drawn) == ["loss"]


def test_several_fits_are_drawn_as_one():
    first = a_history([0, 1, 2], loss=[5, 4, 3], stage=[0, 0, 1])
    second = a_history([2, 3], loss=[2, 1], stage=[1, 2])
    axes = panels(plot_history([first, second]))["loss"]
    assert points(lines(axes)["loss"]) == ([1, 2, 3, 4], [5, 4, 2, 1])
    assert marks(axes) == [0, 2, 3]


def test_close_stages_are_only_numbered():
    stages = [
        {"epoch": i, "stage": i, "groups": [f"g{j}" for j in range(i)]}
        for i in range(12)
    ]
    figure = plot_history({"loss": [1.0] * 12}, Callback(stages))
    (top,) = figure.axes[0].child_axes
    assert [t.get_text() for t in top.get_xticklabels()] == [str(i) for i in range(12)]


def test_rates_and_norms_of_groups():
    nan = float("nan")
    history = {
        "loss": [3.0, 2.0, 1.0],
        "learning_rate": [1e-3, 1e-3, 1e-4],
        "learning_rate/block1": [0.0, 1e-5, 1e-6],
        "learning_rate/head": [1e-3, 1e-3, 1e-4],
        "weight_norm": [4.0, 5.0, 6.0],
        "weight_norm/block1": [nan, 3.0, 3.1],
        "weight_norm/head": [4.0, 4.0, 5.0],
        "weight_distance": [0.1, 0.2, 0.3],
    }
    found = panels(plot_history(history))
    assert list(found) == [
        "loss",
        "learning rate",
        "weight norm",
        "distance from start",
    ]
    rates, norms = lines(found["learning rate"]), lines(found["weight norm"])
    assert list(rates) == ["base", "block1", "head"]
    assert list(norms) == ["all", "block1", "head"]
    assert found["learning rate"].get_yscale() == "log"
    # A frozen group has no rate to draw.
    assert np.isnan(rates["block1"].get_ydata()[1])
    for name in ("block1", "head"):
        assert rates[name].get_color() == norms[name].get_color()
        assert rates[name].get_linestyle() == norms[name].get_linestyle()
        assert rates[name].get_marker() == norms[name].get_marker()


def test_lines_differ_without_colour():
    history = {f"weight_norm/part{i}": [1.0 * i, 1.0] for i in range(8)}
    (axes,) = plot_history(history).axes
    drawn = lines(axes).values()
    looks = [(line.get_linestyle(), line.get_marker()) for line in drawn]
    assert len(set(looks)) == len(looks)
    grey = [np.dot(line.get_color()[:3], (0.3, 0.59, 0.11)) for line in drawn]
    assert np.all(np.diff(grey) > 0.03)


def rates_by_step(last):
    """Two epochs of two steps; the base rate ends at `last`, a group has half of it."""
    history = {"loss": [1.0, 0.5], "learning_rate/low": [0.1, last / 2]}
    rows = [
        {"epoch": step // 2, "step": step + 1, "learning_rate": rate}
        for step, rate in enumerate([0.1, 0.2, 0.1, last])
    ]
    axes = panels(plot_history(history, Callback(rows, steps=2)))["learning rate"]
    return lines(axes)["low"]


def test_rates_of_groups_follow_the_base_rate_from_step_to_step():
    x, y = points(rates_by_step(0.05))
    assert x == [0, 0.5, 1, 1.5, 2]
    np.testing.assert_allclose(y, [0.05, 0.05, 0.1, 0.05, 0.025])


def test_a_base_rate_that_ends_at_zero_is_no_divisor():
    x, y = points(rates_by_step(0.0))
    assert x == [0, 1, 2]
    np.testing.assert_allclose(y, [0.1, 0.1, np.nan])


def test_measurements_by_batch_stand_where_they_were_taken():
    rows = [
        {"epoch": 0, "step": 2, "weight_norm": 1.0},
        {"epoch": 0, "step": 4, "weight_norm": 2.0},
        {"epoch": 1, "step": 6, "weight_norm": 3.0},
    ]
    (axes,) = plot_history(Callback(rows, steps=4)).axes
    assert points(axes.get_lines()[0]) == ([0.5, 1.0, 1.5], [1.0, 2.0, 3.0])
    (axes,) = plot_history(Callback(rows)).axes
    assert points(axes.get_lines()[0]) == ([0.5, 1.0, 2.0], [1.0, 2.0, 3.0])


def test_many_lines_are_not_all_named():
    history = {f"weight_norm/layer{i}": [1.0 * i, 2.0 * i] for i in range(40)}
    (axes,) = plot_history([history]).axes
    assert len(axes.get_lines()) == 40
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(named) == 10
    assert named[0] == "layer0"
    assert named[-1] == "layer39"


def test_metrics_can_be_chosen():
    history = {"loss": [1.0], "a": [1.0], "b": [2.0], "val_b": [3.0]}
    assert list(panels(plot_history(history, metrics=["b"]))) == ["b"]
    with pytest.raises(ValueError, match=r"among \['loss', 'a', 'b'\]"):
        plot_history(history, metrics=["c"])


def test_nothing_is_shown_and_the_figure_can_be_saved(monkeypatch):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = plot_history({"loss": [1.0, 0.5]}, Callback(STAGES))
    assert pyplot.get_fignums() == before
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, r"`history` must be a Keras `History`.*history=3 \(of type int"),
        ({}, ValueError, "`history` must have at least one epoch"),
        ({"loss": []}, ValueError, "`history` must have at least one epoch"),
        ({"loss": 1.0}, TypeError, r"must have lists of numbers.*loss=1\.0"),
        ({"loss": [None]}, TypeError, r"must have lists of numbers.*loss=\[None\]"),
    ],
)
def test_errors(source, error, message):
    with pytest.raises(error, match=message):
        plot_history(source)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"callbacks": 3}, "`callbacks` must be a Keras `History`"),
        ({"metrics": "loss"}, "`metrics` must be a list of names or None"),
        ({"title": 3}, "Received: title=3"),
        ({"figsize": 3}, "`figsize` must be a width and a height"),
    ],
)
def test_errors_of_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        plot_history({"loss": [1.0]}, **arguments)


def test_matplotlib_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install keras-finetune\[plot\]"):
        plot_history({"loss": [1.0]})
