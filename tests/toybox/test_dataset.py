# SPDX-License-Identifier: Apache-2.0
"""The dataset maker: one seed, one dataset, whoever renders it and however often."""

import collections
import shutil

import numpy as np
import pytest

from vsd_jax.toybox import batches, dataset, rooms
from vsd_jax.toybox.text import COLOURS, HELD_OUT_PAIRS, KINDS, ROOM, VIEWS, Prompt

pytest.importorskip("embreex")
FILES = ("rgba.npy", "normal.npy")
PLAN = dataset.Plan(
    num_objects=5, views=2, seed=7, held_out="exclude", rooms=0.3, in_rooms=0.3
)


def load(folder) -> dict[str, np.ndarray]:
    with np.load(folder / "meta.npz") as archive:
        arrays = dict(archive)
    return arrays | {name: np.load(folder / name) for name in FILES}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    dataset.CHUNK, old = 2, dataset.CHUNK
    folder = tmp_path_factory.mktemp("made")
    dataset.make_dataset(folder, PLAN, workers=1)
    yield folder
    dataset.CHUNK = old


def test_shapes_and_labels(made):
    data = load(made)
    assert data["rgba.npy"].shape == (10, 64, 64, 4)
    assert data["normal.npy"].shape == (10, 64, 64, 3)
    assert data["rgba.npy"].dtype == data["normal.npy"].dtype == np.uint8
    np.testing.assert_array_equal(data["object_index"], np.arange(5).repeat(2))
    assert ((data["kind"] >= 0) & (data["kind"] <= 16)).all()
    assert ((data["colour"] >= 0) & (data["colour"] < 8)).all()
    around = (data["room"] == 1) & (data["kind"] < 16)
    np.testing.assert_array_equal(data["room_colour"] >= 0, around)
    assert (data["room"][data["kind"] == 16] == 1).all()


def test_two_workers_make_the_same(made, tmp_path):
    dataset.make_dataset(tmp_path, PLAN, workers=2)
    assert_equal(load(tmp_path), load(made))


def test_a_stopped_run_goes_on(made, tmp_path):
    folder = tmp_path / "stopped"
    shutil.copytree(made, folder)
    (folder / "meta.npz").unlink()
    (folder / "chunks" / "0000002.npz").unlink()
    whole = np.load(folder / "rgba.npy", mmap_mode="r+")
    whole[4:8] = 0
    whole.flush()
    dataset.make_dataset(folder, PLAN, workers=1)
    assert_equal(load(folder), load(made))


def test_another_plan_in_the_same_folder_is_refused(made):
    with pytest.raises(ValueError, match="another plan"):
        dataset.make_dataset(made, PLAN._replace(seed=8), workers=1)


def test_a_full_disk_is_told_before_the_work(monkeypatch, tmp_path):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 1))
    with pytest.raises(OSError, match="MB left"):
        dataset.make_dataset(tmp_path, PLAN, workers=1)
    assert not (tmp_path / "plan.json").exists()


def test_command_line_reports_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert dataset.main([f"--out={tmp_path / 'file'}", "--num_objects=1"]) == 1
    assert "dataset: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["--out=x", "--views=0"], ["--out=x", "--rooms=0.8", "--in_rooms=0.3"]],
)
def test_command_line_refuses(arguments):
    with pytest.raises(SystemExit):
        dataset.main(arguments)


@pytest.mark.parametrize("held_out", ["exclude", "only", "include"])
def test_held_out_pairs(held_out):
    plan = PLAN._replace(held_out=held_out, rooms=0.0)
    rng = np.random.default_rng(0)
    prompts = [dataset.draw_prompt(rng, plan) for _ in range(400)]
    share = np.mean([(p.kind, p.colour) in HELD_OUT_PAIRS for p in prompts])
    assert share == {"exclude": 0, "only": 1}.get(
        held_out, pytest.approx(1 / 16, abs=0.04)
    )


def test_mixture():
    rng = np.random.default_rng(0)
    plan = PLAN._replace(rooms=0.1, in_rooms=0.08)
    prompts = [dataset.draw_prompt(rng, plan) for _ in range(2000)]
    alone = np.mean([p.kind == ROOM for p in prompts])
    around = np.mean([p.room and p.kind != ROOM for p in prompts])
    assert alone == pytest.approx(0.10, abs=0.02)
    assert around == pytest.approx(0.08, abs=0.02)
    assert {p.colour for p in prompts} == set(COLOURS)


