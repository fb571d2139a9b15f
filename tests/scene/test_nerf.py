# SPDX-License-Identifier: Apache-2.0
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import run

from vsd_jax.scene.camera import orbit_camera
from vsd_jax.scene.nerf.encoding import hash_grid
from vsd_jax.scene.nerf.field import blob_bias
from vsd_jax.scene.nerf.nerf import RenderSpec, make_nerf

SIZE = 8
GRID = hash_grid(
    num_levels=2, features=2, log2_table_size=8, min_resolution=4, max_resolution=8
)
FIELD = dict(
    grid=GRID,
    hidden=0,
    density_bias=blob_bias(strength=10.0, radius=0.5),
    environment=False,
)
RENDER = RenderSpec(
    size=SIZE,
    num_samples=16,
    num_fine=0,
    near=0.1,
    density_noise=0.0,
    occupancy_resolution=0,
    occupancy_threshold=0.01,
    occupancy_decay=0.95,
    occupancy_interval=16,
    capacity=1.0,
    half_extent=1.0,
    max_rays=16_384,
    keep_features=False,
)


def make(train_normals=False, **changes):
    """A small scene; `changes` of `FIELD` and `RENDER`."""
    field = {name: changes.pop(name, value) for name, value in FIELD.items()}
    spec = dataclasses.replace(RENDER, **changes)
    return make_nerf(spec, **field, train_normals=train_normals)


SKIP = dict(occupancy_resolution=8, capacity=0.6)
CAMERA = run(orbit_camera, 30.0, 20.0, 2.6, 40.0)
WHITE = np.ones(3, np.float32)


