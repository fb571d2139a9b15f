# SPDX-License-Identifier: Apache-2.0
"""The verdict on a finished run: do its views show what was asked for?

It is the strict judge's (`toybox/strict_judge.py`), which may answer "nothing". How
near the shape is to the truth it does not say: of finished runs with current settings
what was tried tells that no better than always saying "near"
(`docs/experiments/diagnostics.md`). It was measured for NeRFs of objects outside rooms
on the embedded prior; elsewhere nothing is said.
"""

from vsd_jax.program import Config
from vsd_jax.program.build.stages import stage_of
from vsd_jax.toybox import text

LEAST_SHARE = 0.5
"""Of the views in which the strict judge must see the kind."""
FAR = 2.5
"""Times the Chamfer distance of true objects to each other: more is far from truth."""
HIT_RATE, MAJORITY, NUM_RUNS = 213 / 229, 208 / 229, 229
"""On runs that came after the rule, most of them finished: the share of which the
verdict said what the Chamfer distance says; of always saying what most were; how many.
"""
MEASURED = (
    "The verdict says whether a strict judge sees the kind in at least"
    f" {LEAST_SHARE:.0%} of the views, not how fine the shape is. It agreed with the"
    f" Chamfer distance (above {FAR} times that between true objects or not) for"
    f" {HIT_RATE:.0%} of {NUM_RUNS} runs, most of them finished and good (always saying"
    f" what most were: {MAJORITY:.0%})."
)


def was_measured(config: Config) -> bool:
    """Whether runs like this one are among those that the verdict was tested on."""
    if config.prior.path != "toybox" or not stage_of(config).has_density:
        return False
    return config.camera.law == "orbit" and not text.parse(config.prompt).room


def judge(strict_precision: float, prompt: str) -> str:
    """One particle in a few words.

    Args:
      strict_precision: share of its views in which the strict judge sees the kind.
      prompt: with the kind that was asked for.
    """
    kind = text.parse(prompt).kind
    if strict_precision >= LEAST_SHARE:
        return f"recognised: {kind} in {strict_precision:.0%} of the views"
    return f"not recognised: {kind} in only {strict_precision:.0%} of the views"
