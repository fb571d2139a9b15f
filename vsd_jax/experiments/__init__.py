# SPDX-License-Identifier: Apache-2.0
"""The paper's claims as tables of numbers: `python -m vsd_jax.experiments --list`.

`plan` says what an experiment is, `flat_tables` and `spatial_tables` which there are
(pure data), `cells` runs one cell of a table, `exact_cells` one on a closed-form prior,
`truth` what is compared with, `scores` the numbers, `present` table and pictures.
"""
