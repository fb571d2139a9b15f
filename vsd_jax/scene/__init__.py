# SPDX-License-Identifier: Apache-2.0
"""Scenes: parameters and a camera in, an image out. Never imports `diffusion/`."""
