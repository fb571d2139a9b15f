# SPDX-License-Identifier: Apache-2.0
"""Priors from disk: a diffusers folder as pure functions."""
