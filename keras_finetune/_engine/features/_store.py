"""Features of rows that have been seen, found by what the rows are made of.

A row is known by the SHA-256 of its bytes, so that shuffling, any source of data and
repeated rows need nothing more. Features lie in blocks of rows: in memory, or in one
`.npy` file a block, which is written as a whole and mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 16 * 2**20
_DIGEST = 32
# The file of a folder that says what its rows are.
_KINDS = "rows.json"


class Kind(NamedTuple):
    """What a row of one tensor is: its shape, and the name of its dtype."""

    shape: tuple[int, ...]
    dtype: str


def digests(arrays: Sequence[np.ndarray]) -> list[bytes]:
    """Return a digest of each row of a batch, over all its arrays.

    Args:
        arrays: Arrays (rows, ...), of numbers or of strings.
    """
    # No digest of the standard library that rules out collisions is faster where the
    # processor knows SHA-256: BLAKE2b takes twice as long, MD5 more than that. A second
    # thread brought no clear gain on two cores, idle or busy.
    first, *others = [_rows(array) for array in arrays]
    if not others:
        return [hashlib.sha256(row).digest() for row in first]
    return [
        hashlib.sha256(b"".join(hashlib.sha256(row).digest() for row in row_)).digest()
        for row_ in zip(first, *others, strict=True)
    ]


def _rows(array: np.ndarray) -> Sequence[Any]:
    """Return the bytes of each row, without a copy where that can be."""
    if array.dtype.kind in "OSUT":
        return [
            json.dumps([_text(x) for x in np.ravel(row).tolist()]).encode()
            for row in array
        ]
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    return rows.view(np.uint8) if rows.shape[1] else [b""] * len(rows)


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


class Limit:
    """The bytes that all rows in memory may take together.

    Args:
        size: The limit.
        told: Called once, when a row does not fit.
    """

    def __init__(self, size: int, told: Callable[[], None]) -> None:
        self.size = size
        self.used = 0
        self.is_reached = False
        self._told = told

    def take(self, row_bytes: int, rows: int) -> int:
        """Return for how many of so many rows there is room, and take it."""
        fits = min(rows, (self.size - self.used) // max(1, row_bytes))
        self.used += fits * row_bytes
        if fits <= 0 and not self.is_reached:
            self.is_reached = True
            self._told()
        return max(0, fits)


class Table:
    """The features of rows that look alike.

    Args:
        kinds: What a row of each tensor is; `None` where there is no tensor.
        limit: The limit for rows in memory.
        folder: Where blocks are kept, or `None` for memory.
    """

    def __init__(
        self, kinds: Sequence[Kind | None], limit: Limit, folder: Folder | None = None
    ) -> None:
        fields = [("digest", np.uint8, (_DIGEST,))]
        sizes = [0 if kind is None else _row_bytes(kind) for kind in kinds]
        fields += [(f"{i}", np.uint8, (size,)) for i, size in enumerate(sizes)]
        self.kinds = list(kinds)
        self._dtype = np.dtype(fields)
        self._sizes = sizes
        self._limit = limit
        self._folder = folder
        self._blocks: list[np.ndarray] = []
        self._places: dict[bytes, tuple[int, int]] = {}
        self._filled = self._room = 0
        for block in [] if folder is None else folder.blocks(self._dtype):
            self._index(block)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row's features."""
        return sum(self._sizes)

    def find(self, keys: Sequence[bytes]) -> list[tuple[int, int] | None]:
        """Return the place of each row, or `None` where it is not known."""
        return [self._places.get(key) for key in keys]

    def rows(self, places: Sequence[tuple[int, int]]) -> list[np.ndarray | None]:
        """Return the features at some places: an array (rows, ...) for each tensor."""
        found: list[np.ndarray | None] = []
        for i, (kind, size) in enumerate(zip(self.kinds, self._sizes, strict=True)):
            if kind is None:
                found.append(None)
                continue
            blocks = {block for block, _ in places}
            if len(blocks) == 1:
                rows = self._blocks[blocks.pop()][f"{i}"][[row for _, row in places]]
            else:
                rows = np.empty((len(places), size), np.uint8)
                for row, (block, place) in zip(rows, places, strict=True):
                    row[:] = self._blocks[block][f"{i}"][place]
            found.append(rows.view(dtype_of(kind.dtype)).reshape(-1, *kind.shape))
        return found

    def add(self, keys: Sequence[bytes], arrays: Sequence[np.ndarray | None]) -> None:
        """Take in the rows that are not known yet, as far as there is room."""
        new = {key: row for row, key in enumerate(keys) if key not in self._places}
        if not new:
            return
        columns = [() if array is None else _rows(array) for array in arrays]
        for key, row in new.items():
            if self._filled == self._room and not self._begin_block():
                return
            record = self._blocks[-1][self._filled]
            record["digest"] = np.frombuffer(key, np.uint8)
            for i, column in enumerate(columns):
                if self._sizes[i]:
                    record[f"{i}"] = column[row]
            self._places[key] = len(self._blocks) - 1, self._filled
            self._filled += 1

    def close(self) -> None:
        """Write what is not in a file yet, where there is a folder."""
        if self._folder is not None and self._filled > 0:
            self._write()

    def _begin_block(self) -> bool:
        size = self._dtype.itemsize
        rows = max(1, BLOCK_BYTES // size)
        if self._folder is None:
            rows = self._limit.take(size, rows)
        elif self._folder.is_full or (self._filled and not self._write()):
            return False
        if rows == 0:
            return False
        self._blocks.append(np.empty(rows, self._dtype))
        self._filled, self._room = 0, rows
        return True

    def _write(self) -> bool:
        """Exchange the block that is being filled for one in a file."""
        if self._folder is None or len(self._blocks) == 0:
            return False
        written = self._folder.write(self._blocks[-1][: self._filled])
        if written is None:
            return False
        self._blocks[-1] = written
        self._filled = self._room = 0
        return True

    def _index(self, block: np.ndarray) -> None:
        for place, digest in enumerate(block["digest"]):
            self._places[digest.tobytes()] = len(self._blocks), place
        self._blocks.append(block)


class Folder:
    """A folder with blocks of rows that one part of one model has computed.

    Args:
        path: The folder.
        told: Called once, when a block cannot be written, with the reason.
    """

    def __init__(self, path: Path, told: Callable[[str], None]) -> None:
        self.path = path
        self.is_full = False
        self._told = told
        self._refused: list[Path] = []

    def blocks(self, dtype: np.dtype[Any]) -> list[np.ndarray]:
        """Return the blocks that are there; refuse, by name, what is none."""
        found = []
        for path in sorted(self.path.glob("*.npy")):
            try:
                block = np.load(path, mmap_mode="r", allow_pickle=False)
                if block.dtype != dtype or block.ndim != 1:
                    raise ValueError("it holds something else")
            except (ValueError, OSError, EOFError) as error:
                _warn_of(path, error)
                self._refused.append(path)
            else:
                found.append(block)
        return found

    def describe(self, kinds: Sequence[Kind | None]) -> None:
        """Write down what rows are here, for a later run."""
        said = [None if kind is None else [kind.shape, kind.dtype] for kind in kinds]
        part = self.path / f"{uuid.uuid4().hex}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(said))
            os.replace(part, self.path / _KINDS)
        except OSError as error:
            self._fail(error)

    def described(self) -> list[Kind | None] | None:
        """Return what rows are here, or `None` if there are none."""
        path = self.path / _KINDS
        try:
            said = json.loads(path.read_text())
            return [
                None if kind is None else Kind(tuple(map(int, kind[0])), str(kind[1]))
                for kind in said
            ]
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, OSError, LookupError) as error:
            _warn_of(path, error)
            return None

    def _fail(self, error: OSError) -> None:
        if not self.is_full:
            self.is_full = True
            self._told(str(error))

    def write(self, block: np.ndarray) -> np.ndarray | None:
        """Write a block, and return it as it lies in the file, or `None`."""
        # Another process may write into the same folder: no two have the same names.
        name = uuid.uuid4().hex
        path = self._refused.pop() if self._refused else self.path / f"{name}.npy"
        part = self.path / f"{name}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as file:
                np.save(file, block, allow_pickle=False)
            os.replace(part, path)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            self._fail(error)
            return None


def _warn_of(path: Path, error: Exception) -> None:
    warnings.warn(
        f"The file {str(path)!r} holds no features of this model ({error}). It is not "
        "used, and is written again.",
        stacklevel=2,
    )


def dtype_of(name: str) -> np.dtype[Any]:
    """Return a dtype by its name, those of half precision included."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def _row_bytes(kind: Kind) -> int:
    return int(np.prod(kind.shape, dtype=np.int64)) * dtype_of(kind.dtype).itemsize


def free_memory() -> int:
    """Return the bytes of memory that are free, as far as the system tells."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 * 2**30
