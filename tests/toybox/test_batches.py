# SPDX-License-Identifier: Apache-2.0
"""Captions are true, and a batch depends on its key alone."""

import jax
import numpy as np
import pytest

from configs import toybox_prior
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.toybox import batches
from vsd_jax.toybox.text import COLOURS, HEIGHTS, ROOM, VIEWS, parse

CONFIG = toybox_prior.get_config("smoke").to_dict()
CONFIG |= {"batch_size": 64, "height_dropout": 0.4}


@pytest.fixture(scope="module")
def data():
    """Three flat images: a red car from the side, a blue room, a pink duck in one."""
    rgba = np.zeros((3, 64, 64, 4), np.uint8)
    rgba[:, 16:48, 16:48] = [200, 10, 10, 255]
    rgba[1:, :, :] = [10, 10, 200, 255]
    normal = np.full((3, 64, 64, 3), 128, np.uint8)
    names = list(COLOURS)
    meta = {
        "kind": np.array(
            [
                batches.KIND_NAMES.index("car"),
                batches.KIND_NAMES.index(ROOM),
                batches.KIND_NAMES.index("duck"),
            ]
        ),
        "colour": np.array([names.index(c) for c in ("red", "blue", "pink")]),
        "room": np.array([0, 1, 1]),
        "room_colour": np.array([-1, -1, names.index("blue")]),
        "view": np.array([1, 0, 0]),
        "height": np.array([2, 0, 1]),  # high, low, raised
        "cam_to_world": np.arange(1, 4)[:, None, None] * np.ones((3, 4, 4)),
    }
    return batches.Dataset(rgba, normal, meta)


def test_views_follow_the_thresholds():
    azimuth = np.array([0.0, 44.0, 46.0, -134.0, 136.0, 180.0, 359.0, 10.0])
    elevation = np.array([0.0, 10.0, 0.0, 0.0, 0.0, 20.0, 0.0, 61.0])
    expected = ["front", "front", "side", "side", "back", "back", "front", "overhead"]
    assert [VIEWS[i] for i in batches.view_index(azimuth, elevation)] == expected


def test_heights_follow_the_thresholds():
    elevation = np.array([-10.0, 15.0, 15.1, 35.0, 36.0, 60.0, 61.0, 85.0])
    words = [*HEIGHTS, None]
    found = [words[i] for i in batches.height_index(elevation)]
    assert found == ["low"] * 2 + ["raised"] * 2 + ["high"] * 2 + [None] * 2


class Words:
    """A tokenizer that numbers whole texts as it meets them."""

    def __init__(self):
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return np.arange(len(self.texts) - len(texts), len(self.texts))[:, None]


def draw(data, seed: int = 0, **changes) -> tuple[np.ndarray, list[str]]:
    """Images and captions of one batch."""
    config, words = CONFIG | changes, Words()
    examples = batches.training_set(data, words, config["hard_kinds"])
    images, ids, _ = batches.draw_batch(examples, jax.random.key(seed), config)
    return np.asarray(images), [words.texts[i] for i in np.asarray(ids)[:, 0]]


def test_captions_say_what_is_seen(data):
    images, captions = draw(data)
    assert images.shape == (64, 64, 64, 3) and 0 <= images.min() <= images.max() <= 1
    assert "" in captions and len(set(captions)) > 10
    for image, caption in zip(images, captions, strict=True):
        if not caption:
            continue
        prompt = parse(caption, heights=True)
        if prompt.normal_map:
            assert prompt.kind == "car" and np.allclose(image, 128 / 255)
        elif prompt.kind == "car":
            assert prompt.colour in ("red", None) and prompt.view in ("side", None)
            assert prompt.height in ("high", None)
            corner = {"white": 1.0, "grey": 0.5, "black": 0.0}[prompt.background]
            assert np.allclose(image[0, 0], corner)
        else:
            assert np.allclose(image[0, 0], [10 / 255, 10 / 255, 200 / 255])
            assert prompt.background == "white" and prompt.room
            assert prompt.kind in (ROOM, "duck") and prompt.height in ("raised", None)
            # The duck is pink and its room blue, never the other way round.
            colours = {ROOM: ("blue", None), "duck": ("pink", None)}[prompt.kind]
            assert prompt.colour in colours and prompt.room_colour in ("blue", None)


