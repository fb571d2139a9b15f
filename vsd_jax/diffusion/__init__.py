# SPDX-License-Identifier: Apache-2.0
"""Image, t -> noise: noise process, guidance, priors in closed form, LoRA, prompts.

Never imports `scene/`.
"""
