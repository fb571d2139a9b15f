# SPDX-License-Identifier: Apache-2.0
"""Small files of a run: JSON, metrics as JSON lines, PNG, contact sheets, GIF and MP4.

Every file is written beside its place and moved there, so that a stopped run or a full
disk never leaves half a file under a good name. Images are [H, W, 3] in [0, 1], sRGB.
"""

import contextlib
import io
import itertools
import json
import math
import os
import pathlib
import secrets
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

Path = pathlib.Path
_GIF_FPS = 50
"""Frames a second beyond which viewers no longer play a GIF as it says."""


def partial_glob(name: str) -> str:
    """Pattern of what a killed process had written of a file, or of a pattern."""
    return f".{name}.{'[0-9a-f]' * 8}"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all (same folder, then an atomic rename).

    Raises:
      OSError: if the folder cannot be written or the disk is full; `path` then still
        holds what it held before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # Not `tempfile`: its mode is 600, and not every disk lets that be changed.
        with partial.open("xb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; non-finite numbers become null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    """Turns arrays and tuples into what JSON knows; NaN and infinity into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | bool) or value is None:
        return value
    return str(value)


class MetricsFile:
    """`metrics.jsonl`: one line per logged step, `{"step": ..., name: number, ...}`."""

    def __init__(self, path: Path, *, resume_step: int):
        """Opens the file to append.

        Args:
          path: the file; made if absent.
          resume_step: lines of later steps are dropped, since a run that goes on from
            this step writes them again.
        """
        self.path = Path(path)
        kept = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        write_bytes(self.path, lines.encode())

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line; a number that is not finite is written as null."""
        line = json.dumps({"step": int(step)} | _plain(dict(metrics)))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a metrics file; a line that was cut off by a crash is left out."""
    if not Path(path).exists():
        return []
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return [row for row in rows if isinstance(row, dict) and "step" in row]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[..., 3] in [0, 1] -> uint8; values outside are clipped."""
    return np.round(np.clip(np.asarray(image, np.float32), 0, 1) * 255).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """[H, W, 3] in [0, 1] -> PNG file content."""
    return _encode(Image.fromarray(to_uint8(image)), "PNG", optimize=True)


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes one image, [H, W, 3] in [0, 1]."""
    write_bytes(path, encode_png(image))


def contact_sheet(
    images: np.ndarray, *, tile_size: int, gap: int = 4, paper: float = 0.93
) -> np.ndarray:
    """Lays views out on one sheet: a row per particle, a column per view.

    Args:
      images: [n, views, H, W, 3] in [0, 1].
      tile_size: side of a view on the sheet, pixels; smaller renders are repeated by a
        whole factor (the pixels stay visible), never shrunk.
      gap: pixels between views.
      paper: grey level of the gaps, so that white backgrounds show their edge.

    Returns:
      [rows, columns, 3] float32.
    """
    images = np.asarray(images, np.float32)
    factor = max(1, tile_size // images.shape[2])
    images = images.repeat(factor, axis=2).repeat(factor, axis=3)
    n, views, height, width, _ = images.shape
    sheet = np.full(
        (n * (height + gap) + gap, views * (width + gap) + gap, 3), paper, np.float32
    )
    for row in range(n):
        for column in range(views):
            top, left = gap + row * (height + gap), gap + column * (width + gap)
            sheet[top : top + height, left : left + width] = images[row, column]
    return sheet


def save_gif(path: Path, frames: Iterable[np.ndarray], *, fps: float) -> None:
    """Writes a looping GIF of [H, W, 3] frames, with one palette for all of them.

    It plays as fast as asked: delays are whole hundredths of a second, so that they
    differ by one where they must, and of more than 50 frames a second some are left
    out, since viewers play delays below two hundredths at a tenth of a second.
    """
    frames = list(frames)
    kept = frames[:: math.ceil(fps / _GIF_FPS)]
    pictures = [Image.fromarray(to_uint8(frame)) for frame in kept]
    # One shared palette: separate ones make the colours of a turntable flicker.
    step = max(1, len(pictures) // 8)
    strip = np.concatenate([np.asarray(p) for p in pictures[::step]], axis=1)
    palette = Image.fromarray(strip).quantize(256, method=Image.Quantize.MEDIANCUT)
    quantized = [
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        for picture in pictures
    ]
    content = _encode(
        quantized[0],
        "GIF",
        save_all=True,
        append_images=quantized[1:],
        duration=gif_delays(len(frames), fps),
        loop=0,
    )
    write_bytes(path, content)


def gif_delays(num_frames: int, fps: float) -> list[int]:
    """Milliseconds, multiples of 10, that each frame which a GIF keeps is shown.

    Their sum is the time of all frames, to a hundredth of a second.
    """
    every = math.ceil(fps / _GIF_FPS)
    edges = [*range(0, num_frames, every), num_frames]
    ticks = [round(100 * edge / fps) for edge in edges]
    return [10 * max(2, b - a) for a, b in itertools.pairwise(ticks)]


def save_mp4(path: Path, frames: Iterable[np.ndarray], *, fps: float) -> None:
    """Writes an H.264 film (yuv420p, plays in every browser) of [H, W, 3] frames.

    Its index comes first, so that it plays while it is still loaded.
    Odd sides are padded by one pixel, which H.264 demands.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part.mp4")
    try:
        _encode_mp4(partial, frames, fps)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _encode_mp4(path: Path, frames: Iterable[np.ndarray], fps: float) -> None:
    import imageio.v2 as imageio

    options = {
        "codec": "libx264",
        "quality": 8,
        "macro_block_size": 1,
        "output_params": ["-movflags", "+faststart"],
    }
    with warnings.catch_warnings():
        # ffmpeg is started by fork and exec at once, which no JAX thread can block.
        warnings.filterwarnings("ignore", message=r"os\.fork")
        with imageio.get_writer(path, fps=fps, **options) as film:
            for frame in frames:
                film.append_data(_even(to_uint8(frame)))


def _even(image: np.ndarray) -> np.ndarray:
    pad = ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0))
    return np.pad(image, pad, mode="edge")
