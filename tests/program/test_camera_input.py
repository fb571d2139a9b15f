# SPDX-License-Identifier: Apache-2.0
"""Tests of priors that read the exact camera."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiny_runs import write_toybox

from vsd_jax import methods, presets
from vsd_jax.diffusion import camera_input, exact
from vsd_jax.diffusion.prompt import encode_prompts
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.toybox import evaluate
from vsd_jax.types import NoiseModel
from vsd_jax.views import make_draw, make_views

LEVELS = np.linspace(0.999, 0.001, 100).astype(np.float32)


# With a channel for each group of the norms an embedding would have no effect.
WIDE = {"channels": (64, 64)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain prior, and the same with untrained layers for the camera."""
    root = tmp_path_factory.mktemp("camera")
    plain = write_toybox(root / "plain", **WIDE)
    return plain, write_toybox(
        root / "more", init_from=str(plain), camera_input=True, **WIDE
    )


@pytest.fixture(scope="module")
def loaded(folders):
    """(told, its params with trained layers of the camera, text of two prompts)."""
    prior, params, encode = diffusion_prior.load_prior(folders[1], tell_camera=True)
    flat = traverse_util.flatten_dict(params["unet"])
    random = np.random.default_rng(3)
    moved = {
        path: leaf + jnp.asarray(random.normal(size=leaf.shape), jnp.float32)
        if camera_input.PARAMS in path
        else leaf
        for path, leaf in flat.items()
    }
    params = params | {"unet": traverse_util.unflatten_dict(moved)}
    return prior, params, jnp.asarray(encode(["a red car", ""]))


def ask(prior, params, text, camera=None):
    noisy = jax.random.normal(jax.random.key(0), (2, *prior.latent_shape))
    context = {"text": text} | ({} if camera is None else {"camera": camera})
    return jax.jit(prior.model.apply)(params, noisy, jnp.array([500, 900]), context)


CAMERA = jax.random.normal(jax.random.key(1), (2, 16))


def test_untrained_layers_keep_the_old_function(folders):
    old, old_params, encode = diffusion_prior.load_prior(folders[0])
    new, params, _ = diffusion_prior.load_prior(folders[1], tell_camera=True)
    text = jnp.asarray(encode(["a red car", ""]))
    before = ask(old, old_params, text)
    np.testing.assert_allclose(ask(new, params, text, CAMERA), before, atol=1e-5)
    assert new.reads_camera and not old.reads_camera


def test_it_follows_the_camera_of_each_view(loaded):
    prior, params, text = loaded
    unknown = ask(prior, params, text)
    nothing_told = ask(prior, params, text, jnp.zeros((2, 16)))
    np.testing.assert_allclose(nothing_told, unknown, atol=1e-5)
    one_told = ask(prior, params, text, CAMERA.at[1].set(0.0))
    assert np.abs(one_told[0] - unknown[0]).max() > 0.01
    np.testing.assert_allclose(one_told[1], unknown[1], atol=1e-5)


def test_not_told_it_is_deaf_to_the_camera(folders, loaded):
    _, params, text = loaded
    deaf, _, _ = diffusion_prior.load_prior(folders[1])
    assert not deaf.reads_camera
    np.testing.assert_array_equal(
        ask(deaf, params, text, CAMERA), ask(deaf, params, text)
    )


def test_that_a_prior_is_deaf_to_the_camera_is_said(folders):
    lines = []
    prior, *_ = diffusion_prior.load_prior(
        folders[0], tell_camera=True, say=lines.append
    )
    assert not prior.reads_camera
    assert any("view words alone" in line for line in lines)
    with pytest.raises(WeightsError, match="is no multi-view prior"):
        options = {"guidance": 2.0, "steps": 1}
        evaluate.sample(str(folders[0]), [("car", "red", "side")], CAMERA, **options)


def test_other_numbers_than_a_cameras_are_refused(folders, tmp_path):
    folder = write_toybox(
        tmp_path / "wide", init_from=str(folders[1]), camera_input=True, **WIDE
    )
    file = folder / "unet" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"camera_features": 12}))
    with pytest.raises(WeightsError, match=r"camera_features=12; a camera has 16"):
        diffusion_prior.load_prior(folder)


def test_each_view_of_a_step_is_told_its_own_camera():
    """In a step of SDS; what guidance moves away from is not told it."""
    seen = []

    def apply(params, noisy, t, context):
        seen.append(context["camera"])
        return noisy

    prior = exact.make_prior(LEVELS, latent_shape=(1, 1, 1))
    prior = prior._replace(model=NoiseModel(apply, "epsilon"), reads_camera=True)
    preset = presets.preset("object", "smoke")
    prompts = encode_prompts(lambda texts: np.zeros((len(texts), 1, 4)), preset.prompt)
    draw = make_draw(prior, None, make_views(preset.views))(
        jax.random.key(0), jnp.int32(0), prompts
    )
    flat = np.asarray(draw.cameras.cam_to_world).reshape(-1, 16)
    np.testing.assert_array_equal(draw.prompts["camera"], flat)
    residual = methods.bind(methods.sds(guidance_scale=7.5), prior, None)
    residual(jnp.zeros((len(flat), 1, 1, 1)), draw, {}, {})
    base, text = np.split(np.asarray(seen[-1]), 2)
    np.testing.assert_array_equal(text, flat)
    np.testing.assert_array_equal(base, 0.0 * flat)


def test_evaluation_tells_how_much_the_camera_says(folders, loaded, monkeypatch):
    """Nothing while its layers are untrained; then its own is unlike another's."""
    wanted = [("mushroom", "red", "front"), ("house", "blue", "front")]
    images, cameras = evaluate.truth_and_cameras(wanted, 5)
    assert cameras.shape == (2, 16) and (cameras[:, 15] == 1.0).all()
    untrained = evaluate.camera_errors(str(folders[1]), wanted, images, cameras)
    np.testing.assert_allclose(untrained["own"], untrained["none"], rtol=1e-5)
    prior, params, _ = loaded
    encode = diffusion_prior.load_prior(folders[1])[2]
    found = lambda path, tell_camera: (prior, params, encode)  # noqa: E731
    monkeypatch.setattr(evaluate.diffusion_prior, "load_prior", found)
    trained = evaluate.camera_errors("", wanted, images, cameras)
    assert not np.allclose(trained["own"], trained["none"], rtol=1e-3)
    assert not np.allclose(trained["own"], trained["another"], rtol=1e-3)
