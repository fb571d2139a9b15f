# SPDX-License-Identifier: Apache-2.0
"""A look inside the step: what the prior and the score network see in one render.

VSD follows the difference of two denoisers at the same x_t (arXiv:2305.16213, Sec.
3.2). As pictures of x_0 both can be seen: the prior's, with its guidance, is where the
particle is drawn to; the score network's is what it takes the particles to look like.
Where both are the same, VSD's residual is zero. Other methods take other baselines than
the score network, VSD itself the noise at t < `exact_below`; those that reach x_t by
inversion (`ism`, `sdi`) see another one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vsd_jax.diffusion.guidance import Guidance, guided_noise
from vsd_jax.diffusion.noise import add_noise, as_noise_fn, to_x0
from vsd_jax.diffusion.prompt import select_prompts
from vsd_jax.particle import fit_images
from vsd_jax.score_network import camera_vector
from vsd_jax.types import Camera, Prior, Scene, Score, Views


class View(NamedTuple):
    """What is looked at.

    Attributes:
      camera: one camera.
      background: [3], see `Scene.render`.
      background_index: scalar int32; selects the prompt.
    """

    camera: Camera
    background: jax.Array
    background_index: jax.Array


Look = Callable[..., dict[str, jax.Array]]
"""`((params, stats), (score_params, prior_params), prompts, view, key, *, t [K]) ->`
`render` [S, S, 3]; `noisy`, `prior`, `score` [K, S, S, 3]; `prior_error`, `score_error`
[K]. Without a score network the names with `score` are absent."""


def make_look(
    scene: Scene,
    prior: Prior,
    score: Score | None,
    views: Views,
    *,
    guidance_scale: float,
    guidance: Guidance,
    size: int,
) -> Look:
    """Makes the look inside the step; pure, to be jitted.

    Its cost for each of the K timesteps is one guided prediction of the prior and one
    of the score network, without a gradient; they follow each other, so that the memory
    is that of one view.

    Args:
      scene: rendered as in training.
      prior: frozen prior.
      score: score network, or None.
      views: weighs the prompts of the camera.
      guidance_scale: s of the prior's guidance.
      guidance: what is done to the guided prediction.
      size: S, side of the pictures, pixels.

    Returns:
      See `Look`. Errors are root mean squares of x_0 against that of the render, over
      the latent; pictures are in [0, 1].
    """
    alphas_cumprod = prior.alphas_cumprod
    prior_fn = as_noise_fn(prior.model, alphas_cumprod)
    score_fn = score and as_noise_fn(score.model, alphas_cumprod)

    def show(prior_params, latents):
        image = prior.decode(prior_params, latents)
        return jnp.clip(fit_images(image, size)[0], 0.0, 1.0)

    def encode(one, prior_params, view, keys):
        output = scene.render(
            *(*one, view.camera, view.background, keys[0]), train=True
        )
        images = fit_images(output.rgb[None], prior.image_size)
        noise, of_encoder = (
            jax.random.normal(each, (1, *prior.latent_shape)) for each in keys[1:]
        )
        return prior.encode(prior_params, images, of_encoder), noise

    def predict(networks, noisy, t, prompts, view):
        found = {
            "prior": guided_noise(
                *(prior_fn, networks[1], noisy, t, prompts),
                scale=guidance_scale,
                alphas_cumprod=alphas_cumprod,
                guidance=guidance,
            )
        }
        if score_fn is not None:
            seen = jnp.full(1, score.camera_dropout < 1)
            camera = camera_vector(view.camera.cam_to_world[None], seen)
            context = {"text": prompts["score"], "camera": camera}
            found["score"] = score_fn(networks, noisy, t, context)
        return found

    def look(one, networks, prompts, view, key, *, t):
        x0, noise = encode(one, networks[1], view, jax.random.split(key, 3))
        weights = views.weigh_prompts(
            view.camera.azimuth_deg, view.camera.elevation_deg
        )
        here = select_prompts(prompts, weights, view.background_index)
        if prior.reads_camera:
            here["camera"] = view.camera.cam_to_world.reshape(16)
        here = jax.tree.map(lambda leaf: leaf[None], here)

        def at(t):
            t = t[None]
            noisy = add_noise(x0, noise, t, alphas_cumprod)
            found = {"noisy": show(networks[1], noisy)}
            for name, noise_pred in predict(networks, noisy, t, here, view).items():
                clean = to_x0(noise_pred, noisy, t, alphas_cumprod, "epsilon")
                found[name] = show(networks[1], clean)
                found[f"{name}_error"] = jnp.sqrt(jnp.mean((clean - x0) ** 2))
            return found

        return {"render": show(networks[1], x0)} | jax.lax.map(at, t)

    return look
