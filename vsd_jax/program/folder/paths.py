# SPDX-License-Identifier: Apache-2.0
"""Paths as a user writes them."""

import argparse
import os
import pathlib
import re

from vsd_jax.program.terminal.errors import ConfigError

Path = pathlib.Path
_NO_TEXT = re.compile("[\ud800-\udfff\x00]")


def fault(text: str) -> str:
    """Why the text can neither be stored nor given to a library, or "".

    Bytes of a command line or of the system that are no text in its encoding reach
    Python as single surrogates (PEP 383); nothing that stores text takes them.
    """
    found = _NO_TEXT.search(text)
    if not found:
        return ""
    if found[0] == "\x00":
        return "holds a NUL character, which ends a text of the system; leave it out"
    return (
        "holds bytes that are not UTF-8; give it in UTF-8 (PYTHONUTF8=1 lets Python"
        " read the command line so, whatever the locale)"
    )


def argument(text: str) -> Path:
    """`expand` as the type of an argument of `argparse`."""
    try:
        return expand(text, "the path")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def expand(path: str | Path, key: str) -> Path:
    """The path with `~` and `~user` expanded.

    Args:
      path: as given.
      key: the flag or key that it comes from, for errors.

    Raises:
      ConfigError: if that user is not known, or the path is no text.
    """
    text = os.fspath(path)
    try:
        found = fault(text) or fault(os.path.abspath(os.path.expanduser(text)))
        if not found:
            return Path(text).expanduser()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{key}={text!r} is seen from the current folder, which is gone ({error});"
            " change to one that is there."
        ) from error
    except RuntimeError as error:
        user = text.split("/")[0]
        reason = f"there is no user {user[1:]!r} here"
        if user == "~":
            reason = "HOME is not set, and this user has no home folder"
        raise ConfigError(
            f"{key}={text!r}: {reason}. Write the folder out instead of {user}."
        ) from error
    raise ConfigError(f"{key}={text!r} {found}.")
