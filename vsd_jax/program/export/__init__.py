# SPDX-License-Identifier: Apache-2.0
"""From a scene to mesh files, and the score network to diffusers' files."""
