"""One process of a distributed run: `python worker.py ENGINE RESULT`.

It trains a small model with our callbacks on one engine and writes what came of it to
`RESULT`. It is a process of its own because devices, backends and clusters are fixed
once a framework is loaded; `run.py` starts it and compares.
"""

import contextlib
import functools
import gc
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import reference

from keras_finetune import DiscriminativeLR, GradualUnfreeze, OneCycle
from keras_finetune._engine import KERAS_3, keras

GROUPS = ["low", "middle", "head"]
BATCH = 8


class Single:
    """One device: what the other engines are compared with."""

    batch_size = BATCH

    def scope(self):
        """What the model is made in."""
        return contextlib.nullcontext()

    def make_model(self):
        return reference.make_model()

    def part(self, rows):
        """This process's part of the data: it is whole where the engine parts it."""
        return rows

    def replicas(self, variable):
        """The copies of a variable on the devices of this process."""
        return [reference.to_numpy(variable)]

    def metric(self, epoch):
        """A metric as this process sees it: here, one that does not improve."""
        return 1.0

    def close(self):
        """Ends the engine."""


class Mirrored(Single):
    """`tf.distribute.MirroredStrategy` over two logical CPUs."""

    def __init__(self):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        self.strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def scope(self):
        return self.strategy.scope()

    def replicas(self, variable):
        value = variable.value if KERAS_3 else variable
        return [v.numpy() for v in self.strategy.experimental_local_results(value)]


class MultiWorker(Mirrored):
    """`tf.distribute.MultiWorkerMirroredStrategy`: `TF_CONFIG` names the workers."""

    def __init__(self):
        import tensorflow as tf

        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()


class DataParallel(Single):
    """`keras.distribution.DataParallel` over two host devices."""

    def __init__(self):
        library = keras.distribution
        library.set_distribution(self.distribution(library))

    def distribution(self, library):
        return library.DataParallel()

    def replicas(self, variable):
        return [np.asarray(shard.data) for shard in variable.value.addressable_shards]


class ModelParallel(DataParallel):
    """`keras.distribution.ModelParallel`: weights that are split over two devices."""

    split = ("low/kernel", "low/bias", "middle/kernel")

    def distribution(self, library):
        mesh = library.DeviceMesh((1, 2), ["batch", "model"])
        layout = library.LayoutMap(mesh)
        layout[".*low/kernel"] = (None, "model")
        layout[".*low/bias"] = ("model",)
        layout[".*middle/kernel"] = ("model", None)
        return library.ModelParallel(layout_map=layout, batch_dim_name="batch")

    def replicas(self, variable):
        parts = super().replicas(variable)
        if reference.path(variable) not in self.split:
            return parts
        assert all(2 * part.size == np.prod(variable.shape) for part in parts)
        return [reference.to_numpy(variable)]


class DataParallelProcesses(DataParallel):
    """`keras.distribution.DataParallel` over two processes."""

    batch_size = BATCH // 2

    def __init__(self):
        self.rank = int(os.environ["RANK"])
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        keras.distribution.initialize(address, 2, self.rank)
        super().__init__()

    def distribution(self, library):
        return library.DataParallel(auto_shard_dataset=False)

    def part(self, rows):
        batches = rows.reshape(-1, 2, self.batch_size, *rows.shape[1:])
        return batches[:, self.rank].reshape(-1, *rows.shape[1:])

    def replicas(self, variable):
        return [reference.to_numpy(variable)]


class TorchDataParallel(Single):
    """`DistributedDataParallel`, with one process for each device."""

    batch_size = BATCH // 2

    def __init__(self):
        import torch

        torch.distributed.init_process_group("gloo")
        self.rank = torch.distributed.get_rank()

    def make_model(self):
        model = reference.make_model()
        return data_parallel_model(model.inputs, model.outputs, name=model.name)

    def part(self, rows):
        return rows[self.rank :: 2]

    def metric(self, epoch):
        return 1.0 - self.rank * epoch

    def close(self):
        import torch

        gc.collect()  # a `DistributedDataParallel` that outlives the group may abort
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def data_parallel_model(*args, **kwargs):
    """`fit` through `DistributedDataParallel`, as Keras 3.16 has it built in.

    See `docs/several_devices.md`.
    """
    import torch
    from torch.nn.parallel import DistributedDataParallel

    class DataParallelModel(keras.Model):
        ddp_model = None

        def make_train_function(self, force=False):
            if self.ddp_model is None:
                # Not by assignment: a module must not become a part of its part.
                self.__dict__["ddp_model"] = DistributedDataParallel(self)
            super().make_train_function(force)

        def train_step(self, data):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self.ddp_model(x, training=True)
            self.zero_grad()
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            self._loss_tracker.update_state(loss, sample_weight=len(x))
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply([v.value.grad for v in self.trainable_weights])
            return self.compute_metrics(x, y, y_pred, sample_weight)

        def get_metrics_result(self):
            state = [(v, v.value.detach().clone()) for v in self.metrics_variables]
            for _, value in state:
                torch.distributed.all_reduce(value)
            with keras.StatelessScope(state):
                return super().get_metrics_result()

    return DataParallelModel(*args, **kwargs)


