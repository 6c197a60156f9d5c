"""Pitfalls of Keras on PyTorch: steps without graphs, fused updates, two flags."""

import collections
import types

import numpy as np
import pytest
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, TrainOnly
from keras_finetune._engine import backend, keras

if backend() != "torch":
    pytest.skip("for the backend torch", allow_module_level=True)

import torch
import torch._dynamo
import torch._inductor.config

from keras_finetune._engine.keras3 import rates as keras3_rates

DATA = reference.make_data(12)
GROUPS = ["low", "middle", "head"]


def compiled(optimizer=None, **kwargs):
    model = reference.make_model()
    return reference.compile_model(model, optimizer or "sgd", **kwargs)


def requires_grad(model):
    return {reference.path(v): v.value.requires_grad for v in model.weights}


# --- updates of all variables at once -------------------------------------------------


@pytest.mark.parametrize("cured", [True, False])
def test_state_without_a_variable_advances_once_a_step(cured, monkeypatch):
    """Each factor has an update call of its own, and Nadam's product is one for all."""
    if not cured:
        monkeypatch.setattr(
            keras3_rates, "State", lambda optimizer: types.SimpleNamespace(scalars={})
        )

    def product(callbacks):
        model = compiled(keras.optimizers.Nadam(0.01))
        # Built before, so that no state is carried over here.
        model.optimizer.build(model.trainable_variables)
        reference.fit(model, DATA, callbacks=callbacks)
        return reference.to_numpy(model.optimizer._u_product)

    ours = DiscriminativeLR(multipliers=[0.25, 0.5, 1.0], groups=GROUPS)
    assert (product([ours]) == product([])) == cured


def test_there_is_one_fused_update_for_each_factor(monkeypatch):
    calls = []
    optimizer = keras.optimizers.Adam(0.01)
    update = type(optimizer)._parallel_update_step

    def counted(self, grads, variables, learning_rate):
        calls.append(len(variables))
        return update(self, grads, variables, learning_rate)

    monkeypatch.setattr(type(optimizer), "_parallel_update_step", counted)
    rates = DiscriminativeLR(multipliers=[0.5, 1.0, 0.5], groups=GROUPS)
    reference.fit(compiled(optimizer), DATA, callbacks=[rates])
    assert calls == [4, 2] * 2


# --- `requires_grad` ------------------------------------------------------------------


def interrupt(batch, logs=None):
    raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize(
    "callback",
    [
        lambda: TrainOnly("bias"),
        lambda: DiscriminativeLR(multipliers=[0.0, 1.0, 1.0], groups=GROUPS),
    ],
)
def test_a_selection_leaves_the_flags_of_tensors_as_they_were(callback, interrupted):
    model = compiled()
    # By PyTorch's own means: Keras does not know.
    own = model.get_layer("middle").kernel.value
    own.requires_grad_(False)
    before = requires_grad(model)
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(requires_grad(model))
    )
    callbacks = [callback(), look]
    if interrupted:
        stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
        with pytest.raises(KeyboardInterrupt):
            reference.fit(model, DATA, callbacks=[*callbacks, stop])
    else:
        reference.fit(model, DATA, callbacks=callbacks)
    assert not seen[0]["low/kernel"]
    assert requires_grad(model) == before


@pytest.mark.parametrize("interrupted", [False, True])
def test_stages_end_with_flags_of_layers_and_tensors_that_agree(interrupted):
    model = compiled()
    model.get_layer("middle").bias.value.requires_grad_(False)
    callbacks = [GradualUnfreeze(groups=GROUPS, every=1)]
    if interrupted:
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: epoch == 1 and interrupt(epoch)
        )
        with pytest.raises(KeyboardInterrupt):
            reference.fit(model, DATA, epochs=3, callbacks=[*callbacks, stop])
    else:
        reference.fit(model, DATA, epochs=3, callbacks=callbacks)
    lit = {key for key, value in requires_grad(model).items() if value}
    kernels = {f"{name}/{part}" for name in GROUPS for part in ("kernel", "bias")}
    kernels -= {"middle/bias"}  # frozen for itself before
    assert lit == {k for k in kernels if not interrupted or "low" not in k}
    assert {reference.path(v) for v in model.trainable_variables} == lit


