# SPDX-License-Identifier: Apache-2.0
"""Variational Score Distillation (ProlificDreamer, arXiv:2305.16213) in JAX.

vsd_jax.vsd      the paper: VSD and SDS residuals, losses, timestep laws
vsd_jax.step     training step over all particles
vsd_jax.types    structures and function types that cross module borders
vsd_jax.scene    parameters, camera -> image
vsd_jax.diffusion  image, t -> noise
vsd_jax.program  files, checkpoints, priors from disk: the program around the above
vsd_jax.toybox   a world of objects whose distribution is known, and its prior
"""

__version__ = "0.1.0"
