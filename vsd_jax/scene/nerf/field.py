# SPDX-License-Identifier: Apache-2.0
"""The radiance field: hash grid and decoder -> density and colour; the environment.

Notation: N points. `density` is per scene unit.
Following ProlificDreamer (arXiv:2305.16213) density = s softplus(h + bias(x)), s = 1,
and colour = sigmoid(c), without view direction. The bias is the initialisation: a blob
for objects (strength 10, radius .5), an inverted one for scenes (strength -10, radius
2.5), or both, switched at |x| = 5/6, for an object inside a scene.

Parameters are a plain dict: `table` [rows, F], `decoder`, and `environment` if there is
one; so an optimiser can group them by their first key.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from vsd_jax.scene.nerf.decoder import decode, dense, init_decoder, init_dense
from vsd_jax.scene.nerf.encoding import (
    HashGrid,
    encode,
    frequency_encode,
    hash_grid,
    init_table,
)
from vsd_jax.scene.vectors import unit_or_zero
from vsd_jax.spec import OneOf, Within

DensityBias = Callable[[jax.Array], jax.Array]
"""positions [..., 3] -> what is added to the density before softplus, [...]."""

FEATURES = "features"
"""Name of encoded points: what may be kept for the gradient (`jax.checkpoint`)."""
ENVIRONMENT_OCTAVES = 4
ENVIRONMENT_HIDDEN = 16
_EMPTY = -15.0  # below it softplus is exp, in float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """A radiance field: hash grid, decoder and initialisation. Lengths: scene units.

    Attributes:
      num_levels: levels of the hash grid.
      features: features of a point at each level.
      log2_table_size: rows of a level, as a power of two.
      min_resolution: cells along an axis at the coarsest level.
      max_resolution: cells along an axis at the finest level.
      smooth: smoothstep interpolation instead of linear.
      hidden: units of the decoder's hidden layer; 0 = one linear layer.
      environment: learn a background, direction -> colour.
      density_scale: s, factor on the density after softplus, by which surfaces become
        sharper at the same learning rate. The start is the same with any s.
      init: what is added to the density before softplus: "object", a blob; "scene", a
        hollow; "object_in_scene", a blob inside a hollow.
      object_strength: height of the blob at its centre.
      object_radius: distance from its centre at which the blob is 0.
      scene_strength: height of the hollow at the origin; negative = empty.
      scene_radius: distance from the origin at which the hollow is 0.
      switch_radius: around `init_centre`, inside of which the blob counts.
      init_centre: centre of the blob; a hollow is around the origin.
    """

    num_levels: Annotated[int, Within(1, 32)]
    features: Annotated[int, Within(1, 16)]
    log2_table_size: Annotated[int, Within(4, 26)]
    min_resolution: Annotated[int, Within(1, 1 << 14)]
    max_resolution: Annotated[int, Within(1, 1 << 16)]
    smooth: bool
    hidden: Annotated[int, Within(0, 1024)]
    environment: bool
    density_scale: Annotated[float, Within(1e-3, 1e3)]
    init: Annotated[str, OneOf(("object", "scene", "object_in_scene"))]
    object_strength: float
    object_radius: Annotated[float, Within(1e-3)]
    scene_strength: float
    scene_radius: Annotated[float, Within(1e-3)]
    switch_radius: Annotated[float, Within(0)]
    init_centre: tuple[float, float, float]


def make_grid(spec: FieldSpec) -> HashGrid:
    """The hash grid's layout."""
    return hash_grid(
        num_levels=spec.num_levels,
        features=spec.features,
        log2_table_size=spec.log2_table_size,
        min_resolution=spec.min_resolution,
        max_resolution=spec.max_resolution,
        smooth=spec.smooth,
    )


