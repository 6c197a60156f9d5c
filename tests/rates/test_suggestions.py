"""Smoothing and suggestions, against fastai's rules written out, and at their ends."""

import json
from pathlib import Path

import numpy as np
import pytest

from keras_finetune.rates import RateSearch, _suggestions

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
RATES = np.array(_suggestions.rising(1e-7, 10.0, 100))


def curve(noise=0.0, seed=0):
    """A loss that falls from 2 to 1 around a rate of 1e-3 and explodes above 1."""
    t = np.log10(RATES)
    losses = 1 + 1 / (1 + np.exp(3 * (t + 3))) + np.exp(3 * t)
    return losses + noise * np.random.default_rng(seed).normal(size=len(losses))


# --- the rules of fastai 2.8, as its source has them ----------------------------------


def fastai_valley(rates, losses):
    n = len(losses)
    longest = [1] * n
    max_start, max_end = 0, 0
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
            if longest[max_end] < longest[i]:
                max_end = i
                max_start = max_end - longest[max_end]
    sections = (max_end - max_start) / 3
    return rates[max_start + int(sections) + int(sections / 2)]


def fastai_steep(rates, losses):
    slopes = [
        (losses[i + 1] - losses[i]) / (np.log(rates[i + 1]) - np.log(rates[i]))
        for i in range(len(losses) - 1)
    ]
    return rates[slopes.index(min(slopes))]


def fastai_minimum(rates, losses):
    return rates[list(losses).index(min(losses))] / 10


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("valley", fastai_valley),
        ("steepest", fastai_steep),
        ("minimum", fastai_minimum),
    ],
)
def test_rules_are_those_of_fastai(name, rule, seed):
    losses = curve(noise=0.05, seed=seed)
    found = RateSearch.of(RATES, losses)
    rates, smoothed = RATES[10:-5], found.smoothed[10:-5]
    assert found.suggestions[name] == pytest.approx(rule(rates, smoothed), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_network_that_has_broken_down_suggests_nothing(seed):
    losses = curve(noise=0.02, seed=seed)
    broken = np.where((RATES > 0.05) & (RATES < 0.5), 4.0, losses)
    broken[(RATES >= 0.5) & (RATES < 3)] = 0.9  # lower than where it had learned
    # Nine tenths of the fall are made at 5e-3.
    for one in (losses, broken):
        assert 2e-3 < RateSearch.of(RATES, one).suggestion < 2e-2


def test_the_valley_of_a_fixed_curve():
    losses = np.array([5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 1.0, 6.0, 7.0])
    rates = np.arange(1.0, 10.0)
    # The longest falling subsequence ends at 1.0, index 6, and has 5 members; it is
    # said to start at 6 - 5 = 1: 1 + int(5/3) + int(5/6) = 2.
    assert _suggestions.valley(rates, losses) == 3.0 == fastai_valley(rates, losses)


def test_rates_rise_as_in_fastai():
    expected = [1e-7 * (10 / 1e-7) ** (i / 100) for i in range(100)]
    np.testing.assert_allclose(RATES, expected, rtol=1e-14)


def test_the_average_is_debiased():
    average, losses = 0.0, [3.0, 1.0, 4.0, 1.0, 5.0]
    expected = []
    for i, loss in enumerate(losses, 1):
        average = 0.98 * average + 0.02 * loss
        expected.append(average / (1 - 0.98**i))
    np.testing.assert_allclose(_suggestions.smoothed(losses), expected, rtol=1e-12)


# --- where there is no answer ---------------------------------------------------------


def test_a_loss_of_nan_from_the_first_batch_on_says_so():
    found = RateSearch.of([1e-3], [np.nan], steps=20)
    assert found.suggestion is None
    assert "first batch is not finite" in found.reason


@pytest.mark.parametrize("n", range(1, 14))
def test_few_points_give_a_reason_and_never_an_exception(n):
    found = RateSearch.of(RATES[:n], curve()[:n], steps=100)
    assert found.suggestion is None
    assert not found.suggestions
    assert found.reason is not None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1, 10, 30, 97, 99])
def test_losses_that_are_not_finite_are_left_out(wrong, at):
    losses = curve()
    losses[at:] = wrong
    found = RateSearch.of(RATES, losses)
    if at <= 30:
        assert found.suggestion is None
    else:
        assert 1e-5 < found.suggestion < 1


