# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole process, for programs (not for who imports the library)."""

import ctypes
import math
import os
import pathlib
import sys
import tempfile

import jax
from absl import logging

from vsd_jax.program.folder import paths
from vsd_jax.program.terminal import progress

Path = pathlib.Path

DEVICE_SHARE = 0.9
"""Of a GPU's memory: the runtime and the compiler's buffers take the rest."""

# Options of glibc's `mallopt` (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def prepare() -> None:
    """All settings of this file, for a process that is going to compute."""
    logging.set_verbosity(logging.WARNING)
    enable_compilation_cache()
    reuse_freed_memory()
    take_device_memory()


def take_device_memory() -> None:
    """Lets JAX have as much of a GPU's memory as `preflight` counts on.

    JAX takes 75 % unless it is told otherwise; read when the first device is asked for.
    """
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    if not any(os.environ.get(name) for name in names):
        os.environ[names[0]] = f"{DEVICE_SHARE:g}"


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk: a second run starts in seconds.

    In `JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/vsd_jax/xla`. A folder that can
    only be read is read; where there is none, it is said, and each run compiles anew.
    """
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    folder, fault = given, ""
    if "://" not in given:  # else a bucket, which JAX opens itself
        folder, fault = _usable_folder(given or "~/.cache/vsd_jax/xla")
    # JAX would warn of each program that it cannot store.
    least = math.inf if fault else 0.0
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if fault:
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        progress.say(
            f"Warning: compiled programs cannot be kept ({fault}): the next run makes"
            " them anew. JAX_COMPILATION_CACHE_DIR=FOLDER keeps them in another folder."
        )


def _usable_folder(name: str) -> tuple[str | None, str]:
    """The folder, if it can be read; why it cannot be written to, if it cannot."""
    try:
        folder = Path(name).expanduser()
        if fault := paths.fault(str(folder)):
            return None, f"{str(folder)!r} {fault}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder), ""
    except RuntimeError as error:  # no HOME, and no name for this user
        return None, str(error)
    except (OSError, ValueError) as error:
        readable = os.access(folder, os.R_OK | os.X_OK)
        reason = getattr(error, "strerror", None) or error
        return str(folder) if readable else None, f"{folder}: {reason}"


def reuse_freed_memory() -> bool:
    """Lets the C library keep up to 2 GiB of freed memory for the next allocation.

    XLA's CPU programs allocate their work space anew in each call. By default glibc
    gives large blocks back to the system at once, and the next call waits for fresh
    pages: a tenth of a training step on the embedded prior.

    Returns:
      Whether the library has such a setting (glibc) and took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def resident_bytes() -> int:
    """Memory of this process that is in use now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
