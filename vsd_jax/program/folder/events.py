# SPDX-License-Identifier: Apache-2.0
"""Event files of TensorBoard, beside metrics.jsonl: the same numbers, and the sheets.

Written by tensorboardX, without its thread: a full disk is then an error where it is
told, and not a run that waits for ever.
"""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import ConfigError

FOLDER = "tensorboard"


def require() -> None:
    """Checks, before any long work, that tensorboardX is there.

    Raises:
      ConfigError: with the command that installs it.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "log.tensorboard=True needs the package tensorboardX; install it with"
            " `pip install tensorboardX`, or set --config.log.tensorboard=False."
        ) from error


class EventFile:
    """One event file of one session, in WORKDIR/tensorboard."""

    def __init__(self, folder: pathlib.Path, *, resume_step: int):
        """Opens a new file.

        Args:
          folder: of the run.
          resume_step: what earlier sessions wrote of later steps is taken back.
        """
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._summary, self._proto = summary, event_pb2
        place = pathlib.Path(folder) / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        # Names tell the second only, and two sessions may begin in one.
        number = len(list(place.iterdir()))
        self._file = EventsWriter(str(place / "events"), f".{number}")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(resume_step + 1, session_log=start)
        self._file.flush()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the numbers of a step; each of several particles as NAME/0 and on."""
        for name, value in metrics.items():
            values = {name: value}
            if isinstance(value, list | tuple):
                values = {f"{name}/{i}": each for i, each in enumerate(value)}
            for tag, number in values.items():
                if isinstance(number, int | float | np.number):
                    scalar = self._summary.scalar(tag, number)
                    self._write(step, summary=scalar)
        self._file.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture [H, W, 3] in [0, 1]."""
        pixels = writer.to_uint8(image)
        self._write(step, summary=self._summary.image(name, pixels, dataformats="HWC"))
        self._file.flush()

    def _write(self, step: int, **what: Any) -> None:
        event = self._proto.Event(wall_time=time.time(), step=int(step), **what)
        self._file.write_event(event)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
