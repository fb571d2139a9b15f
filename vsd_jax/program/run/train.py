# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, what is written while it runs, and when it stops.

The metrics of a step are read while the next one runs. A run that is interrupted
(Ctrl-C, SIGTERM, SIGHUP) saves and can be resumed; since keys are folded from the step
number, the resumed run repeats what the straight one would have done.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vsd_jax import parallel
from vsd_jax.program import Config
from vsd_jax.program.build import stages
from vsd_jax.program.build.build import Run
from vsd_jax.program.devices import hosts
from vsd_jax.program.devices.devices import Devices
from vsd_jax.program.devices.supervisor import STOP_SIGNAL, hangups
from vsd_jax.program.folder import checkpoint, events, saver, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.judge import monitor
from vsd_jax.program.report import live, report
from vsd_jax.program.run import look, renders
from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import DivergedError, RunError
from vsd_jax.types import VSDState

RECENT_STEPS = 50
"""The steps by which the page tells the time left."""

TIMED_STEPS = 5
"""Steps after the first (which compiles) that the estimate of the time is made from."""


class Interrupted(RunError):
    """The run was told to stop; its state is saved.

    The status is that of `sysexits.h` for what may be tried again as it is, so that a
    scheduler can tell it from a fault and queue the same command once more.
    """

    status = os.EX_TEMPFAIL  # 75