def make_density_bias(spec: FieldSpec) -> DensityBias:
    """The initialisation of the density: s softplus(bias) does not depend on s."""
    centre = np.array(spec.init_centre, np.float32)  # no tracer, wherever it is made
    inner = blob_bias(
        strength=spec.object_strength, radius=spec.object_radius, centre=centre
    )
    outer = blob_bias(strength=spec.scene_strength, radius=spec.scene_radius)
    bias = inner if spec.init == "object" else outer
    if spec.init == "object_in_scene":
        bias = centred_bias(
            inner=inner, outer=outer, switch_radius=spec.switch_radius, centre=centre
        )
    scale = spec.density_scale
    return bias if scale == 1 else lambda positions: _unscaled(bias(positions), scale)


def _unscaled(bias: jax.Array, scale: float) -> jax.Array:
    """b with scale softplus(b) = softplus(bias)."""
    share = jax.nn.softplus(jnp.maximum(bias, _EMPTY)) / scale
    exact = share + jnp.log(-jnp.expm1(-share))  # log(exp(share) - 1)
    return jnp.where(bias > _EMPTY, exact, bias - math.log(scale))


def _norm(x: jax.Array) -> jax.Array:
    """Length along the last axis; gradient 0, not NaN, at the origin."""
    squared = jnp.sum(x * x, axis=-1)
    safe = jnp.where(squared > 0, squared, 1)
    return jnp.where(squared > 0, jnp.sqrt(safe), 0)


def blob_bias(
    *, strength: float, radius: float, centre: chex.Array | float = 0.0
) -> DensityBias:
    """bias(x) = strength (1 - |x - centre| / radius): `strength` there, 0 at `radius`.

    Object: strength 10, radius .5. Scene: strength -10, radius 2.5, which is emptiest
    at the centre (ProlificDreamer, Sec. 4). centre: [3] or 0, the origin.
    """
    return lambda positions: strength * (1 - _distance(positions, centre) / radius)


def centred_bias(
    *,
    inner: DensityBias,
    outer: DensityBias,
    switch_radius: float,
    centre: chex.Array | float = 0.0,
) -> DensityBias:
    """An object in a scene: `inner` where |x - centre| < `switch_radius` (5/6)."""

    def bias(positions):
        inside = _distance(positions, centre) < switch_radius
        return jnp.where(inside, inner(positions), outer(positions))

    return bias


def _distance(positions: jax.Array, centre: chex.Array | float) -> jax.Array:
    return _norm(positions - jnp.broadcast_to(centre, positions.shape))


def init_environment(key: jax.Array) -> dict:
    """Weights of the learned background, direction -> colour. key: consumed."""
    key_in, key_out = jax.random.split(key)
    width = 3 * (1 + 2 * ENVIRONMENT_OCTAVES)
    return {
        "hidden": init_dense(key_in, width, ENVIRONMENT_HIDDEN),
        "out": init_dense(key_out, ENVIRONMENT_HIDDEN, 3),
    }


def init_field(
    key: jax.Array, grid: HashGrid, *, hidden: int, environment: bool
) -> dict:
    """Parameters of one field: `table`, `decoder` and maybe `environment`.

    key: consumed.
    """
    key_table, key_decoder, key_environment = jax.random.split(key, 3)
    params = {
        "table": init_table(key_table, grid),
        "decoder": init_decoder(key_decoder, grid.width, hidden),
    }
    if environment:
        params["environment"] = init_environment(key_environment)
    return params


def environment_color(params: dict, directions: jax.Array) -> jax.Array:
    """Colour of the learned background.

    Frequency encoding with 4 octaves, 16 ReLU units, sigmoid (the paper's code).

    Args:
      params: see `init_environment`.
      directions: [..., 3], unit.

    Returns:
      [..., 3] in (0, 1).
    """
    x = frequency_encode(directions, ENVIRONMENT_OCTAVES)
    x = jax.nn.relu(dense(params["hidden"], x))
    return jax.nn.sigmoid(dense(params["out"], x))


