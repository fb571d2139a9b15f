# SPDX-License-Identifier: Apache-2.0
"""What a finished run's own numbers say of it, and how often that is right.

A sign is one threshold on a number that needs no judge (`prior_check.py`). Which ones
predict the true error was found where truth is known (`experiments/diagnose.py`; table
in `docs/experiments.md`), and so was the hit rate: of runs whose prompt had no part in
finding the threshold. It was measured for NeRFs of objects on the embedded prior;
another prior has other thresholds, so that there nothing is said.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Sign(NamedTuple):
    """A threshold below which a run is suspected.

    Attributes:
      verdict: in a few words.
      reason: what was seen, with a place for the number.
      quantity: its name in `evaluation.json`.
      threshold: values below it are bad.
      error: what it predicts.
      hit_rate: share of the measured runs of which it was right.
      majority: share of always saying what most of them were.
      num_runs: how many were measured.
    """

    verdict: str
    reason: str
    quantity: str
    threshold: float
    error: str
    hit_rate: float
    majority: float
    num_runs: int

    def measured(self) -> str:
        """How far it can be trusted."""
        return (
            f'"{self.verdict}" is {self.quantity} below {self.threshold:.2f}; it tells'
            f" {self.error}, and was right for {self.hit_rate:.0%} of {self.num_runs}"
            f" runs (always saying what most were: {self.majority:.0%})."
        )


SIGNS = (
    Sign(
        verdict="under-trained",
        reason="the prompt explains its views too little (prior_text_gain {:.2f})",
        quantity="prior_text_gain",
        threshold=0.35,
        error="a Chamfer distance to true objects above 0.06",
        hit_rate=0.82,
        majority=0.70,
        num_runs=40,
    ),
)


def judge(numbers: Mapping[str, float]) -> str:
    """One particle in a few words.

    Args:
      numbers: of the particle, as in `evaluation.json`.
    """
    seen = [
        f"{sign.verdict}: {sign.reason.format(numbers[sign.quantity])}"
        for sign in SIGNS
        if numbers[sign.quantity] < sign.threshold
    ]
    return "; ".join(seen) or "likely good"
