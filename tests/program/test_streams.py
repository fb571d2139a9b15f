# SPDX-License-Identifier: Apache-2.0
"""stdout and stderr that are closed, break, or know few letters end no program."""

import os
import pathlib
import pty
import subprocess
import sys

import pytest

from vsd_jax.program.terminal import progress, streams

HEAD = """
import sys
from vsd_jax.program.terminal import progress, streams
streams.protect()
"""
MANY = """
for line in range(3000):
    print("line", line, "of many that fill any pipe")
"""
MARK = "open(sys.argv[1], 'w').write('to the end')\n"
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def command(code: str, mark: pathlib.Path) -> list[str]:
    return [sys.executable, "-c", HEAD + code + MARK, str(mark)]


def shell(line: str, code: str, mark: pathlib.Path) -> subprocess.CompletedProcess:
    """`line` of bash, in which "$@" is a program of `code`."""
    words = ["bash", "-c", f"set -o pipefail; {line}", "bash", *command(code, mark)]
    return subprocess.run(
        words, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )


def test_who_reads_five_lines_does_not_end_the_work(tmp_path):
    done = shell('"$@" | head -5', MANY, tmp_path / "mark")
    assert done.returncode == 0 and (tmp_path / "mark").exists()
    assert len(done.stdout.splitlines()) == 5
    said = done.stderr.splitlines()
    assert len(said) == 1 and "nobody reads stdout any more (Broken pipe)" in said[0]


@pytest.mark.parametrize(
    "line",
    [
        '"$@" 2>&1 | head -1',
        '"$@" 2>&1 | true',
        '"$@" 2> >(true)',
        '"$@" >&-',
        '"$@" 2>&-',
        '"$@" <&- >&- 2>&-',
        '"$@" >/dev/full',
        '"$@" >/dev/full 2>&1',
        '"$@" >&- 2>/dev/full',
    ],
)
def test_no_stream_at_all_ends_the_work(line, tmp_path):
    code = f"{MANY}for line in range(3000): print('line', line, file=sys.stderr)\n"
    done = shell(line, code, tmp_path / "mark")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mark").read_text() == "to the end"
    assert "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_what_takes_the_place_of_a_closed_stream_stays_clean(tmp_path):
    # Without care the file is descriptor 1, and what a library prints goes into it.
    code = (
        "import os\nfile = open(sys.argv[1] + '.own', 'w')\nfile.write('mine')\n"
        "os.write(1, b'of a library')\nos.write(2, b'of a library')\nprint('ours')\n"
    )
    done = shell('"$@" <&- >&- 2>&-', code, tmp_path / "mark")
    assert done.returncode == 0
    assert (tmp_path / "mark.own").read_text() == "mine"


def test_programs_that_it_starts_meet_no_broken_stream(tmp_path):
    code = (
        f"{MANY}import subprocess\n"
        "child = subprocess.run(['sh', '-c', 'echo a; echo b >&2; exit 3'])\n"
        "assert child.returncode == 3, child\n"
    )
    done = shell('"$@" 2>&1 | true', code, tmp_path / "mark")
    assert done.returncode == 0 and (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"ein gr?ner K?fer ?\n"),
        ("latin-1", "ein grüner Käfer ?\n".encode("latin-1")),
        ("utf-8", "ein grüner Käfer ?\n".encode()),
    ],
)
@pytest.mark.parametrize("say", ["progress.say", "print"])
def test_letters_that_cannot_be_shown_are_replaced(encoding, shown, say, tmp_path):
    # The last one is a byte of the command line that is no text.
    code = f"{say}('ein gr\\xfcner K\\xe4fer \\udcff')\n"
    done = subprocess.run(
        command(code, tmp_path / "mark"),
        env=ENVIRONMENT | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == shown


def test_a_terminal_that_goes_away_ends_nothing(tmp_path):
    code = (
        "import time\n"
        "with progress.Meter('training', 200) as meter:\n"
        "    for done in range(200):\n"
        "        meter.update(done)\n"
        "        time.sleep(0.01)\n"
    )
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        command(code, tmp_path / "mark"),
        env=ENVIRONMENT | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    assert b"training" in read_until(ours, b"training")
    os.close(ours)
    assert program.wait(timeout=60) == 0
    assert (tmp_path / "mark").exists()


def read_until(descriptor: int, words: bytes) -> bytes:
    found = b""
    while words not in found:
        found += os.read(descriptor, 1000)
    return found


class Broken:
    """A stream of a host program, not protected by ours."""

    encoding = "ascii"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self):
        raise ValueError("I/O operation on closed file")

    flush = isatty


@pytest.mark.parametrize("stream", [Broken(), None])
def test_who_uses_the_library_needs_no_stream(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    progress.say("grün")
    with progress.Meter("training", 1) as meter:
        meter.update(1)


def test_protecting_twice_is_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    streams.protect()
    first = sys.stdout
    streams.protect()
    assert sys.stdout is first and not streams.is_terminal(first)
    print("seen")
    assert capsys.readouterr().out == "seen\n"
