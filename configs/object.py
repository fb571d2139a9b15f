# SPDX-License-Identifier: Apache-2.0
"""An object from a text: stage 1 of ProlificDreamer (arXiv:2305.16213, Sec. 3-4).

  python -m vsd_jax.main --config=configs/object.py --config.prompt="a red mushroom" \
      --workdir=runs/mushroom

`object.py` uses the embedded prior (a CPU, minutes), `object.py:sd21` and
`object.py:sd15` Stable Diffusion with the paper's settings, `object.py:colab` what a
free T4 finishes in an hour by preflight, `object.py:smoke` runs the same code in
seconds. The numbers: `vsd_jax/presets/`.
"""

from ml_collections import ConfigDict

from vsd_jax.program.settings import named


def get_config(variant: str = "") -> ConfigDict:
    """The settings; `variant` is one of `presets.VARIANTS`."""
    return named.make_config("object", variant)
