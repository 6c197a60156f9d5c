"""Every public name reads alike: one walk over all of them, whatever they are.

A new public name is covered from its first commit on. `VALID` may need an entry where
it has a required argument of a new name.
"""

import ast
import copy
import doctest
import importlib
import inspect
import json
import pickle
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_finetune
from keras_finetune._engine import keras

ROOT = Path(__file__).resolve().parents[1]

# The order of a docstring's sections; the first line and the prose come before them.
SECTIONS = (
    "Args",
    "Attributes",
    "Call arguments",
    "Input shape",
    "Output shape",
    "Returns",
    "Yields",
    "Raises",
    "Example",
    "References",
)


def small_model():
    return keras.Sequential(
        [
            keras.layers.Dense(4, activation="relu", name="body"),
            keras.layers.Dropout(0.5, seed=1, name="noise"),
            keras.layers.Dense(2, name="head"),
        ]
    )


def built_model():
    model = small_model()
    model.build((None, 3))
    return model


# By the name of a required argument: what makes a valid one.
VALID = {
    "layer": lambda: keras.layers.Dense(2),
    "learning_rate": lambda: 0.1,
    "model": built_model,
    "rate": lambda: 0.5,
    "select": lambda: "bias",
    "sources": lambda: {"loss": [1.0]},
    "stddev": lambda: 0.5,
    "x": lambda: np.zeros((2, 3), "float32"),
}

# Result objects: the package makes them, users read them.
RESULTS = {"CachedFeatures", "LayerGroup", "LayerGroups", "MCPrediction", "RateSearch"}


class Wrong:
    """A value that no argument accepts."""

    def __repr__(self):
        return "<a wrong value>"


def public_modules():
    """The modules that users import from: the package and what lies directly in it."""
    yield keras_finetune
    for found in pkgutil.iter_modules(keras_finetune.__path__):
        if not found.name.startswith("_"):
            yield importlib.import_module(f"keras_finetune.{found.name}")


def public_objects():
    """Our classes and functions that a public `__all__` names, each once."""
    objects = {}
    for module in public_modules():
        for name in getattr(module, "__all__", ()):
            try:
                value = getattr(module, name)
            except ImportError:
                # A name that this lane lacks a package for.
                continue
            ours = getattr(value, "__module__", "").startswith("keras_finetune")
            if ours and (inspect.isclass(value) or inspect.isfunction(value)):
                objects[name] = value
    return objects


OBJECTS = public_objects()
CLASSES = {name: value for name, value in OBJECTS.items() if inspect.isclass(value)}
KERAS_BASES = (
    keras.layers.Layer,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
)
SERIALIZED = {n: c for n, c in CLASSES.items() if issubclass(c, KERAS_BASES)}
MADE_BY_USERS = {n: o for n, o in OBJECTS.items() if n not in RESULTS}


def over(objects):
    return pytest.mark.parametrize(
        "public", [pytest.param(value, id=name) for name, value in objects.items()]
    )


def parameters(public):
    """The parameters that a user passes, without `self`, `*args` and `**kwargs`."""
    try:
        found = inspect.signature(public).parameters.values()
    except ValueError:
        return []
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def own_parameters(public):
    """Those that Keras does not check for us, because its class does not have them."""
    if not inspect.isclass(public):
        return parameters(public)
    inherited = set()
    for base in public.__mro__[1:]:
        if base.__module__.partition(".")[0] in ("keras", "tf_keras"):
            inherited |= set(inspect.signature(base.__init__).parameters)
    return [p for p in parameters(public) if p.name not in inherited | {"name"}]


def many(public):
    """The name of the argument that takes any number of values, if there is one."""
    every = inspect.signature(public).parameters.values()
    return [p.name for p in every if p.kind is inspect.Parameter.VAR_POSITIONAL]


def required(public):
    return [p for p in parameters(public) if p.default is inspect.Parameter.empty]


def valid_arguments(public):
    unknown = [p.name for p in required(public) if p.name not in VALID]
    if unknown:
        pytest.fail(f"VALID in {Path(__file__).name} has no entry for {unknown}")
    return {p.name: VALID[p.name]() for p in required(public)}


def sections(docstring):
    """The text of each section by its title; `""` is the text before them all."""
    found, title = {"": []}, ""
    for line in inspect.cleandoc(docstring).splitlines():
        heading = re.fullmatch(r"([A-Z][A-Za-z ]+):", line)
        if heading:
            title = heading.group(1)
            found[title] = []
        else:
            found[title].append(line)
    return {title: "\n".join(lines) for title, lines in found.items()}


# Docstrings


@over(OBJECTS)
def test_docstring_has_its_sections_in_order(public):
    assert public.__doc__, "no docstring"
    titles = [title for title in sections(public.__doc__) if title]
    assert [title for title in titles if title not in SECTIONS] == []
    assert titles == sorted(titles, key=SECTIONS.index)


@over(OBJECTS)
def test_docstring_begins_with_a_summary_line(public):
    summary, *rest = inspect.cleandoc(public.__doc__).splitlines()
    assert summary.endswith((".", "?", "!"))
    assert not rest or rest[0] == ""


@over(MADE_BY_USERS)
def test_docstring_documents_each_argument(public):
    text = sections(public.__doc__).get("Args", "")
    documented = re.findall(r"^    \*{0,2}(\w+)(?:, (\w+))*:", text, re.MULTILINE)
    documented = {name for names in documented for name in names if name}
    anonymous = {"kwargs", "args", *many(public)}
    assert documented - anonymous == {p.name for p in parameters(public)}


