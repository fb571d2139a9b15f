# SPDX-License-Identifier: Apache-2.0
"""Variational Score Distillation (ProlificDreamer, arXiv:2305.16213) in JAX."""
