"""The demo: what `make demo` runs, and what it says of its numbers."""

import importlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def example(monkeypatch):
    """Import a module of examples/ as a script there does."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.backend("tensorflow")
def test_the_demo_prints_short_lines_one_table_and_one_sentence(
    example, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    demo = example("fine_tune")
    out = Path("figure.png")
    demo.report(example("tasks").digits(epochs=4, seeds=1, pretraining=1), out)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) < 80
    assert sum(line.startswith("test accuracy") for line in lines) == 1
    table = lines.index(next(x for x in lines if x.startswith("test accuracy")))
    assert [line[:22].strip() for line in lines[table + 1 : table + 5]] == [*demo.WAYS]
    assert "At the rate 0.1 ours is" in " ".join(lines[-3:])
    assert out.stat().st_size > 10_000


def results(demo, accuracies, tested=400):
    """What `compare` returns, with (careful, high) accuracies for each way."""
    task = demo.Task("", None, None, rates=(0.01, 0.1), batch_size=1, epochs=1, seeds=1)
    found = demo.Results(task, tested)
    for way, row in zip(demo.WAYS, accuracies):
        for rate, accuracy in zip(task.rates, row):
            found.fits[way, rate] = [(accuracy, 5.0)]
    return found


@pytest.mark.parametrize(
    ("everything", "two_fits", "ours", "at_high", "at_best"),
    [
        ((0.5, 0.1), (0.6, 0.2), (0.8, 0.8), "70 points better", "20 points better"),
        ((0.5, 0.8), (0.6, 0.2), (0.5, 0.1), "70 points worse", "30 points worse"),
        ((0.8, 0.6), (0.6, 0.2), (0.79, 0.63), "not clearly", "not clearly"),
        ((0.8, 0.1), (0.6, 0.2), (0.2, 0.6), "50 points better", "20 points worse"),
    ],
)
def test_the_last_sentence_claims_what_the_numbers_show(
    example, everything, two_fits, ours, at_high, at_best
):
    demo = example("fine_tune")
    said = demo.gained(results(demo, [everything, (0.3, 0.3), two_fits, ours]))
    first, second = said.split(";")
    assert at_high in first
    assert at_best in second
    rival = "everything" if max(everything) > max(two_fits) else "two fits"
    assert f"the best other way, {rival}" in second


def test_seeds_that_disagree_make_a_gain_unclear(example):
    demo = example("fine_tune")
    found = results(demo, [(0.5, 0.5), (0.3, 0.3), (0.4, 0.4), (0.7, 0.7)])
    assert "20 points better than training everything" in demo.gained(found)
    for rate in found.rates:
        found.fits[demo.OURS, rate] = [(0.4, 5.0), (1.0, 5.0)]
    assert "not clearly different from training everything" in demo.gained(found)


def test_a_missing_file_is_named(example, tmp_path):
    with pytest.raises(SystemExit, match=r"clothing128\.npz is missing: see docs/demo"):
        example("tasks").photographs(tmp_path)


@pytest.mark.slow
@pytest.mark.once
def test_photographs_and_weights_are_converted(example, tmp_path):
    tasks, convert = example("tasks"), example("convert_clothing")
    rng = np.random.default_rng(0)
    for i, part in enumerate(("train", "validation", "test")):
        for j, kind in enumerate(("dress", "hat")):
            folder = tmp_path / "clothes" / part / kind
            folder.mkdir(parents=True)
            # The left third of a wide image is red: it is cropped away.
            color = np.full((60, 90, 3), 40 * (i + 2 * j), "uint8")
            color[:, :15] = (255, 0, 0)
            Image.fromarray(color).save(folder / "1.jpg", quality=95)
    made = convert.convert_photographs(tmp_path / "clothes")
    np.savez(tmp_path / "clothing128.npz", **made)
    x, y, part = tasks.read_clothing(tmp_path / "clothing128.npz")
    assert list(made["classes"]) == ["dress", "hat"]
    assert part.tolist() == [0, 0, 1, 1, 2, 2]
    assert y.tolist() == [0, 1] * 3
    colors = np.array([40 * (i + 2 * j) for i in range(3) for j in range(2)])
    middle = (x + np.array(tasks.MEAN_COLOR))[:, 20:-20, 20:-20]
    assert np.abs(middle - colors[:, None, None, None]).max() < 4

    # Named as in the file of the weights: `fire2/squeeze1x1`; its classifier `conv10`.
    wanted = {}
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["conv10/conv10/kernel:0"] = np.zeros((1, 1, 8, 5))
        for layer in tasks.squeezenet({}, classes=2).layers:
            if layer.name.startswith(("conv", "fire")) and layer.weights:
                name = layer.name.replace("_", "/")
                for kind, weight in zip(("kernel", "bias"), layer.get_weights()):
                    array = rng.normal(size=weight.shape).astype("float32")
                    file[f"{name}/{name}/{kind}:0"] = array
                    wanted[layer.name, kind] = array
    model = tasks.squeezenet(convert.convert_weights(tmp_path / "weights.h5"), 2)
    assert len(wanted) == 50
    for (name, kind), array in wanted.items():
        found = model.get_layer(name).get_weights()[kind == "bias"]
        np.testing.assert_array_equal(found, array)
