# SPDX-License-Identifier: Apache-2.0
"""Tells a person how far long work is and how long it will still take.

On a terminal a bar; elsewhere (a log file, a notebook's output) a plain line now and
then, so that logs stay readable.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from vsd_jax.program.terminal import streams

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 20.0


def say(text: str) -> None:
    """Prints a line at once, also into a pipe; nothing where nobody can read it."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        print(streams.showable(text, sys.stdout), flush=True)


def shorten(text: str, length: int = 80) -> str:
    """The text, or its beginning: prompts may have thousands of characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def duration(seconds: float) -> str:
    """12.3 -> "12 s", 200 -> "3 min 20 s", 7300 -> "2 h 2 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Meter:
    """Progress of one piece of work; use as a context manager."""

    def __init__(self, title: str, total: int, *, done: int = 0):
        """Starts the clock; the speed is taken from the first unit on, which compiles.

        Args:
          title: of the work, e.g. "training".
          total: number of units.
          done: units that an earlier session finished; not counted as speed.
        """
        self._title, self._total, self._done = title, total, done
        self._start: tuple[int, float] | None = None
        self._last_line = time.monotonic()
        self._bar = None
        if streams.is_terminal(sys.stdout):
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> "Meter":
        """Shows the bar."""
        if self._bar:
            try:
                self._bar.start()
            except LiveError:  # there is one already: another run's, or the caller's
                self._bar = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar as it is."""
        if self._bar:
            self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """Reports that `done` units are finished."""
        self._done = done
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        self._start = self._start or (done, now)
        if now - self._last_line > SECONDS_BETWEEN_LINES or done == self._total:
            self._last_line = now
            say(f"{self._title} {done}/{self._total}{self._left(now)}  {note}".rstrip())

    def _left(self, now: float) -> str:
        first, start = self._start
        if self._done == first:
            return ""
        rate = (now - start) / (self._done - first)
        return f", {duration(rate * (self._total - self._done))} left"


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yields the items and shows how far they are."""
    with Meter(title, total) as meter:
        for done, item in enumerate(items, 1):
            yield item
            meter.update(done)
