# SPDX-License-Identifier: Apache-2.0
"""What a finished run is made into: turntables and meshes."""

import functools
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build import stages
from vsd_jax.program.export import export, fidelity, textured
from vsd_jax.program.folder import writer
from vsd_jax.program.run import renders
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.scene.camera import pixel_rays
from vsd_jax.scene.mesh import capacity
from vsd_jax.scene.mesh.surface import MeshSizes, Surface
from vsd_jax.types import Mesh, Particles, PyTree

Path = pathlib.Path
LEVEL_VIEWS = 6
COMPARED_VIEWS = 4
LEVEL_SIZE = 64
LEVEL_SAMPLES = 256
TEXEL_SAMPLES = 2
"""Along each side of a texel: the finest cells of the paper's field are smaller."""


def save_turntables(
    folder: Path, config: Config, particles: Particles, *, decode: renders.Decode | None
) -> None:
    """Writes `turntable_XX.mp4` and `.gif`, or `views_XX.png` for a 2D scene."""
    render = renders.make_renderer(
        config, size=config.eval.turntable_size, decode=decode
    )
    n = jax.tree.leaves(particles.params)[0].shape[0]
    flat = stages.stage_of(config).is_flat
    num_frames = 1 if flat else config.eval.turntable_frames
    cameras = renders.judged_cameras(config, num_frames)
    jobs = [(i, view) for i in range(n) for view in range(num_frames)]
    frames: list[np.ndarray] = []
    for i, view in progress.track(jobs, "rendering the turntable", len(jobs)):
        frames.append(render(particles, i, renders.pick(cameras, view))["rgb"])
        if view < num_frames - 1:
            continue
        if flat:
            writer.save_png(folder / f"views_{i:02d}.png", frames[0])
        else:
            writer.save_mp4(
                folder / f"turntable_{i:02d}.mp4", frames, fps=config.eval.fps
            )
            writer.save_gif(
                folder / f"turntable_{i:02d}.gif", frames, fps=config.eval.fps
            )
        frames = []


def save_meshes(folder: Path, config: Config, particles: Particles) -> list[dict]:
    """Writes `mesh/particle_XX.glb`, `.obj` (with `.mtl`, `.png`), `.ply`, `info.json`.

    The PLY is the level set itself with vertex colours. The others are thinned and have
    a texture, unless `export.texture_size` is 0: then there is no OBJ.

    Returns:
      For each particle its numbers: `vertices`, `faces`, `level`, `overlap` (of the
      level set's silhouette with the renders), `texture` (its size, the faces left,
      `error`: see `textured.texture_error`, `psnr` of its renders, for the texture
      stage); or `error` if there was no surface.

    Raises:
      RunError: if the scene is an image.
    """
    stage = stages.stage_of(config)
    if stage.is_flat:
        raise RunError(
            f"field.kind={config.field.kind} is flat: there is no mesh to export."
            " --mode=render writes its picture."
        )
    n = jax.tree.leaves(particles.params)[0].shape[0]
    infos = []
    for i in progress.track(range(n), "exporting the mesh", n):
        before = _written(folder, i)
        try:
            infos.append(stage.save_mesh(folder, config, particles, i))
        except RunError as error:
            infos.append({"error": str(error)})
            # Of an earlier export: they would pass for this one's.
            for path, _ in before.items() & _written(folder, i).items():
                path.unlink()
            progress.say(f"Particle {i}: {error}")
    writer.write_json(folder / "mesh" / "info.json", infos)
    return infos


def _written(folder: Path, index: int) -> dict[Path, int]:
    """The mesh files of a particle, and when each was written."""
    paths = (folder / "mesh").glob(f"particle_{index:02d}.*")
    return {path: path.stat().st_mtime_ns for path in paths}


