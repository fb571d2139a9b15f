# SPDX-License-Identifier: Apache-2.0
"""Runs one cell in its own folder, once; a finished one is left alone.

A "run" is the program itself, in this process: no start-up, and what is compiled is
cached. A "sample" draws from the embedded prior. Both leave `evaluation.png`, a row a
particle and a column a view.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.diffusion.sampler import ddim_sample
from vsd_jax.experiments import exact_cells, own_method
from vsd_jax.experiments.plan import Cell
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build import build
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.prior import weights
from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import config_rules, named
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.toybox import classifier

Path = pathlib.Path
SIZE = 64
TRAINED = "trained.json"
"""In a cell's folder: the seconds spent on it before, alone or with others at once."""
SCORING = 2
"""Which way cells in 3D are scored: 1 = shapes with what is inside of them (f3cd590).

The others have 3: images of the embedded prior against the views of its training, and
truth's modes on priors in closed form by as many samples as a cell has.
"""
_BATCH = 32
_WEIGHTS = classifier.WEIGHTS.parent / "unet"


def make_config(cell: Cell) -> ConfigDict:
    """The cell's configuration; a preset's needs no file.

    Raises:
      ConfigError: if its file is not there, or a setting is no key of it.
    """
    path, _, variant = cell.config.partition(":")
    name = Path(path).stem
    try:
        if path == f"configs/{name}.py" and name in named.NAMED:
            config = named.NAMED[name](variant)
        else:
            config = config_flags.ConfigFileFlagParser("config").parse(cell.config)
        known = config_lib.flatten(config)
    except OSError as error:
        raise ConfigError(f"{cell.config} is not there ({error}).") from error
    for key, value in cell.settings.items():
        if key in known:
            config.update_from_flattened_dict({key: value})
        elif not key.startswith(("sample.", "exact.")):
            raise ConfigError(config_rules.suggest(key, known))
    config.update(prompt=cell.prompt, seed=cell.seed)
    return config


class Stopwatch:
    """Seconds since it was made: of the wall clock and of this process."""

    def __init__(self):
        self._began = time.monotonic(), time.process_time()

    def spent(self) -> dict[str, float]:
        """Returns `seconds` and `cpu_seconds`."""
        begin, worked = self._began
        return {
            "seconds": time.monotonic() - begin,
            "cpu_seconds": time.process_time() - worked,
        }


def run_cell(cell: Cell, out: Path) -> Path:
    """Runs a cell, goes on with it, or finds it finished.

    Returns:
      Its folder, with `cell.json` (settings, prior, commit, seconds).

    Raises:
      RunError: if it is finished with other settings or another prior; or whatever a
        run of the program raises (`DivergedError`: `note_stopped` finishes it).
    """
    folder = out / cell.folder
    record = describe(cell)
    if (folder / "cell.json").exists():
        refuse_another(writer.read_json(folder / "cell.json"), record, folder)
        return folder
    watch = Stopwatch()
    try:
        _KINDS[cell.row.kind](cell, folder)
    except BaseException:  # Ctrl-C too: what goes on counts what was spent before
        if folder.exists():
            with contextlib.suppress(OSError):  # the disk may be full
                writer.write_json(folder / TRAINED, _spent(watch, folder))
        raise
    finally:
        if not cell.row.kind.startswith("exact"):
            jax.clear_caches()  # programs of finished cells would fill the memory
    record |= _spent(watch, folder)
    record["environment"] = workdir.describe_environment()
    writer.write_json(folder / "cell.json", record)
    return folder


def note_stopped(cell: Cell, out: Path, why: str) -> None:
    """Finishes the cell of a run that diverged, which is a result too, without scores.

    Args:
      cell: the one that `run_cell` has not finished.
      out: the table's folder.
      why: what the alarm said.
    """
    folder = out / cell.folder
    folder.mkdir(parents=True, exist_ok=True)
    record = describe(cell) | {"seconds": 0.0, "cpu_seconds": 0.0}
    record |= spent_before(folder) | {"stopped": why}
    record["environment"] = workdir.describe_environment()
    writer.write_json(folder / "cell.json", record)


def spent_before(folder: Path) -> dict[str, float]:
    """Seconds of a cell that was stopped, or trained with others; {} without them."""
    file = folder / TRAINED
    return writer.read_json(file) if file.exists() else {}


