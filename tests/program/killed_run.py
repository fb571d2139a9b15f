# SPDX-License-Identifier: Apache-2.0
"""A run in a process of its own, to be killed: `python killed_run.py FOLDER`.

Says "training" before its first step and "finished" with the digest of its last state.
"""

import hashlib
import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import tiny_runs  # noqa: E402

from configs import image2d  # noqa: E402
from vsd_jax.program.folder import checkpoint  # noqa: E402
from vsd_jax.program.folder.workdir import Workdir  # noqa: E402
from vsd_jax.program.run import train  # noqa: E402
from vsd_jax.program.settings import config as config_lib  # noqa: E402


def main(folder: str, num_steps: int) -> None:
    """Goes on with the run in `folder`, or begins it."""
    config = image2d.get_config("smoke")
    config.update(num_steps=num_steps, num_particles=3)
    config.render.size = 8
    config.log.update(image_every=5, checkpoint_every=1, sheet_size=8)
    workdir = Workdir(folder, create=True)
    run = tiny_runs.make_run(config)
    state = checkpoint.load_state(
        workdir.checkpoints, jax.eval_shape(run.init), warn=lambda text: sys.exit(text)
    )
    state = run.init() if state is None else state
    print("training", flush=True)
    state = train.Loop(config_lib.validate(config), run, workdir).run(state)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state.particles, state.score, state.step)):
        digest.update(np.asarray(leaf).tobytes())
    print("finished", digest.hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
