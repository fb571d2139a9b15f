# SPDX-License-Identifier: Apache-2.0
"""What others found with Stable Diffusion, to compare rankings with.

Only methods that the leaderboard runs under the same name: HiFA, of which it has the
schedule alone, is left out. Numbers are as others quote them: the papers' own tables
were not at hand.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """One column of a published table.

    Attributes:
      table: whose it is.
      score: of the column.
      best: "high" or "low".
      values: method -> value.
    """

    table: str
    score: str
    best: str
    values: Mapping[str, float]


_SDI = "arXiv:2405.15891, 43 prompts"
TABLES = (
    Published(
        _SDI, "CLIP", "high", {"SDS": 29.81, "VSD": 33.31, "ESD": 32.79, "SDI": 33.47}
    ),
    Published(
        _SDI,
        "diverged runs, %",
        "low",
        {"SDS": 18.6, "VSD": 23.2, "ESD": 14.0, "SDI": 4.7},
    ),
    Published(
        "arXiv:2407.02040, 15 prompts",
        "CLIP",
        "high",
        {"ASD": 0.289, "VSD": 0.276, "SDS": 0.288},
    ),
)