@pytest.mark.parametrize("high", [0.15, 0.4])
def test_cameras_of_objects(high):
    rng = np.random.default_rng(0)
    views = [dataset.draw_view(Prompt(kind="car"), rng, high) for _ in range(1000)]
    elevation = np.array([v.elevation_deg for v in views])
    radius = np.linalg.norm([v.cam_to_world[:3, 3] for v in views], axis=-1)
    assert elevation.min() >= -10 and elevation.max() <= 85
    assert np.mean(elevation > 50) == pytest.approx(high, abs=0.04)
    assert radius.min() >= 2.4 and radius.max() <= 2.8


@pytest.mark.parametrize("kind", [ROOM, "bear"])
def test_cameras_in_rooms_stay_inside_and_out_of_the_furniture(kind):
    prompt = Prompt(kind=kind, room=True)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        part = rooms.make_room(rng, prompt)
        views = [dataset.draw_view(prompt, rng) for _ in range(8)]
        images = dataset.render.render(part, views, size=16)
        assert (images.rgba[..., 3] == 1).all()
        assert images.depth.min() > 0.02


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(kind="chair", room=True, view="overhead"),
        Prompt(kind="chair", view="front", height="high", room=True),
    ],
)
def test_a_view_that_no_camera_has_ends_in_words(prompt, monkeypatch):
    monkeypatch.setattr(dataset, "_TRIES", 200)
    with pytest.raises(ValueError, match="never seen from there"):
        dataset.draw_view(prompt, np.random.default_rng(0))


def test_only_held_out_pairs_are_no_rooms():
    plan = PLAN._replace(held_out="only", rooms=0.6, in_rooms=0.2)
    drawn = [dataset.draw_prompt(np.random.default_rng(i), plan) for i in range(60)]
    assert all((p.kind, p.colour) in HELD_OUT_PAIRS for p in drawn)


@pytest.mark.parametrize("kind", ["mushroom", "chair"])
def test_what_a_prompt_leaves_open_is_as_batches_of_the_training_have_it(kind):
    """The same by a slow count of rows, as `batches._draw_rows` draws them."""
    rng = np.random.default_rng(0)
    plan, number = dataset.WEIGHTS, 40_000
    alone = rng.random(number) >= plan.rooms + plan.in_rooms
    kinds = np.array(KINDS)[rng.integers(len(KINDS), size=number)]
    high = rng.random(number) < plan.high
    degrees = np.where(high, rng.uniform(50, 85, number), rng.uniform(-10, 50, number))
    above = alone & (degrees > 60)
    rows = rng.integers(number, size=number)
    chance = rng.random(number)
    some = rng.choice(np.flatnonzero(above), number)
    hard = above & np.isin(kinds, dataset.HARD_KINDS)
    rows = np.where(chance < dataset.OVERHEAD_FRACTION, some, rows)
    hardest = rng.choice(np.flatnonzero(hard), number)
    rows = np.where(chance < dataset.OVERHEAD_FRACTION / 2, hardest, rows)
    mine = rows[alone[rows] & (kinds[rows] == kind)]
    expected = above[mine].mean()

    prompt, words = Prompt(kind=kind), []
    for _ in range(3000):
        drawn = dataset.as_trained(prompt, rng)
        assert drawn.colour and (kind, drawn.colour) not in HELD_OUT_PAIRS
        view = dataset.draw_view(drawn, rng, plan.high)
        words.append(VIEWS[batches.view_index(view.azimuth_deg, view.elevation_deg)])
    assert np.mean(np.array(words) == "overhead") == pytest.approx(expected, abs=0.04)


def test_what_a_prompt_says_stays():
    rng = np.random.default_rng(0)
    for prompt in (
        Prompt(kind="mushroom", colour="blue", view="side"),  # a pair held out
        Prompt(kind=ROOM),
        Prompt(kind="duck", room=True),
    ):
        assert all(dataset.as_trained(prompt, rng) == prompt for _ in range(20))


def test_truth_views_are_of_the_prompts_and_reproducible():
    prompts = [Prompt(kind="mushroom", colour="red", view=view) for view in VIEWS]
    images, views = dataset.truth_views(prompts, seed=5)
    again, _ = dataset.truth_views(prompts, seed=5)
    assert images.rgba.shape == (4, 64, 64, 4)
    words = [batches.view_index(v.azimuth_deg, v.elevation_deg) for v in views]
    assert [VIEWS[word] for word in words] == list(VIEWS)
    np.testing.assert_array_equal(images.rgba, again.rgba)
    seen = images.rgba[..., :3].sum((0, 1, 2))
    assert seen[0] > 1.3 * seen[1:].max()
