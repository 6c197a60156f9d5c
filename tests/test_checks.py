"""Checks of arguments, triggers by metric, and plain-text tables."""

import fractions
import io
import re
import sys
import types
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_finetune import _checks
from keras_finetune._schedule.trigger import MetricTrigger
from keras_finetune._tables import Report, Table


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integer(value):
    result = _checks.integer("n", value, 1)
    assert result == 3
    assert type(result) is int


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.bool_(True), [3], 3j])
def test_not_an_integer(value):
    with pytest.raises(TypeError, match="`n` must be an integer >= 1. Received: n="):
        _checks.integer("n", value, 1)


def test_too_small_an_integer():
    expected = "Argument `n` must be an integer >= 1. Received: n=0"
    with pytest.raises(ValueError, match=re.escape(expected)):
        _checks.integer("n", 0, 1)
    assert _checks.integer("n", -5) == -5


@pytest.mark.parametrize(
    "value", [1, 1.0, np.float32(1), np.int32(1), fractions.Fraction(1)]
)
def test_number(value):
    result = _checks.number("x", value, 0.0)
    assert result == 1.0
    assert type(result) is float


@pytest.mark.parametrize("value", ["1", None, True, 1j, [1.0], np.ones(2)])
def test_not_a_number(value):
    with pytest.raises(TypeError, match="`x` must be a finite number. Received: x="):
        _checks.number("x", value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan")])
def test_a_number_that_is_not_finite(value):
    with pytest.raises(ValueError, match="`x` must be a finite number. Received: x="):
        _checks.number("x", value)


@given(st.floats(), st.floats(-1e9, 1e9), st.booleans())
def test_the_range_of_a_number(value, minimum, exclusive):
    inside = value > minimum if exclusive else value >= minimum
    if inside and value != float("inf"):
        assert _checks.number("x", value, minimum, exclusive=exclusive) == value
    else:
        sign = ">" if exclusive else ">="
        with pytest.raises(ValueError, match=f"finite number {sign} "):
            _checks.number("x", value, minimum, exclusive=exclusive)


def test_choice():
    assert _checks.choice("mode", "min", ("min", "max")) == "min"
    expected = "Argument `mode` must be one of 'min', 'max'. Received: mode='up'"
    with pytest.raises(ValueError, match=re.escape(expected)):
        _checks.choice("mode", "up", iter(("min", "max")))


# --- triggers -------------------------------------------------------------------------


def trigger(monitor="val_loss", mode="auto", patience=1):
    return MetricTrigger(monitor, mode, 0.0, patience)


@pytest.mark.parametrize(
    ("monitor", "mode", "sign"),
    [
        ("val_loss", "auto", -1),
        ("loss", "auto", -1),
        ("val_accuracy", "auto", 1),
        ("sparse_categorical_accuracy", "auto", 1),
        ("auc", "auto", 1),
        ("val_precision", "auto", 1),
        ("recall", "auto", 1),
        ("f1_score", "auto", 1),
        ("val_accuracy", "min", -1),
        ("loss", "max", 1),
    ],
)
def test_the_direction_of_a_metric(monitor, mode, sign):
    assert trigger(monitor, mode).plateau.sign == sign


def test_a_trigger_goes_off_and_restarts():
    watch = trigger(patience=2)
    values = [2.0, 2.0, 2.0, 2.0]
    found = [watch.update(e, {"val_loss": v}) for e, v in enumerate(values)]
    assert found == [False, False, True, True]
    watch.restart(keep_best=True)
    assert not watch.update(4, {"val_loss": 2.0})
    assert watch.update(5, {"val_loss": 2.0})
    watch.restart()
    assert [watch.update(6, {"val_loss": 9.0}) for _ in range(3)] == [
        False,
        False,
        True,
    ]


def test_nan_is_said_once():
    watch = trigger()
    with pytest.warns(UserWarning, match="`val_loss` is NaN in epoch 3") as caught:
        found = [watch.update(epoch, {"val_loss": float("nan")}) for epoch in (2, 3, 4)]
    assert found == [False] * 3
    assert len(caught) == 1


def test_a_key_that_is_missing():
    with pytest.raises(ValueError, match=r"monitor='score'.* epoch 1 have: \['loss'\]"):
        trigger("score").update(0, {"loss": 1.0})
    # Other values of the validation are there: the name is wrong.
    with pytest.raises(ValueError, match="monitor='val_score'"):
        trigger("val_score").update(0, {"loss": 1.0, "val_loss": 1.0})


def test_an_epoch_without_validation_is_said_once():
    watch = trigger()
    with pytest.warns(UserWarning, match="was not validated") as caught:
        found = [watch.update(epoch, {"loss": 1.0}) for epoch in range(3)]
    assert found == [False] * 3
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not watch.update(3, {"loss": 1.0, "val_loss": 1.0})


# --- tables ---------------------------------------------------------------------------


def test_table():
    table = Table(["name", "n"], [["low", "7"], ["head", "123"]], right=(1,))
    assert table.text() == (
        "name    n\n"  #
        "----  ---\n"
        "low     7\n"
        "head  123"
    )


def test_a_table_wraps_its_widest_column():
    words = "one two three four five six seven eight nine ten eleven"
    table = Table(["name", "layers", "n"], [["low", words, "7"]], (2,))
    text = table.text(width=40)
    lines = text.split("\n")
    assert all(len(line) <= 40 for line in lines)
    assert lines[2].startswith("low")
    assert lines[2].endswith("7")
    assert len(lines) == 4
    assert text.count("eleven") == 1


cells = st.text("abc de", min_size=0, max_size=30)


@given(st.lists(st.tuples(cells, cells, cells), max_size=5), st.integers(28, 90))
def test_a_table_fits_and_loses_no_word(rows, width):
    text = Table(["a", "b", "c"], rows, right=(2,)).text(width)
    lines = text.split("\n")
    assert max(map(len, lines)) <= width
    letters = "".join(sorted(re.sub("[- \n]", "", text)))
    given_letters = "".join(sorted(re.sub(" ", "", "abc" + "".join(sum(rows, ())))))
    assert letters == given_letters


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Bare:
    """Has no more than `print` needs."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def getvalue(self):
        return self.text


REPORT = Report("Two <things>.", Table(["name", "n"], [["a & b", "7"]], right=(1,)))
PLAIN = "Two <things>.\n\nname   n\n-----  -\na & b  7"


@pytest.mark.parametrize(
    ("stream", "variables", "is_bold"),
    [
        (io.StringIO, {}, False),
        (Bare, {}, False),
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "dumb"}, False),
    ],
)
def test_only_the_head_is_bold_and_only_on_a_terminal(
    stream, variables, is_bold, monkeypatch
):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    assert REPORT.show() is REPORT
    plain = re.sub(r"\033\[\d+m", "", out.getvalue())
    assert plain == PLAIN + "\n"
    marked = re.findall(r"\033\[1m(.*?)\033\[0m", out.getvalue())
    assert marked == (["name   n", "-----  -"] if is_bold else [])
    assert str(REPORT) == PLAIN


def test_a_report_in_a_notebook(monkeypatch, capsys):
    html = REPORT._repr_html_()
    assert "<p>Two &lt;things&gt;.</p>" in html
    assert '<td style="text-align: left">a &amp; b</td>' in html
    assert '<td style="text-align: right">7</td>' in html

    shown = []
    front_end = types.ModuleType("IPython.display")
    front_end.display = lambda data, raw: shown.append(data)
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", front_end)
    REPORT.show()
    assert shown == [{"text/plain": PLAIN, "text/html": html}]
    REPORT._ipython_display_()  # the last value of the same cell
    assert len(shown) == 1
    REPORT._ipython_display_()  # of another cell
    assert len(shown) == 2
    assert capsys.readouterr().out == ""
