# SPDX-License-Identifier: Apache-2.0
"""The one exception that the program shows as a sentence instead of a traceback."""

import contextlib
import sys
from collections.abc import Iterator


class RunError(Exception):
    """Something the user can put right; its text says what and how.

    `main.py` prints the text and exits with `status`. Everything else that is raised is
    a bug of the program and keeps its traceback.
    """

    status = 1


class ConfigError(RunError):
    """The configuration is refused; the text names each key, value and remedy."""


class DivergedError(RunError):
    """An alarm stopped a run: its numbers are no longer sound."""


@contextlib.contextmanager
def as_sentences() -> Iterator[None]:
    """Around a program: a `RunError` is printed as a sentence, and ends it."""
    try:
        yield
    except RunError as error:
        print(f"vsd_jax: {error}", file=sys.stderr)
        sys.exit(error.status)
