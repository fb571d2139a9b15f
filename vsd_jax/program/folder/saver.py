# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written while training goes on."""

import threading
from pathlib import Path

import jax
import numpy as np

from vsd_jax.program.devices import hosts
from vsd_jax.program.folder import checkpoint
from vsd_jax.types import VSDState


class Saver:
    """Copies a state and writes the copy in the background, one at a time.

    Nothing is said to be saved before `wait` returned. Of several hosts each writes
    before it goes on: their writing is joint work in which all must take part.
    """

    def __init__(self, folder: Path, *, keep: int, metric: str = ""):
        """Sets where to.

        Args:
          folder: the run's `checkpoints` folder.
          keep: number of checkpoints that stay, >= 1.
          metric: by which the best is found.
        """
        self._folder, self._options = folder, {"keep": keep, "metric": metric}
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    def save(self, state: VSDState, score: float | None = None) -> None:
        """Begins to save a state, which may be donated as soon as this returns.

        Args:
          state: the state.
          score: see `checkpoint.save_state`.

        Raises:
          OSError: if the checkpoint before this one could not be written; this one is
            then not begun.
        """
        self.wait()
        if hosts.are_several():
            self._save(state, score)
            return
        copy = jax.tree.map(_copy, state)
        self._thread = threading.Thread(target=self._write, args=(copy, score))
        self._thread.start()

    def wait(self) -> None:
        """Returns when what was begun is on the disk.

        Raises:
          OSError: if it could not be written.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, fault, self._fault = None, self._fault, None
        if fault is not None:
            raise fault

    def _write(self, state: VSDState, score: float | None) -> None:
        try:
            self._save(state, score)
        except BaseException as fault:  # handed to the thread that waits
            self._fault = fault

    def _save(self, state: VSDState, score: float | None) -> None:
        options = {**self._options, "score": score}
        try:
            checkpoint.save_state(self._folder, state, **options)
        except TimeoutError:  # orbax waits by the clock of the day, which may jump
            checkpoint.save_state(self._folder, state, **options)


def _copy(leaf: jax.Array) -> jax.Array | np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.clone(leaf)
    return np.array(leaf)
