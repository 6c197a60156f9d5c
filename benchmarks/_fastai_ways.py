"""fastai beside us: the same network, weights, images, epochs and rates."""

from __future__ import annotations

import math
import random
import time
from functools import partial

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.metrics import accuracy
from fastai.optimizer import Optimizer, average_grad, average_sqr_grad, step_stat
from torch import nn

EPOCHS, STAGE, STEPS = 10, 2, 10
PARTS = ("train", "validation", "test")


def loaders(train, validation, batch_size):
    class Rows(torch.utils.data.TensorDataset):
        pass

    def loader(x, y, **kwargs):
        rows = Rows(torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(y))
        return DataLoader(rows, num_workers=0, **kwargs)

    return DataLoaders(
        loader(*train, bs=batch_size, shuffle=True),
        loader(*validation, bs=1000),
        device="cpu",
    )


def network(weights):
    """The blocks of `_transfer.network`, each a group of layers."""
    blocks = []
    kernels, biases = weights[0::2], weights[1::2]
    for i, (kernel, bias) in enumerate(zip(kernels[:-1], biases)):
        conv = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
        conv.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
        conv.bias.data = torch.tensor(bias)
        last = i == len(kernels) - 2
        after = nn.AdaptiveAvgPool2d(1) if last else nn.MaxPool2d(2)
        blocks.append(nn.Sequential(conv, nn.ReLU(), after))
    head = nn.Linear(*kernels[-1].shape)
    head.weight.data = torch.tensor(kernels[-1].T.copy())
    head.bias.data = torch.tensor(biases[-1])
    return nn.Sequential(*blocks, nn.Sequential(nn.Flatten(), head))


def groups(model):
    return [list(block.parameters()) for block in model if list(block.parameters())]


def full(learn, rate):
    learn.fit_one_cycle(EPOCHS, rate)


def by_stage(learn, rate):
    for stage in range(1, 4):
        learn.freeze_to(-stage)
        learn.fit_one_cycle(STAGE, slice(rate / 2.6**3, rate))
    learn.unfreeze()
    learn.fit_one_cycle(EPOCHS - 3 * STAGE, slice(rate / 2.6**3, rate))


def fine_tune(learn, rate):
    learn.fine_tune(EPOCHS - STAGE, rate, freeze_epochs=STAGE)


def slanted(done, top, steps=EPOCHS * STEPS, cut_frac=0.1, ratio=32):
    """The rate of `_transfer.SlantedTriangular`, after a fraction of the steps."""
    cut = math.floor(steps * cut_frac)
    step = done * steps
    least = min(step / cut, 1 - (step - cut) / (steps - cut))
    return top * (1 + least * (ratio - 1)) / ratio


def keras_step(p, lr, mom, step, sqr_mom, grad_avg, sqr_avg, eps, **kwargs):
    # fastai adds epsilon to the root of the corrected average, as Algorithm 1 of the
    # paper does, Keras before the correction. Small gradients feel it in early steps.
    rate = lr * math.sqrt(1 - sqr_mom**step) / (1 - mom**step)
    p.data.addcdiv_(grad_avg, sqr_avg.sqrt() + eps, value=-rate)


def keras_adam(params, lr):
    """Adam with the defaults of Keras."""
    averages = [partial(average_grad, dampening=True), average_sqr_grad]
    steps = [*averages, step_stat, keras_step]
    return Optimizer(params, steps, lr=lr, mom=0.9, sqr_mom=0.999, eps=1e-7)


def same_schedule(learn, rate):
    """The arm "full" of Keras: its schedule and its optimizer."""
    learn.opt_func = keras_adam
    schedule = ParamScheduler({"lr": partial(slanted, top=rate)})
    learn.fit(EPOCHS, rate, cbs=schedule)


ARMS = {
    "fastai, full, one cycle": full,
    "fastai, a fit a stage": by_stage,
    "fastai, fine_tune": fine_tune,
    "fastai, full, same schedule": same_schedule,
}


def learner(model, data, **kwargs):
    kwargs.setdefault("metrics", accuracy)
    learn = Learner(
        data, model, nn.CrossEntropyLoss(), splitter=groups, wd=0.0, **kwargs
    )
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda row: None
    return learn


