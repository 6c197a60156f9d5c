"""Many fits in one process: does memory grow, do traces accumulate?

    python benchmarks/soak.py [fits] [--plain] [--uncollected] [--write FOLDER]
    python benchmarks/soak.py --table FOLDER

Fits one small model again and again (200 times by default) with `GradualUnfreeze`,
three stages of an epoch each, and `DiscriminativeLR`. `--plain` does the same by hand:
three times flags, `compile` and `fit`. Measured are the resident memory; how much of
the C heap is in use (glibc's `mallinfo2`); the blocks of Python's own heap; and how
many graphs of TensorFlow, or compiled functions of JAX, are alive. After each fit
Python collects its garbage and glibc gives back the pages that are free, so that what
grows is what is kept; with `--uncollected` they do as they like. `--write` keeps the
row in FOLDER, `--table` prints all kept rows as the table of the documentation.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
from pathlib import Path

NAMES = ("low", "middle", "head")


class _Heap(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def glibc(name):
    """A function of the C library, or None where it is not glibc."""
    return getattr(ctypes.CDLL(None), name, None)


def in_use():
    """The bytes of the C heap that are in use, or None without glibc."""
    found = glibc("mallinfo2")
    if found is None:
        return None
    found.restype = _Heap
    heap = found()
    return heap.uordblks + heap.hblkhd


def collect():
    """Gives back what is not in use."""
    gc.collect()
    trim = glibc("malloc_trim")
    if trim is not None:
        trim(0)


def resident():
    """The resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def living_traces():
    """How many traced functions the garbage collector can still find."""
    gc.collect()
    names = ("FuncGraph", "PjitFunction")
    return sum(type(thing).__name__ in names for thing in gc.get_objects())


def ours(model, data):
    from keras_finetune import DiscriminativeLR, GradualUnfreeze

    callbacks = [GradualUnfreeze(list(NAMES), every=1), DiscriminativeLR(decay=2.6)]
    model.fit(*data, epochs=3, verbose=0, callbacks=callbacks)


def by_hand(model, data):
    for trained in (1, 2, 3):
        for layer, name in zip(model.layers, NAMES):
            layer.trainable = name in NAMES[-trained:]
        model.compile("adam", "mse")
        model.fit(*data, verbose=0)


def measure(fits, plain, uncollected):
    import numpy as np

    from keras_finetune._engine import backend, keras

    fit, way = (by_hand, "by hand") if plain else (ours, "callbacks")
    dense = [keras.layers.Dense(8, name=name) for name in NAMES]
    model = keras.Sequential([keras.Input((8,)), *dense])
    model.compile("adam", "mse")
    data = [np.ones((8, 8), "float32")] * 2
    rows = {}
    for count in range(1, fits + 1):
        fit(model, data)
        if not uncollected:
            collect()
        if count == 10 or count % 50 == 0 or count == fits:
            rows[count] = {
                "resident": resident(),
                "in_use": in_use(),
                "blocks": sys.getallocatedblocks(),
                "traces": living_traces(),
            }
            print(count, rows[count], flush=True)
    lane = f"{keras.__name__} {keras.__version__}, {backend()}"
    way += ", uncollected" if uncollected else ""
    return {"lane": lane, "way": way, "fits": rows}


def cells(row):
    """Memory after the tenth fit, at the end, and its growth."""
    fits = {int(fit): found for fit, found in row["fits"].items()}
    first, last = fits[10], fits[max(fits)]

    def grown(kind, show):
        a, b = first[kind], last[kind]
        return "-" if a is None else f"{show(a)} to {show(b)} ({b / a - 1:+.2%})"

    return [
        row["lane"],
        row["way"],
        str(max(fits)),
        grown("resident", lambda size: f"{size / 2**20:.1f}"),
        grown("in_use", lambda size: f"{size / 2**20:.1f}"),
        grown("blocks", lambda count: f"{count / 1e3:.0f}"),
        f"{first['traces']} to {last['traces']}",
    ]


HEAD = (
    "lane",
    "way",
    "fits",
    "resident, MiB",
    "C heap in use, MiB",
    "Python's heap, 1,000 blocks",
    "living traces",
)


def table(folder):
    """The table of the documentation."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    body = [HEAD, ["---"] * len(HEAD), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in body)


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fits", type=int, nargs="?", default=200)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--uncollected", action="store_true")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    if options.table:
        print(table(options.table))
        return
    if options.fits < 10:
        parser.error(f"fits must be at least 10. Received: {options.fits}")
    row = measure(options.fits, options.plain, options.uncollected)
    print(cells(row))
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        name = f"{row['lane']} {row['way']}".replace(",", "").replace(" ", "-")
        text = json.dumps(row, indent=1)
        (options.write / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
