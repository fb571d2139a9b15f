# SPDX-License-Identifier: Apache-2.0
"""The configuration file behind `--config=object:smoke`: presets without a checkout."""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(name: str) -> ConfigDict:
    """`NAME` or `NAME:variant`, NAME one of `named.NAMED`."""
    kind, _, variant = name.partition(":")
    return named.NAMED[kind](variant)