def save_level_set(
    folder: Path, config: Config, particles: Particles, index: int
) -> dict:
    """The mesh files of one NeRF; returns its numbers, as `save_meshes`."""
    params = jax.tree.map(lambda leaf: leaf[index], particles.params)
    field = stages.make_field(config)
    chunk, settings = config.export.chunk, config.export
    grid, level, overlap = find_level(config, particles, index, given=settings.level)
    is_object = config.field.init == "object"

    def color(points: np.ndarray) -> np.ndarray:
        return field(params, points)[1]

    mesh = export.extract_mesh(
        grid,
        color,
        level=level,
        closed=is_object,
        min_component=settings.min_component,
        chunk=chunk,
    )
    name = folder / "mesh" / f"particle_{index:02d}"
    info = _save_files(name, config, mesh, color, double_sided=is_object)
    return info | {"level": level, "overlap": overlap}


def _save_files(
    name: Path,
    config: Config,
    mesh: Mesh,
    color: export.ColorFn,
    *,
    double_sided: bool,
    compare: Callable[[textured.TexturedMesh], float] | None = None,
) -> dict:
    """Writes all formats of one mesh, from whatever stage, and returns its numbers."""
    settings = config.export
    export.save_ply(name.with_suffix(".ply"), mesh)
    info = {"vertices": len(mesh.vertices), "faces": len(mesh.faces)}
    if not settings.texture_size:
        export.save_glb(name.with_suffix(".glb"), mesh, double_sided=double_sided)
        for suffix in (".obj", ".mtl", ".png"):  # of an earlier export
            name.with_suffix(suffix).unlink(missing_ok=True)
        return info
    baked = textured.bake_mesh(
        mesh.vertices,
        mesh.faces,
        color,
        texture_size=settings.texture_size,
        max_faces=settings.max_faces,
        chunk=settings.chunk,
        samples_per_axis=TEXEL_SAMPLES,
    )
    glb = name.with_suffix(".glb")
    textured.save_textured_glb(glb, baked, double_sided=double_sided)
    textured.save_obj(name.with_suffix(".obj"), baked)
    texture = {
        "size": settings.texture_size,
        "vertices": len(baked.vertices),
        "faces": len(baked.atlas.faces),
        "error": textured.texture_error(baked, color, chunk=settings.chunk),
    }
    if compare:
        texture["psnr"] = compare(baked)
    return info | {"texture": texture}


def save_shape(folder: Path, config: Config, particles: Particles, index: int) -> dict:
    """The mesh files of one geometry stage, coloured by its normals."""
    params = jax.tree.map(lambda leaf: leaf[index], particles.params)
    vertices, faces = _without_floaters(config, whole_mesh(config, params))
    name = folder / "mesh" / f"particle_{index:02d}"
    colors = 0.5 + 0.5 * textured.vertex_normals(vertices, faces)
    mesh = Mesh(vertices=vertices, faces=faces, colors=colors.astype(np.float32))
    export.save_ply(name.with_suffix(".ply"), mesh)
    export.save_glb(name.with_suffix(".glb"), mesh, double_sided=False)
    return {"vertices": len(vertices), "faces": len(faces)}


def save_textured(
    folder: Path, config: Config, particles: Particles, index: int
) -> dict:
    """The mesh files of one texture stage; returns its numbers, as `save_meshes`."""
    params, stats = jax.tree.map(
        lambda leaf: leaf[index], (particles.params, particles.stats)
    )
    vertices, faces = _without_floaters(config, stats["surface"])
    query = stages.make_color(config)

    def color(points: np.ndarray) -> np.ndarray:
        return query(params, points)

    colors = export.query(color, vertices, chunk=config.export.chunk)
    mesh = Mesh(vertices=vertices, faces=faces, colors=colors)
    compare = None
    if config.export.check_size:
        compare = _make_comparison(config, particles, index)
    name = folder / "mesh" / f"particle_{index:02d}"
    return _save_files(name, config, mesh, color, double_sided=False, compare=compare)


