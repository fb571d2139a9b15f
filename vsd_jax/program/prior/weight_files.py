# SPDX-License-Identifier: Apache-2.0
"""Tensors out of safetensors and Flax msgpack files, one after the other.

What was read of a mapped file stays resident until the file is closed, and a msgpack
file restored as a whole stands in memory twice; so a file is opened anew for each
tensor. Loading then needs little more than what it returns.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
from flax import serialization
from safetensors import SafetensorError, safe_open

TreePath = tuple[str, ...]

DAMAGED = (SafetensorError, msgpack.exceptions.UnpackException)
"""What the libraries raise, beside ValueError and TypeError, for a damaged file."""


def safetensors_leaves(
    file: Path, select: Callable[[list[str]], list[str]]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of the tensors that `select` chooses from all names.

    Raises:
      DAMAGED, OSError, TypeError: if the file cannot be read as safetensors.
    """
    with safe_open(str(file), framework="np") as handle:
        names = list(handle.keys())
    for name in select(names):
        with safe_open(str(file), framework="np") as handle:
            value = handle.get_tensor(name)
        yield name, value


def msgpack_leaves(
    file: Path, select: Callable[[list[TreePath]], list[TreePath]]
) -> Iterator[tuple[TreePath, np.ndarray]]:
    """(path, array) of the leaves of a Flax tree that `select` chooses from all paths.

    Raises:
      DAMAGED, OSError, ValueError: if the file cannot be read as Flax msgpack.
    """
    with file.open("rb") as stream:
        size = file.stat().st_size
        unpacker = msgpack.Unpacker(stream, max_buffer_size=size, strict_map_key=False)
        places = {path: place for path, *place in _places(unpacker, ())}
        del unpacker  # and its buffer, as large as the largest tensor
        for path in select(list(places)):
            start, end = places[path]
            stream.seek(start)
            yield path, serialization.msgpack_restore(stream.read(end - start))


def _places(
    unpacker: msgpack.Unpacker, path: TreePath
) -> Iterator[tuple[TreePath, int, int]]:
    """(path, first byte, end) of each leaf at `path` or below it."""
    start, size = unpacker.tell(), _map_size(unpacker)
    if size is None and not path:
        raise ValueError("it holds no tree")
    if size is None:
        unpacker.skip()
        yield path, start, unpacker.tell()
        return
    for _ in range(size):
        yield from _places(unpacker, (*path, unpacker.unpack()))


def _map_size(unpacker: msgpack.Unpacker) -> int | None:
    """Entries of the map that comes next; None, with nothing taken, if it is none."""
    try:
        return unpacker.read_map_header()
    except ValueError:
        return None
