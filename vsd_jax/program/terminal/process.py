# SPDX-License-Identifier: Apache-2.0
"""Settings of the whole process, for programs (not for who imports the library)."""

import ctypes
import os
import pathlib
import sys

import jax

# Options of glibc's `mallopt` (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk: a second run starts in seconds.

    In `JAX_COMPILATION_CACHE_DIR`, or else `~/.cache/vsd_jax/xla`.
    """
    default = pathlib.Path.home() / ".cache" / "vsd_jax" / "xla"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(default))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
