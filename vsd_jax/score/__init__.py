# SPDX-License-Identifier: Apache-2.0
"""Image, t -> noise: noise process, closed-form priors, LoRA, prompts.

Never imports `vsd_jax.scene`.
"""
