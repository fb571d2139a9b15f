# SPDX-License-Identifier: Apache-2.0
"""The one exception that the program shows as a sentence instead of a traceback."""


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