@contextlib.contextmanager
def catch_signals() -> Iterator[Callable[[], bool]]:
    """Within it SIGINT and SIGTERM only ask to stop; a second one kills as usual.

    So does SIGHUP, any number of times, since a session that ends sends it from several
    sides; under `nohup` it stays ignored. The supervisor of one of several processes
    asks by `STOP_SIGNAL`, any number of times. Only the main thread hears signals: in
    another one nothing is changed, and whoever started it stops it.

    Yields:
      `asked() -> bool`.
    """
    asked: list[int] = []
    old = {}
    if threading.current_thread() is threading.main_thread():
        numbers = (signal.SIGINT, signal.SIGTERM, *hangups(), STOP_SIGNAL)
        # None: a handler that was not set from Python, which cannot be put back.
        old = {n: signal.getsignal(n) or signal.SIG_DFL for n in numbers}

    def ask(number: int, frame: Any) -> None:
        del frame
        asked.append(number)
        if number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, old[number])
        progress.say("\nStopping after this step; the state will be saved.")

    for number in old:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Loop:
    """One session of training in an open run folder."""

    def __init__(self, config: Config, run: Run, workdir: Workdir):
        """Prepares what the loop writes.

        Args:
          config: validated.
          run: from `build.build`.
          workdir: open and adopted.
        """
        self._config, self._run, self._workdir = config, run, workdir
        decode = None
        if stages.stage_of(config).is_latent:
            decode = renders.make_decode(run.prior.decode, run.prior_params)
        self._render = renders.make_renderer(
            config, size=_sheet_size(config), decode=decode
        )
        spatial = not stages.stage_of(config).is_flat
        self._alarms = monitor.Alarms(
            config.num_particles,
            empty=spatial,
            solid=spatial and config.field.init == "object",
            restart=config.on_not_finite == "restart",
            room=stages.more_room(config),
        )
        self._window = monitor.Window(config.num_particles)
        self._saver = saver.Saver(
            workdir.checkpoints,
            keep=config.log.keep_checkpoints,
            metric=config.log.best,
        )
        self._looker = look.Looker(config, run)
        self._events: events.EventFile | None = None
        self._times: list[float] = []
        self._judged: list[float] = []  # `log.best` since the last checkpoint
        self._saved_at = time.monotonic()

    def run(self, state: VSDState) -> VSDState:
        """Trains up to `num_steps` and saves.

        Args:
          state: fresh or restored; donated.

        Returns:
          The final state.

        Raises:
          Interrupted: after a signal, with the state saved.
          RunError: if an alarm went off, or the last state could not be saved.
        """
        config, first = self._config, int(state.step)
        path = self._workdir.path / "metrics.jsonl"
        self._metrics = None
        if hosts.is_first():
            self._metrics = writer.MetricsFile(path, resume_step=first)
            self._guard(lambda: self._open_pages(first), last=False)
        devices = Devices(
            config.num_devices,
            config.num_particles,
            self._run,
            num_shards=config.num_shards,
        )
        split, total = devices.split(state), config.num_steps
        pending = None
        meter = progress.Meter("training", total, done=first)
        with catch_signals() as stop_asked, meter, self._saved_at_the_end():
            for step in range(first + 1, total + 1):
                early = step <= config.render.early_steps
                split, metrics = devices.step(split, stop_asked(), early=early)
                stop = False
                if pending is not None:
                    stop = self._read(*pending, meter)
                pending = (step, metrics)
                stop = stop or (stop_asked() and not hosts.are_several())
                if stop or step == total or self._due(step):
                    stop = self._read(*pending, meter) or stop
                    pending = None
                    state = devices.gather(split)
                    self._hooks(step, state, last=stop or step == total)
                if stop and step < total:
                    self._log(step, self._window.flush())
                    raise Interrupted(
                        f"Stopped at step {step} of {total} and saved. The same command"
                        " goes on from there."
                    )
        return state

    def _due(self, step: int) -> bool:
        every = self._config.log.image_every
        return bool(every and step % every == 0) or self._checkpoint_due(step)

    def _checkpoint_due(self, step: int) -> bool:
        """By steps or, in one process (clocks of several differ), by minutes."""
        log = self._config.log
        if log.checkpoint_every and step % log.checkpoint_every == 0:
            return True
        if not log.checkpoint_minutes or hosts.are_several():
            return False
        return time.monotonic() - self._saved_at >= 60 * log.checkpoint_minutes

    def _read(self, step: int, metrics: Any, meter: progress.Meter) -> bool:
        """Waits for a step's metrics, logs them, and raises what they tell.

        Returns:
          Whether one of several hosts asked in that step to stop.
        """
        metrics = jax.device_get(metrics)
        votes = metrics.pop(parallel.VOTES, 0)
        self._estimate(step)
        self._window.add(metrics)
        judged = monitor.judged(self._config.log.best, metrics)
        if judged is not None:
            self._judged.append(judged)
        for i in metrics["particle/index"][metrics["particle/restarted"] > 0]:
            progress.say(
                f"Particle {i} was not finite in {monitor.PATIENCE} steps in a row: it"
                f" started anew after step {step}."
            )
        alarm = self._alarms.check(step, metrics)
        last = step == self._config.num_steps
        if alarm or last or step % self._config.log.metrics_every == 0:
            self._log(step, self._window.flush())
        note = (
            f"residual {metrics['residual/rms']:.3f}, opacity {metrics['opacity']:.2f}"
        )
        meter.update(step, note)
        if alarm:
            self._log(step, {"alarm": alarm})
            self._guard(self._saver.wait, last=False)
            steps = checkpoint.list_steps(self._workdir.checkpoints)
            good = f"step {steps[-1]}" if steps else "none yet"
            raise DivergedError(
                f"Stopped at step {step}. {alarm} Last checkpoint: {good}."
            )
        return bool(votes)

    def _log(self, step: int, row: dict[str, Any]) -> None:
        if self._metrics is None or not row:  # it stopped at a line of the log
            return
        try:
            self._metrics.write(step, row)
            if self._events is not None:
                self._events.write(step, row)
        except OSError as error:
            progress.say(f"Warning: metrics of step {step} are lost ({error}).")

    def _estimate(self, step: int) -> None:
        """Says once, after the first steps, how long the rest will take."""
        self._times.append(time.monotonic())
        if len(self._times) != TIMED_STEPS + 1:
            return
        seconds = float(np.median(np.diff(self._times)))
        left = progress.duration(seconds * (self._config.num_steps - step))
        progress.say(f"One step takes {seconds:.2f} s: about {left} for the rest.")

    def _open_pages(self, step: int) -> None:
        """What shows the run while it trains, from the start."""
        folder = self._workdir.path
        if self._config.log.tensorboard:
            self._events = events.EventFile(folder, resume_step=step)
        self._refresh(step)

    def _refresh(self, step: int) -> None:
        """Writes the report anew, with how far the run is."""
        times, left = self._times[-RECENT_STEPS:], None
        if len(times) > 1:
            seconds = float(np.median(np.diff(times)))
            left = seconds * (self._config.num_steps - step)
        live.write(self._workdir.path, step, self._config.num_steps, left)
        report.write_report(self._workdir.path)

    def _hooks(self, step: int, state: VSDState, *, last: bool) -> None:
        """Checkpoint and contact sheet, when they are due or at the end.

        The checkpoint comes first: no fault of a picture may cost what was computed.
        """
        log = self._config.log
        if last or self._checkpoint_due(step):
            self._saved_at = time.monotonic()
            self._guard(lambda: self._save_state(state, last=last), last=last)
        if last or (log.image_every and step % log.image_every == 0):
            self._guard(lambda: self._save_sheet(step, state), last=False)
            if hosts.is_first():
                self._guard(lambda: self._save_look(step, state), last=False)
                self._guard(lambda: self._refresh(step), last=False)

    def _guard(self, save: Callable[[], None], *, last: bool) -> None:
        """A full disk must not end a run that could still be saved later."""
        try:
            save()
        except OSError as error:
            text = f"{self._workdir.path} could not be written to ({error})."
            if last or hosts.are_several():  # who goes on alone waits for ever
                raise RunError(
                    f"{text} The last good checkpoint stays. Free some space and run"
                    " the same command again: it goes on from there."
                ) from error
            progress.say(f"Warning: {text} Training goes on; free some space.")

    @contextlib.contextmanager
    def _saved_at_the_end(self) -> Iterator[None]:
        """However training ends, what was begun to be saved is finished."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):  # the first fault is the one to tell
                self._saver.wait()
            raise

    def _save_state(self, state: VSDState, *, last: bool) -> None:
        self._guard(self._saver.wait, last=False)  # a fault of the one before
        judged, self._judged = self._judged, []
        self._saver.save(state, float(np.mean(judged)) if judged else None)
        if last:
            self._saver.wait()

    def _save_sheet(self, step: int, state: VSDState) -> None:
        log = self._config.log
        flat = stages.stage_of(self._config).is_flat
        cameras = renders.judged_cameras(self._config, 1 if flat else log.sheet_views)
        rgb = renders.render_views(self._render, state.particles, cameras)["rgb"]
        if hosts.are_several():
            hosts.wait("pictures")
            rgb = parallel.gather_hosts(rgb)
            if not hosts.is_first():
                return
        if flat:
            rgb = _as_rows(rgb, log.sheet_views)
        sheet = writer.contact_sheet(rgb, tile_size=log.sheet_size)
        path = self._workdir.path / "images" / f"step_{step:06d}.png"
        writer.save_png(path, sheet)
        if self._events is not None:
            self._events.write_image(step, "views", sheet)
        if not flat and len(rgb) > 1:
            self._log(step, {"diversity/pixels": renders.pixel_diversity(rgb)})

    def _save_look(self, step: int, state: VSDState) -> None:
        found = self._looker.picture(state)
        if found is None:
            return
        picture, numbers = found
        path = self._workdir.path / "images" / f"inside_{step:06d}.png"
        writer.save_png(path, picture)
        if self._events is not None:
            self._events.write_image(step, "inside", picture)
        self._log(step, numbers)


def _sheet_size(config: Config) -> int:
    """Renders for a sheet are no larger than its tiles."""
    return min(config.render.size, config.log.sheet_size)


def _as_rows(rgb: np.ndarray, columns: int) -> np.ndarray:
    """[n, 1, H, W, 3] -> [rows, columns, H, W, 3], white where no particle is left."""
    images = rgb[:, 0]
    columns = min(columns, len(images))
    spare = -len(images) % columns
    images = np.concatenate([images, np.ones((spare, *images.shape[1:]), np.float32)])
    return images.reshape(-1, columns, *images.shape[1:])
