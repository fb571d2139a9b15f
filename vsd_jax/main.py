# SPDX-License-Identifier: Apache-2.0
"""The program; flags: `program/terminal/command_line.py`, work: `program/run/`.

python -m vsd_jax.main --config=configs/object.py --workdir=runs/mushroom
"""

import sys
import traceback

from absl import app, flags

from vsd_jax.program.devices import hosts, supervisor
from vsd_jax.program.run import pipeline
from vsd_jax.program.terminal import command_line, process, streams
from vsd_jax.program.terminal.errors import RunError, as_sentences


def main(argv: list[str]) -> None:
    """Called by absl with what `command_line.parse` returned."""
    arguments = command_line.read(flags.FLAGS, argv[1:])
    place = command_line.read_hosts(flags.FLAGS)
    if place is not None and not supervisor.is_child():
        command = [sys.executable, *sys.orig_argv[1:]]
        folder, overwrite = arguments["folder"], arguments["overwrite"]
        sys.exit(supervisor.supervise(command, folder, overwrite=overwrite))
    process.prepare()
    # With what files of flags held, which may change.
    given = flags.FLAGS.read_flags_from_files(sys.argv[1:], force_gnu=False)
    arguments["command"] = ["python", "-m", "vsd_jax.main", *given]
    if place is None:
        pipeline.start(**arguments)
    else:
        _start_one_of_several(place, arguments)


def _start_one_of_several(place: hosts.Place, arguments: dict) -> None:
    supervisor.die_with_parent()
    hosts.join(place)
    try:
        pipeline.start(**arguments)
    except RunError as error:
        print(f"vsd_jax: {error}", file=sys.stderr)
        hosts.leave(error.status)
    except BaseException as error:
        hosts.await_verdict(error)
        traceback.print_exc()
        hosts.leave()


def run() -> None:
    """Entry point: faults of the user are sentences, faults of ours tracebacks."""
    streams.protect()
    with as_sentences():
        command_line.define(flags.FLAGS)
        app.run(main, flags_parser=command_line.parse)


if __name__ == "__main__":
    run()
