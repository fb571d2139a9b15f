# SPDX-License-Identifier: Apache-2.0
"""The program; flags: `runtime/command_line.py`, what they start: `pipeline.py`.

python -m vsd_jax.main --config=configs/object.py --workdir=runs/mushroom \
    --config.prompt="a red mushroom"
"""

import sys

from absl import app, flags, logging

from vsd_jax.runtime import command_line, pipeline, process
from vsd_jax.runtime.errors import RunError


def main(argv: list[str]) -> None:
    """Called by absl with the flags parsed."""
    del argv
    logging.set_verbosity(logging.WARNING)
    arguments = command_line.read(flags.FLAGS)
    process.enable_compilation_cache()
    process.reuse_freed_memory()
    pipeline.start(**arguments, command=["python", "-m", "vsd_jax.main", *sys.argv[1:]])


def run() -> None:
    """Entry point: faults of the user are sentences, faults of ours tracebacks."""
    command_line.define(flags.FLAGS)
    try:
        app.run(main, flags_parser=command_line.parse)
    except RunError as error:
        sys.exit(f"vsd_jax: {error}")


if __name__ == "__main__":
    run()
