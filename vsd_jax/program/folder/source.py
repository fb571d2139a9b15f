# SPDX-License-Identifier: Apache-2.0
"""A finished run as a start: its particles, and what a mesh stage makes of them.

NeRF      -> NeRF       its radiance field, for another method, schedule or prompt
NeRF      -> geometry   its level set as signed distances
geometry  -> texture    its mesh, frozen; the colour field of the NeRF before it
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from vsd_jax.particle import init_particle
from vsd_jax.presets import Settings
from vsd_jax.presets.numbers import GIVEN
from vsd_jax.program import Config
from vsd_jax.program.build import stages
from vsd_jax.program.build.stages import Start
from vsd_jax.program.export import sdf
from vsd_jax.program.folder import checkpoint, origin, paths, workdir
from vsd_jax.program.run import products
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import idle
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.scene.mesh import tet_grid
from vsd_jax.types import Particles, PyTree, Scene


class Source(NamedTuple):
    """A run read from its folder.

    Attributes:
      config: validated.
      particles: of its last checkpoint.
      step: of that checkpoint.
    """

    config: Config
    particles: Particles
    step: int


class Beginning(NamedTuple):
    """What a run begins from.

    Attributes:
      start: (theta, stats), leaves [n, ...]; None = what its scene gives.
      step: of the source's checkpoint; None without a source.
    """

    start: Start | None = None
    step: int | None = None


NOTHING = Beginning()


def read_config(folder: str | pathlib.Path) -> Config:
    """The validated configuration of a run, of this version or an older one."""
    path = paths.expand(folder, "mesh.source")
    stored = config_lib.flatten(workdir.read_config(path))
    if stored.get("mesh.source"):
        stored["mesh.source"] = origin.find(stored["mesh.source"], path)
    if stored.get("log.best", "").startswith("score/") and idle.is_unscored(stored):
        stored["log.best"] = ""  # older versions took it, and no run had one
    filled = config_lib.nest(config_lib.DEFAULTS_OF_OLD_RUNS | stored)
    return config_lib.validate(ConfigDict(filled))


def load(
    folder: str | pathlib.Path,
    config: Config,
    *,
    latent_shape: tuple[int, int, int] = (0, 0, 0),
) -> Source:
    """Reads the particles of a run; its prior is not needed.

    Args:
      folder: of the run.
      config: of the run.
      latent_shape: of the prior, for field.kind="latent" alone.

    Raises:
      RunError: if it has no checkpoint.
    """
    path = paths.expand(folder, "mesh.source")
    # Made outside of the trace: an equal scene is made once (`stages.make_scene`).
    scene = stages.make_scene(
        config, size=config.render.size, latent_shape=latent_shape
    )
    target = jax.eval_shape(lambda: _init_particles(config, scene))
    found = checkpoint.load_particles(
        path / "checkpoints",
        target,
        warn=progress.say,
        best=config.eval.checkpoint == "best",
    )
    if found is None:
        raise RunError(f"{path} has no checkpoint yet. Train first.")
    return Source(config, *found)


def _init_particles(config: Config, scene: Scene) -> Particles:
    tx = Settings(config).tx
    keys = jax.random.split(jax.random.key(0), config.num_particles)
    return jax.vmap(lambda key: init_particle(scene, tx, key))(keys)


def load_start(config: Config, folder: str | pathlib.Path) -> Start | None:
    """As `read_beginning`, noted in the run's folder (`note`)."""
    beginning = read_beginning(config)
    note(config, folder, beginning)
    return beginning.start


def note(config: Config, folder: str | pathlib.Path, beginning: Beginning) -> None:
    """Writes into the run's folder which state of which run it begins from."""
    if beginning.step is not None:
        origin.note(pathlib.Path(folder), config.mesh.source, beginning.step)


def read_beginning(config: Config) -> Beginning:
    """What the particles of a run begin from.

    Raises:
      ConfigError: if `mesh.source` is no run that this one can go on with.
      RunError: if that run has no surface, or its mesh does not fit.
    """
    stage = stages.stage_of(config)
    if stage.start is None or not config.mesh.source:
        return NOTHING
    require(config)
    source = load(config.mesh.source, read_config(config.mesh.source))
    if source.config.prompt != config.prompt:
        mine, theirs = (
            progress.shorten(each.prompt) for each in (config, source.config)
        )
        progress.say(
            f'Note: the run in mesh.source was made from "{theirs}" and goes on with'
            f' "{mine}"; give its text as --config.prompt to keep to it.'
        )
    scene = stages.make_scene(config, size=config.render.size)
    init_stats = jax.jit(scene.init_stats)
    # What the scene remembers starts anew, but for what the stage itself gives.
    start = stages.stack(
        [
            (theta, {**init_stats(theta), **own})
            for theta, own in stage.start(config, source)
        ]
    )
    return Beginning(start, source.step)


