# SPDX-License-Identifier: Apache-2.0
"""`vsd-jax` and `python -m vsd_jax`: other names of the program, `vsd_jax/main.py`."""

import os
import sys

from vsd_jax import main


def run() -> None:
    """Entry point of the console script."""
    # Configuration files import each other; a console script does not look for them in
    # the current folder by itself.
    sys.path.insert(0, os.getcwd())
    main.run()


if __name__ == "__main__":
    run()
