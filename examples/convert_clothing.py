"""Makes the two files that `fine_tune.py --data FOLDER` reads.

    python examples/convert_clothing.py PHOTOGRAPHS WEIGHTS FOLDER

docs/demo.md says where the photographs and the weights come from.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

import numpy as np

SIDE = 128
PARTS = ("train", "validation", "test")
LAYER = re.compile(r"(conv1|fire\d)(?:[_/](squeeze1x1|expand[13]x[13]))?(?![\dx])")


def convert_photographs(folder: Path) -> dict[str, np.ndarray]:
    """Crop each photograph to its central square, and make it 128 by 128.

    Args:
        folder: A checkout of clothing-dataset-small, that is, files
            `PART/CLASS/NAME.jpg` for the parts train, validation and test.
    """
    from PIL import Image, ImageOps

    paths = [path for part in PARTS for path in sorted(folder.glob(f"{part}/*/*.jpg"))]
    if not paths:
        raise SystemExit(f"{folder} has no files such as train/dress/NAME.jpg")
    classes = sorted({path.parent.name for path in paths})
    files = []
    for path in paths:
        with Image.open(path) as image:
            small = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))
        stream = io.BytesIO()
        small.save(stream, "jpeg", quality=90)
        files.append(stream.getvalue())
    return {
        "jpeg": np.frombuffer(b"".join(files), "uint8"),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array([classes.index(path.parent.name) for path in paths], "uint8"),
        "split": np.array([PARTS.index(path.parts[-3]) for path in paths], "uint8"),
        "classes": np.array(classes),
    }


def convert_weights(path: Path) -> dict[str, np.ndarray]:
    """Return kernel and bias of each convolution of the body, by name.

    Args:
        path: A weights file of Keras, whose layers are `conv1`, `fire2/squeeze1x1`,
            `fire2/expand1x1`, and so on.
    """
    import h5py

    arrays = {}

    def add(name: str, item: object) -> None:
        found = LAYER.search(name)
        if isinstance(item, h5py.Dataset) and found:
            kind = {1: "bias", 4: "kernel"}[item.ndim]
            layer = "_".join(part for part in found.groups() if part)
            arrays[f"{layer}_{kind}"] = np.asarray(item, "float32")

    with h5py.File(path) as file:
        file.visititems(add)
    if len(arrays) != 50:
        raise SystemExit(f"{path} has {len(arrays)} of the 50 arrays of SqueezeNet 1.1")
    return arrays


def main() -> None:
    """Read what was downloaded, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    images = convert_photographs(chosen.photographs)
    np.savez(chosen.folder / "clothing128.npz", **images)
    weights = convert_weights(chosen.weights)
    np.savez(chosen.folder / "squeezenet11_imagenet.npz", **weights)


if __name__ == "__main__":
    main()
