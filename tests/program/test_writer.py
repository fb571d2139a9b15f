# SPDX-License-Identifier: Apache-2.0
"""Files of a run: whole or not at all, readable again, JSON that is JSON."""

import json
import os
import stat
import struct

import imageio.v3 as imageio
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vsd_jax.program.folder import writer


def ramp(height=16, width=20):
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.stack([x, y, 1 - x], -1).astype(np.float32)


def test_write_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    writer.write_bytes(path, b"first")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        writer.write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_json_turns_arrays_and_nan_into_what_json_knows(tmp_path):
    value = {"a": jnp.float32(1.5), "b": np.arange(2), "c": float("nan"), "d": (1, "x")}
    writer.write_json(tmp_path / "v.json", value)
    assert writer.read_json(tmp_path / "v.json") == {
        "a": 1.5,
        "b": [0, 1],
        "c": None,
        "d": [1, "x"],
    }


def test_metrics_resume_drops_later_lines_and_cut_ones(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = writer.MetricsFile(path, resume_step=0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": jnp.float32(step), "bad": float("inf")})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    metrics = writer.MetricsFile(path, resume_step=2)
    metrics.write(3, {"loss": 30.0})
    rows = writer.read_metrics(path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] == 30.0
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert rows[0]["bad"] is None


def test_png_round_trip(tmp_path):
    writer.save_png(tmp_path / "i.png", ramp())
    pixels = np.asarray(Image.open(tmp_path / "i.png"))
    np.testing.assert_array_equal(pixels, np.round(ramp() * 255))


def test_contact_sheet_puts_each_view_in_its_place():
    images = np.zeros((2, 3, 4, 4, 3), np.float32)
    images[1, 2] = [1, 0, 0]
    sheet = writer.contact_sheet(images, tile_size=8, gap=2, paper=0.5)
    assert sheet.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert (sheet[12:20, 22:30] == [1, 0, 0]).all()
    assert (sheet[:2] == 0.5).all()
    assert (sheet[2:10, 2:10] == 0).all()


def test_gif_loops_and_keeps_its_colours(tmp_path):
    frames = [np.roll(ramp(), shift, axis=1) for shift in range(5)]
    writer.save_gif(tmp_path / "t.gif", frames, fps=10)
    with Image.open(tmp_path / "t.gif") as gif:
        assert gif.n_frames == 5 and gif.info["loop"] == 0
        first = np.asarray(gif.convert("RGB")) / 255
    assert np.abs(first - frames[0]).mean() < 0.05


@pytest.mark.parametrize("fps", [1, 10, 24, 25, 29.97, 30, 50, 60, 90, 120])
def test_gif_plays_at_the_speed_asked_for(tmp_path, fps):
    num = 24
    frames = [np.roll(ramp(8, 30), shift, axis=1) for shift in range(num)]
    writer.save_gif(tmp_path / "t.gif", frames, fps=fps)
    delays = gif_delays(tmp_path / "t.gif")
    # Hundredths of a second; viewers play less than two of them as ten.
    assert min(delays) >= 2 and max(delays) - min(delays) <= 1
    assert abs(sum(delays) - 100 * num / fps) <= 1.0
    assert len(delays) == -(-num // (1 if fps <= 50 else 2 if fps <= 100 else 3))


def gif_delays(path) -> list[int]:
    """As they stand in the file: graphic control extensions, 89a specification."""
    content, delays = path.read_bytes(), []
    start = content.find(b"\x21\xf9\x04")
    while start >= 0:
        delays.append(struct.unpack_from("<H", content, start + 4)[0])
        assert content[start + 7] == 0
        start = content.find(b"\x21\xf9\x04", start + 8)
    return delays


def test_gif_of_one_frame_or_a_rest_has_a_delay_that_counts():
    assert writer.gif_delays(1, 120) == [20]
    assert writer.gif_delays(7, 120) == [20, 30, 20]


@pytest.mark.filterwarnings("ignore:os.fork")
def test_mp4_starts_while_it_loads(tmp_path):
    frames = [np.roll(ramp(32, 32), shift, axis=1) for shift in range(6)]
    writer.save_mp4(tmp_path / "t.mp4", frames, fps=10)
    boxes = mp4_boxes((tmp_path / "t.mp4").read_bytes())
    assert boxes[0] == "ftyp" and boxes.index("moov") < boxes.index("mdat")


def mp4_boxes(content: bytes) -> list[str]:
    """Names of the outermost boxes (ISO/IEC 14496-12), in their order."""
    names, start = [], 0
    while start < len(content):
        size, name = struct.unpack_from(">I4s", content, start)
        if size == 1:
            size = struct.unpack_from(">Q", content, start + 8)[0]
        names.append(name.decode())
        start += size or len(content)
    return names


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002, 0o077])
def test_a_file_has_the_mode_of_the_umask(tmp_path, mask, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod"):  # as on FAT, or a share of another user
        monkeypatch.setattr(os, name, refuse)
    before = os.umask(mask)
    try:
        writer.write_bytes(tmp_path / "deep" / "a.txt", b"x")
        writer.write_bytes(tmp_path / "deep" / "a.txt", b"y")
    finally:
        assert os.umask(before) == mask
    mode = (tmp_path / "deep" / "a.txt").stat().st_mode
    assert stat.S_IMODE(mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o777 & ~mask


@pytest.mark.filterwarnings("ignore:os.fork")
def test_mp4_has_all_frames_also_with_odd_sides(tmp_path):
    frames = [np.roll(ramp(33, 47), shift, axis=1) for shift in range(6)]
    writer.save_mp4(tmp_path / "t.mp4", frames, fps=10)
    film = imageio.imread(tmp_path / "t.mp4")
    assert film.shape == (6, 34, 48, 3)
    assert np.abs(film[0, :33, :47] / 255 - frames[0]).mean() < 0.06
    assert [p.name for p in tmp_path.iterdir()] == ["t.mp4"]
