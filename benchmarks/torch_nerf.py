# SPDX-License-Identifier: Apache-2.0
"""The yardstick: the same NeRF step in PyTorch, tuned for a CPU.

One `index_select` per level, a hand-written backward with `index_add_` into one
gradient buffer, int32 hashing (but int64 rows, with which `index_add_` is nine times
faster), a decoder in cache-sized chunks that recomputes its hidden layer (1.7 times
faster than whole), fused Adam. Same grid, decoder, sampling and compositing as
`vsd_jax.scene`; rays come as arrays.
"""

import numpy as np
import torch

from vsd_jax.scene.nerf.encoding import HashGrid

CHUNK = 4096
# 1, 2654435761 and 805459861 as int32; the product wraps as in uint32.
_PRIMES = (1, 2654435761 - 2**32, 805459861)


def _corners(grid: HashGrid, level: int, unit: torch.Tensor):
    """Rows [8, N] and weights [8, N] of the cell corners of one level."""
    resolution = grid.resolutions[level]
    scaled = unit * resolution
    low = scaled.floor().clamp_(0, resolution - 1)
    upper = scaled.sub_(low)
    lower = 1 - upper
    low = low.to(torch.int32)
    side = resolution + 1
    dense = grid.dense[level]
    strides = (1, side, side * side) if dense else _PRIMES
    near = [low[axis] * strides[axis] for axis in range(3)]
    far = [x + stride for x, stride in zip(near, strides, strict=True)]
    rows, weights = [], []
    for corner in range(8):
        bits = [(corner >> axis) & 1 for axis in range(3)]
        a, b, c = (far[i] if bit else near[i] for i, bit in enumerate(bits))
        rows.append(a + b + c if dense else (a ^ b ^ c) & (grid.sizes[level] - 1))
        wx, wy, wz = (upper[i] if bit else lower[i] for i, bit in enumerate(bits))
        weights.append(wx * wy * wz)
    rows = torch.stack(rows).add_(grid.offsets[level])
    return rows.long(), torch.stack(weights)


class _Encode(torch.autograd.Function):
    """[rows, F] table, [N, 3] positions -> [N, L * F]."""

    @staticmethod
    def forward(ctx, table, positions, grid):
        unit = (positions * 0.5 + 0.5).clamp_(0, 1).T.contiguous()
        num_points, features = positions.shape[0], grid.features
        out = table.new_empty(num_points, grid.width)
        saved = []
        for level in range(len(grid.resolutions)):
            rows, weights = _corners(grid, level, unit)
            picked = table.index_select(0, rows.view(-1)).view(8, num_points, features)
            columns = slice(level * features, (level + 1) * features)
            torch.sum(picked.mul_(weights[..., None]), 0, out=out[:, columns])
            saved += [rows, weights]
        ctx.save_for_backward(*saved)
        ctx.grid, ctx.shape = grid, table.shape
        return out

    @staticmethod
    def backward(ctx, cotangent):
        gradient = cotangent.new_zeros(ctx.shape)
        features, saved = ctx.grid.features, ctx.saved_tensors
        for level in range(len(ctx.grid.resolutions)):
            rows, weights = saved[2 * level : 2 * level + 2]
            columns = slice(level * features, (level + 1) * features)
            share = weights[..., None] * cotangent[None, :, columns]
            gradient.index_add_(0, rows.view(-1), share.view(-1, features))
        return gradient, None, None