class Watch(keras.callbacks.Callback):
    """Records, epoch by epoch, what trains, at which rates, and what moves."""

    def __init__(self, engine):
        super().__init__()
        self.engine = engine
        self.trainable, self.rates = [], []
        self.frozen_moved = self.replicas_apart = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.trainable.append([reference.path(v) for v in self.frozen(False)])
        self.before = [self.engine.replicas(v) for v in self.frozen(True)]

    def on_epoch_end(self, epoch, logs=None):
        rates = {k: float(v) for k, v in logs.items() if "learning_rate/" in k}
        self.rates.append(rates)
        after = [self.engine.replicas(v) for v in self.frozen(True)]
        self.frozen_moved = max(self.frozen_moved, far(after, self.before))
        copies = [self.engine.replicas(v) for v in self.model.weights]
        firsts = [[values[0]] * len(values) for values in copies]
        self.replicas_apart = max(self.replicas_apart, far(copies, firsts))

    def frozen(self, wanted):
        trains = {id(v) for v in self.model.trainable_variables}
        return [v for v in self.model.weights if (id(v) not in trains) == wanted]


def far(one, other):
    """The largest difference of two lists with the copies of each variable."""
    pairs = [pair for copies in zip(one, other) for pair in zip(*copies)]
    return max((float(np.max(np.abs(a - b))) for a, b in pairs), default=0.0)


class Signal(keras.callbacks.Callback):
    """A metric that has stopped improving, as the first process sees it."""

    def __init__(self, engine):
        super().__init__()
        self.engine = engine

    def on_epoch_end(self, epoch, logs=None):
        logs["signal"] = self.engine.metric(epoch)


def momentum():
    if KERAS_3:
        return keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    return keras.optimizers.legacy.SGD(0.1, momentum=0.9, nesterov=True)


def adamw():
    return keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=1.0)


def stages(engine):
    gradual = GradualUnfreeze(groups=GROUPS, monitor="signal", patience=1, verbose=1)
    return [Signal(engine), gradual]


def rates(engine):
    return [DiscriminativeLR(multipliers=[0.25, 0.6, 1.0], groups=GROUPS)]


def both(engine):
    gradual = GradualUnfreeze(groups=GROUPS, verbose=1, every=1)
    return [gradual, *rates(engine), OneCycle(per="stage")]


CASES = {
    "stages": (stages, momentum, 4),
    "rates": (rates, adamw, 2),
    "both": (both, adamw, 3),
}


# What `fit` leaves in a model that it has validated.
KEPT_BY_KERAS = {"_eval_epoch_iterator", "_eval_data_handler", "stop_evaluating"}


def compiled(engine, make_optimizer):
    with engine.scope():
        model = engine.make_model()
        return reference.compile_model(model, make_optimizer(), metrics=["accuracy"])


@functools.cache
def plainly_trained(engine, make_optimizer):
    """A model that never met our callbacks."""
    model = compiled(engine, make_optimizer)
    data = [engine.part(rows) for rows in reference.make_data()]
    return model, reference.fit(model, data, batch_size=engine.batch_size).history


def train(engine, case):
    """Trains with our callbacks, then without them, on the same model."""
    make_callbacks, make_optimizer, epochs = CASES[case]
    data = [engine.part(rows) for rows in reference.make_data()]
    arguments = {"batch_size": engine.batch_size}
    if case == "both":
        validation = [engine.part(rows) for rows in reference.make_data(seed=7)]
        arguments["validation_data"] = validation
    model = compiled(engine, make_optimizer)
    watch, callbacks = Watch(engine), make_callbacks(engine)
    for callback in callbacks:
        if isinstance(callback, GradualUnfreeze):
            callback.plan(model, epochs)
    callbacks = [*callbacks, watch]
    history = reference.fit(
        model, data, epochs=epochs, callbacks=callbacks, **arguments
    )
    reference.fit(model, data, initial_epoch=epochs, epochs=epochs + 1, **arguments)

    state = reference.optimizer_state(model)
    arrays = {f"weight {k}": v for k, v in reference.weights(model).items()}
    arrays |= {f"slot {k}": v for k, v in state.items()}
    arrays |= {
        f"log {k}": np.array(v)
        for k, v in history.history.items()
        if k in ("loss", "val_loss", "accuracy", "val_accuracy")
    }
    plain, plain_logs = plainly_trained(engine, make_optimizer)
    arrays |= {f"plain {k}": np.array(v) for k, v in plain_logs.items()}
    owners = [(model, plain), (model.optimizer, plain.optimizer)]
    left_behind = [set(vars(one)) ^ set(vars(other)) for one, other in owners]
    left_behind = [names - KEPT_BY_KERAS for names in left_behind]
    left_behind.append(set(state) ^ set(reference.optimizer_state(plain)))
    facts = {
        "trainable": watch.trainable,
        "rates": watch.rates,
        "frozen_moved": watch.frozen_moved,
        "replicas_apart": watch.replicas_apart,
        "left_behind": sorted(set.union(*left_behind)),
    }
    return facts, arrays


ENGINES = {
    "single": Single,
    "mirrored": Mirrored,
    "multi_worker": MultiWorker,
    "data_parallel": DataParallel,
    "data_parallel_processes": DataParallelProcesses,
    "model_parallel": ModelParallel,
    "distributed_data_parallel": TorchDataParallel,
}


def main(name, result):
    engine = ENGINES[name]()
    facts, arrays = {}, {}
    for case in CASES:
        facts[case], found = train(engine, case)
        arrays |= {f"{case}: {key}": value for key, value in found.items()}
    engine.close()
    np.savez(result, facts=json.dumps(facts), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
