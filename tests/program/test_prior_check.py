# SPDX-License-Identifier: Apache-2.0
"""A prior that believes in one plain colour for each text."""

import jax.numpy as jnp
import numpy as np
import pytest
import simple_scene

from vsd_jax.program.build import texts
from vsd_jax.program.judge import prior_check
from vsd_jax.program.run import renders
from vsd_jax.program.settings import config as config_lib
from vsd_jax.types import NoiseModel

RED, GREEN, BLUE, GREY = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5] * 3])
FRONT, SIDE, BACK, OVERHEAD = range(4)


class Believer:
    """Stands where a run does: `check_texts` are the colours themselves."""

    def __init__(self, colors):
        def apply(params, noisy, t, context):
            color = context["text"][:, 0] / params["unit"]
            return jnp.broadcast_to(color[:, None, None], noisy.shape)

        model = NoiseModel(apply=apply, prediction_type="sample")
        self.prior = simple_scene.make_prior(model, (4, 4, 3))
        self.prior_params = {"unit": 1.0}
        self.check_texts = jnp.asarray(colors, jnp.float32)[:, None]


def check(config, seen, colors):
    """`seen` [V, 3]: the colour that each view shows."""
    config.eval.update(prior_draws=3, num_views=len(seen))
    config = config_lib.validate(config)
    rgb = np.broadcast_to(seen[None, :, None, None], (1, len(seen), 4, 4, 3))
    cameras = renders.judged_cameras(config, len(seen))
    return prior_check.check(config, Believer(colors), rgb.astype(np.float32), cameras)


@pytest.mark.parametrize("num_views", [6, 8])
def test_views_that_show_what_was_asked_for(nerf_config, num_views, monkeypatch):
    monkeypatch.setattr(prior_check, "_PIXELS", 64)  # blocks of four
    # Every 45 or 60 degrees: one front, one back, and sides (half angle 45).
    colors = [RED, GREEN, BLUE, GREY, GREY]
    turn = np.arange(num_views) * 360 / num_views
    away = np.minimum(turn, 360 - turn)
    word = np.where(away < 45, FRONT, np.where(away > 135, BACK, SIDE))
    (row,) = check(nerf_config, np.array([RED, GREEN, BLUE])[word], colors)
    assert row["prior_text_gain"] == pytest.approx(1.0, abs=1e-5)
    assert row["prior_view_margin"] > 0.5 and row["prior_front_share"] == 0.0


@pytest.mark.parametrize(("elevation", "height"), [(0.0, 0), (20.0, 1), (50.0, 2)])
def test_views_have_the_words_of_their_height(nerf_config, elevation, height):
    colors = np.array([*[GREEN, BLUE, RED] * 3, GREY, GREY])
    colors[3 * height : 3 * height + 3] = [RED, GREEN, BLUE]
    nerf_config.vsd.height_prompts = True
    nerf_config.eval.elevation_deg = elevation
    word = np.array([FRONT, SIDE, SIDE, BACK, SIDE, SIDE])
    (row,) = check(nerf_config, np.array([RED, GREEN, BLUE])[word], colors)
    assert row["prior_text_gain"] == pytest.approx(1.0, abs=1e-5)
    assert row["prior_view_margin"] > 0.5 and row["prior_front_share"] == 0.0


def test_a_front_on_every_side_is_found(nerf_config, monkeypatch):
    monkeypatch.setattr(prior_check, "_PIXELS", 64)  # blocks of four
    colors = [RED, GREEN, BLUE, GREY, GREY]
    (row,) = check(nerf_config, np.tile(RED, (8, 1)), colors)
    assert row["prior_front_share"] == 1.0 and row["prior_view_margin"] < -0.5
    seen = np.tile(RED, (8, 1))
    seen[[3, 4]] = [GREEN, BLUE]  # one side and the back are as they should be
    (row,) = check(nerf_config, seen, colors)
    assert row["prior_front_share"] == pytest.approx(1 - 2 / 7)


def test_a_picture_of_something_else_gains_nothing(nerf_config):
    colors = [RED, RED, RED, RED, GREY]
    (row,) = check(nerf_config, np.tile(GREY, (5, 1)), colors)
    assert row["prior_text_gain"] < 0
    assert "prior_front_share" not in row  # no words for views


def test_what_is_asked(nerf_config, flat_config):
    def encode(texts):
        said.append(texts)
        return np.zeros((len(texts), 2, 3))

    said = []
    for config in (nerf_config, flat_config):
        assert texts.make_check_texts(config, encode) is None  # smoke
        config.eval.update(prior_draws=1, background=(0.0, 0.0, 0.0))
        config.negative_prompt = "a blur"
        texts.make_check_texts(config, encode)
    views_of = [f"a red mushroom, {v} view" for v in ("front", "side", "back")]
    assert said[0][:3] == [text + ", black background" for text in views_of]
    assert said[0][-1] == "a blur"
    assert said[1] == [flat_config.prompt] * 4 + ["a blur"]
