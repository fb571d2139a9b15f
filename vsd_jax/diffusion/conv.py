# SPDX-License-Identifier: Apache-2.0
"""3 x 3 convolutions as one matrix product, for CPUs.

XLA's CPU convolutions reach about half the rate of its matrix products at the
widths of a small U-Net (64 to 128 channels), the kernel's gradient a third. The
same sum written as shifted copies times one matrix runs at the product's
rate in both directions: 1.28 x faster training of the embedded prior, and 1.1 x more
with Winograd's form. On larger images the copies cost more than they save
(`SMALL_IMAGE`); on accelerators the convolution is left to the compiler.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

SMALL_IMAGE = 16 * 16
"""Pixels up to which the product wins for a network whose kernels are frozen: at 16 x
16 (2560 to 1280 channels) 0.7 of XLA's time backwards, at 64 x 64 (320 channels) twice
XLA's time (docs/sd_step.md)."""

WINOGRAD_CHANNELS, WINOGRAD_PIXELS = range(64, 257), 16 * 16
"""Input channels and pixels for which Winograd's form is taken. With all gradients, a
batch of 16 at 16 x 16 pixels: even at 64 to 64 channels, 1.5 x at 128 to 64, 2.9 x at
192 to 64; at 8 x 8 it gains nothing. More channels were not measured."""


def conv3x3(image: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """3 x 3 convolution with zero padding 1, as a matrix product.

    Args:
      image: [B, H, W, C]; H and W divisible by `stride`.
      kernel: [3, 3, C, F].
      stride: same for both axes.

    Returns:
      [B, H / stride, W / stride, F], equal to `lax.conv_general_dilated` with
      padding ((1, 1), (1, 1)) up to rounding.
    """
    _, height, width, channels = image.shape
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Columns, then rows: six shifted copies to compile, not nine.
    columns = [padded[:, :, j : j + width : stride] for j in range(3)]
    wide = jnp.concatenate(columns, -1)
    shifted = [wide[:, i : i + height : stride] for i in range(3)]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(9 * channels, -1)


def winograd3x3(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """`conv3x3` of stride 1 by Winograd's F(2 x 2, 3 x 3) (arXiv:1509.09308, Sec. 4.1).

    16 products a tile of 2 x 2 outputs, where the plain sum has 36.

    Args:
      image: [B, H, W, C]; H and W even.
      kernel: [3, 3, C, F].
    """
    batch, height, width, channels = image.shape
    filters = kernel.shape[-1]
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _transform_tiles([padded[:, i : i + height : 2] for i in range(4)])
    tiles = [
        cell
        for row in rows
        for cell in _transform_tiles([row[:, :, j : j + width : 2] for j in range(4)])
    ]
    weights = [w for row in _transform_taps(kernel) for w in _transform_taps(row)]
    products = jax.lax.dot_general(
        jnp.stack(tiles).reshape(16, -1, channels),
        jnp.stack(weights),
        (((2,), (1,)), ((0,), (0,))),
    ).reshape(4, 4, batch, height // 2, width // 2, filters)
    rows = _transform_back(products)
    cells = [jnp.stack(_transform_back(row), 3) for row in rows]
    return jnp.stack(cells, 2).reshape(batch, height, width, filters)


def _transform_tiles(d):
    """B^T d along one axis: four inputs two apart -> four factors."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _transform_taps(g):
    """G g along the first axis: three taps -> four factors."""
    middle = g[0] + g[2]
    return [g[0], 0.5 * (middle + g[1]), 0.5 * (middle - g[1]), g[2]]


def _transform_back(m):
    """A^T m along the first axis: four products -> two neighbouring outputs."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _is_plain_conv3x3(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv)
        and tuple(module.kernel_size) == (3, 3)
        and module.feature_group_count == 1
        and module.padding in (1, "SAME", ((1, 1), (1, 1)))
        and module.kernel_dilation in (1, None, (1, 1))
    )


def _wins_by_winograd(image: jax.Array) -> bool:
    _, height, width, channels = image.shape
    fits = channels in WINOGRAD_CHANNELS and height * width >= WINOGRAD_PIXELS
    return fits and height % 2 == width % 2 == 0 and image.dtype == jnp.float32


def _matmul_conv(
    next_fun: Callable, args: Any, kwargs: Any, context: Any, *, max_pixels: float
) -> Any:
    module = context.module
    strides = getattr(module, "strides", 1)
    stride = strides[0] if isinstance(strides, tuple) else strides or 1
    applies = context.method_name == "__call__" and _is_plain_conv3x3(module)
    applies = applies and args[0].shape[1] * args[0].shape[2] <= max_pixels
    if not applies or (stride != 1 and module.padding == "SAME"):
        return next_fun(*args, **kwargs)
    variables = module.variables["params"]
    dtype = module.dtype or variables["kernel"].dtype
    image = args[0].astype(dtype)
    kernel = variables["kernel"].astype(dtype)
    if stride == 1 and _wins_by_winograd(image):
        out = winograd3x3(image, kernel)
    else:
        out = conv3x3(image, kernel, stride)
    if not module.use_bias:
        return out
    bias = variables["bias"].astype(dtype)
    return out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


def with_matmul_convs(apply: Callable, *, max_pixels: float = math.inf) -> Callable:
    """Wraps a Linen `apply` so that its 3 x 3 convolutions are matrix products.

    Only on the CPU backend; elsewhere `apply` is returned as it is. The
    parameters' names and shapes do not change.

    Args:
      apply: takes any arguments.
      max_pixels: height times width of the largest image that is treated so.
    """
    if jax.default_backend() != "cpu":
        return apply

    def wrapped(*args, **kwargs):
        with nn.intercept_methods(partial(_matmul_conv, max_pixels=max_pixels)):
            return apply(*args, **kwargs)

    return wrapped
