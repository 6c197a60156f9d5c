"""What every test starts from: quiet frameworks, seeds, data, markers for lanes."""

import gc
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

# Read once, when TensorFlow is loaded.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "keras-finetune", deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("keras-finetune")

FRAMEWORKS = ("keras", "tf_keras", "tensorflow", "tensorflow_addons", "jax", "torch")


def _version(name):
    try:
        return importlib.metadata.version(name.replace("_", "-"))
    except importlib.metadata.PackageNotFoundError:
        return None


def pytest_report_header():
    found = {name: _version(name) for name in ("keras-finetune", *FRAMEWORKS, "numpy")}
    return "versions: " + ", ".join(f"{k} {v}" for k, v in found.items() if v)


def pytest_configure(config):
    # JAX compiles for most of the time: what tests of one run compile alike is compiled
    # once, such as the step of a stage and that of a model frozen by hand.
    compiled = tempfile.TemporaryDirectory(prefix="keras-finetune-")
    config.add_cleanup(compiled.cleanup)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled.name)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def pytest_sessionstart():
    if "TOX_ENV_NAME" not in os.environ:
        return
    origin = Path(importlib.util.find_spec("keras_finetune").origin).resolve()
    installed = Path(sysconfig.get_path("purelib")).resolve()
    if not origin.is_relative_to(installed):
        raise pytest.UsageError(
            "A lane tests the installed wheel. "
            f"Received: keras_finetune from {origin}, not from {installed}"
        )


# Of a parametrized test each lane runs one case, every lane another one where there are
# enough, so that all lanes fit into the time of a review; those of `ONCE` run all cases
# of fast tests. `--all-cases` leaves nothing out, here and below.
LANES = (
    *("keras3-tensorflow", "keras2-addons", "keras3-jax"),
    *("keras3-oldest", "keras3-torch", "tf-keras"),
)
# The lanes, one of each Keras, of tests that are marked `once`.
ONCE = ("keras3-tensorflow", "keras2-addons")
# Twins of those, there for what a release changes: of the slow tests they run the ones
# that compare with fine-tuning by hand, and those of how a `fit` ends.
TWINS = ("keras3-oldest", "tf-keras")
FOR_TWINS = ("seeds", "test_resume", "_exact", "test_failed_fit", "test_stale_steps")


def pytest_addoption(parser):
    parser.addoption(
        "--all-cases",
        action="store_true",
        help="all tests with all their cases; a lane leaves some out",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    lane = os.environ.get("KERAS_FINETUNE_LANE", os.environ.get("TOX_ENV_NAME"))
    kept = items
    if lane in (*LANES, "check") and not config.getoption("all_cases"):
        if lane in LANES and lane not in ONCE:
            kept = [item for item in kept if not item.get_closest_marker("once")]
        if lane in TWINS:
            kept = [item for item in kept if _is_for_twins(item)]
        chosen = _one_of_each(kept, lane)
        kept = [item for item in kept if item in chosen]
    config.hook.pytest_deselected(items=list(set(items) - set(kept)))
    items[:] = kept


def _is_for_twins(item):
    file, slow = item.nodeid.partition("::")[0], item.get_closest_marker("slow")
    return not slow or any(part in file for part in FOR_TWINS)


def _one_of_each(items, lane):
    """Of each test one case that can run here, farther down the list lane by lane."""
    cases, chosen = {}, set()
    for item in items:
        if lane in ONCE and not item.get_closest_marker("slow"):
            chosen.add(item)
        else:
            test = (item.path, item.nodeid.partition("[")[0])
            cases.setdefault(test, []).append(item)
    for some in cases.values():
        some = [item for item in some if not _why_not_here(item)] or some
        lanes = ONCE if some[0].get_closest_marker("once") else LANES
        place = lanes.index(lane) if lane in lanes else len(lanes) // 2
        chosen.add(some[(2 * place + 1) * len(some) // (2 * len(lanes))])
    return chosen


def pytest_collection_finish():
    # Keras and its backend are loaded by now, half a million objects that stay: no
    # collection has to walk them again.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item):
    if reason := _why_not_here(item):
        pytest.skip(reason)


def _why_not_here(item):
    """Why the markers of a test say that it does not run here; `None` if they don't."""
    names = {mark.name for mark in item.iter_markers()}
    if not names & {"keras2", "keras3", "backend", "addons"}:
        return None
    from keras_finetune import _engine

    if "keras2" in names and _engine.KERAS_3:
        return "for Keras 2"
    if "keras3" in names and not _engine.KERAS_3:
        return "for Keras 3"
    for mark in item.iter_markers("backend"):
        if _engine.backend() not in mark.args:
            return f"for the backends {mark.args}"
    if "addons" in names and _version("tensorflow-addons") is None:
        return "for TensorFlow Addons"
    return None


def _loaded_keras():
    """The user's Keras where a test has loaded it: pure tests do without."""
    engine = sys.modules.get("keras_finetune._engine")
    return engine.keras if engine else None


@pytest.fixture(autouse=True)
def seeds():
    """The same random numbers in every test, in any order."""
    np.random.seed(0)
    if keras := _loaded_keras():
        keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def clear_session():
    """Let go of a file's models and graphs."""
    yield
    if keras := _loaded_keras():
        keras.backend.clear_session()


@pytest.fixture(scope="session")
def data_directory():
    """The folder with data that is too large for this repository, or `None`."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("KERAS_FINETUNE_DATA", default))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def digits(data_directory):
    """Real handwritten digits: images `(n, h, w, 1)` in [0, 1] and labels 0 to 9.

    MNIST's 10,000 test images of 28 by 28 pixels where the data folder has them, else
    the 1,797 images of 8 by 8 pixels that come with scikit-learn.
    """
    if data_directory and (data_directory / "mnist10k.npz").is_file():
        with np.load(data_directory / "mnist10k.npz") as arrays:
            images, labels, white = arrays["x"], arrays["y"], 255.0
    else:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images, labels, white = bunch.images, bunch.target, 16.0
    images = (images / white).astype("float32")[..., np.newaxis]
    return images, labels.astype("int64")
