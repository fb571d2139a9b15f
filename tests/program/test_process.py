# SPDX-License-Identifier: Apache-2.0
"""Settings of the process: freed blocks stay; compiled programs where they can."""

import math
import mmap
import os
import pwd
import subprocess
import sys

import jax
import numpy as np
import pytest

from vsd_jax.program.terminal import process

SCRIPT = """
import resource, sys
import numpy as np
from vsd_jax.program.terminal import process
if sys.argv[1] == "reuse":
    assert process.reuse_freed_memory()
np.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", SCRIPT, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_blocks_are_used_again():
    # 80 MB are 20,000 pages of 4 kB, or 40 of 2 MB: without the setting, each time.
    assert page_faults("reuse") < 0.2 * page_faults("leave")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_resident_memory_is_what_was_written_to():
    before = process.resident_bytes()
    held = np.frombuffer(mmap.mmap(-1, 80_000_000))  # new pages, not freed ones
    held += 1.0
    assert process.resident_bytes() - before > 0.9 * held.nbytes


NAMES = (
    *("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
    *("jax_persistent_cache_min_entry_size_bytes",),
    *("jax_persistent_cache_enable_xla_caches",),
)


@pytest.fixture
def enable(monkeypatch, capsys):
    """`() -> (folder, seconds below which nothing is stored, what was said)`."""
    before = {name: getattr(jax.config, name) for name in NAMES}

    def call():
        process.enable_compilation_cache()
        return *(
            getattr(jax.config, name) for name in NAMES[:2]
        ), capsys.readouterr().out

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    yield call
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def nameless(monkeypatch):
    """A user without HOME, whom passwd does not know."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_the_cache_is_in_the_home_folder(enable, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert enable() == (str(tmp_path / ".cache" / "vsd_jax" / "xla"), 0, "")


def test_the_folder_that_jax_is_told_comes_first(
    enable, nameless, tmp_path, monkeypatch
):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "new" / "xla"))
    assert enable() == (str(tmp_path / "new" / "xla"), 0, "")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/xla")
    assert enable() == ("gs://bucket/xla", 0, "")


def test_who_has_no_home_starts_without_a_cache(enable, nameless):
    folder, least, said = enable()
    assert folder is None and least == math.inf
    assert said.count("Warning") == 1 and "JAX_COMPILATION_CACHE_DIR=FOLDER" in said


def test_a_home_that_cannot_be_written_to_is_said(enable, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("")  # a file: the same for root
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder, _, said = enable()
    assert folder is None and "Not a directory" in said


def test_a_cache_whose_name_is_no_text_is_not_used(enable, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "\udcff"))
    folder, _, said = enable()
    assert folder is None and "not UTF-8" in said


def test_a_cache_that_can_only_be_read_is_read(enable, tmp_path, monkeypatch):
    def refuse(*, dir):  # root may write anywhere
        raise OSError(30, "Read-only file system", os.fspath(dir))

    monkeypatch.setattr(process.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    folder, least, said = enable()
    assert folder == str(tmp_path) and least == math.inf
    assert f"{tmp_path}: Read-only file system" in said


def test_a_gpu_s_memory_is_what_preflight_counts_on(monkeypatch):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    process.take_device_memory()
    assert float(os.environ[names[0]]) == process.DEVICE_SHARE
    monkeypatch.delenv(names[0])
    monkeypatch.setenv(names[1], "0.5")  # JAX refuses both
    process.take_device_memory()
    assert names[0] not in os.environ
