# SPDX-License-Identifier: Apache-2.0
"""The texture stage's scene: a frozen mesh, coloured by a field at its surface.

The mesh stands in `stats`: carried, saved, never differentiated. theta belongs to the
field, which is only asked at pixels that the mesh covers, at most `capacity` of them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from vsd_jax.scene.camera import pixel_rays
from vsd_jax.scene.mesh.capacity import compact, overflow_count
from vsd_jax.scene.mesh.geometry import MeshSpec
from vsd_jax.scene.mesh.raster import RasterSizes
from vsd_jax.scene.mesh.surface import Surface, empty_surface
from vsd_jax.scene.mesh.view import Seen, render_mesh
from vsd_jax.scene.nerf import field
from vsd_jax.types import Params, Scene


def texture(
    spec: MeshSpec,
    field_spec: field.FieldSpec,
    *,
    size: int,
    near: float,
    capacity: float,
) -> Scene:
    """Makes the scene of the texture stage, with a hash grid as its field.

    Args:
      spec: of the mesh.
      field_spec: of the colours; its density is not used.
      size: side of the square image, pixels.
      near: least depth, scene units.
      capacity: share of the pixels that the mesh covers at most, in (0, 1].

    Examples:
      >>> preset = vsd.presets.preset("texture", "smoke")
      >>> scene = vsd.mesh.texture(
      ...     preset.mesh, preset.field, size=16, near=0.1, capacity=1.0
      ... )
      >>> sorted(jax.eval_shape(scene.init, jax.random.key(0)))
      ['decoder', 'table']
    """
    grid = field.make_grid(field_spec)
    return make_texture(
        image_size=size,
        init=functools.partial(
            field.init_field,
            grid=grid,
            hidden=field_spec.hidden,
            environment=field_spec.environment,
        ),
        color=functools.partial(field.query_color, grid=grid),
        behind=field.background_color,
        near=near,
        capacity=capacity,
        empty=functools.partial(empty_surface, spec.mesh_sizes()),
        raster_sizes=spec.raster_sizes(size),
    )


def make_texture(
    *,
    image_size: int,
    init: Callable[[jax.Array], Params],
    color: Callable[[Params, jax.Array], jax.Array],
    behind: Callable[[Params, jax.Array, jax.Array], jax.Array],
    near: float,
    capacity: float,
    empty: Callable[[], Surface],
    raster_sizes: RasterSizes,
) -> Scene:
    """Builds the scene (unbatched over particles and cameras).

    `init_stats` gives `{"surface": empty()}`; a run puts the mesh of the geometry stage
    there, in arrays of the same shape. `extras`: `overflow`, the number of list entries
    and pixels that did not fit.

    Args:
      image_size: side of the square image, pixels.
      init: `(key) -> theta`, for example `field.init_field`.
      color: `(theta, points [N, 3]) -> [N, 3]` in [0, 1], such as `field.query_color`.
      behind: `(theta, directions [R, 3], background [3]) -> [R or 1, 3]`, such as
        `field.background_color`.
      near: least depth, scene units.
      capacity: share of the pixels that the mesh covers at most in training, in (0,
        1].
      empty: makes a mesh whose arrays have the right shapes.
      raster_sizes: static capacities of a view.
    """
    num_colored = max(int(capacity * image_size**2), 1)

    def render(params, stats, camera, background, key, *, train):
        del key
        limit = num_colored if train else image_size**2  # none is left out of a picture
        _, directions = pixel_rays(camera, image_size, image_size)
        far = behind(params, directions.reshape(-1, 3), background).T

        def shade(seen: Seen) -> jax.Array:
            index, place, _ = compact(seen.hit, limit)
            found = color(params, seen.position[:, index].T).T
            colored = seen.hit & (place < limit)
            rgb = found[:, jnp.where(colored, place, 0)]
            return jnp.where(colored[None], rgb, far)

        out, counts = render_mesh(
            lax.stop_gradient(stats["surface"]),
            camera,
            shade,
            height=image_size,
            width=image_size,
            near=near,
            capacities=raster_sizes,
        )
        # The depth is 0 at empty pixels and nowhere else.
        num_hit = jnp.sum(out.depth > 0, dtype=jnp.int32)
        lost = jnp.maximum(num_hit - limit, 0).astype(jnp.float32)
        return out.replace(
            extras={"overflow": lost + overflow_count(counts, raster_sizes)}
        )

    return Scene(
        init=init,
        init_stats=lambda params: {"surface": empty()},
        update_stats=lambda params, stats, turn, key: stats,
        render=render,
    )