def background_color(
    params: dict, directions: jax.Array, background: jax.Array
) -> jax.Array:
    """What is behind the scene: a colour, or the environment if there is one.

    Args:
      params: see `init_field`.
      directions: [R, 3], unit.
      background: [3] in [0, 1]; a negative component asks for the environment.

    Returns:
      [R, 3], or [1, 3] without an environment.
    """
    behind = background[None]
    if "environment" not in params:
        return behind
    learned = environment_color(params["environment"], directions)
    return jnp.where(jnp.any(behind < 0), learned, behind)


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x), whose own derivative is ten times slower on a CPU for x << 0."""
    return jax.nn.softplus(x)


@_softplus.defjvp
def _softplus_jvp(primals, tangents):
    return _softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def query_raw(
    params: dict,
    positions: jax.Array,
    grid: HashGrid,
    *,
    density_bias: DensityBias,
    name: str = "",
) -> jax.Array:
    """What the field holds at points (unbatched over particles); see `activate`.

    Args:
      params: see `init_field`.
      positions: [N, 3] in [-1, 1], clamped.
      grid: layout of the table.
      density_bias: the initialisation, `blob_bias` or `centred_bias`.
      name: of the encoded points for `jax.checkpoint`, such as `FEATURES`; "" = none.

    Returns:
      [N, 4]: density with its bias, and colour, before noise and activations.
    """
    chex.assert_shape(positions, (None, 3))
    features = encode(params["table"], positions, grid)
    features = checkpoint_name(features, name) if name else features
    raw = decode(params["decoder"], features)
    before = raw[:, :1] + density_bias(positions)[:, None]
    return jnp.concatenate([before, raw[:, 1:]], axis=1)


def activate(raw, *, density_scale: float = 1.0, noise: jax.Array | None = None):
    """Density [...] >= 0 and colour [..., 3] in (0, 1) of raw numbers [..., 4].

    Args:
      raw: see `query_raw`.
      density_scale: factor on the density after softplus.
      noise: [...] added before softplus, N(0, 1) in the paper's training; None = none.
    """
    before = raw[..., 0] if noise is None else raw[..., 0] + noise
    return density_scale * _softplus(before), jax.nn.sigmoid(raw[..., 1:])


def query(
    params: dict,
    positions: jax.Array,
    grid: HashGrid,
    *,
    density_bias: DensityBias,
    density_scale: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Density [N] and colour [N, 3] at points [N, 3]; see `query_raw`, `activate`."""
    raw = query_raw(params, positions, grid, density_bias=density_bias)
    return activate(raw, density_scale=density_scale)


def query_color(params: dict, positions: jax.Array, grid: HashGrid) -> jax.Array:
    """Colour alone, [N, 3] in (0, 1), at points [N, 3]; see `query`."""
    no_bias = lambda positions: jnp.zeros(positions.shape[:-1])  # noqa: E731
    return query(params, positions, grid, density_bias=no_bias)[1]


def query_density(
    params: dict,
    positions: jax.Array,
    grid: HashGrid,
    *,
    density_bias: DensityBias,
    density_scale: float = 1.0,
) -> jax.Array:
    """Density alone at [..., 3] points, [...]; see `query`."""
    flat = positions.reshape(-1, 3)
    bound = dict(density_bias=density_bias, density_scale=density_scale)
    density, _ = query(params, flat, grid, **bound)
    return density.reshape(positions.shape[:-1])


def density_normals(
    density_fn: Callable[[jax.Array], jax.Array], positions: jax.Array, *, step: float
) -> jax.Array:
    """Outward normals from central differences, -grad density normalised.

    Six queries per point. (A tetrahedron of four has an error of first order in the
    step.) Differentiable with respect to what `density_fn` closes over.

    Args:
      density_fn: [N, 3] -> [N].
      positions: [N, 3].
      step: half size of the stencil, scene units.

    Returns:
      [N, 3], unit, or zero where the density is flat.
    """
    offsets = step * jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    probes = positions[:, None] + offsets[None]
    density = density_fn(probes.reshape(-1, 3)).reshape(-1, 2, 3)
    return unit_or_zero(density[:, 1] - density[:, 0], axis=-1)
