# SPDX-License-Identifier: Apache-2.0
"""Tries the table "To change ... open ..." of ARCHITECTURE.md.

  python tools/try_changes.py

Each change is made in a copy of the package, used there through the program's own
configuration, and the number of files that it touched is printed.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
USE = """
import jax, jax.numpy as jnp, numpy as np
from vsd_jax.presets import Settings
from vsd_jax.program.settings import config as config_lib, named
config = named.make_config("object", "smoke")
"""


class Change(NamedTuple):
    """One change.

    Attributes:
      name: as in the table.
      edits: (file below `vsd_jax/`, text that stands there, text in its place); the
        second is "" for a new file.
      use: code after `USE` that fails unless the change acts.
    """

    name: str
    edits: tuple[tuple[str, str, str], ...]
    use: str


METHOD = '''# SPDX-License-Identifier: Apache-2.0
"""A new method."""
from typing import Annotated
from vsd_jax.diffusion.guidance import PLAIN
from vsd_jax.methods.protocol import SIGMA_SQUARED, Method
from vsd_jax.spec import Within


def newest(
    *,
    guidance_scale: float,
    share: Annotated[float, Within(0, 1)] = 0.5,
    guidance=PLAIN,
    weighting: str = SIGMA_SQUARED,
) -> Method:
    """A new method: share (eps_guided - noise).

    Args:
      guidance_scale: s.
      share: of the direction.
      guidance: of the prior.
      weighting: name of w(t).
    """

    def direction(views):
        return share * (views.guided(guidance_scale, guidance) - views.noise)

    return Method(direction, weighting)
'''


def _described(file: str, before: str, field: str, hint: str) -> tuple:
    """A field of a spec: its annotation and its line in the docstring."""
    return (
        (file, f"      {before}: ", f"      {field}: a new one.\n      {before}: "),
        (
            file,
            f"    {before}: Annotated",
            f"    {field}: {hint}\n    {before}: Annotated",
        ),
    )


CHANGES = (
    Change(
        "method",
        (("methods/newest.py", "", METHOD),),
        'config.vsd.method = "newest"; config.family.share = 0.25\n'
        "assert Settings(config_lib.validate(config)).method.direction",
    ),
    Change(
        "w(t)",
        (
            (
                "diffusion/noise.py",
                '    "uniform":',
                '    "newest": lambda alpha_t, sigma_t: alpha_t,\n    "uniform":',
            ),
        ),
        'config.vsd.weighting = "newest"; config_lib.validate(config)',
    ),
    Change(
        "schedule of t",
        (
            (
                "timesteps.py",
                '    "linear": ',
                '    "newest": functools.partial(_falling, sqrt_t_range),\n'
                '    "linear": ',
            ),
        ),
        'config.vsd.t_schedule = "newest"\n'
        "from vsd_jax.timesteps import make_t_range\n"
        "spec = Settings(config_lib.validate(config)).timesteps\n"
        "assert make_t_range(spec, np.linspace(0.99, 0.01, 1000))",
    ),
    Change(
        "option of guidance",
        (
            *_described(
                "diffusion/guidance.py",
                "guidance_rescale",
                "newest",
                "Annotated[float, Within(0)] = 0.0",
            ),
            ("presets/numbers.py", " x0_limit=0.0,", " newest=0.0, x0_limit=0.0,"),
        ),
        "config.vsd.newest = 0.5\n"
        "assert Settings(config_lib.validate(config)).guidance.newest == 0.5",
    ),
    Change(
        "regulariser",
        (
            *_described(
                "scene/regularizers.py",
                "opaque_start",
                "newest",
                "Annotated[float, Within(0)]",
            ),
            ("presets/numbers.py", " sparsity=0.0,", " newest=0.0, sparsity=0.0,"),
        ),
        "config.regularize.newest = 0.5\n"
        "assert Settings(config_lib.validate(config)).regularizer.newest == 0.5",
    ),
    Change(
        "kind of scene in the program",
        (
            (
                "program/build/stages.py",
                '    "image": Stage(',
                '    "newest": Stage(_image, is_flat=True),\n    "image": Stage(',
            ),
        ),
        'config.field.kind = "newest"\n'
        "from vsd_jax.program.build.stages import make_scene\n"
        "scene = make_scene(config_lib.validate(config), size=8)\n"
        "assert jax.eval_shape(scene.init, jax.random.key(0))",
    ),
    Change(
        "preset",
        (
            (
                "presets/kinds.py",
                '    "object": _object,',
                '    "object": _object,\n'
                '    "newest": lambda variant: ({"": {"seed": 3}},),',
            ),
        ),
        'assert named.make_config("newest", "smoke").seed == 3',
    ),
)


def attempt(change: Change) -> str:
    """Makes a change in a copy and uses it; returns what fails, or ""."""
    with tempfile.TemporaryDirectory() as folder:
        package = pathlib.Path(folder) / "vsd_jax"
        ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / "vsd_jax", package, ignore=ignore)
        for name, old, new in change.edits:
            path = package / name
            text = path.read_text() if path.exists() else ""
            if old not in text:
                return f"{name} no longer has {old!r}"
            path.write_text(text.replace(old, new, 1) if old else new)
        done = subprocess.run(
            [sys.executable, "-c", USE + change.use],
            cwd=folder,
            env={"PYTHONPATH": folder, "PATH": "", "HOME": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def main() -> None:
    """Tries all of them; exits with 1 if one needs more than it says."""
    faults = 0
    for change in CHANGES:
        fault = attempt(change)
        faults += bool(fault)
        files = len({name for name, _, _ in change.edits})
        print(f"{change.name:30} {files} {fault or 'works'}", flush=True)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
