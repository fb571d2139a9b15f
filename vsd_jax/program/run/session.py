# SPDX-License-Identifier: Apache-2.0
"""One call of the program: open the folder, do what the mode says, report.

    train     train (or go on), then render, export and evaluate
    render    turntables of the last checkpoint
    export    meshes of the last checkpoint, and its LoRA for diffusers
    evaluate  numbers about the last checkpoint
    preflight does a step fit, how long will it take; needs no folder and no weights

All but `preflight` end with a new `report.html`. `render`, `export` and `evaluate` need
no prior, unless theta is a latent that only the prior can decode; `evaluate` asks it
about the views if it is at hand.
"""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator, Sequence

import jax
from ml_collections import ConfigDict

from vsd_jax.methods import Method
from vsd_jax.program import Config
from vsd_jax.program.build import build, stages, texts
from vsd_jax.program.devices import hosts, preflight
from vsd_jax.program.export import adapter
from vsd_jax.program.folder import checkpoint, events, history, source
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.judge import evaluation
from vsd_jax.program.report import live, report
from vsd_jax.program.run import products, renders
from vsd_jax.program.run.train import Loop
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.program.terminal import overrides as overrides_lib
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError, RunError
from vsd_jax.types import Particles, PyTree, VSDState

Path = pathlib.Path
MODES = ("train", "render", "export", "evaluate", "preflight")
WITHOUT_OVERWRITE = (
    "But leave --overwrite out from now on: with it the run begins anew."
)
_BYTES_FOR_PRODUCTS = 64 * 2**20
_DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


def start(
    mode: str,
    config: ConfigDict | None,
    folder: str,
    *,
    overwrite: bool,
    command: Sequence[str],
    overrides: Sequence[str] = (),
    method: Method | None = None,
) -> None:
    """Runs the program.

    Args:
      mode: one of `MODES`.
      config: with overrides applied; None takes the one in the folder (not for train).
      folder: the run's folder.
      overwrite: delete an earlier run in it (train only).
      command: the command line, for the record.
      overrides: without `config`: what to change in the folder's own, as arguments
        `--config.eval.KEY=VALUE` (`terminal/overrides.py`); not for train.
      method: to train with, in the place of the one that the configuration names
        (`build.build`).

    Raises:
      RunError: whatever the user can put right, in words.
    """
    if mode != "preflight":
        require_folder(folder)
    if mode in ("train", "preflight") and config is None:
        raise ConfigError(
            f"--config is missing: give one of {', '.join(named.NAMED)}, or a file."
        )
    if overwrite and mode != "train":
        raise ConfigError(
            f"--overwrite has no meaning with --mode={mode}; leave it out."
        )
    said: list[str] = []
    if config is not None and mode != "preflight" and not overwrite:
        config, said = history.hold_schedules(config, Path(folder).expanduser())
    valid = config_lib.validate(config) if config is not None else None
    if valid is not None:
        config_lib.refuse_idle(valid, overrides_lib.keys(command))
    if mode == "train" and valid.log.tensorboard:
        events.require()
    if mode == "preflight":
        preflight.run(valid)
        return
    if mode == "train":
        hosts.check_devices(valid)
    workdir = Workdir(folder, create=mode == "train")
    with contextlib.closing(workdir), _disk_in_words(folder):
        if mode == "train":
            workdir.check(valid, overwrite=overwrite, extend=True)
            workdir.check_method(_name(method))
            found = _read(valid, workdir, method, overwrite=overwrite)
            # Only now, when all that is read is known to be sound, is anything deleted.
            workdir.adopt(valid, overwrite=overwrite, extend=True)
            with _deletes_no_more(overwrite), _disk_in_words(folder):
                _begin(workdir, said, command)
                _train(valid, workdir, *found, method=_name(method))
        else:
            if valid is None and overrides:
                valid = overrides_lib.apply(source.read_config(folder), overrides)
                valid = config_lib.validate(valid)
                config_lib.refuse_idle(valid, overrides_lib.keys(overrides))
            _reopen(mode, valid, workdir, command=command)


def _name(method: Method | None) -> str:
    """Of a method that was given from code; "" without one."""
    if method is None:
        return ""
    made = method.direction
    return getattr(made, "__qualname__", type(made).__name__).partition(".<locals>")[0]


