# SPDX-License-Identifier: Apache-2.0
import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diffusion import prompt
from vsd_jax.diffusion.guidance import WORDS
from vsd_jax.presets import preset
from vsd_jax.toybox import batches
from vsd_jax.toybox import text as toybox_text

hard = partial(prompt.hard_views, overhead_deg=60.0, front_half_angle_deg=45.0)
# threestudio's decays, as an example of numbers that a configuration would give.
soft = partial(
    prompt.perp_neg_views,
    overhead_deg=60.0,
    front_over_side=(4.0, 0.5, -2.426),
    side_over_front=(4.0, 0.5, -2.426),
    side_over_back=(1.0, 0.5, -0.606),
    front_over_back=(1.0, 0.5, 0.967),
)


def test_view_prompts():
    assert prompt.view_prompts("a chair") == [
        "a chair, front view",
        "a chair, side view",
        "a chair, back view",
        "a chair, overhead view",
    ]


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 0, "front"),
        (44.9, 60, "front"),
        (-44.9, 0, "front"),
        (45.1, 0, "side"),
        (-134.9, 0, "side"),
        (135.1, 0, "back"),
        (180, -20, "back"),
        (-135.1, 0, "back"),
        (350, 0, "front"),
        (540, 0, "back"),
        (0, 60.1, "overhead"),
        (180, 90, "overhead"),
    ],
)
def test_hard_views(azimuth, elevation, view):
    weights = hard(jnp.float32(azimuth), jnp.float32(elevation))
    expected = np.eye(4)[prompt.VIEWS.index(view)]
    np.testing.assert_array_equal(weights.positive, expected)
    assert weights.negative is None


def test_select_prompts_takes_view_and_background():
    keys = jax.random.split(jax.random.key(0), 3)
    contexts = {
        name: jax.random.normal(key, (4, 3, 2, 5))
        for name, key in zip(("text", "negative", "score"), keys, strict=True)
    }
    here = prompt.select_prompts(contexts, hard(jnp.float32(180), jnp.float32(0)), 1)
    for name, leaf in contexts.items():
        np.testing.assert_allclose(here[name], leaf[prompt.BACK, 1], atol=1e-6)
    assert "perp_text" not in here
    there = prompt.select_prompts(contexts, soft(jnp.float32(45), jnp.float32(0)), 2)
    text = contexts["text"][:, 2]
    np.testing.assert_allclose(there["text"], (text[0] + text[1]) / 2, atol=1e-6)
    np.testing.assert_array_equal(there["perp_text"], text[:2])
    assert there["perp_weights"].shape == (2,)


@pytest.mark.parametrize("perp_neg", [False, True])
def test_low_cameras_move_away_from_the_overhead_view(perp_neg):
    keys = jax.random.split(jax.random.key(0), 3)
    contexts = {
        name: jax.random.normal(key, (4, 3, 2, 5))
        for name, key in zip(("text", "negative", "score"), keys, strict=True)
    }
    spec = dataclasses.replace(
        preset().views.prompts, not_overhead_deg=30.0, perp_neg=perp_neg
    )
    weigh = prompt.make_view_weights(spec)
    overhead = contexts["text"][prompt.OVERHEAD, 1]
    for elevation, share in ((-10.0, 1.0), (30.0, 0.5), (70.0, 0.0)):
        views = weigh(jnp.float32(0), jnp.float32(elevation))
        here = prompt.select_prompts(contexts, views, 1)
        plain, score = (
            jnp.tensordot(views.positive, contexts[name][:, 1], axes=1)
            for name in ("negative", "score")
        )
        expected = share * overhead + (1 - share) * plain
        np.testing.assert_allclose(here["negative"], expected, atol=1e-3)
        np.testing.assert_allclose(here[WORDS], plain, atol=1e-6)
        np.testing.assert_allclose(here["score"], score, atol=1e-6)
    never = prompt.make_view_weights(preset(variant="sd21").views.prompts)
    assert never(jnp.float32(0), jnp.float32(0)).against is None


