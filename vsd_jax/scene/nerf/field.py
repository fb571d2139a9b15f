# SPDX-License-Identifier: Apache-2.0
"""The radiance field: hash grid and decoder -> density and colour; the environment.

Notation: N points, W = width of an encoded point. `density` is per scene unit.
Following ProlificDreamer (arXiv:2305.16213) density = s softplus(h + bias(x)), s = 1,
and colour = sigmoid(c), without view direction. The bias is the initialisation: a blob
for objects (strength 10, radius .5), an inverted one for scenes (strength -10, radius
2.5), or both, switched at |x| = 5/6, for an object inside a scene.

Parameters are a plain dict: `table` [rows, F], `decoder`, and `environment` if there is
one; so an optimiser can group them by their first key.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated

import chex
import jax
import jax.numpy as jnp
from jax import lax

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
    centre = jnp.array(spec.init_centre)
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
    *, strength: float, radius: float, centre: jax.Array | float = 0.0
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
    centre: jax.Array | float = 0.0,
) -> DensityBias:
    """An object in a scene: `inner` where |x - centre| < `switch_radius` (5/6)."""

    def bias(positions):
        inside = _distance(positions, centre) < switch_radius
        return jnp.where(inside, inner(positions), outer(positions))

    return bias


def _distance(positions: jax.Array, centre: jax.Array | float) -> jax.Array:
    return _norm(positions - jnp.broadcast_to(centre, positions.shape))


def _init_dense(key, fan_in: int, fan_out: int):
    bound = fan_in**-0.5
    kernel = jax.random.uniform(key, (fan_in, fan_out), minval=-bound, maxval=bound)
    return {"kernel": kernel, "bias": jnp.zeros(fan_out)}


def _dense(layer, x):
    # Accelerators would round both factors: surfaces and normals need float32.
    product = jnp.matmul(x, layer["kernel"], precision=lax.Precision.HIGHEST)
    return product + jnp.expand_dims(layer["bias"], range(x.ndim - 1))


def init_decoder(key: jax.Array, width: int, hidden: int) -> dict:
    """Weights from W features to (density, red, green, blue). key: consumed.

    Args:
      key: typed key.
      width: W.
      hidden: units of the hidden layer; 0 = one linear layer with bias, as in the
        paper's code.
    """
    key_in, key_out = jax.random.split(key)
    if hidden == 0:
        return {"out": _init_dense(key_out, width, 4)}
    return {
        "hidden": _init_dense(key_in, width, hidden),
        "out": _init_dense(key_out, hidden, 4),
    }


def init_environment(key: jax.Array) -> dict:
    """Weights of the learned background, direction -> colour. key: consumed."""
    key_in, key_out = jax.random.split(key)
    width = 3 * (1 + 2 * ENVIRONMENT_OCTAVES)
    return {
        "hidden": _init_dense(key_in, width, ENVIRONMENT_HIDDEN),
        "out": _init_dense(key_out, ENVIRONMENT_HIDDEN, 3),
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
    x = jax.nn.relu(_dense(params["hidden"], x))
    return jax.nn.sigmoid(_dense(params["out"], x))


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


def decode(decoder: dict, features: jax.Array) -> jax.Array:
    """[..., W] features -> [..., 4] raw density and raw colour."""
    if "hidden" in decoder:
        features = jax.nn.relu(_dense(decoder["hidden"], features))
    return _dense(decoder["out"], features)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _decode_chunked(decoder: dict, features: jax.Array, chunk: int) -> jax.Array:
    """`decode` with a hidden layer in bounded memory: [N, W] -> [N, 4].

    The hidden layer is recomputed in the backward, whose sums over points are taken
    chunk by chunk: 0.6 of the time of autodiff's on a CPU.
    """
    raw = lax.map(functools.partial(decode, decoder), _in_chunks(features, chunk))
    return raw.reshape(-1, raw.shape[-1])[: features.shape[0]]


def _in_chunks(points: jax.Array, chunk: int) -> jax.Array:
    """[N, C] -> [number of chunks, chunk, C], zeros at the end."""
    padded = jnp.pad(points, ((0, -len(points) % chunk), (0, 0)))
    return padded.reshape(-1, chunk, points.shape[1])


def _decode_fwd(decoder, features, chunk):
    return _decode_chunked(decoder, features, chunk), (decoder, features)


def _decode_bwd(chunk, residuals, cotangent):
    decoder, features = residuals
    matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)

    def add_chunk(total, inputs):
        x, d_raw = inputs
        h = jax.nn.relu(_dense(decoder["hidden"], x))
        d_before = jnp.where(h > 0, matmul(d_raw, decoder["out"]["kernel"].T), 0)
        layers = {
            "hidden": {"kernel": matmul(x.T, d_before), "bias": d_before.sum(0)},
            "out": {"kernel": matmul(h.T, d_raw), "bias": d_raw.sum(0)},
        }
        d_x = matmul(d_before, decoder["hidden"]["kernel"].T)
        return jax.tree.map(jnp.add, total, layers), d_x

    chunks = _in_chunks(features, chunk), _in_chunks(cotangent, chunk)
    zero = jax.tree.map(jnp.zeros_like, decoder)
    total, d_features = lax.scan(add_chunk, zero, chunks)
    return total, d_features.reshape(-1, features.shape[1])[: len(features)]


_decode_chunked.defvjp(_decode_fwd, _decode_bwd)


@jax.custom_jvp
def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x), whose own derivative is ten times slower on a CPU for x << 0."""
    return jax.nn.softplus(x)


@_softplus.defjvp
def _softplus_jvp(primals, tangents):
    return _softplus(*primals), jax.nn.sigmoid(*primals) * tangents[0]


def query(
    params: dict,
    positions: jax.Array,
    grid: HashGrid,
    *,
    density_bias: DensityBias,
    density_scale: float = 1.0,
    noise: jax.Array | None = None,
    chunk: int = 8192,
) -> tuple[jax.Array, jax.Array]:
    """Density and colour at points (unbatched over particles).

    Args:
      params: see `init_field`.
      positions: [N, 3] in [-1, 1], clamped.
      grid: layout of the table.
      density_bias: the initialisation, `blob_bias` or `centred_bias`.
      density_scale: factor on the density after softplus.
      noise: [N] added before softplus, N(0, 1) in the paper's training; None = none.
      chunk: points decoded at a time (memory and cache, not a result).

    Returns:
      density [N] >= 0 and colour [N, 3] in (0, 1).
    """
    chex.assert_shape(positions, (None, 3))
    features = encode(params["table"], positions, grid)
    decoder = params["decoder"]
    if "hidden" not in decoder or len(features) <= chunk:
        raw = decode(decoder, features)
    else:
        raw = _decode_chunked(decoder, features, chunk)
    before = raw[:, 0] + density_bias(positions)
    if noise is not None:
        before = before + noise
    return density_scale * _softplus(before), jax.nn.sigmoid(raw[:, 1:])


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