@contextlib.contextmanager
def _disk_in_words(folder: str) -> Iterator[None]:
    """A disk that is full or not ours is no fault of the program's."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FAULTS:
            raise
        raise RunError(
            f"--workdir={folder} could not be written to ({error}). What is saved"
            " stays; free some space and run the same command again."
        ) from error


@contextlib.contextmanager
def _deletes_no_more(overwrite: bool) -> Iterator[None]:
    """Once --overwrite has done its work, the same command would undo what followed."""
    try:
        yield
    except RunError as error:
        if overwrite:
            error.args = (f"{error} {WITHOUT_OVERWRITE}",)
            error.status = 1  # else a scheduler would begin anew for ever
        raise


def require_folder(folder: str) -> None:
    """Raises ConfigError if no folder is given."""
    if not folder:
        raise ConfigError("--workdir is missing: where shall the results go?")


def require_readable(configs: Sequence[ConfigDict], folder: Path) -> None:
    """Reads the stages' priors and what the first begins from, before `folder` goes.

    Raises:
      RunError: if one of them cannot be read, or lies in the folder.
    """
    valid = [config_lib.validate(stage) for stage in configs]
    source.require(valid[0], folder, overwrite=True)
    source.read_beginning(valid[0])
    for stage in {(*s.prior.values(), s.score.path): s for s in valid}.values():
        build.build(stage)


def _read(
    config: Config, workdir: Workdir, method: Method | None, *, overwrite: bool
) -> tuple[build.Run, source.Beginning]:
    """The prior and, where it has made no step, what the run begins from."""
    goes_on = workdir.resumed and checkpoint.list_steps(workdir.checkpoints)
    if not goes_on:
        config_lib.require_words(config)
        source.require(config, workdir.path, overwrite=overwrite)
    run = build.build(config, method)
    target = jax.eval_shape(run.init)
    workdir.require_space(_needed_bytes(config, target))
    return run, source.NOTHING if goes_on else source.read_beginning(config)


def _begin(workdir: Workdir, said: Sequence[str], command: Sequence[str]) -> None:
    workdir.record(command)
    for line in said:
        progress.say(line)


def _train(
    config: Config,
    workdir: Workdir,
    run: build.Run,
    beginning: source.Beginning,
    *,
    method: str,
) -> None:
    target = jax.eval_shape(run.init)
    state = None
    if workdir.resumed:
        state = checkpoint.load_state(workdir.checkpoints, target, warn=progress.say)
    _note_prior(config, workdir)
    if state is None:
        if hosts.is_first():
            source.note(config, workdir.path, beginning)
        state = run.init(beginning.start)
    progress.say(_first_line(config, run, state, method))
    hosts.agree(config, int(state.step))
    is_made = False
    try:
        if int(state.step) < config.num_steps:
            _keep_earlier(workdir, int(state.step))
            workdir.note_environment(method)
            with _memory_in_words():
                state = Loop(config, run, workdir).run(state)
        if hosts.is_first():
            if hosts.are_several():
                # It holds its own particles; those of the others are in the last save.
                state = checkpoint.load_state(
                    workdir.checkpoints, target, warn=progress.say
                )
            found = (state.particles, int(state.step))
            modes = ("render", "export", "evaluate")
            _make_products(modes, config, workdir, found, run)
        is_made = True
    finally:
        if hosts.is_first() and not is_made:
            live.stop(workdir.path)
            report.write_report(workdir.path)
    hosts.wait("products")


@contextlib.contextmanager
def _memory_in_words() -> Iterator[None]:
    """A step without room for it is no fault of the program's."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise RunError(
            "The device's memory does not suffice for a step. --mode=preflight tells"
            " what one needs. In this order try --config.render.keep_features=False,"
            " --config.render.max_rays=4096, with which a run that has made steps goes"
            " on; then, in a new --workdir, --config.prior.dtype=bfloat16 (float16 on a"
            " T4), --config.vsd.views_per_step=1; several particles:"
            " --config.particles_per_step=1. A checkpoint that is there stays. JAX"
            f" said: {str(error).splitlines()[0]}"
        ) from error


def _keep_earlier(workdir: Workdir, step: int) -> None:
    """Before more steps: what was made so far is put aside."""
    if not hosts.is_first():
        return
    history.rewind(workdir.path, step)
    kept = history.keep_products(workdir.path, step)
    if kept is not None:
        progress.say(f"What was made so far is kept in {kept}.")