def whole_mesh(config: Config, params: PyTree) -> Surface:
    """The mesh of one particle of the geometry stage, all of it.

    Raises:
      RunError: if it has no faces, or more than there is room for.
    """
    found = stages.march(config, params)
    sizes = Settings(config).mesh.mesh_sizes()
    counts = MeshSizes(*map(int, found.counts))
    if counts.faces == 0:
        raise RunError("The mesh has no faces: its scene is empty.")
    if capacity.grow(counts, sizes) != sizes:
        now = config.mesh.surface_capacity
        needed = now * max(c / s for c, s in zip(counts, sizes, strict=True))
        raise RunError(
            f"The mesh has {counts.faces:,} faces, more than there is room for with"
            f" mesh.surface_capacity={now:g}. Set it to {1.5 * needed:.1f}."
        )
    return found


def _without_floaters(config: Config, surface) -> tuple[np.ndarray, np.ndarray]:
    vertices, faces = stages.as_arrays(surface)
    return export.drop_floaters(vertices, faces, config.export.min_component)


def _make_comparison(config: Config, particles: Particles, index: int):
    """`(baked mesh) -> dB`, against the stage's own renders from a few sides."""
    size = config.export.check_size
    render = renders.make_renderer(config, size=size)
    cameras = renders.judged_cameras(config, COMPARED_VIEWS)
    return functools.partial(
        fidelity.baked_psnr,
        show=lambda camera: render(particles, index, camera)["rgb"],
        cameras=[renders.pick(cameras, view) for view in range(COMPARED_VIEWS)],
        size=size,
        background=np.asarray(config.eval.background),
    )


def find_level(
    config: Config,
    particles: Particles,
    index: int,
    *,
    given: float = 0.0,
    resolution: int = 0,
) -> tuple[np.ndarray, float, float]:
    """The density of a NeRF on a grid, and the level that agrees with its renders.

    Args:
      config: of the run.
      particles: of all.
      index: which one.
      given: the level; 0 = the one that agrees best.
      resolution: R of the grid; 0 = that of the run.

    Returns:
      density [R, R, R] over [-1, 1]^3; the level; the overlap of its silhouette with
      the renders, in [0, 1].

    Raises:
      RunError: if the renders show nothing.
    """
    params = jax.tree.map(lambda leaf: leaf[index], particles.params)
    field = stages.make_field(config)
    grid = export.density_grid(
        lambda points: field(params, points)[0],
        resolution=resolution or config.export.resolution,
        chunk=config.export.chunk,
    )
    # Beyond it nothing was ever drawn, whatever the field says there.
    drawn = np.abs(np.linspace(-1.0, 1.0, len(grid))) <= config.render.half_extent
    grid = grid * (drawn[:, None, None] & drawn[:, None] & drawn)
    rays = _rays(config, particles, index, grid)
    return grid, *export.choose_level(*rays, level=given)


def _rays(config: Config, particles: Particles, index: int, grid: np.ndarray):
    """Density along the rays of some views beside what these views show."""
    render = renders.make_renderer(config, size=LEVEL_SIZE)
    cameras = renders.judged_cameras(config, LEVEL_VIEWS)
    found = []
    for view in range(LEVEL_VIEWS):
        camera = renders.pick(cameras, view)
        seen = render(particles, index, camera)
        origin, directions = pixel_rays(camera, LEVEL_SIZE, LEVEL_SIZE)
        directions = np.asarray(directions).reshape(-1, 3)
        density, tdist = _march(grid, np.asarray(origin), directions)
        found.append((density, tdist, seen["opacity"].ravel(), seen["depth"].ravel()))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _march(grid: np.ndarray, origin: np.ndarray, directions: np.ndarray):
    """Density [R, S] on the way through the cube and the distances [R, S]."""
    from scipy import ndimage

    middle, reach = np.linalg.norm(origin), np.sqrt(3.0)
    tdist = np.linspace(max(middle - reach, 0.0), middle + reach, LEVEL_SAMPLES)
    points = origin + directions[:, None] * tdist[:, None]
    places = (points.reshape(-1, 3).T + 1) / 2 * (grid.shape[0] - 1)
    density = ndimage.map_coordinates(grid, places, order=1, mode="constant")
    rays = len(directions)
    return density.reshape(rays, -1), np.broadcast_to(tdist, (rays, len(tdist)))
