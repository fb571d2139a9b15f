# SPDX-License-Identifier: Apache-2.0
"""Text files of a prior's folder: read in any Unicode encoding, or a sentence."""

import json
from pathlib import Path
from typing import Any

from vsd_jax.program.terminal.errors import RunError

_LFS = b"version https://git-lfs"


class WeightsError(RunError):
    """A checkpoint that is missing, truncated or of another architecture."""


def is_lfs_pointer(file: Path) -> bool:
    """Whether Git LFS left its note in the place of the file itself."""
    try:
        with file.open("rb") as stream:
            return stream.read(len(_LFS)) == _LFS
    except OSError:
        return False


def lfs_advice(file: Path) -> str:
    """What to do about a file that is only Git LFS's note, or ""."""
    if not is_lfs_pointer(file):
        return ""
    return (
        " It is only a pointer of Git LFS: run `git lfs install && git lfs pull` in"
        " its repository, or download the file itself."
    )


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, with or without a mark.

    Raises:
      WeightsError: it is missing or no text.
    """
    try:
        data = file.read_bytes()
        return data.decode(json.detect_encoding(data))
    except (OSError, UnicodeError) as error:
        raise WeightsError(f"{file} cannot be read ({error}).") from error


def is_utf8(data: bytes) -> bool:
    """Whether these bytes are UTF-8 without a byte-order mark."""
    try:
        return not data.decode("utf-8").startswith("\ufeff")
    except UnicodeError:
        return False


def read_json(file: Path) -> Any:
    """The value that a JSON file holds.

    Raises:
      WeightsError: it is missing, a pointer of Git LFS, or no JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        advice = lfs_advice(file) or " Download it again."
        raise WeightsError(
            f"{file} cannot be read as JSON ({error}).{advice}"
        ) from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return value


def read_object(file: Path) -> dict[str, Any]:
    """The settings of a JSON file.

    Raises:
      WeightsError: as `read_json`; or it holds something else than an object.
    """
    value = read_json(file)
    if not isinstance(value, dict):
        shown = json.dumps(value)
        raise WeightsError(
            f"{file} holds {shown if len(shown) < 40 else type(value).__name__}, not"
            ' an object of settings ({"key": value, ...}). Download it again.'
        )
    return value
