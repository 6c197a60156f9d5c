"""Train on several devices what one device trains, and compare.

Usage: `python tests/distribution/run.py [--json] [ENGINE ...]`. Without engines it runs
those that the running Keras has. It exits with 1 if they differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# All devices add the same numbers in another order. The values are of order 1.
TOLERANCE = 8 * float(np.finfo("float32").eps)
KINDS = ("weight", "slot", "log")
WORKER = Path(__file__).with_name("worker.py")


@dataclass
class Result:
    """What one process trained.

    Args:
        facts: For each case what trained, at which rates, and what was left behind.
        arrays: Weights, state of the optimizer and logs.
        output: What it printed.
    """

    facts: dict
    arrays: dict
    output: str


def engines():
    """The engines of the running Keras, with the number of their processes."""
    from keras_finetune._engine import KERAS_3, backend

    if backend() == "jax":
        return {"data_parallel": 1, "data_parallel_processes": 2, "model_parallel": 1}
    if backend() == "torch":
        return {"distributed_data_parallel": 2}
    return {"mirrored": 1} if KERAS_3 else {"mirrored": 1, "multi_worker": 2}


def run(engine, processes=1, timeout=300):
    """Runs an engine in processes of its own, and returns the result of each."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{rank}.npz") for rank in range(processes)]
        ports = free_ports(processes)
        running = [
            subprocess.Popen(
                [sys.executable, str(WORKER), engine, str(file)],
                env={**os.environ, **_environment(rank, ports)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank, file in enumerate(files)
        ]
        try:
            said = [process.communicate(timeout=timeout) for process in running]
        finally:
            for process in running:
                process.kill()
        for process, (_, errors) in zip(running, said):
            if process.returncode:
                raise RuntimeError(f"{engine} failed:\n{errors[-4000:]}")
        return [_read(file, out) for file, (out, _) in zip(files, said)]


def _environment(rank, ports):
    """What TensorFlow, JAX and PyTorch read of the devices and of each other."""
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    cluster = {
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(ports[0]),
        "RANK": str(rank),
        "WORLD_SIZE": str(len(ports)),
    }
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", **(cluster if len(ports) > 1 else devices)}


def free_ports(n):
    """Ports that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _read(file, output):
    with np.load(file) as stored:
        arrays = {key: stored[key] for key in stored.files}
    return Result(json.loads(str(arrays.pop("facts"))), arrays, output)


def differences(one, other):
    """The largest difference in weights, in the optimizer's state, and in logs.

    Logs count where those of Keras without us are the same: under `MirroredStrategy`
    Keras 3.8 gives the loss and the metrics of one replica.
    """
    assert one.arrays.keys() == other.arrays.keys()
    found = dict.fromkeys([*KINDS, "plain"], 0.0)
    for key, value in one.arrays.items():
        kind = key.split(": ")[1].split()[0]
        far = np.max(np.abs(value - other.arrays[key].astype("float64")), initial=0.0)
        found[kind] = max(found[kind], float(far))
    if found.pop("plain") > TOLERANCE:
        found["log"] = 0.0
    return found


def lane():
    """The name of the running Keras and backend."""
    from keras_finetune._engine import backend, keras

    return f"{keras.__name__} {keras.__version__}, {backend()}"


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("engines", nargs="*", metavar="ENGINE")
    options = parser.parse_args(arguments)
    known = engines()
    [one] = run("single")
    found = {}
    for engine in options.engines or known:
        if engine not in known:
            parser.error(f"{lane()} has {list(known)}. Received: {engine!r}")
        results = run(engine, known[engine])
        found[engine] = max(max(differences(one, x).values()) for x in results)
        if not options.json:
            print(f"{lane()}: {engine}: {found[engine]:.2g}", flush=True)
    worst = max(found.values())
    if options.json:
        row = {"feature": "distribution", "lane": lane(), "max_difference": worst}
        print(json.dumps({**row, "engines": found, "tolerance": TOLERANCE}))
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
