# SPDX-License-Identifier: Apache-2.0
import re

import numpy as np
import pytest
from jitted import run

from vsd_jax.scene.mesh import capacity
from vsd_jax.scene.mesh.surface import MeshSizes

SIZE = 8


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_compact_lists_what_is_true(share):
    mask = np.random.default_rng(0).uniform(size=20) < share
    indices, number, count = run(capacity.compact, mask, size=SIZE)
    expected = np.flatnonzero(mask)
    assert count == len(expected)
    kept = expected[:SIZE]
    np.testing.assert_array_equal(indices, np.pad(kept, (0, SIZE - len(kept))))
    np.testing.assert_array_equal(number[mask], np.arange(count))


@pytest.mark.parametrize(
    "counts", [[0, 3, 0, 0, 2, 1, 0], [0] * 7, [9, 0, 0, 0, 0, 0, 1], [1] * 7]
)
def test_expand_repeats(counts):
    counts = np.array(counts, np.int32)
    owner, rank, total = run(capacity.expand, counts, size=SIZE)
    expected = np.repeat(np.arange(7), counts)
    assert total == len(expected) and owner.min() >= 0 and owner.max() < 7
    kept = min(total, SIZE)
    np.testing.assert_array_equal(owner[:kept], expected[:kept])
    ranks = np.concatenate([np.arange(c) for c in counts])
    np.testing.assert_array_equal(rank[:kept], ranks[:kept])


def test_grow_takes_the_next_power_of_two_for_what_was_too_small():
    sizes = MeshSizes(cells=8, vertices=100, faces=64)
    counts = MeshSizes(cells=np.int32(9), vertices=np.int32(100), faces=np.int32(64))
    assert capacity.grow(counts, sizes) == sizes._replace(cells=16)
    assert capacity.overflows(counts, sizes)
    assert not capacity.overflows(counts, sizes._replace(cells=9))
    full = counts._replace(cells=np.int32(16))
    assert capacity.grow(full, sizes).cells == 32  # room above a power of two


def test_check_says_what_to_do():
    sizes = MeshSizes(cells=8, vertices=100, faces=64)
    capacity.check(MeshSizes(8, 1, 2), sizes)
    with pytest.raises(ValueError, match=re.escape("faces=64 (needs 65)")) as error:
        capacity.check(MeshSizes(8, 100, 65), sizes)
    assert "faces=128" in str(error.value) and "cells=8 (" not in str(error.value)
