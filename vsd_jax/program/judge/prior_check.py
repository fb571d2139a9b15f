# SPDX-License-Identifier: Apache-2.0
"""What the prior itself says of the views of a finished run.

It needs no judge, so that it works with any prior: the prior that a scene was distilled
from is asked which text explains each view best (`diffusion/classify.py`). Two
questions: does the prompt explain it at all, and would "front view" explain a side or
a back better than its own words do (several faces, the Janus problem)?
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import classify
from vsd_jax.diffusion import prompt as prompt_lib
from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.particle import fit_images
from vsd_jax.program import Config
from vsd_jax.program.build.build import Run
from vsd_jax.types import Camera

_PIXELS = 1024  # of latents at once: four views of 16 x 16, one of 64 x 64


def check(
    config: Config, run: Run, rgb: np.ndarray, cameras: Camera
) -> list[dict[str, float]]:
    """Asks the prior about the views of each particle.

    Args:
      config: validated; `eval.prior_draws` draws of (t, noise) for each view, with t
        evenly in `eval.prior_t_range`.
      run: holds the prior and `check_texts`.
      rgb: [n, V, H, W, 3] in [0, 1], on `eval.background`.
      cameras: of the views, leaves [V].

    Returns:
      For each particle `prior_text_gain`: the share of the error without text that the
      prompt takes away, averaged over views; > 0 if the prior sees what was asked for.
      Where views have words also, over sides and backs, `prior_view_margin`: how much
      larger that share is than under "front view"; and `prior_front_share`: the share
      of them that "front view" explains better than their own words.
    """
    words = prompt_lib.view_index(
        cameras.azimuth_deg,
        cameras.elevation_deg,
        overhead_deg=config.vsd.overhead_deg,
        front_half_angle_deg=config.vsd.front_half_angle_deg,
    )
    views, negative = run.check_texts[:-1], run.check_texts[-1]
    heights = None
    if config.vsd.height_prompts:
        limits = config.vsd.height_limits_deg
        heights = np.asarray(prompt_lib.height_index(cameras.elevation_deg, limits))
    own, front = _words_of(views, np.asarray(words), heights)
    texts = jnp.stack(
        [own, *(jnp.broadcast_to(y, own.shape) for y in (front, negative))], axis=1
    )
    hidden = np.isin(words, (prompt_lib.SIDE, prompt_lib.BACK))
    has_words = not np.array_equal(views[prompt_lib.BACK], views[prompt_lib.FRONT])
    errors = _make_errors(config, run, num_views=len(words))
    rows = []
    for i, images in enumerate(rgb):
        key = jax.random.fold_in(jax.random.key(config.seed), i)
        own, front, none = np.moveaxis(errors(images, texts, key), -1, 0)
        row = {"prior_text_gain": float(np.mean(1.0 - own / none))}
        if has_words and hidden.any():
            margin = np.mean((front - own) / none, axis=1)[hidden]
            row["prior_view_margin"] = float(np.mean(margin))
            row["prior_front_share"] = float(np.mean(margin < 0.0))
        rows.append(row)
    return rows


def _words_of(
    texts: jax.Array, views: np.ndarray, heights: np.ndarray | None
) -> tuple[jax.Array, jax.Array]:
    """Each view's own text and that of the front at its height, [N, L, D] each.

    Args:
      texts: [V, L, D] as `prompt.view_prompts` orders them.
      views: [N] indices into `prompt.VIEWS`.
      heights: [N] indices into `prompt.HEIGHTS`, or None where V is 4.
    """
    below = 0 * views if heights is None else prompt_lib.OVERHEAD * heights
    overhead = views == prompt_lib.OVERHEAD
    own = np.where(overhead, len(texts) - 1, below + views)
    return texts[own], texts[below + prompt_lib.FRONT]


def _make_errors(
    config: Config, run: Run, *, num_views: int
) -> Callable[..., np.ndarray]:
    """`(images [V, H, W, 3], texts [V, K, L, D], key) -> errors [V, draws, K]`."""
    prior, draws = run.prior, config.eval.prior_draws
    height, width, _ = prior.latent_shape
    block = min(num_views, max(1, _PIXELS // (height * width)))
    noise_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    low, high = (
        len(prior.alphas_cumprod) * share for share in config.eval.prior_t_range
    )
    steps = jnp.asarray(np.linspace(low, high, draws + 2)[1:-1], jnp.int32)

    @jax.jit
    def block_errors(params, images, texts, key):
        def noise_of(key):
            return jax.random.normal(key, (block, *prior.latent_shape))

        encode_key, draw_key = jax.random.split(key)
        fitted = fit_images(images, prior.image_size)
        latents = prior.encode(params, fitted, noise_of(encode_key))

        def one_draw(t, key):
            return classify.denoising_errors(
                noise_fn,
                params,
                latents,
                texts,
                t=jnp.full(block, t),
                noise=noise_of(key),
                alphas_cumprod=prior.alphas_cumprod,
            )

        keys = jax.random.split(draw_key, draws)
        found = jax.lax.map(lambda xs: one_draw(*xs), (steps, keys))
        return jnp.swapaxes(found, 0, 1)

    def errors(images, texts, key):
        # Once, where they are on the host.
        blocks, params = [], jax.device_put(run.prior_params)
        for start in range(0, num_views, block):
            # The last block is filled up with its first views again.
            index = np.arange(start, start + block) % num_views
            part = (jnp.asarray(images[index]), texts[index])
            found = block_errors(params, *part, jax.random.fold_in(key, start))
            blocks.append(np.asarray(found))
        return np.concatenate(blocks)[:num_views]

    return errors
