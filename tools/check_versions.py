# SPDX-License-Identifier: Apache-2.0
"""Installs the project into fresh environments of other versions and runs its tests.

  python tools/check_versions.py                       # both sets, one after the other
  python tools/check_versions.py --sets colab --tests tests/score

Each set is what a runtime already has before the project comes: the packages that
Colab's GPU and TPU runtimes preinstall and the project uses, or the newest jax. Then
the project is installed as a user would (`pip install FOLDER`), and jax, jaxlib and
numpy must be what they were. The tests run on a copy of the last commit, with a
compilation cache of their own; on the newest set what is announced to go (warnings of
deprecation) is an error. The last output is the table of docs/versions.md.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
KEPT = ("jax", "jaxlib", "numpy")
SHOWN = (*KEPT, "flax", "optax", "orbax-checkpoint", "diffusers", "transformers")
# googlecolab/backend-info at a724079 (2026-08-19), pip-freeze.gpu.txt and .tpu.txt;
# where both differ, the GPU's. What only one of them has is not assumed.
COLAB = """absl-py==1.4.0 etils==1.14.0 flax==0.11.2 huggingface_hub==1.27.0
ImageIO==2.37.4 jax==0.7.2 jaxlib==0.7.2 matplotlib==3.10.0 ml_dtypes==0.6.0
numpy==2.1.3 optax==0.2.8 orbax-checkpoint==0.12.4 pillow==11.3.0 pytest==8.4.2
rich==13.9.4 safetensors==0.8.0 scikit-image==0.25.2 scipy==1.16.3
tensorstore==0.1.85 tokenizers==0.22.2 transformers==5.15.0 treescope==0.1.10"""
SETS = {"colab": COLAB.split(), "newest": ["jax"]}
# What the newest libraries announce to take away is a fault there.
STRICT = {
    "newest": [
        f"-Werror::{kind}Warning"
        for kind in ("Deprecation", "PendingDeprecation", "Future")
    ]
    # Not ours: scikit-image 0.26 sets an array's shape, of which NumPy 2.5 warns, and
    # ml_collections 1.1 loads configurations in a way that Python announces to drop.
    + ["-Wignore::DeprecationWarning:skimage.measure._marching_cubes_lewiner"]
    + ["-Wignore:the load_module():DeprecationWarning"]
}
PARALLEL = ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]


def run(*command: object, **options: object) -> subprocess.CompletedProcess:
    """Runs a command; ends the program with its output if it fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}")
    return done


def versions(python: pathlib.Path) -> dict[str, str]:
    """Installed packages of an environment."""
    listed = run(python, "-m", "pip", "list", "--format=json").stdout
    return {row["name"].lower(): row["version"] for row in json.loads(listed)}


def copy_of_the_commit(folder: pathlib.Path) -> str:
    """Unpacks the last commit into `folder`; returns its short name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    archive = folder.with_suffix(".tar")
    run("git", "-C", ROOT, "archive", f"--output={archive}", "HEAD")
    run("tar", "-x", "-f", archive, "-C", folder)
    return run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").stdout.strip()


def install(python: pathlib.Path, source: pathlib.Path, packages: list[str]) -> str:
    """Runtime, project, tools of the tests; returns what became of jax and numpy."""
    pip = (python, "-m", "pip", "install", "--quiet")
    run(*pip, *packages)
    before = versions(python)
    run(*pip, source)
    after = versions(python)
    changed = [
        f"{name} {before[name]} -> {after[name]}"
        for name in KEPT
        if before[name] != after[name]
    ]
    run(*pip, f"{source}[dev]", *(f"{name}=={after[name]}" for name in KEPT))
    return ", ".join(changed) or "kept"


def run_tests(python: pathlib.Path, source: pathlib.Path, what: list[str]) -> str:
    """Runs the suite, shows its output; returns pytest's last line."""
    cache = python.parents[1] / "xla"
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment.pop("PYTHONPATH", None)
    last = ""
    with subprocess.Popen(
        [str(python), "-m", "pytest", "-q", "-rfE", "--durations=25", *what],
        cwd=source,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return last


def row(name: str, python: str, folder: pathlib.Path, what: list[str]) -> str:
    """Makes and tests one environment; returns its row of the table."""
    binary, source = folder / name / "bin" / "python", folder / f"{name}_source"
    told = folder / f"{name}.txt"  # what the installation changed: made once
    commit = copy_of_the_commit(source)
    if not told.exists():
        run(python, "-m", "venv", "--clear", folder / name)
        told.write_text(install(binary, source, SETS[name]))
    kept = told.read_text()
    found = versions(binary)
    code = "import platform; print(platform.python_version())"
    interpreter = run(binary, "-c", code).stdout.strip()
    shown = ", ".join(f"{package} {found[package]}" for package in SHOWN)
    print(f"{name}: Python {interpreter}, {shown}; jax and numpy: {kept}")
    started = time.monotonic()
    last = run_tests(binary, source, [*PARALLEL, *STRICT.get(name, []), *what])
    minutes = (time.monotonic() - started) / 60
    counts = [
        (re.search(rf"(\d+) {word}", last) or ["", "0"])[1]
        for word in ("passed", "skipped", "failed", "error")
    ]
    cells = [name, interpreter, shown, kept, *counts, f"{minutes:.0f}", commit]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Checks the sets that were asked for and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--python", default="python3.13", help="interpreter to use")
    parser.add_argument("--folder", help="keeps the environments, for next time")
    parser.add_argument("--tests", nargs="+", default=[], help="as pytest takes them")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(flags.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row(name, flags.python, folder, flags.tests) for name in flags.sets]
    head = "set, Python, packages, jax and numpy, passed, skipped, failed, errors"
    names = [*head.split(", "), "minutes", "commit"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", *rows, sep="\n")


if __name__ == "__main__":
    main()
