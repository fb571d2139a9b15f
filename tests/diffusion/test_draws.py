# SPDX-License-Identifier: Apache-2.0
import jax
import numpy as np

from vsd_jax.diffusion.draws import draw_like


def test_fills_every_leaf_with_its_own_numbers():
    shapes = {"a": (300, 4), "b": [(), (500,)]}
    tree = draw_like(jax.random.key(0), shapes, sample=jax.random.normal)
    assert tree["a"].shape == (300, 4)
    assert [leaf.shape for leaf in tree["b"]] == [(), (500,)]
    numbers = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    assert len(np.unique(numbers)) == len(numbers)
    assert abs(numbers.mean()) < 0.1 and abs(numbers.std() - 1) < 0.1
