# SPDX-License-Identifier: Apache-2.0
"""Bounds of settings where the library is used without the program."""

import jax.numpy as jnp
import pytest

from vsd_jax import methods, presets

OBJECT = presets.toybox("a red mushroom")


@pytest.mark.parametrize(
    ("changes", "part", "word"),
    [
        ({"render.size": 0}, "render", "size=0 is out of range"),
        ({"vsd.t_range": (0.5, 1.5)}, "timesteps", r"t_range=\(0\.5, 1\.5\) is out"),
        ({"vsd.t_range": (0.98, 0.02)}, "timesteps", r"no range; give \(low, high\)"),
        ({"vsd.method": "nope"}, "method", "method='nope' is unknown; use one of vsd"),
        ({"vsd.guidance_scale": -9.0}, "method", "guidance_scale=-9.0 is out"),
    ],
)
def test_what_is_out_of_bounds_is_refused(changes, part, word):
    changed = OBJECT.replace(changes)
    with pytest.raises(ValueError, match=word):
        getattr(changed, part)


def test_arguments_of_methods_have_bounds():
    with pytest.raises(ValueError, match=r"exact_below=20 is out of range.* 0 to 1"):
        methods.vsd(guidance_scale=2.0, exact_below=20)
    with pytest.raises(ValueError, match=r"consistency_gap=\(0\.1, 2\)"):
        methods.consistent3d(guidance_scale=2.0, consistency_gap=(0.1, 2))
    # What is an argument of a compiled program is not known.
    methods.vsd(guidance_scale=jnp.float32(2.0), exact_below=jnp.float32(20.0))