def test_what_is_left_out_has_the_stated_shares(data):
    dropped = {"text_dropout": 0.2, "view_dropout": 0.3, "colour_dropout": 0.4}
    dropped["height_dropout"] = 0.6
    _, captions = draw(data, batch_size=3000, normal_fraction=0.5, **dropped)
    assert captions.count("") / 3000 == pytest.approx(0.2, abs=0.03)
    cars = [parse(c, heights=True) for c in captions if "car" in c]
    for share, found in (
        (0.3, [p.view is None for p in cars]),
        (0.4, [p.colour is None for p in cars]),
        (0.6, [p.height is None for p in cars if p.view]),
        (0.5, [p.normal_map for p in cars]),
        (0.7, [p.background == "white" for p in cars if not p.normal_map]),
    ):
        assert np.mean(found) == pytest.approx(share, abs=0.07)


def test_every_caption_of_the_table_is_read_back(data):
    words = Words()
    table = batches.training_set(data, words, ()).captions
    read = [parse(text, heights=True) for text in set(words.texts) if text]
    # 16 kinds, 9 colours and 3 views of 4 heights each, from above or unnamed: alone in
    # 4 looks, or in 9 rooms; and 9 rooms alone. The unnamed ones count among them.
    assert len(read) == 16 * 9 * (3 * 4 + 2) * (4 + 9) + 9
    assert table.shape[:-1] == (17, 9, 10, 5, 4, 4)


def test_batch_is_a_function_of_its_key(data):
    images, captions = draw(data, 7)
    again, same = draw(data, 7)
    assert captions == same and np.array_equal(images, again)
    assert captions != draw(data, 8)[1]


def test_cameras_are_those_of_the_images(data):
    """The place of each image is known by its pixels; half of the cameras are told."""
    config = CONFIG | {"batch_size": 400, "normal_fraction": 0.0}
    examples = batches.training_set(data, Words(), ())
    images, _, cameras = map(
        np.asarray, batches.draw_batch(examples, jax.random.key(5), config)
    )
    told = cameras.any(axis=1)
    assert told.mean() == pytest.approx(0.5, abs=0.1)
    is_car = np.isclose(images[:, 32, 32, 0], 200 / 255)
    assert (cameras[told & is_car] == 1.0).all()
    assert set(np.unique(cameras[told & ~is_car])) == {2.0, 3.0}


def test_share_of_overhead_views_and_of_hard_kinds(data):
    above = data._replace(
        meta=data.meta | {"view": np.array([3, 0, 3]), "height": np.array([3, 0, 3])}
    )  # not the room
    for hard, cars in (((), 1 / 2), (("car",), 3 / 4)):
        settings = {"text_dropout": 0.0, "overhead_fraction": 0.6, "hard_kinds": hard}
        captions = draw(above, batch_size=1200, **settings)[1]
        counts = [sum(word in c for c in captions) for word in ("car", "duck")]
        # 0.4 of the batch falls on the three images alike, 0.6 on these two.
        expected = [0.4 / 3 + 0.6 * cars, 0.4 / 3 + 0.6 * (1 - cars)]
        assert np.allclose(np.array(counts) / 1200, expected, atol=0.05)


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(RunError, match=r"vsd_jax\.toybox\.dataset"):
        batches.open_dataset(str(tmp_path))


def test_compositing_over_a_background():
    rgba = np.array([[0, 0, 0, 0], [255, 0, 0, 255], [64, 0, 0, 128]], np.uint8)
    out = batches.composite(rgba, np.array([1.0, 0.5, 0.0]))
    expected = [[1, 0.5, 0], [1, 0, 0], [64 / 255 + 127 / 255, 0.5 * 127 / 255, 0]]
    np.testing.assert_allclose(out, expected, atol=1e-6)