@over(OBJECTS)
def test_example_shows_a_value(public):
    example = sections(public.__doc__).get("Example")
    if example is None:
        pytest.skip("no example")
    assert ">>>" in example
    runs = doctest.DocTestParser().get_examples(example)
    assert any(run.want for run in runs)


@over(OBJECTS)
def test_examples_run(public, monkeypatch):
    # `import keras` in an example means the Keras of its reader.
    monkeypatch.setitem(sys.modules, "keras", keras)
    finder = doctest.DocTestFinder(recurse=inspect.isclass(public))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(verbose=False, optionflags=flags)
    report = []
    namespace = {"keras": keras, "keras_finetune": keras_finetune, "np": np, **OBJECTS}
    module = inspect.getmodule(public)
    for test in finder.find(public, module=module, globs=namespace):
        runner.run(test, out=report.append)
    if not runner.tries:
        pytest.skip("no example")
    assert runner.failures == 0, "".join(report)


# Arguments


def wrong_argument_cases():
    for name, public in MADE_BY_USERS.items():
        for parameter in own_parameters(public):
            yield pytest.param(public, parameter.name, id=f"{name}-{parameter.name}")


@pytest.mark.parametrize(("public", "argument"), wrong_argument_cases())
def test_a_wrong_argument_is_named_with_its_value(public, argument):
    arguments = {p.name: VALID.get(p.name, Wrong)() for p in required(public)}
    arguments[argument] = Wrong()
    with pytest.raises((TypeError, ValueError)) as caught:
        use(public, arguments)
    message = str(caught.value)
    # Required arguments that `VALID` does not know are wrong too.
    wrong = [name for name, value in arguments.items() if isinstance(value, Wrong)]
    assert any(f"`{name}`" in message for name in wrong), message
    assert "Received" in message
    # The value, or the type where a value tells nothing (a model).
    assert repr(Wrong()) in message or Wrong.__name__ in message


def use(public, arguments):
    made = public(*(VALID[name]() for name in many(public)), **arguments)
    if not isinstance(made, keras.callbacks.Callback):
        return
    # What cannot be checked without the model is refused before training starts.
    model = built_model()
    model.compile("sgd", "mse")
    before = model.get_weights()
    try:
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0, callbacks=[made])
    finally:
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)


# Configurations


@over(SERIALIZED)
def test_config_makes_the_same_object(public):
    made = public(**valid_arguments(public))
    config = json.loads(json.dumps(made.get_config()))
    again = public.from_config(config)
    assert type(again) is public
    assert again.get_config() == made.get_config()
    for parameter in own_parameters(public):
        assert parameter.name in config


@over(SERIALIZED)
def test_registered_class_is_found_by_its_name(public):
    registered = keras.saving.get_registered_name(public)
    assert registered == f"keras_finetune>{public.__name__}"
    assert keras.saving.get_registered_object(registered) is public


def test_nothing_else_is_registered():
    registered = keras.saving.get_custom_objects()
    ours = {n: c for n, c in registered.items() if n.startswith("keras_finetune>")}
    kinds = (*KERAS_BASES, keras.callbacks.Callback)
    wrong = [n for n, c in ours.items() if not issubclass(c, kinds)]
    assert wrong == []


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize(
    "callback",
    [
        keras_finetune.DiscriminativeLR(multipliers={"head": 2.0}),
        keras_finetune.GradualUnfreeze(monitor="loss", patience=1),
        keras_finetune.OneCycle(0.3, momentum=(0.9, 0.8, 0.9)),
        keras_finetune.TrainOnly("bias"),
        keras_finetune.TrainOnly("head/kernel$"),
        keras_finetune.TrainOnly(callable),
        keras_finetune.WeightNormLogger(select="kernel", frequency=2, updates=True),
    ],
)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickled])
def test_a_copy_of_a_callback_is_of_its_own(callback, copied):
    model = built_model()
    model.compile("sgd", "mse")
    other = copied(callback)
    other.set_model(model)
    assert other.model is model
    assert callback.model is None
    assert "_run" not in vars(callback)
    assert other.get_config() == callback.get_config()
    # Nothing has begun: there is no `fit`.
    assert "load_own_variables" not in vars(model.optimizer)
    assert "make_train_function" not in vars(model)


# Files


def test_callbacks_stay_small():
    # Past twice the length to aim at, a helper wants its own file.
    for path in Path(keras_finetune.__file__).parent.glob("callbacks/*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def test_only_the_engine_asks_which_keras_runs():
    package = Path(keras_finetune.__file__).parent
    for path in package.rglob("*.py"):
        if "_engine" in path.relative_to(package).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name, asks = node.func, {"backend"}
            else:
                name, asks = node, {"KERAS_3"}
            assert getattr(name, "attr", getattr(name, "id", None)) not in asks, path


def test_the_reference_has_every_public_name():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    described = {
        path.rsplit(".", 1)[-1]
        for page in pages
        for path in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.M)
    }
    assert set(OBJECTS) - described == set()


def test_the_cheat_sheet_has_every_public_name():
    page = (ROOT / "docs" / "cheat_sheet.md").read_text(encoding="utf-8")
    assert set(OBJECTS) - set(re.findall(r"\w+", page)) == set()