RATES = (0.003, 0.01, 0.03, 0.1, 0.3)  # as in `_transfer`


def study(seeds, folder, arms=None, rates=RATES):
    """Every arm on every task that the study of Keras left in `folder`."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            arrays = dict(arrays)
        if arrays["seed"] not in seeds:
            continue
        parts = {p: (arrays[f"{p}_x"], arrays[f"{p}_y"]) for p in PARTS}
        weights = [arrays[f"weight{i}"] for i in range(8)]
        task, seed = str(arrays["task"]), int(arrays["seed"])
        images = torch.tensor(np.moveaxis(parts["test"][0], -1, 1).copy())
        print(f"{task}, seed {seed}", flush=True)
        for name, arm in ARMS.items():
            if arms is not None and name not in arms:
                continue
            for rate in rates:
                torch.manual_seed(seed)
                random.seed(seed)
                train = parts["train"]
                data = loaders(train, parts["validation"], len(train[0]) // STEPS)
                learn = learner(network(weights), data)
                arm(learn, rate)
                chosen = learn.validate()[1]
                with torch.no_grad():
                    found = learn.model.eval()(images).argmax(-1).numpy()
                tested = float(np.mean(found == parts["test"][1]))
                yield task, name, rate, seed, round(float(chosen), 4), tested


class Clock(Callback):
    """As `_ways.Clock`."""

    def __init__(self):
        self.start, self.first, self.fits, self.steps = (
            time.perf_counter(),
            None,
            -1,
            {},
        )

    def before_fit(self):
        self.fits += 1

    def before_train(self):
        self.last = None

    def after_batch(self):
        now = time.perf_counter()
        if not self.training:
            return
        if self.first is None:
            self.first = now - self.start
        if self.last is not None and self.epoch:
            self.steps.setdefault(self.fits, []).append(now - self.last)
        self.last = now


def cost(every=3, batches=24, batch=8):
    """Seconds to the first step, milliseconds of a step by stage, as `_ways.cost`."""

    def block(i, filters):
        last = (3, 16, 32, 64, 64)[i - 1]
        conv = nn.Conv2d(last, filters, 3, 1 if i == 1 else 2, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU())

    blocks = [block(i, f) for i, f in enumerate((16, 32, 64, 64), 1)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model = nn.Sequential(nn.Sequential(*blocks[:2]), nn.Sequential(*blocks[2:]), head)
    rng = np.random.default_rng(0)
    x = rng.random((batch * batches, 32, 32, 3), dtype="float32")
    data = loaders((x, rng.integers(0, 10, len(x))), (x[:8], np.arange(8)), batch)
    clock = Clock()
    rate = 1e-3
    # begin: fastai
    learn = learner(model, data, cbs=[clock], metrics=[])
    for stage in range(1, 4):
        learn.freeze_to(-stage)
        learn.fit(every, slice(rate / 2.6**2, rate))
    # end
    steps = [1000 * float(np.median(clock.steps[fit])) for fit in range(3)]
    return {"first": clock.first, "steps": steps}


def breaks(folder):
    """What of a run in stages comes back from fastai's own file."""
    x, y = np.zeros((16, 8, 8, 1), "float32"), np.arange(16) % 5
    weights = []
    for shape in ((3, 3, 1, 4), (3, 3, 4, 4), (3, 3, 4, 4), (4, 5)):
        weights += [np.zeros(shape, "float32"), np.zeros(shape[-1], "float32")]
    data = loaders((x, y), (x, y), 8)
    learn = learner(network(weights), data, path=folder)
    learn.freeze_to(-2)
    learn.fit(1, 1e-3)
    learn.freeze_to(-3)
    kept = any("grad_avg" in state for state in learn.opt.state.values())
    learn.save("stage")
    again = learner(network(weights), data, path=folder).load("stage")
    found = again.opt.frozen_idx
    return {
        "stages": "one fit a stage",
        "a rate callback": "its own schedules",
        "optimizer state over the stages": (
            "kept" if kept else "lost: `freeze_to` clears it"
        ),
        "save and load": f"first trained group {learn.opt.frozen_idx}, loaded: {found}",
    }