def test_a_loss_that_does_not_fall_gives_none():
    noise = np.random.default_rng(0).normal(size=100)
    for losses in (1 + 0.1 * noise, np.full(100, 2.0), np.linspace(1, 3, 100)):
        found = RateSearch.of(RATES, losses)
        assert found.suggestion is None
        assert "does not fall" in found.reason


def test_noise_rarely_looks_like_a_fall():
    rng = np.random.default_rng(0)
    found = [RateSearch.of(RATES, rng.normal(5, 1, size=100)) for _ in range(50)]
    assert sum(one.suggestion is not None for one in found) <= 5


def test_a_loss_that_still_falls_at_the_end_gives_none():
    found = RateSearch.of(RATES, 2 - np.arange(100) / 100)
    assert found.suggestion is None
    assert "higher `end`" in found.reason


def test_a_baseline_of_the_same_batches_takes_their_noise_away():
    hard = np.random.default_rng(1).normal(size=100)
    clean = RateSearch.of(RATES, curve(), np.full(100, curve()[0]))
    paired = RateSearch.of(RATES, curve() + hard, hard + curve()[0])
    assert paired.suggestion == pytest.approx(clean.suggestion, rel=1e-9)
    assert RateSearch.of(RATES, curve() + hard).suggestion is None


@pytest.mark.parametrize("spread", [0.35, 0.7])
def test_batches_of_very_different_hardness_change_little(spread):
    clean = RateSearch.of(RATES, curve(), np.full(100, curve()[0])).suggestion
    for seed in range(20):
        hard = np.exp(spread * np.random.default_rng(seed).normal(size=100))
        found = RateSearch.of(RATES, hard * curve(), hard * curve()[0])
        assert clean / 3 < found.suggestion < clean * 3


def test_noise_that_comes_with_the_rate_rarely_looks_like_a_fall():
    count = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        hard = np.exp(0.5 * rng.normal(size=100))
        noise = 0.03 * np.linspace(0, 1, 100) * rng.normal(size=100)
        losses = hard * (1 + noise + np.exp(3 * np.log10(RATES)))
        count += RateSearch.of(RATES, losses, hard).suggestion is not None
    assert count <= 5


def test_where_a_network_has_broken_down_the_baseline_says_nothing():
    # A new head on large features: losses near 15, and 2.3 from where all is lost. The
    # difference to the baseline alone says other rates, by up to 5 times.
    for seed in range(6):
        rng = np.random.default_rng(seed)
        hard = 15 + 3 * rng.normal(size=100)
        left = 1 / (1 + np.exp(3 * (np.arange(100) - 50) / 10))
        losses = 2.3 + (hard - 2.3) * left + 0.05 * rng.normal(size=100)
        losses += np.maximum(0, np.arange(100) - 90)  # and then it explodes
        found = RateSearch.of(RATES, losses, hard)
        assert RATES[59] < found.suggestion < RATES[62]


def test_photographs_are_not_trained_where_the_network_is_lost():
    kept = json.loads((RESULTS / "find_rate_clothes.json").read_text())
    for case in kept["curves"]:
        names = ("rates", "losses", "baseline")
        found = RateSearch.of(*(case[name] for name in names), steps=case["steps"])
        assert (
            1e-4 < found.suggestion < 5e-4
        )  # from 1e-3 on the loss is that of a guess


def test_a_baseline_that_is_not_finite_is_no_crash():
    for at in (0, 12, 30):
        baseline = np.full(100, curve()[0])
        baseline[at] = np.nan
        found = RateSearch.of(RATES, curve(), baseline)
        assert (found.suggestion is None) == (found.reason is not None)


def test_a_baseline_of_other_batches_is_not_used():
    rng = np.random.default_rng(1)
    losses = curve() + 0.3 * rng.normal(size=100)
    found = RateSearch.of(RATES, losses, curve() + 0.3 * rng.normal(size=100))
    assert found.suggestion == RateSearch.of(RATES, losses).suggestion is not None


# --- what is shown --------------------------------------------------------------------


def test_it_says_what_it_suggests():
    assert "ours" in repr(RateSearch.of(RATES, curve()))
    short = repr(RateSearch.of(RATES[:11], curve()[:11]))
    assert "no suggestion: 5 points" in short


@pytest.mark.slow
@pytest.mark.parametrize("losses", [curve(), np.full(100, np.nan), curve() * 0])
def test_it_is_drawn(losses, tmp_path):
    found = RateSearch.of(RATES, losses)
    figure = found.plot()
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[:2] == ["loss of a batch", "smoothed"]
    assert len(labels) == 2 + len(found.suggestions)
    figure.savefig(tmp_path / "found.png")