class _Decode(torch.autograd.Function):
    """Linear, ReLU, linear on [N, W] -> [N, 4], `CHUNK` rows at a time.

    `layers`: kernel [W, H], bias [H], kernel [H, 4] and bias [4].
    """

    @staticmethod
    def forward(ctx, features, *layers):
        kernel, bias, kernel_out, bias_out = layers
        ctx.save_for_backward(features, kernel, bias, kernel_out)
        out = features.new_empty(len(features), 4)
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            hidden = torch.addmm(bias, features[rows], kernel).relu_()
            torch.addmm(bias_out, hidden, kernel_out, out=out[rows])
        return out

    @staticmethod
    def backward(ctx, cotangent):
        features, kernel, bias, kernel_out = ctx.saved_tensors
        d_features = torch.empty_like(features)
        d_kernel, d_bias, d_out = (
            torch.zeros_like(x) for x in (kernel, bias, kernel_out)
        )
        transposed, transposed_out = kernel.T.contiguous(), kernel_out.T.contiguous()
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            hidden = torch.addmm(bias, features[rows], kernel).relu_()
            d_out.addmm_(hidden.T, cotangent[rows])
            d_hidden = (cotangent[rows] @ transposed_out).mul_(hidden > 0)
            d_kernel.addmm_(features[rows].T, d_hidden)
            d_bias += d_hidden.sum(0)
            torch.mm(d_hidden, transposed, out=d_features[rows])
        return d_features, d_kernel, d_bias, d_out, cotangent.sum(0)


def render(params, rays, *, grid, bounds, num_samples, jitter: bool):
    """Image [R, 3] over black, as `vsd_jax.scene.nerf.nerf` computes it.

    Args:
      params: dict of tensors: `table`, `out/kernel`, `out/bias` and, unless the
        decoder is linear, `hidden/kernel`, `hidden/bias`.
      rays: origins and directions [R, 3].
      grid: layout.
      bounds: near and far [R] of each ray.
      num_samples: S.
      jitter: random place in each bin instead of its middle.
    """
    origins, directions = rays
    near, far = bounds
    width = ((far - near) / num_samples)[:, None]
    edge = torch.arange(num_samples, dtype=near.dtype, device=near.device)[None]
    place = torch.rand_like(near[:, None].expand(-1, num_samples)) if jitter else 0.5
    tmid = near[:, None] + (edge + place) * width
    positions = torch.addcmul(origins[:, None], directions[:, None], tmid[..., None])
    positions = positions.view(-1, 3)
    features = _Encode.apply(params["table"], positions, grid)
    if "hidden/kernel" in params:
        layers = ("hidden/kernel", "hidden/bias", "out/kernel", "out/bias")
        raw = _Decode.apply(features, *(params[name] for name in layers))
    else:
        raw = torch.addmm(params["out/bias"], features, params["out/kernel"])
    blob = 10 * (1 - positions.norm(dim=-1) / 0.5)
    density = torch.nn.functional.softplus(raw[:, 0] + blob, threshold=40)
    color = raw[:, 1:].sigmoid().view(len(near), num_samples, 3)
    thickness = density.view(len(near), num_samples) * width
    before = thickness.cumsum(1) - thickness
    weights = torch.exp(-before) * -torch.expm1(-thickness)
    return (weights[..., None] * color).sum(1)


def flatten(params) -> dict[str, np.ndarray]:
    """The parameters of `scene.nerf.field.init_field` under this file's names."""
    arrays = {"table": np.asarray(params["table"])}
    for layer, weights in params["decoder"].items():
        arrays |= {f"{layer}/{name}": np.asarray(x) for name, x in weights.items()}
    return arrays


def make_step(params, rays, wave, **options):
    """`step()`: forward, backward and fused Adam on sum(image * wave), in place."""
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(array.copy()).to(wave.device))
        for name, array in params.items()
    }
    optimizer = torch.optim.Adam(
        tensors.values(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15, fused=True
    )

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = torch.sum(render(tensors, rays, jitter=True, **options) * wave)
        loss.backward()
        optimizer.step()

    return step


def value_and_gradient(params, rays, wave, **options):
    """Image and gradients (numpy) without jitter, for the check of equality."""
    tensors = {
        name: torch.nn.Parameter(torch.from_numpy(array.copy()))
        for name, array in params.items()
    }
    image = render(tensors, rays, jitter=False, **options)
    torch.sum(image * wave).backward()
    return image.detach().numpy(), {k: p.grad.numpy() for k, p in tensors.items()}
