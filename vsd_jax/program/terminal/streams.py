# SPDX-License-Identifier: Apache-2.0
"""stdout and stderr that may be closed, end early, or know few letters.

`| head -5`, a terminal that is gone, `>&-`, `PYTHONIOENCODING=ascii`: none of them is a
fault of the run. What cannot be written is left out, what cannot be shown becomes "?".
"""

import contextlib
import errno
import os
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)
"""Faults after which nobody will ever read the stream again (EIO: the terminal)."""


def protect() -> None:
    """Makes stdout and stderr of this process such streams; for programs, at the start.

    A file descriptor 0, 1 or 2 that is closed is opened on nothing: else the next file
    that the program opens would take its place, and what a library prints would end up
    in it.
    """
    for descriptor in (0, 1, 2):
        _fill(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, Patient):
            continue
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, Patient(stream, name))


def _fill(descriptor: int) -> None:
    try:
        os.fstat(descriptor)
    except OSError:
        _to_nothing(descriptor)


def _to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor, inheritable=True)
        os.close(nothing)
    else:
        os.set_inheritable(descriptor, True)


def showable(text: str, stream: Any) -> str:
    """The text with "?" for each letter that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")


def is_terminal(stream: Any) -> bool:
    """Whether a person sees it at once; no if it is closed or None."""
    try:
        return stream.isatty()
    except (AttributeError, OSError, ValueError):
        return False


class Patient:
    """A text stream that raises nothing when it is written to; else as the one in it.

    When its reader is gone its file descriptor is turned to nothing, so that what the
    system and other programs write there (a film's encoder, say) does no harm either.
    """

    def __init__(self, stream: TextIO, name: str):
        """Wraps a stream.

        Args:
          stream: the stream.
          name: of it, for the sentence that says it is gone.
        """
        self._stream, self._name, self._is_gone = stream, name, False

    def __getattr__(self, name: str) -> Any:
        """All but writing: `isatty`, `encoding`, `fileno` ..."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes what can be written and shown of the text."""
        try:
            self._stream.write(showable(text, self._stream))
            if "\n" in text:
                self._stream.flush()
        except (OSError, ValueError, RuntimeError) as error:
            self._note(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As `write`, for each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Passes on what is held back."""
        try:
            self._stream.flush()
        except (OSError, ValueError, RuntimeError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        """A full disk may have room later, and a signal interrupts: they lose a line.

        RuntimeError: a signal's handler writes while this stream is being written to.
        """
        gone = isinstance(error, OSError) and error.errno in _GONE
        if self._is_gone or not gone:
            return
        self._is_gone = True
        with contextlib.suppress(OSError, ValueError):
            _to_nothing(self._stream.fileno())
            self._stream.flush()
        if self._name == "stdout":
            print(
                f"vsd_jax: nobody reads stdout any more ({os.strerror(error.errno)});"
                " the work goes on without it.",
                file=sys.stderr,
            )
