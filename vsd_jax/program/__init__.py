# SPDX-License-Identifier: Apache-2.0
"""The program around the library: files, settings, checkpoints, reports."""

from ml_collections import FrozenConfigDict

Config = FrozenConfigDict
"""A validated configuration (`program/settings/config.py`)."""
