# SPDX-License-Identifier: Apache-2.0
"""From a configuration to embedded texts: what is distilled, what the prior is asked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import prompt
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build.stages import stage_of
from vsd_jax.types import Prompts


def make_prompts(config: Config, encode_text: Callable) -> Prompts:
    """The embedded prompts of a run, leaves [4, G, L, D]."""
    settings = Settings(config)
    return prompt.encode_prompts(
        encode_text, settings.prompt, extra=settings.method.texts
    )


def asks_prior(config: Config) -> bool:
    """Whether the prior judges the views; not where several devices hold it."""
    return config.eval.prior_draws > 0 and config.num_shards == 1


def make_check_texts(config: Config, encode_text: Callable) -> jax.Array | None:
    """What the prior is asked about a finished run's views (`judge/prior_check.py`).

    Returns:
      [V + 1, L, D]: the prompt with the words of each view (plain, where a view has
      none: flat scenes, and rooms seen from inside), then the negative prompt; all with
      the word of the background that is judged on. None if nothing is asked.
    """
    if not asks_prior(config):
        return None
    colors, _, words = Settings(config).background.table()
    judged = np.asarray(config.eval.background, np.float32)
    word = words[int(np.abs(colors - judged).sum(-1).argmin())]
    wanted = config.prompt_prefix + config.prompt
    texts = prompt.view_prompts(wanted)
    if stage_of(config).is_flat or config.camera.law == "inside":
        texts = [wanted] * len(prompt.VIEWS)
    negative = config.negative_prompt
    return jnp.asarray(encode_text([*(text + word for text in texts), negative]))