def test_a_module_of_torch_is_unfrozen_as_a_layer():
    keras.utils.set_random_seed(1)
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh())
    module[0].bias.requires_grad_(False)
    low = keras.layers.TorchModuleWrapper(module, name="low", output_shape=(None, 6))
    model = reference.compile_model(reference.make_model(body=[low]), "adam")
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(
            [parameter.detach().numpy().copy() for parameter in module.parameters()]
        )
    )
    start = [parameter.detach().numpy().copy() for parameter in module.parameters()]
    gradual = GradualUnfreeze(groups=["low", "head"], every=1)
    reference.fit(model, DATA, epochs=2, callbacks=[gradual, look])
    moved = [[np.any(a != b) for a, b in zip(one, start)] for one in seen]
    assert moved == [[False, False], [True, False]]


# --- the backward pass ----------------------------------------------------------------


def backward_nodes(model):
    """The nodes of the graph that the backward pass of one step walks."""
    logits = model(DATA[0][:6], training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    todo, seen = [loss(DATA[1][:6], logits).grad_fn], {}
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen[node] = node.name().split("::")[-1]
            todo += [inner for inner, _ in node.next_functions]
    return collections.Counter(seen.values())


def test_the_backward_pass_of_a_stage_is_that_of_a_model_frozen_by_hand():
    found = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: found.append(backward_nodes(model))
    )
    model = compiled()
    reference.fit(
        model, DATA, epochs=3, callbacks=[GradualUnfreeze(groups=GROUPS, every=1), look]
    )
    for stage, nodes in enumerate(found):
        other = compiled()
        for layer in other.layers:
            layer.trainable = layer.name in GROUPS[2 - stage :]
        assert nodes == backward_nodes(other)
    assert [nodes["AccumulateGrad"] for nodes in found] == [2, 4, 6]


# --- torch.compile --------------------------------------------------------------------


@pytest.fixture
def fresh_compiler():
    """Forgets what was compiled: PyTorch gives up on a function after eight times."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def fit_twice(**kwargs):
    """Stages with rates, then other rates: what is compiled must follow."""
    keras.utils.set_random_seed(1)
    body = [keras.layers.Dense(4, activation="tanh", name="low")]
    model = reference.compile_model(
        reference.make_model(body=body), keras.optimizers.SGD(0.1), **kwargs
    )
    groups = ["low", "head"]
    rates = DiscriminativeLR(multipliers=[0.25, 0.5], groups=groups)
    stages = GradualUnfreeze(groups=groups, every=1)
    reference.fit(model, DATA, epochs=2, callbacks=[stages, rates])
    rates = DiscriminativeLR(multipliers=[0.125, 1.0], groups=groups)
    reference.fit(model, DATA, callbacks=[rates])
    return reference.weights(model)


@pytest.mark.skipif(not reference.can_compile(), reason="there is no C++ compiler")
def test_compiled_steps_follow_stages_and_rates(fresh_compiler):
    fast, plain = fit_twice(jit_compile=True), fit_twice()
    assert fresh_compiler["stats"]["unique_graphs"] > 0
    # The compiler may fuse a product and a sum.
    assert reference.difference(fast, plain) < 1e-6


@pytest.mark.parametrize("ours", [False, True])
def test_without_a_compiler_it_fails_as_keras_does(
    ours, fresh_compiler, monkeypatch, tmp_path
):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = compiled(jit_compile=True)
    start, attributes = reference.weights(model), set(vars(model))
    callbacks = [
        GradualUnfreeze(groups=GROUPS, every=1),
        DiscriminativeLR(groups=GROUPS),
    ]
    no_compiler = {"cpp.cxx": ("there-is-none",), "force_disable_caches": True}
    with torch._inductor.config.patch(no_compiler):
        with pytest.raises(Exception, match="No working C\\+\\+ compiler"):
            reference.fit(model, DATA, callbacks=callbacks if ours else [])
    assert reference.difference(reference.weights(model), start) == 0
    assert "make_train_function" not in set(vars(model)) - attributes
