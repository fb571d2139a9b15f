# SPDX-License-Identifier: Apache-2.0
"""From a configuration to embedded texts: of the run, and for the prior's judgement."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import prompt
from vsd_jax.methods import Method
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build.stages import stage_of
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.types import Prompts


def make_prompts(
    config: Config,
    encode_text: Callable,
    method: Method | None = None,
    *,
    say: Callable = progress.say,
) -> Prompts:
    """The embedded prompts of a run, leaves [V, G, L, D].

    A prompt that is too long for the prior is shortened (`fitting`), and it is said.
    """
    extra = (method or Settings(config).method).texts
    spec = fitting(config, encode_text, extra, say=say)
    return prompt.encode_prompts(encode_text, spec, extra=extra)


def fitting(
    config: Config,
    encode_text: Callable,
    extra: Sequence[str] | None = None,
    *,
    say: Callable = lambda line: None,
) -> prompt.PromptSpec:
    """The texts of a run without those last words that the prior cannot read.

    Every text that is made of the prompt must fit, so that the words of view and
    background, which stand after it, are never the ones that are lost.

    Raises:
      ConfigError: not one word of the prompt fits beside them.
    """
    spec = Settings(config).prompt
    extra = Settings(config).method.texts if extra is None else extra
    # A function that does not count, as a test's or a user's own, reads all of a text.
    count = getattr(encode_text, "count_tokens", lambda text: 0)
    length = getattr(encode_text, "length", 0)

    def fits(*texts: str) -> bool:
        return all(count(text) <= length for text in texts)

    def all_fit(words: str) -> bool:
        of = dataclasses.replace(spec, prompt=words, negative_prompt="")
        tables = prompt.prompt_texts(of, extra=extra).values()
        texts = {text for table in tables for row in table for text in row}
        return fits(*texts, *_judged_texts(config, of))

    used, lost = prompt.shorten(spec.prompt, all_fit)
    if not used:
        raise ConfigError(
            f"prompt={progress.shorten(spec.prompt)!r}: the prior reads {length}"
            " tokens of a text, and with prompt_prefix and the words of view and"
            " background not one word of the prompt is left. Shorten them."
        )
    if lost:
        say(
            f"The prompt is longer than the prior reads ({length} tokens with the words"
            f" of view and background). Left out at its end: {lost!r}. Used: {used!r}."
        )
    negative, lost = prompt.shorten(spec.negative_prompt, fits)
    if lost:
        say(
            f"The negative prompt is longer than the prior reads ({length} tokens)."
            f" Left out at its end: {lost!r}. Used: {negative!r}."
        )
    return dataclasses.replace(spec, prompt=used, negative_prompt=negative)


def uses_prior_check(config: Config) -> bool:
    """Whether the prior judges the views; not where several devices hold it."""
    return config.eval.prior_draws > 0 and config.num_shards == 1


def make_check_texts(config: Config, encode_text: Callable) -> jax.Array | None:
    """What the prior is asked about a finished run's views (`judge/prior_check.py`).

    Returns:
      [V + 1, L, D]: the prompt with the words of each view (plain, where a view has
      none: flat scenes, and rooms seen from inside), then the negative prompt; all with
      the word of the background that is judged on. None if nothing is asked.
    """
    if not uses_prior_check(config):
        return None
    spec = fitting(config, encode_text)
    asked = [*_judged_texts(config, spec), spec.negative_prompt]
    return jnp.asarray(encode_text(asked))


def _judged_texts(config: Config, spec: prompt.PromptSpec) -> list[str]:
    """The prompt in each view on the background that is judged on; [] if none is."""
    if not uses_prior_check(config):
        return []
    colors, _, words = Settings(config).background.table()
    judged = np.asarray(config.eval.background, np.float32)
    word = words[int(np.abs(colors - judged).sum(-1).argmin())]
    wanted = spec.prompt_prefix + spec.prompt
    texts = prompt.view_prompts(wanted, heights=spec.height_prompts)
    if stage_of(config).is_flat or config.camera.law == "inside":
        texts = [wanted] * len(texts)
    return [text + word for text in texts]
