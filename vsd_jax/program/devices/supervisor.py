# SPDX-License-Identifier: Apache-2.0
"""The process that starts one of several and says in a sentence why it ended.

When a process of a run dies, JAX ends all others from a C++ thread: a page of text and
an abort, which Python cannot catch. So each is the child of a small process that never
touches a device, passes signals on, and puts a sentence in the place of that page.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

_MARK = "VSD_JAX_SUPERVISED"
_FATAL = b"JAX distributed service detected fatal errors"
# From the first of these lines on the child's last words are held back.
_SERVICE = (b"coordination_service", b"Polled an error", _FATAL)
_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)

STOP_SIGNAL = signal.SIGUSR1
"""Asks the child to stop, however often it comes: the launcher of a cluster may have
sent it the parent's SIGTERM as well, and a second SIGTERM kills."""


def hangups() -> tuple[int, ...]:
    """SIGHUP, which a lost session sends; () where `nohup` has it ignored."""
    number = getattr(signal, "SIGHUP", None)
    ignored = number is None or signal.getsignal(number) == signal.SIG_IGN
    return () if ignored else (number,)


def is_child() -> bool:
    """Whether this process was started by `supervise`."""
    return os.environ.get(_MARK) == str(os.getppid())


def die_with_parent() -> None:
    """Lets the system kill this process when the one that started it dies (Linux)."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        library.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def supervise(command: Sequence[str], workdir: str, *, overwrite: bool = False) -> int:
    """Runs a command as a child and waits for its end.

    Args:
      command: of a program that calls `die_with_parent` when `is_child()`.
      workdir: the run's folder; its newest checkpoint is named if a process is gone.
      overwrite: whether the command deletes an earlier run.

    Returns:
      The exit status to end with: the child's, or 1 if another process was gone.
    """
    environment = os.environ | {_MARK: str(os.getpid())}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    with _signals_for(child):
        held = _relay(child.stderr)
        status = child.wait()
    # Newer jax aborts on it, 0.7 exits with 1.
    if status in (-signal.SIGABRT, 1) and _FATAL in held:
        words = explain(held.decode(errors="replace"), workdir, overwrite=overwrite)
        _pass_on(f"vsd_jax: {words}\n".encode())
        return 1
    _pass_on(held)
    return status if status >= 0 else 128 - status


def explain(last_words: str, workdir: str, *, overwrite: bool = False) -> str:
    """The sentence for what JAX wrote before it aborted.

    Args:
      last_words: of the child, from the coordination service's first line on.
      workdir: the run's folder.
      overwrite: as of `supervise`.
    """
    if "RegisterTask" in last_words:
        return (
            "The processes of this run did not all come together in time. Start as many"
            " as --num_processes says, all with the same --coordinator, a port of"
            " process 0's host that the others reach."
        )
    # A line for each: a number or, in older versions, a path that ends in task:NUMBER.
    listed = re.search(r"heartbeats\):?\s*\n((?:\S*?\d+\s*\n)+)", last_words)
    named = re.findall(r"(\d+)\s*$", listed[1], re.M) if listed else []
    numbers = sorted({int(number) for number in named})
    if not numbers and "Failed to send RPC" in last_words:
        numbers = [0]  # the one who would name others is gone itself
    several = len(numbers) > 1
    who = f"Process{'es' * several} {', '.join(map(str, numbers))}"
    return (
        f"{who if numbers else 'Another process'} of this run"
        f" {'are' if several else 'is'} gone (it was killed, or its host or the network"
        " failed; its own output may tell), so this one stopped too."
        f" {_what_next(pathlib.Path(workdir), overwrite=overwrite)}"
    )


def _what_next(workdir: pathlib.Path, *, overwrite: bool) -> str:
    same = "Run the same command on all hosts again"
    again = f"{same}: it"
    found = [
        path
        for pattern in ("checkpoints/step_*", "*/checkpoints/step_*")
        for path in workdir.expanduser().glob(pattern)
    ]
    if not found:
        return f"{again} begins anew, as {workdir} holds no checkpoint yet."
    if overwrite:
        again = f"{same} without --overwrite, which would delete it: it"
    newest = max(found, key=lambda path: (path.stat().st_mtime, path.name))
    return f"{again} goes on from checkpoint step {int(newest.name[5:])}."


def _relay(stream: Iterable[bytes]) -> bytes:
    """Passes the child's stderr on; holds back what follows JAX's fatal error."""
    held = b""
    for line in stream:
        # E and F: errors; a mere warning of the service must not hold the rest back.
        fault = line[:1] in b"EF" and any(words in line for words in _SERVICE)
        if held or fault:
            held += line
        else:
            _pass_on(line)
    return held


def _pass_on(words: bytes) -> None:
    # A stderr that nobody reads must not end the run.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(words.decode(errors="replace"))
        sys.stderr.flush()


@contextlib.contextmanager
def _signals_for(child: subprocess.Popen):
    """SIGINT and SIGTERM ask the child to stop; a second one ends it. SIGHUP asks."""
    asked: list[int] = []

    def pass_on(number: int, frame) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            kills = asked and number not in hung_up
            child.send_signal(signal.SIGTERM if kills else STOP_SIGNAL)
        if number not in hung_up:
            asked.append(number)

    hung_up = hangups()
    numbers = (signal.SIGINT, signal.SIGTERM, *hung_up)
    old = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
