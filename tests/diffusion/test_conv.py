# SPDX-License-Identifier: Apache-2.0
"""The matrix-product convolution equals XLA's, forward and backward."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.diffusion.conv import conv3x3, winograd3x3, with_matmul_convs


@pytest.mark.parametrize("form, stride", [("sum", 1), ("sum", 2), ("winograd", 1)])
def test_equals_xla_convolution(form, stride):
    image = jax.random.normal(jax.random.key(0), (2, 8, 6, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 4))

    def reference(image, kernel):
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected, pull = jax.vjp(reference, image, kernel)

    def ours(image, kernel):
        if form == "winograd":
            return winograd3x3(image, kernel)
        return conv3x3(image, kernel, stride)

    actual, pull_matmul = jax.vjp(ours, image, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(pull_matmul(expected), pull(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), (2, 2), padding=((1, 1), (1, 1)))(x)
        x = nn.Conv(5, (1, 1))(x)
        return nn.Conv(3, (3, 3), padding="VALID")(x)


def test_interceptor_replaces_only_what_it_computes_exactly():
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    params = _Net().init(jax.random.key(1), image)
    expected = _Net().apply(params, image)
    wrapped = with_matmul_convs(_Net().apply)
    np.testing.assert_allclose(wrapped(params, image), expected, atol=1e-5)
    program = str(jax.make_jaxpr(wrapped)(params, image))
    # The 1 x 1 and the unpadded convolution stay; the padded 3 x 3 one is a product.
    assert program.count("conv_general_dilated") == 2
    assert jnp.ndim(expected) == 4


def test_larger_images_are_left_to_xla():
    image = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    params = _Net().init(jax.random.key(1), image)
    counts = []
    for limit in (64, 63):
        wrapped = with_matmul_convs(_Net().apply, max_pixels=limit)
        program = str(jax.make_jaxpr(wrapped)(params, image))
        counts.append(program.count("conv_general_dilated"))
    assert counts == [2, 3]


def test_winograds_form_serves_the_widths_where_it_wins():
    net = nn.Conv(2, (3, 3), padding=((1, 1), (1, 1)))
    for channels, side, batched in ((64, 16, True), (63, 16, False), (64, 8, False)):
        image = jax.random.normal(jax.random.key(0), (1, side, side, channels))
        params = net.init(jax.random.key(1), image)
        wrapped = with_matmul_convs(net.apply)
        expected = net.apply(params, image)
        np.testing.assert_allclose(wrapped(params, image), expected, atol=1e-5)
        program = str(jax.make_jaxpr(wrapped)(params, image))
        assert ("([0], [0])" in program) == batched
