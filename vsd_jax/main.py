# SPDX-License-Identifier: Apache-2.0
"""The command line; everything else is in `vsd_jax/runtime/session.py`.

python -m vsd_jax.main --config=configs/object.py --workdir=runs/mushroom \
    --config.prompt="a red mushroom"
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from vsd_jax.runtime import command_line, session
from vsd_jax.runtime.errors import RunError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Settings: configs/object.py, scene.py or image2d.py, with a variant after a colon"
    " (:sd21, :sd15, :smoke). Change a key with --config.KEY=VALUE; all keys stand in"
    " configs/base.py. Only --mode=train needs it.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run; the same one resumes.")
MODE = flags.DEFINE_enum("mode", "train", session.MODES, "What to do.")
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete an earlier run in --workdir.")


def main(argv: list[str]) -> None:
    """Called by absl with the flags parsed."""
    del argv
    logging.set_verbosity(logging.WARNING)
    session.enable_compilation_cache()
    session.start(
        MODE.value,
        command_line.read_config(CONFIG),
        WORKDIR.value,
        overwrite=OVERWRITE.value,
        command=["python", "-m", "vsd_jax.main", *sys.argv[1:]],
    )


def run() -> None:
    """Entry point: faults of the user are sentences, faults of ours tracebacks."""
    try:
        app.run(main, flags_parser=command_line.parse)
    except RunError as error:
        sys.exit(f"vsd_jax: {error}")


if __name__ == "__main__":
    run()
