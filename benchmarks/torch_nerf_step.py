# SPDX-License-Identifier: Apache-2.0
"""PyTorch's NeRF step on the inputs of ours (`nerf_step.py`), on any device."""

import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import nerf_step, torch_nerf
from vsd_jax.scene import camera
from vsd_jax.scene.nerf import sampling


def torch_inputs(work, dtype, device="cpu"):
    """Rays, bounds and pattern as tensors, from the library's own camera."""
    view, size = nerf_step.make_view(), work["size"]
    origin, directions = camera.pixel_rays(view, size, size)
    directions = directions.reshape(-1, 3)
    origins = jnp.broadcast_to(origin, directions.shape)
    bounds = sampling.intersect_cube(origins, directions, half_extent=1.0, near=0.1)
    arrays = (origins, directions, *bounds, nerf_step.wave_like(work))
    tensors = [torch.from_numpy(np.array(x)).to(device, dtype) for x in arrays]
    return tensors[:2], tensors[2:4], tensors[4]


def make_torch_step(work, device="cpu"):
    """The tuned PyTorch step on the same work."""
    rays, bounds, wave = torch_inputs(work, torch.float32, device)
    params = torch_nerf.flatten(nerf_step.random_params(nerf_step.make_scene(work)))
    return torch_nerf.make_step(
        params,
        rays,
        wave,
        grid=nerf_step.make_grid(work),
        bounds=bounds,
        num_samples=work["samples"],
    )