@pytest.mark.parametrize("perp_neg", [False, True])
def test_words_for_the_height_follow_the_elevation(perp_neg):
    spec = dataclasses.replace(
        preset().prompt,
        prompt="a chair",
        height_prompts=True,
        background_words=("", ", black background"),
    )
    texts = prompt.prompt_texts(spec)["text"]
    assert len(texts) == 10 and len({text for row in texts for text in row}) == 20

    def encode(asked):  # each text is its own axis
        order = {text: i for i, text in enumerate(sorted(set(asked)))}
        known.update({i: text for text, i in order.items()})
        return np.eye(64, dtype=np.float32)[[order[text] for text in asked]][:, None]

    known = {}
    prompts = prompt.encode_prompts(encode, spec)
    weigh = prompt.make_view_weights(
        dataclasses.replace(
            preset().views.prompts, height_prompts=True, perp_neg=perp_neg
        )
    )
    for azimuth, elevation, words in (
        (0.0, -20.0, "low front"),
        (180.0, 25.0, "raised back"),
        (90.0, 50.0, "high side"),
        (0.0, 80.0, "overhead"),
    ):
        views = weigh(jnp.float32(azimuth), jnp.float32(elevation))
        here = prompt.select_prompts(prompts, views, 1)
        found = known[int(here["text"][0].argmax())]
        assert found == f"a chair, {words} view, black background"
        if perp_neg:
            front, side = (known[int(row[0].argmax())] for row in here["perp_text"])
            height = words.split()[0] if " " in words else "high"
            assert front == f"a chair, {height} front view, black background"
            assert side == f"a chair, {height} side view, black background"


def test_heights_are_those_that_the_embedded_prior_was_trained_with():
    assert prompt.HEIGHTS == tuple(toybox_text.HEIGHTS)
    limits = preset().views.prompts.height_limits_deg
    assert limits == tuple(high for _, high in toybox_text.HEIGHTS.values())[:2]
    elevations = np.array([-10.0, 15.0, 15.1, 35.0, 35.1, 59.0])
    np.testing.assert_array_equal(
        prompt.height_index(elevations, limits), batches.height_index(elevations)
    )


def test_perp_neg_views_at_the_named_angles():
    front = soft(jnp.float32(0), jnp.float32(0))
    np.testing.assert_allclose(front.positive, [1, 0, 0, 0], atol=1e-6)
    # At the front the front is not pushed away, the side most.
    np.testing.assert_allclose(front.negative, [0.0, 4 - 2.426], atol=1e-3)
    side = soft(jnp.float32(-90), jnp.float32(0))
    np.testing.assert_allclose(side.positive, [0, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(side.negative, [np.exp(-0.5) + 0.967, 0], atol=1e-3)
    back = soft(jnp.float32(180), jnp.float32(0))
    np.testing.assert_allclose(back.positive, [0, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(back.negative, [1.967, 1 - 0.606], atol=1e-3)
    above = soft(jnp.float32(20), jnp.float32(70))
    np.testing.assert_allclose(above.positive, [0, 0, 0, 1])
    np.testing.assert_allclose(above.negative, [0, 0])


@pytest.mark.parametrize("azimuth", np.linspace(-180, 180, 13))
def test_perp_neg_weights_are_proper(azimuth):
    weights = soft(jnp.float32(azimuth), jnp.float32(10))
    np.testing.assert_allclose(weights.positive.sum(), 1.0, atol=1e-6)
    assert (weights.positive >= 0).all() and (weights.negative >= 0).all()


def test_shorten_takes_whole_words_from_the_end():
    text = "a castle, with  towers;\nand flags"
    for letters, expected in {
        99: (text, ""),
        25: ("a castle, with towers", "and flags"),
        14: ("a castle, with", "towers; and flags"),
        9: ("a castle", "with towers; and flags"),
        8: ("a", "castle, with towers; and flags"),
        0: ("", "a castle, with towers; and flags"),
    }.items():
        assert prompt.shorten(text, lambda part, n=letters: len(part) <= n) == expected
    assert prompt.shorten("", lambda part: True) == ("", "")


def test_shorten_asks_seldom():
    asked = []
    text = "word " * 4000
    used, lost = prompt.shorten(text, lambda part: asked.append(0) or len(part) <= 999)
    assert used.count("word") == 200 and lost.count("word") == 3800
    assert len(asked) < 15


@pytest.mark.parametrize("extra", ["empty", ("emtpy",)])
def test_a_name_that_is_no_prompt_is_refused(extra):
    with pytest.raises(ValueError, match="'empty' and 'source'"):
        prompt.prompt_texts(preset("object").prompt, extra=extra)
