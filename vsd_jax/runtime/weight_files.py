# SPDX-License-Identifier: Apache-2.0
"""Tensors out of safetensors and Flax msgpack files, one after the other.

Neither file is mapped or read as a whole: a tensor is read into memory of its own
when it is asked for, so that loading needs little more than what it returns. Both
formats hold names, shapes and numbers alone; nothing in them is executed.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np

TreePath = tuple[str, ...]

_SAFETENSORS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_MAX_HEADER = 100 << 20  # as the format's own library has it


class FormatError(ValueError):
    """A file that is not what its name says, or ends too early."""


def _read(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise FormatError("it ends too early")
    return content


def _read_array(
    stream: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], size: int
) -> np.ndarray:
    if np.prod(shape, dtype=object) * dtype.itemsize != size:
        raise FormatError(f"{size} bytes are no {dtype} of shape {shape}")
    # Asked before memory is: a damaged size may be anything.
    left = os.fstat(stream.fileno()).st_size - stream.tell()
    raw = np.empty(size if size <= left else 0, np.uint8)
    if stream.readinto(raw) != size:
        raise FormatError("it ends too early")
    return raw.view(dtype).reshape(shape)


def safetensors_leaves(
    file: Path, is_wanted: Callable[[str], bool]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of the tensors that are wanted; every name is asked about.

    Raises:
      FormatError: if the file is damaged or of another format.
      OSError: if it cannot be read.
    """
    with file.open("rb", buffering=0) as stream:
        length = int.from_bytes(_read(stream, 8), "little")
        if length > _MAX_HEADER:
            raise FormatError("it does not begin as safetensors do")
        header = json.loads(_read(stream, length))
        for name, entry in header.items():
            if name == "__metadata__" or not is_wanted(name):
                continue
            begin, end = entry["data_offsets"]
            stream.seek(8 + length + begin)
            dtype = np.dtype(_SAFETENSORS[entry["dtype"]])
            yield name, _read_array(stream, dtype, tuple(entry["shape"]), end - begin)


# MessagePack's first bytes: ranges that hold a size, and codes that a size follows.
_SHORT = ((0x80, 0x90, "map"), (0x90, 0xA0, "array"), (0xA0, 0xC0, "text"))
_LONG = {
    **{0xC4: ("bytes", 1), 0xC5: ("bytes", 2), 0xC6: ("bytes", 4)},
    **{0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4)},
    **{0xCC: ("int", 1), 0xCD: ("int", 2), 0xCE: ("int", 4), 0xCF: ("int", 8)},
    **{0xD9: ("text", 1), 0xDA: ("text", 2), 0xDB: ("text", 4)},
    **{0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)},
}
_FIXED_EXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def _head(stream: BinaryIO) -> tuple[str, int]:
    """What comes next and how much of it; of an integer its value."""
    code = _read(stream, 1)[0]
    if code < 0x80:
        return "int", code
    for low, high, kind in _SHORT:
        if low <= code < high:
            return kind, code - low
    if code in _FIXED_EXT:
        return "ext", _FIXED_EXT[code]
    if code not in _LONG:
        raise FormatError(f"it holds something else than arrays (code {code:#x})")
    kind, width = _LONG[code]
    return kind, int.from_bytes(_read(stream, width), "big")


def _expect(stream: BinaryIO, *kinds: str) -> int:
    kind, size = _head(stream)
    if kind not in kinds:
        raise FormatError(f"it has {kind} where {' or '.join(kinds)} belongs")
    return size


def _array(stream: BinaryIO, is_wanted: bool, size: int) -> np.ndarray | None:
    """Flax's extension 1: (shape, name of the dtype, bytes)."""
    if _read(stream, 1) != b"\x01":
        raise FormatError("it holds an extension that is no array")
    start = stream.tell()
    if not is_wanted:
        stream.seek(start + size)
        return None
    if _expect(stream, "array") != 3:
        raise FormatError("an array in it is not made of three parts")
    rank = _expect(stream, "array")
    shape = tuple(_expect(stream, "int") for _ in range(rank))
    name = _read(stream, _expect(stream, "text", "bytes")).decode()
    return _read_array(stream, jnp.dtype(name), shape, _expect(stream, "bytes"))


def msgpack_leaves(
    file: Path, is_wanted: Callable[[TreePath], bool]
) -> Iterator[tuple[TreePath, np.ndarray]]:
    """(path, array) of the leaves of a Flax tree that are wanted.

    Raises:
      FormatError: if the file is damaged or of another format.
      OSError: if it cannot be read.
    """

    def walk(path: TreePath):
        kind, size = _head(stream)
        if kind == "map":
            for _ in range(size):
                name = _read(stream, _expect(stream, "text")).decode()
                yield from walk((*path, name))
        elif kind == "ext":
            array = _array(stream, is_wanted(path), size)
            if array is not None:
                yield path, array
        else:
            raise FormatError(f"it has {kind} where arrays belong")

    with file.open("rb") as stream:
        yield from walk(())
