# SPDX-License-Identifier: Apache-2.0
"""Methods of score distillation ranked where the answer is known.

`python -m vsd_jax.experiments --name=leaderboard`. `worlds` says who competes where,
`passes` what a step costs and `clock` how long it takes, `tuning` finds settings by one
rule (`tuned` is their file), `board` runs the cells (`work` one, `processes` several),
`records` holds the results, `ranking` the statistics, `seeds` the diversity over seeds;
`tables`, `page` and `diagram` show them, `submit` adds a method of the user's.
"""
