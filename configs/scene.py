# SPDX-License-Identifier: Apache-2.0
"""A room seen from inside, or an object in a room (ProlificDreamer, Sec. 4).

  python -m vsd_jax.main --config=configs/scene.py --workdir=runs/room
  python -m vsd_jax.main --config=configs/scene.py:object --workdir=runs/in_room

A variant of `configs/object.py` follows after a comma: `scene.py:room,sd21`,
`scene.py:object,smoke`. Density starts hollow; for an object with a blob in the middle.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` as above."""
    return named.scene(variant)