def start(scene, seed=0):
    """Parameters with a random table: the real start is grey all over."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(scene.init, jax.random.key(0))
    params = jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * x.shape[0] ** -0.5).astype("f4"), shapes
    )
    params["table"] = rng.normal(size=shapes["table"].shape).astype("f4")
    return params, run(scene.init_stats, params)


def shoot(scene, params, stats, *, train, background=WHITE, key=0):
    render = functools.partial(scene.render, train=train)
    return run(render, params, stats, CAMERA, background, jax.random.key(key))


@pytest.fixture(scope="module")
def plain():
    """A scene with an environment and its evaluation, compiled once."""
    scene = make(environment=True)
    params, stats = start(scene)
    assert stats == {}
    render = jax.jit(functools.partial(scene.render, params, {}, CAMERA, train=False))

    def show(background):
        return jax.tree.map(np.asarray, render(background, jax.random.key(0)))

    return params, show, show(WHITE)


def test_render_shapes_and_ranges(plain):
    out = plain[2]
    assert out.rgb.shape == out.normal.shape == (SIZE, SIZE, 3)
    assert out.opacity.shape == out.depth.shape == (SIZE, SIZE)
    for leaf in jax.tree.leaves(out):
        assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
    assert ((out.rgb >= 0) & (out.rgb <= 1 + 1e-6)).all()
    assert out.opacity[SIZE // 2, SIZE // 2] > 0.9 and out.opacity[0, 0] < 0.05
    np.testing.assert_allclose(out.depth[SIZE // 2, SIZE // 2], 2.3, atol=0.35)


def test_normals_face_the_camera(plain):
    normal, opacity = plain[2].normal, plain[2].opacity
    length = np.linalg.norm(normal, axis=-1)
    assert ((np.abs(length - 1) < 1e-4) | (length == 0)).all()
    towards = np.asarray(CAMERA.cam_to_world)[:3, 2]
    assert (normal @ towards)[opacity > 0.8].mean() > 0.4  # the table is rough


def test_background_and_environment_show_where_nothing_is(plain):
    _, show, white = plain
    black, learned = show(0 * WHITE), show(-WHITE)
    through = np.broadcast_to(1 - white.opacity[..., None], (SIZE, SIZE, 3))
    np.testing.assert_allclose(white.rgb - black.rgb, through, atol=1e-5)
    behind = (learned.rgb - black.rgb)[0, 0] / through[0, 0]
    assert ((behind > 0) & (behind < 1)).all() and behind.std() > 1e-3


def test_skipping_empty_space_changes_little(plain):
    params, _, dense = plain
    scene = make(environment=True, **SKIP, occupancy_threshold=1e-3)
    stats = run(scene.init_stats, params)
    assert stats["occupancy"].shape == (8, 8, 8)
    sparse = shoot(scene, params, stats, train=False)
    np.testing.assert_allclose(sparse.rgb, dense.rgb, atol=0.02)
    assert sparse.extras["occupied"] < 0.9


def test_chunks_change_nothing(plain):
    params, _, whole = plain
    scene = make(environment=True, max_rays=20)
    parts = shoot(scene, params, {}, train=False)
    np.testing.assert_allclose(parts.rgb, whole.rgb, atol=1e-6)
    np.testing.assert_allclose(parts.normal, whole.normal, atol=1e-4)
    for name, value in whole.extras.items():
        np.testing.assert_allclose(parts.extras[name], value, rtol=0.5, atol=1e-6)


def loss(scene, params, stats, key):
    out = scene.render(params, stats, CAMERA, -WHITE, key, train=True)
    wave = np.sin(np.arange(out.rgb.size, dtype=np.float32))
    return jnp.sum(out.rgb * wave.reshape(out.rgb.shape)), out


EVERYTHING = dict(
    hidden=8,
    density_noise=1.0,
    environment=True,
    num_samples=12,
    num_fine=4,
)


def test_training_gradients_and_particles_map_equals_loop():
    """All options at once: noise, importance, skipping, normals, environment."""
    scene = make(**EVERYTHING, **SKIP, train_normals=True)
    gradient = jax.grad(functools.partial(loss, scene), has_aux=True)
    starts = [start(scene, seed) for seed in (0, 3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *starts)
    keys = jax.random.split(jax.random.key(5), 2)
    mapped, out = jax.jit(jax.vmap(gradient))(*stacked, keys)
    one = jax.jit(gradient)
    for i, (params, stats) in enumerate(starts):
        expected, image = one(params, stats, jax.random.split(jax.random.key(5), 2)[i])
        np.testing.assert_allclose(out.rgb[i], image.rgb, atol=1e-5)
        assert np.abs(image.normal).max() > 0.5 and "orientation" in image.extras
        for got, want in zip(
            jax.tree.leaves(mapped), jax.tree.leaves(expected), strict=True
        ):
            got, want = np.asarray(got[i]), np.asarray(want)
            scale = np.abs(want).max()
            assert np.isfinite(want).all() and scale > 0
            np.testing.assert_allclose(got / scale, want / scale, atol=1e-3)


def test_overflow_is_reported():
    scene = make(num_samples=32, **(SKIP | dict(capacity=0.1)))
    params, stats = start(scene)
    out = shoot(scene, params, stats, train=True)
    share = out.extras["occupied"]
    total = SIZE * SIZE * 32
    capacity = int(0.1 * total)
    kept = capacity - 4 * capacity**0.5  # leaves room for chance
    np.testing.assert_allclose(out.extras["overflow"], share * total - kept, atol=1.5)
    assert share * total > capacity


def test_occupancy_updates_only_when_due():
    scene = make(**SKIP, occupancy_interval=4)
    params, _ = start(scene)
    stats = {"occupancy": np.full((8, 8, 8), 100.0, np.float32)}
    update = jax.jit(scene.update_stats)
    same = update(params, stats, np.int32(3), jax.random.key(0))["occupancy"]
    new = update(params, stats, np.int32(4), jax.random.key(0))["occupancy"]
    np.testing.assert_array_equal(same, 100.0)
    np.testing.assert_allclose(new, 95.0)


def test_contradictory_choices_are_refused():
    with pytest.raises(ValueError, match="needs an occupancy grid"):
        make(capacity=0.5)
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        make(half_extent=1.5)
