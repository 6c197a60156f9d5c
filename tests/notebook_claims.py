"""What the prose of each notebook says of its numbers, as assertions.

Each function is given `said`, which returns the numbers of the only line that starts
or ends with a label. What is asserted holds for any draw of the random numbers, hence
on every backend. How far a number may move is in `test_notebooks.py`.
"""

import numpy as np


def bias_only(said):
    biases, weights = said("weights are biases")
    assert 20 * biases < weights
    assert said("Largest change of a kernel:") == [0]
    assert said("Largest difference between callback and loop:")[0] < 1e-4
    # More than guessing, and well short of all of the weights.
    biases, everything = said("epoch 25")
    assert 0.5 < biases < everything - 0.1
    for shape in ((16, 32), (32, 64)):
        rank, kept = said(f"kernel {shape}: ")
        assert rank == 1
        np.testing.assert_allclose(kept, 100 / 6, atol=4)
    rows = [said(name) for name in ("trained", "compressed", "repaired by its biases")]
    loss, accuracy = zip(*rows, strict=True)
    assert 0.2 < accuracy[0] - accuracy[1] < 0.4
    assert accuracy[2] > accuracy[0] - 0.02
    assert 1.5 * loss[0] < loss[2] < loss[1] / 2


def transfer_learning(said):
    assert said("B built on A itself      changes A by at most")[0] > 1e-3
    assert said("B built on a clone of A  changes A by at most") == [0]
    scratch, transfer = said("scratch"), said("frozen, then unfrozen")
    assert transfer[0] + 0.03 < transfer[1] < scratch[1] - 0.02
    rates = {
        "SGD, momentum": 1e-2,
        "SGD, Nesterov": 1e-2,
        "AdaGrad": 1e-2,
        "RMSprop": 1e-3,
        "Adam": 1e-3,
        "Nadam": 1e-3,
        "power schedule": 2e-3,
        "exponential schedule": 1e-4,
        "piecewise schedule": 1e-3,
        "plateau": None,  # where it halves the rate depends on the draw
        "one cycle": 2.51e-3,
        "L1": 1e-2,
        "L2": 1e-2,
        "dropout": 1e-2,
        "MC dropout": 1e-2,
        "max-norm": 1e-2,
    }
    for name, rate in rates.items():
        accuracy, frozen, moved, _, found = said(f"{name}  ")
        assert accuracy > 0.75, name
        assert frozen == 0 < moved, name
        if rate:
            np.testing.assert_allclose(found, rate, rtol=1e-2, err_msg=name)


def frozen_dropout(said):
    with_dropout = {"desired": 2, "atol": 0.15}
    np.testing.assert_allclose(said("frozen by hand, fit:"), **with_dropout)
    assert said("frozen by hand, evaluate:") == [1]
    np.testing.assert_allclose(said("training ", count=6), **with_dropout)
    inference = said("inference ", count=6)
    assert inference[:3] == [1, 1, 1]
    np.testing.assert_allclose(inference[3:], **with_dropout)
    with_dropout, with_inference = (
        said(f"{n} ", count=3) for n in ("training", "inference")
    )
    assert with_inference[0] < with_dropout[0] - 0.2
    assert with_inference[1] > with_dropout[1] + 0.03
    ahead, starts = said("inference is ahead in")
    assert ahead > starts / 2


def unfreezing_without_collapse(said):
    assert said("A model that knows nothing has the loss log(5) =") == [1.6094]
    everything = "everything from the start              "
    rows = {
        "the write-up's": everything + "1e-03",
        "collapses": everything + "5e-03",
        "frozen": "frozen                                 5e-03",
        "postponed": "GradualUnfreeze                        5e-03",
        "lowered": "GradualUnfreeze, rate / 3 a stage      5e-03",
        "by group": "DiscriminativeLR                       5e-03",
        "both": "both                                   5e-03",
    }
    loss, accuracy, gradient = (
        dict(zip(rows, column, strict=True))
        for column in zip(*(said(row) for row in rows.values()), strict=True)
    )
    for name in ("collapses", "postponed"):
        np.testing.assert_allclose(loss[name], np.log(5), atol=0.02, err_msg=name)
        np.testing.assert_allclose(accuracy[name], 1 / 5, atol=0.05, err_msg=name)
    assert gradient["collapses"] < 1e-3
    assert 0.4 < accuracy["frozen"] < 0.65
    for name in ("lowered", "by group", "both"):
        assert accuracy[name] > accuracy["frozen"] + 0.15, name
        assert gradient[name] > 0.1, name
    assert accuracy["the write-up's"] > 0.85
    with_help = (accuracy[name] for name in ("lowered", "by group", "both"))
    assert max(with_help) < accuracy["the write-up's"] + 0.02


def weight_norms(said):
    # How the norms agree with those by hand is asserted in the notebook.
    conditional, sgd = (
        said(f"{name} ", count=2) for name in ("ConditionalGradient", "SGD")
    )
    assert conditional[0] > sgd[0] + 0.05
    assert conditional[1] > sgd[1] + 0.02
    first, tenth, last = said("ConditionalGradient ", count=3)
    assert tenth - first > 2 * abs(last - tenth)
    first, tenth, last = said("SGD ", count=3)
    assert tenth - first < (last - tenth) / 3


def uncertainty(said):
    among, gap, outside = (
        said(f"standard deviation {where}:")[0]
        for where in ("among the points", "in the gap", "outside")
    )
    assert among < gap < outside
    assert gap - among < outside - among
    assert said("accuracy on")[1] > 0.95
    ways = ("deterministic, 1 - max p", "predictive entropy", "mutual information")
    areas = [said(name)[0] for name in ways]
    assert min(areas) > 0.9
    assert max(areas) - min(areas) < 0.06
    plain, averaged = (said(f"{n} ", count=4) for n in ("deterministic", "Monte Carlo"))
    temperature, *tempered = said("Monte Carlo at temperature")
    assert temperature < 1
    # Likelihood and calibration: less certain by averaging, mostly repaired.
    for column in (1, 3):
        assert averaged[column] > plain[column] + 0.01
        worse, left = (way[column] - plain[column] for way in (averaged, tempered))
        assert left < worse / 2
    for name in ("deterministic", "Monte Carlo"):
        error, kept = said(f"{name}: error")
        assert kept < error / 2


CLAIMS = {
    "01_bias_only": bias_only,
    "02_transfer_learning": transfer_learning,
    "03_frozen_dropout": frozen_dropout,
    "04_unfreezing_without_collapse": unfreezing_without_collapse,
    "05_weight_norms": weight_norms,
    "06_uncertainty": uncertainty,
}
