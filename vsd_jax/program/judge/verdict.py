# SPDX-License-Identifier: Apache-2.0
"""The verdict on a finished run, and how often it is right.

Which of a run's own numbers predict its true error was found where truth is known
(`experiments/diagnose.py`; table in `docs/experiments/diagnostics.md`): of those that
need no judge `prior_text_gain` alone (`prior_check.py`). It was measured for NeRFs of
objects on the embedded prior, with a colour in the prompt and the settings of then:
soft density and what these methods make of it. Another prior has another threshold, and
so have a prompt without a colour, the sharp density of today's presets (eleven of
twelve runs have gains of .25 to .42) and a refinement (.32 to .53), so that there
nothing is said.
"""

from vsd_jax.program import Config
from vsd_jax.program.build.stages import stage_of
from vsd_jax.toybox import text

THRESHOLD = 0.35
"""Of `prior_text_gain`; less is bad."""
HIT_RATE, MAJORITY, NUM_RUNS = 0.86, 0.52, 84
"""Shares of runs of which the verdict was right, with a threshold in which their prompt
had no part; and of always saying what most runs were."""
MEASURED = (
    f'"Under-trained" is prior_text_gain below {THRESHOLD}; it tells a Chamfer distance'
    f" to true objects above 0.06, and was right for {HIT_RATE:.0%} of {NUM_RUNS} runs"
    f" (always saying what most were: {MAJORITY:.0%})."
)


def was_measured(config: Config) -> bool:
    """Whether runs like this one are among those that the verdict was tested on."""
    if config.prior.path != "toybox" or not stage_of(config).has_density:
        return False
    if config.field.density_scale != 1 or config.vsd.method == "sdedit":
        return False
    wanted = text.parse(config.prompt)
    outside = config.camera.law == "orbit" and not wanted.room
    return outside and wanted.colour is not None


def judge(text_gain: float) -> str:
    """One particle in a few words, from its `prior_text_gain`."""
    if text_gain >= THRESHOLD:
        return "likely good"
    return (
        "under-trained: the prompt explains its views too little (prior_text_gain"
        f" {text_gain:.2f})"
    )