def require(
    config: Config, own: str | pathlib.Path = "", *, overwrite: bool = False
) -> None:
    """Refuses a `mesh.source` that the run cannot go on with; reads its settings alone.

    Args:
      config: of the run.
      own: its own folder, which cannot be its source; "" = not known.
      overwrite: what is in that folder will be deleted, so nothing in it can be either.

    Raises:
      ConfigError: naming what is wrong with it.
    """
    stage, folder = stages.stage_of(config), config.mesh.source
    if stage.needs_source and not folder:
        raise ConfigError(
            f"field.kind={config.field.kind} needs a mesh; give the folder of a"
            " finished run of --config=geometry with --config.mesh.source=..."
        )
    if stage.start is None or not folder:
        return
    if folder == GIVEN:
        raise ConfigError(
            "mesh.source is not given: the folder of the finished run that this one"
            ' refines, --config.mesh.source=...; "" begins from field.init.'
        )
    path = paths.expand(folder, "mesh.source")
    mine = own and paths.expand(own, "--workdir").resolve()
    if mine and path.resolve() == mine:
        raise ConfigError(
            f"mesh.source={folder!r} is the --workdir itself; give the run that this"
            " one goes on with, and another --workdir."
        )
    if mine and overwrite and path.resolve().is_relative_to(mine):
        raise ConfigError(
            f"mesh.source={folder!r} lies in the --workdir that --overwrite deletes;"
            " give another --workdir."
        )
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"mesh.source={folder!r} holds no run (there is no config.json); give the"
            " folder of a finished run."
        )
    wanted, found = stage.goes_on_with, read_config(folder)
    if found.field.kind != wanted:
        raise ConfigError(
            f"mesh.source={folder!r} is a run of field.kind={found.field.kind}, but"
            f" field.kind={config.field.kind} goes on with {wanted}; give the folder of"
            " such a run."
        )
    if found.num_particles != config.num_particles:
        raise ConfigError(
            f"num_particles={config.num_particles}, but mesh.source={folder!r} has"
            f" {found.num_particles}; give the same number."
        )
    for key in stage.same_mesh:
        mine, theirs = config.mesh[key], found.mesh[key]
        if mine != theirs:
            raise ConfigError(
                f"mesh.{key}={mine:g}, but {theirs:g} in mesh.source={folder!r},"
                " whose mesh stays as it is; give the same."
            )


def fields(config: Config, source: Source) -> list[Start]:
    """The NeRFs themselves, as theta of a NeRF that goes on with other settings."""
    both = (config, source.config)
    mine, theirs = (dataclasses.asdict(Settings(each).field) for each in both)
    if differing := [key for key in mine if mine[key] != theirs[key]]:
        key = differing[0]
        raise ConfigError(
            f"field.{key}={mine[key]}, but {theirs[key]} in"
            f" mesh.source={config.mesh.source!r}, whose radiance field goes on; give"
            " the same."
        )
    return [
        (jax.tree.map(lambda leaf, i=i: leaf[i], source.particles.params), {})
        for i in range(config.num_particles)
    ]


def level_sets(config: Config, source: Source) -> list[Start]:
    """Signed distances of the NeRFs' level sets, as theta of the geometry stage."""
    return [_distances(config, source, i) for i in range(config.num_particles)]


def _distances(config: Config, source: Source, index: int) -> Start:
    """theta of the geometry stage from the NeRF of one particle."""
    found = products.find_level(
        source.config,
        source.particles,
        index,
        resolution=config.export.resolution,
    )
    density, level, overlap = found
    level = config.export.level or level
    distance = sdf.signed_distance(
        density,
        level,
        smoothing=config.mesh.smoothing,
        min_component=config.export.min_component,
    )
    positions = np.asarray(tet_grid.grid_positions(config.mesh.resolution))
    params = {
        "sdf": jnp.asarray(sdf.sample_grid(distance, positions)),
        "offsets": jnp.zeros(positions.shape),
    }
    products.whole_mesh(config, params)
    progress.say(
        f"Particle {index}: surface at density {level:.3g}; the best level's silhouette"
        f" agrees with the NeRF's in {overlap:.0%}."
    )
    return params, {}


def frozen_meshes(config: Config, source: Source) -> list[Start]:
    """Frozen meshes of the geometry stage, with the NeRF's colours if there is one."""
    params = _inherited(config, source.config.mesh.source)
    starts = []
    for i in range(config.num_particles):
        shape = jax.tree.map(lambda leaf, i=i: leaf[i], source.particles.params)
        found = products.whole_mesh(source.config, shape)
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        starts.append((own, {"surface": found}))
    return starts


def _inherited(config: Config, folder: str) -> PyTree:
    """theta of the NeRF that the mesh comes from, leaves [n, ...]; or a fresh one."""
    scene = stages.make_scene(config, size=config.render.size)
    keys = jax.random.split(jax.random.key(config.seed), config.num_particles)
    fresh = jax.vmap(scene.init)(keys)
    if not folder:
        return fresh
    if not (paths.expand(folder, "mesh.source") / "config.json").is_file():
        raise ConfigError(
            f"mesh.source={config.mesh.source!r} was made from the NeRF in {folder!r},"
            " whose colours the texture goes on with, and which is gone; put it back"
            " there."
        )
    theirs = read_config(folder)
    found = load(folder, theirs).particles.params
    same = all(config.field[key] == theirs.field[key] for key in idle.GRID)
    if not same or jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, fresh):
        raise ConfigError(
            f"The NeRF in {folder!r}, whose colours the texture goes on with, has"
            " another hash grid. Give the texture the same field.num_levels, features,"
            " log2_table_size, min_ and max_resolution, smooth, hidden and environment."
        )
    return found
