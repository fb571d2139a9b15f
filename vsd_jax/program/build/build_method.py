# SPDX-License-Identifier: Apache-2.0
"""From the configuration to what the particles follow: prompts, timesteps, residual."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax import family, residuals, vsd
from vsd_jax.particle import Residual, TRange
from vsd_jax.program.build import build_scene
from vsd_jax.program.build.build_field import Config
from vsd_jax.diffusion import prompt
from vsd_jax.types import NoiseModel, Prior, PyTree

WITH_SCORE = ("vsd", "esd")
"""The methods that train a score network."""

FAMILY = {
    "csd": (family.csd, ()),
    "nfsd": (family.nfsd, ("guidance_scale", "t_switch")),
    "bridge": (family.bridge, ("guidance_scale",)),
    "esd": (family.esd, ("guidance_scale", "score_scale")),
    "ism": (family.ism, ("guidance_scale", "interval", "num_inversions")),
    "sdi": (family.sdi, ("guidance_scale", "inversion_scale", "num_inversions")),
}
"""Method: (function, the settings that it takes)."""


def make_contexts(config: Config, encode_text: Callable) -> PyTree:
    """The embedded prompts, leaves [V, G, L, D] (`diffusion/prompt.py`)."""
    _, _, words = build_scene.make_backgrounds(config)
    wanted = config.prompt_prefix + config.prompt
    seen = prompt.view_prompts(wanted, config.vsd.height_words)
    plain = [wanted] * len(seen)
    seen = seen if config.vsd.view_prompts else plain
    texts = {
        "text": [[text + word for word in words] for text in seen],
        "score": [
            [(text + word) * config.score.prompt for word in words] for text in plain
        ],
        "negative": [[config.negative_prompt] * len(words)] * len(seen),
    }
    if config.vsd.method in FAMILY:
        texts["empty"] = [[""] * len(words)] * len(seen)
        texts["source"] = [
            [text + config.family.source_words + word for word in words]
            for text in plain
        ]
    unique = sorted({text for rows in texts.values() for row in rows for text in row})
    embedded = dict(zip(unique, encode_text(unique), strict=True))
    return {
        name: jnp.asarray([[embedded[text] for text in row] for row in rows])
        for name, rows in texts.items()
    }


def asks_prior(config: Config) -> bool:
    """Whether the prior judges the views; not where several devices hold it."""
    return config.eval.prior_draws > 0 and config.num_shards == 1


def make_check_texts(config: Config, encode_text: Callable) -> jax.Array | None:
    """What the prior is asked about a finished run's views (`prior_check.py`).

    Returns:
      [V + 1, L, D]: the prompt with the words of each view (plain, where a view has
      none: flat scenes, and rooms seen from inside), then the negative prompt; all with
      the word of the background that is judged on. None if nothing is asked.
    """
    if not asks_prior(config):
        return None
    colors, _, words = build_scene.make_backgrounds(config)
    judged = np.asarray(config.eval.background, np.float32)
    word = words[int(np.abs(colors - judged).sum(-1).argmin())]
    wanted = config.prompt_prefix + config.prompt
    texts = prompt.view_prompts(wanted)
    if build_scene.is_flat(config) or config.camera.law == "inside":
        texts = [wanted] * len(prompt.VIEWS)
    negative = config.negative_prompt
    return jnp.asarray(encode_text([*(text + word for text in texts), negative]))


def make_views(config: Config) -> Callable[[jax.Array, jax.Array], prompt.ViewWeights]:
    """`(azimuth_deg, elevation_deg) -> ViewWeights`."""
    vsd_config = config.vsd
    if vsd_config.perp_neg:
        return functools.partial(
            prompt.perp_neg_views,
            overhead_deg=vsd_config.overhead_deg,
            front_over_side=vsd_config.front_over_side,
            side_over_front=vsd_config.side_over_front,
            side_over_back=vsd_config.side_over_back,
            front_over_back=vsd_config.front_over_back,
        )
    return functools.partial(
        prompt.hard_views,
        overhead_deg=vsd_config.overhead_deg,
        front_half_angle_deg=vsd_config.front_half_angle_deg,
        height_limits_deg=vsd_config.height_limits_deg,
        num_heights=len(vsd_config.height_words),
    )


def make_t_range(config: Config, alphas_cumprod: np.ndarray) -> TRange:
    """`(step) -> (lowest, highest)` timestep for the particles."""
    num_t = len(alphas_cumprod)
    low, high = (round(share * num_t) for share in config.vsd.t_range)
    late = round(config.vsd.t_range_late[1] * num_t)
    if config.vsd.t_schedule == "sqrt":
        return functools.partial(
            vsd.sqrt_t_range, t_min=low, t_max=high, num_steps=config.num_steps
        )
    if config.vsd.t_schedule == "dreamtime":
        return functools.partial(
            family.table_t_range,
            table=family.dreamtime_timesteps(
                alphas_cumprod,
                config.num_steps,
                middle=config.family.dreamtime_middle * num_t,
                width=config.family.dreamtime_width * num_t,
            ),
        )
    return functools.partial(
        vsd.two_stage_t_range,
        t_min=low,
        t_max=min(high, num_t - 1),
        t_max_late=min(late, num_t - 1),
        anneal_step=config.vsd.anneal_step,
    )


def make_residual(config: Config, prior: Prior, score: NoiseModel | None) -> Residual:
    """The method that `vsd.method` names."""
    weighting, scale = config.vsd.weighting, config.vsd.guidance_scale
    if config.vsd.method not in FAMILY:
        return residuals.make_residual(
            prior,
            score,
            guidance_scale=scale,
            weighting=weighting,
            x0_limit=config.vsd.x0_limit,
        )
    num_t, settings = len(prior.alphas_cumprod), config.family
    known = {
        "guidance_scale": scale,
        "score_scale": settings.score_scale,
        "inversion_scale": settings.inversion_scale,
        "num_inversions": settings.num_inversions,
        "t_switch": round(settings.t_switch * num_t),
        "interval": max(1, round(settings.interval * num_t)),
    }
    method, names = FAMILY[config.vsd.method]
    options = {name: known[name] for name in names}
    return residuals.make_family_residual(
        method, prior, score, weighting=weighting, **options
    )