def _spent(watch: Stopwatch, folder: Path) -> dict[str, float]:
    before = spent_before(folder)
    return {key: s + before.get(key, 0.0) for key, s in watch.spent().items()}


def describe(cell: Cell) -> dict:
    """What tells a cell from another; `cell.json` begins with it."""
    # Where a submitted file lies says nothing: `exact.source` is what it holds.
    settings = {k: v for k, v in cell.settings.items() if k != "exact.method"}
    return {
        "row": cell.row.name,
        "kind": cell.row.kind,
        "prompt": cell.prompt,
        "seed": cell.seed,
        "config": cell.config,
        "settings": settings,
        "prior": prior_fingerprint() if not cell.row.kind.startswith("exact") else "",
    }


def fingerprint(cell: Cell) -> str:
    """Of what `describe` says and how it is scored: the same one is the same result."""
    text = json.dumps([_as_stored(describe(cell)), scoring(cell)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scoring(cell: Cell) -> int:
    """Which way of scoring a cell has: results of different ones are not mixed."""
    is_flat = "image2d" in cell.config or cell.row.kind.startswith("exact")
    return SCORING + is_flat


def prior_fingerprint() -> str:
    """Which weights the embedded prior's U-Net has."""
    return weights.fingerprint(_WEIGHTS)


def refuse_another(old: dict, new: dict, folder: Path) -> None:
    """Raises RunError if what is stored in a folder is not of the cell `new`."""
    plain = {name: _as_stored(value) for name, value in new.items()}
    differing = [name for name, value in plain.items() if old.get(name) != value]
    if differing:
        raise RunError(
            f"{folder} is finished with another {' and '.join(differing)}. Give another"
            " --out, or delete that folder."
        )


def _as_stored(value):
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    return [_as_stored(v) for v in value] if isinstance(value, tuple) else value


def _run(cell: Cell, folder: Path) -> None:
    config = make_config(cell)
    name = f"{cell.row.name}: {cell.prompt}, seed {cell.seed}"
    command = ["python", "-m", "vsd_jax.experiments", f"# {name}"]
    options = {"command": command, "method": own_method.of(cell.settings)}
    pipeline.start("train", config, str(folder), overwrite=False, **options)


def _sample(cell: Cell, folder: Path) -> None:
    """Ancestral samples of the embedded prior, as many as there are particles."""
    config = config_lib.validate(make_config(cell))
    prior, params, encode_text = build.load_prior(config.prior.path, config.prior.dtype)
    noise_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    batch = min(_BATCH, config.num_particles)
    prompts = {
        name: jnp.broadcast_to(embedded, (batch, *embedded.shape[1:]))
        for name, embedded in (
            ("text", jnp.asarray(encode_text([config.prompt]))),
            ("negative", jnp.asarray(encode_text([""]))),
        )
    }

    @jax.jit
    def draw(params, prompts, key):
        start, fresh = jax.random.split(key)
        latents = ddim_sample(
            noise_fn,
            params,
            jax.random.normal(start, (batch, *prior.latent_shape)),
            prompts,
            alphas_cumprod=prior.alphas_cumprod,
            num_steps=cell.settings["sample.num_steps"],
            guidance_scale=cell.settings["sample.guidance_scale"],
            guidance=Settings(config).guidance,
            eta=cell.settings["sample.eta"],
            key=fresh,
        )
        return prior.decode(params, latents)

    starts = range(0, config.num_particles, batch)
    blocks = [
        np.asarray(draw(params, prompts, _key(config.seed, start)))
        for start in progress.track(starts, "sampling", len(starts))
    ]
    images = np.concatenate(blocks)[: config.num_particles, None]
    sheet = writer.contact_sheet(images, tile_size=SIZE, gap=0)
    writer.save_png(folder / "evaluation.png", sheet)


def _key(seed: int, start: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), start)


def exact_config(cell: Cell) -> Config:
    """The configuration of a cell in closed form, which reads no seed and no prompt."""
    alike = dataclasses.replace(cell, seed=0, prompt="a mushroom")
    return config_lib.validate(make_config(alike))


def _exact(cell: Cell, folder: Path) -> None:
    samples = exact_cells.run(cell, exact_config(cell))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "samples.npy").open("wb") as file:
        np.save(file, samples, allow_pickle=False)


_KINDS: dict[str, Callable[[Cell, Path], None]] = {
    "run": _run,
    "sample": _sample,
    "exact": _exact,
    "exact_sample": _exact,
}