def _note_prior(config: Config, workdir: Workdir) -> None:
    """Records the frozen weights; says so if the run began with others."""
    now = build.fingerprints(config)
    before = workdir.note_weights(now)
    for key in now.keys() & before.keys():
        if now[key] == before[key]:
            continue
        path = config[key.partition(".")[0]].path
        progress.say(
            f"Warning: {key}={path!r} has other weights ({now[key]}) than this run had"
            f" so far ({before[key]}). Its particles and score network go on with the"
            " new ones; to have a run of one prior alone, give the former weights'"
            f" folder as {key} in a new --workdir, or --overwrite."
        )


def _reopen(
    mode: str, config: Config | None, workdir: Workdir, *, command: Sequence[str]
) -> None:
    if config is None:
        config = source.read_config(workdir.path)
    else:
        workdir.adopt(config, overwrite=False)
    workdir.record(command)
    run, shape = None, (0, 0, 0)
    if stages.stage_of(config).is_latent:
        run = build.build(config)
        shape = run.prior.latent_shape
    elif mode == "evaluate" and texts.uses_prior_check(config):
        run = _prior_at_hand(config)
    found = source.load(workdir.path, config, latent_shape=shape)
    progress.say(
        f'"{progress.shorten(config.prompt)}", step {found.step} of {config.num_steps}'
    )
    _make_products((mode,), config, workdir, (found.particles, found.step), run)


def _prior_at_hand(config: Config) -> build.Run | None:
    """The prior to ask about the views, if nothing has to be fetched for it."""
    try:
        if build.is_at_hand(config):
            return build.build(config)
        progress.say(
            "The prior is not asked about the views: the weights of"
            f" {config.prior.path} are not all here, and are not fetched for it."
        )
    except RunError as error:
        progress.say(f"The prior is not asked about the views: {error}")
    return None


def _make_products(
    modes: Sequence[str],
    config: Config,
    workdir: Workdir,
    found: tuple[Particles, int],
    run: build.Run | None,
) -> None:
    particles, step = found
    decode = None
    if stages.stage_of(config).is_latent and run is not None:
        decode = renders.make_decode(run.prior.decode, run.prior_params)
    folder = workdir.path
    if "render" in modes:
        products.save_turntables(folder, config, particles, decode=decode)
    if "export" in modes:
        network = checkpoint.load_score(workdir.checkpoints, step)
        has_lora = adapter.save_lora(folder, network, config.score.lora_scale)
        # Of an image there is no mesh: asked for nothing else, that is said in words.
        only_mesh = modes == ("export",) and not has_lora
        if only_mesh or not stages.stage_of(config).is_flat:
            products.save_meshes(folder, config, particles)
    if "evaluate" in modes:
        if config.num_shards > 1 and run is not None:
            progress.say("The prior is not asked of the views: num_shards splits it.")
            run = None
        scores = evaluation.evaluate(
            folder, config, particles, step, decode=decode, run=run
        )
        progress.say(evaluation.judged_line(scores))
    live.stop(folder)
    progress.say(f"Report: {report.write_report(folder)}")


def _needed_bytes(config: Config, state: VSDState) -> int:
    size = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(state)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    # One more than are kept: the new one is complete before the oldest goes.
    return size * (config.log.keep_checkpoints + 1) + _BYTES_FOR_PRODUCTS


def _count(tree: PyTree) -> str:
    number = sum(leaf.size for leaf in jax.tree.leaves(tree))
    return f"{number / 1e6:.2f} M parameters"


def _first_line(config: Config, run: build.Run, state: VSDState, method: str) -> str:
    """What was loaded, where it runs, from which step to which."""
    device = jax.devices()[0]
    where = device.device_kind if device.platform != "cpu" else "CPU"
    if device.platform == "cpu":
        where += f" with {os.cpu_count()} cores"
    n, begin = config.num_particles, int(state.step)
    theta = _count(jax.tree.map(lambda leaf: leaf[0], state.particles.params))
    phi = f"no score network ({method or config.vsd.method.upper()})"
    if state.score.params:
        phi = f"score network {config.score.kind} ({_count(state.score.params)})"
    return (
        f'"{progress.shorten(config.prompt)}" with prior {config.prior.path}'
        f" ({_count(run.prior_params)}, {run.prior.image_size} x"
        f" {run.prior.image_size} pixels), {n} particle{'s' * (n > 1)} of {theta},"
        f" {phi}, on {config.num_devices} x {where}.\n"
        + (f"Going on from step {begin}. " if begin else "")
        + _steps_left(config.num_steps - begin)
    )


def _steps_left(number: int) -> str:
    if number <= 0:
        return "All its steps are done."
    return (
        f"{number} steps to do; the first one compiles, which takes up to a minute"
        " (at Stable Diffusion's size some minutes) unless it is cached."
    )
