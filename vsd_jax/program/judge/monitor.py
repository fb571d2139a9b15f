# SPDX-License-Identifier: Apache-2.0
"""What the loop makes of a step's metrics: averages to log, and alarms.

Names of metrics: `vsd_jax/diagnostics.py`. All values here are NumPy, on the host.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Metrics = Mapping[str, Any]

EMPTY_OPACITY = 0.002
"""Mean opacity of a view below which nothing is there: 8 pixels of 64 x 64."""

SOLID_OPACITY = 0.995
"""Mean opacity above which an object fills the whole view."""

PATIENCE = 50
"""Steps that a fault must last; training recovers from a single bad step by itself."""


def judged(name: str, metrics: Metrics) -> float | None:
    """A metric by which the state is judged after a step; None if it does not tell.

    Where nothing was updated the metric is of nothing: 0, which would be the best.
    """
    lost = metrics.get("score/skipped", 0) > 0
    if not name.startswith("score/"):
        lost = np.all(np.asarray(metrics["particle/skipped"]) > 0)
    value = metrics.get(name, np.nan)
    return None if lost or not np.isfinite(value) else float(value)


class Window:
    """Averages metrics over the steps between two log lines."""

    def __init__(self, num_particles: int):
        self._num_particles = num_particles
        self._rows: list[Metrics] = []

    def add(self, metrics: Metrics) -> None:
        """Takes the metrics of one step."""
        self._rows.append(metrics)

    def flush(self) -> dict[str, Any]:
        """The averages since the last call.

        Counts are summed. `*/rms_t*` are averaged in the square, by the number
        of views in the time bin, and None where there was none. Particle metrics come
        as lists over all particles, None for one that was not updated.
        """
        rows, self._rows = self._rows, []
        if not rows:
            return {}
        names = [name for name in rows[0] if not name.startswith("particle/")]
        out = {name: _average(name, rows) for name in names}
        particle = [name for name in rows[0] if name.startswith("particle/")]
        for name in particle:
            if name != "particle/index":
                out[name] = self._per_particle(name, rows)
        return out

    def _per_particle(self, name: str, rows: list[Metrics]) -> list[float | None]:
        total = np.zeros(self._num_particles)
        count = np.zeros(self._num_particles)
        for row in rows:
            np.add.at(total, row["particle/index"], row[name])
            np.add.at(count, row["particle/index"], 1)
        return [t / c if c else None for t, c in zip(total, count, strict=True)]


def _average(name: str, rows: list[Metrics]) -> float | None:
    values = np.array([row[name] for row in rows], np.float64)
    if "/rms_t" in name:
        counts = np.array([row[name.replace("rms", "count")] for row in rows])
        if counts.sum() == 0:
            return None
        return float(np.sqrt((counts * values**2).sum() / counts.sum()))
    if "count" in name or "skipped" in name or "overflow" in name:
        return float(values.sum())
    return float(values.mean())


class Alarms:
    """Faults that last: a run that went empty, solid or non-finite is stopped."""

    def __init__(
        self,
        num_particles: int,
        *,
        empty: bool,
        solid: bool,
        restart: bool = False,
        room: str = "",
    ):
        """Sets what is watched.

        Args:
          num_particles: n.
          empty: whether a scene without matter is a fault.
          solid: whether a scene that fills every view is one (not for rooms).
          restart: whether a particle that is not finite starts anew after `PATIENCE`
            steps; the run then stops only if that did not help any of them.
          room: settings that make room for entries of lists that did not fit, where
            that is a fault; "" for a NeRF, which thins its samples, unbiased.
        """
        self._watch = {"empty": empty, "solid": solid}
        names = ("empty", "solid", "not finite")
        self._since = {name: np.full(num_particles, -1) for name in names}
        self._count = {name: np.zeros(num_particles, int) for name in names}
        self._score_since, self._short = -1, 0
        self._restart, self._room = restart, room

    def check(self, step: int, metrics: Metrics) -> str:
        """Says what is wrong since `PATIENCE` steps, or "".

        Of a particle its own updates are counted, which may be one in many steps. One
        empty particle among sound ones is no reason to stop: only when all of
        them share the fault is the run lost. One that is not finite is, unless it may
        start anew.
        """
        index = np.asarray(metrics["particle/index"])
        opacity = np.asarray(metrics["particle/opacity"])
        faults = {
            "empty": self._watch["empty"] & (opacity < EMPTY_OPACITY),
            "solid": self._watch["solid"] & (opacity > SOLID_OPACITY),
            "not finite": np.asarray(metrics["particle/skipped"]) > 0,
        }
        for name, now in faults.items():
            since, count = self._since[name], self._count[name]
            started = np.where(count[index] == 0, step, since[index])
            since[index] = np.where(now, started, -1)
            count[index] = np.where(now, count[index] + 1, 0)
            restarts = self._restart and name == "not finite"
            late = count > (2 * PATIENCE if restarts else PATIENCE)
            alone = name == "not finite" and not self._restart
            if late.any() if alone else late.all():
                return _EXPLANATION[name].format(step=since[late].max())
        return self._shared_fault(step, metrics)

    def _shared_fault(self, step: int, metrics: Metrics) -> str:
        # Whether lists overflow depends on the camera: most steps, not all in a row.
        short = self._room and metrics.get("render/overflow", 0) > 0
        self._short = max(0, self._short + (1 if short else -1))
        if self._short > PATIENCE:
            return _EXPLANATION["overflow"].format(room=self._room)
        since, now = self._score_since, metrics.get("score/skipped", 0) > 0
        self._score_since = since = (step if since < 0 else since) if now else -1
        if now and step - since >= PATIENCE:
            return _EXPLANATION["score"].format(step=since)
        return ""


_EXPLANATION = {
    "empty": (
        "The scene is empty since step {step}: the density died out. Try another"
        " --config.seed, lower learning rates in optim, or a lower"
        " regularize.sparsity."
    ),
    "solid": (
        "The scene fills every view since step {step}: it became a solid block or fog."
        " Try another --config.seed, lower learning rates in optim, or a higher"
        " regularize.sparsity."
    ),
    "not finite": (
        "Residuals or gradients are not finite since step {step}; nothing was changed"
        " by those steps. Try prior.dtype=float32, lower learning rates in optim, a"
        " lower vsd.guidance_scale or, without mesh.source, on_not_finite=restart."
    ),
    "overflow": (
        "In most steps the mesh has more faces, or covers more pixels, than there is"
        " room for, and pieces are missing from its renders. Give more with {room} (of"
        " this stage; of the texture's too where it is surface_capacity) and run the"
        " command again: it goes on from the last checkpoint."
    ),
    "score": (
        "The score network's gradient is not finite since step {step}. Try"
        " prior.dtype=float32 or a lower score.learning_rate."
    ),
}
