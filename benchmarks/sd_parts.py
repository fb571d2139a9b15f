# SPDX-License-Identifier: Apache-2.0
"""The parts of the Stable Diffusion step as our program computes them.

Each is one jitted function of its weights and of `sd_models.inputs`; the same five, on
the same numbers, are in `benchmarks/torch_sd.py`.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks import sd_models, sd_ours
from vsd_jax.program.build import build
from vsd_jax.program.build.stages import make_scene
from vsd_jax.program.prior import weights
from vsd_jax.scene import camera

NEEDS = {"unet": "unet", "lora": "unet", "train": "unet", "vae": "vae", "render": ""}
"""Each part and the frozen network that it needs: UNet at batch 2 (guidance); LoRA
forward at batch 1; LoRA forward and gradient; VAE encoder and its gradient to the
image; render and its gradient to theta."""


def make_part(size: str, name: str) -> tuple[Callable[[], dict], float]:
    """(`run()`, which returns named arrays when they are there; compile seconds)."""
    config, run = sd_ours.build_run(size)
    score, _ = build.make_score(config, run.prior, run.prior_params)
    needed = NEEDS[name]
    frozen = {needed: run.prior_params[needed]} if needed else {}
    phi = jax.eval_shape(score.init, jax.random.key(0), run.prior_params)
    given = jax.tree.map(jnp.asarray, sd_models.inputs(size))
    if name == "render":
        fn = make_render(make_scene(config, size=config.render.size))
    else:
        fn = make_networks(run.prior, score.model)[name]
    begin = time.perf_counter()
    # Before the weights are there: the compiler's memory is not that of the part.
    compiled = jax.jit(fn).lower(frozen, phi, given).compile()
    seconds = time.perf_counter() - begin
    args = sd_ours.fill_frozen(frozen), sd_ours.fill_trained(phi), given
    return lambda: jax.block_until_ready(compiled(*args)), seconds


def make_networks(prior, score) -> dict[str, Callable]:
    """`name -> fn(frozen, phi, inputs) -> named arrays`."""

    def context(given, batch):
        return {"text": given["text"][:batch], "camera": given["camera"]}

    def unet(frozen, phi, given):
        t, text = given["t"][:1].repeat(2), context(given, 2)
        return {"out": prior.model.apply(frozen, given["latents"], t, text)}

    def denoise(phi, frozen, given):
        latents, t = given["latents"][:1], given["t"][1:]
        return score.apply((phi, frozen), latents, t, context(given, 1))

    def lora(frozen, phi, given):
        return {"out": denoise(phi, frozen, given)}

    def train(frozen, phi, given):
        def loss(phi):
            return jnp.mean((denoise(phi, frozen, given) - given["target"]) ** 2)

        value, grads = jax.value_and_grad(loss)(phi)
        return {"loss": value} | _torch_names(grads)

    def vae(frozen, phi, given):
        def loss(image):
            noise = jax.random.normal(jax.random.key(0), given["direction"].shape)
            latents = prior.encode(frozen, image, noise)
            return jnp.sum(latents * given["direction"]), latents

        grads, latents = jax.grad(loss, has_aux=True)(given["image"])
        return {"latents": latents, "image": grads}

    return {"unet": unet, "lora": lora, "train": train, "vae": vae}


def _torch_names(grads) -> dict:
    """Gradients under flat names, those of phi as in `benchmarks/torch_sd.py`."""
    flat = flatten_dict(grads)
    return {weights.torch_name(path): value for path, value in flat.items()}


def vae_noise(size: str) -> np.ndarray:
    """The noise that `vae` adds to the encoder's mean, [1, h, w, 4]."""
    shape = sd_models.inputs(size)["direction"].shape
    return np.asarray(jax.random.normal(jax.random.key(0), shape))


def make_render(scene) -> Callable:
    """Render in training and its gradient; one camera, a random table."""
    view = camera.orbit_camera(30.0, 20.0, 1.25, 55.0)

    def render(frozen, phi, given):
        params = scene.init(jax.random.key(0))
        table = params["table"]
        draws = jax.random.normal(jax.random.key(1), table.shape, table.dtype)

        def loss(params):
            key, black = jax.random.key(2), jnp.zeros(3)
            out = scene.render(params, {}, view, black, key, train=True)
            return jnp.sum(out.rgb * given["wave"])

        value, grads = jax.value_and_grad(loss)(params | {"table": 0.1 * draws})
        return {"loss": value} | _torch_names(grads)

    return render
