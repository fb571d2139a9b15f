# SPDX-License-Identifier: Apache-2.0
"""The wheel holds what an installed vsd_jax needs; versions and dependencies agree."""

import configparser
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from source_rules import Source

import vsd_jax

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "vsd_jax"
WEIGHTS = PACKAGE / "toybox" / "weights" / "unet"
# Where the name to import is not the name to install.
DISTRIBUTIONS = {
    "absl": "absl-py",
    "PIL": "pillow",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
}
# Come with jax and with diffusers.
IMPLIED = {"jaxlib", "huggingface_hub"}


def declared() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def distribution_names(lines: str) -> set[str]:
    names = (re.match(r"[A-Za-z0-9_.-]*", line)[0] for line in lines.split("\n"))
    return {normal(name) for name in names if name}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, source / "vsd_jax", ignore=ignore)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta as b; b.build_wheel({str(folder)!r})"
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_wheel_holds_the_code_and_nothing_else(wheel):
    files = set(wheel.namelist())
    code = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*.py")}
    assert code <= files
    assert "vsd_jax/py.typed" in files
    tops = {name.split("/")[0] for name in files}
    assert tops == {"vsd_jax", f"vsd_jax-{vsd_jax.__version__}.dist-info"}


def test_wheel_holds_the_data_files(wheel):
    data = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py"]
    data = [p for p in data if "__pycache__" not in p.parts]
    missing = {p.relative_to(ROOT).as_posix() for p in data} - set(wheel.namelist())
    assert not missing


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the embedded prior is not there yet")
def test_wheel_holds_the_embedded_prior(wheel):
    names = [n for n in wheel.namelist() if n.startswith("vsd_jax/toybox/weights/")]
    for part in ("unet", "text_encoder"):
        (config,) = (n for n in names if n.endswith(f"{part}/config.json"))
        assert json.loads(wheel.read(config))
        assert any(f"{part}/" in n and n.endswith(".safetensors") for n in names)
    assert any("tokenizer/" in n for n in names)
    assert any(n.endswith("scheduler/scheduler_config.json") for n in names)
    total = sum(wheel.getinfo(n).file_size for n in names)
    assert total <= 16 * 2**20, f"{total / 2**20:.1f} MiB of weights, 16 are allowed"


EXAMPLE = """
import os, sys
import jax
import vsd_jax as vsd
assert vsd.__file__.startswith(sys.argv[1]), vsd.__file__
assert not {"diffusers", "transformers", "ml_collections"} & set(sys.modules)
prior, weights, encode = vsd.load_prior("toybox")
preset = vsd.presets.toybox("a red mushroom")
prompts = vsd.encode_prompts(encode, preset.prompt)
run = vsd.distil(
    vsd.nerf(preset.nerf), prior, vsd.methods.vsd(guidance_scale=3.0),
    vsd.lora(prior, preset.score), vsd.views(preset.views), tx=preset.tx,
)
state = jax.eval_shape(lambda: run.init(jax.random.key(0), weights, num_particles=2))
after, metrics = jax.eval_shape(run.step, state, weights, prompts)
assert after.particles.params["table"].shape[0] == 2 and "residual/rms" in metrics
"""


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the embedded prior is not there yet")
def test_the_wheel_runs_alone_in_an_empty_folder(wheel, tmp_path):
    """The README's first example and a preset by its name, without the checkout."""
    site, empty = tmp_path / "site", tmp_path / "empty"
    wheel.extractall(site)
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}
    for command, words in (
        (["-c", EXAMPLE, str(site)], ""),
        (
            ["-m", "vsd_jax", "--config=object:smoke", "--mode=render", "--workdir=."],
            "there is no config.json",
        ),
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert words in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert done.returncode == (1 if words else 0), done.stderr


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == vsd_jax.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.M)
    assert vsd_jax.__version__ in (versions[:1] or ["no version in CHANGELOG.md"])
    installed = importlib.metadata.version("vsd_jax")
    assert installed == vsd_jax.__version__, "run `make clean`: the environment is old"


def test_every_import_is_declared():
    needs = distribution_names(declared()["options"]["install_requires"])
    extras = declared()["options.extras_require"]
    extra = distribution_names(extras["toybox"] + "\n" + extras["tensorboard"])
    imported = set()
    for path in PACKAGE.rglob("*.py"):
        imported |= {
            n.split(".")[0] for n in Source(path.name, path.read_text()).imports
        }
    imported -= {*sys.stdlib_module_names, "vsd_jax", "configs", *IMPLIED}
    names = {normal(DISTRIBUTIONS.get(name, name)) for name in imported}
    assert names <= needs | extra
    assert needs - {"matplotlib"} <= names, "unused dependency"  # for notebooks


def test_bounds_of_the_issue_hold():
    lines = set(declared()["options"]["install_requires"].split("\n"))
    assert {"jax>=0.7.2", "numpy>=2.0"} <= lines
    assert {"diffusers>=0.35,<0.38", "transformers>=4.48,<5"} <= lines


@pytest.mark.parametrize(
    "start", [["-m", "vsd_jax"], ["-m", "vsd_jax.main"], ["vsd-jax"]]
)
def test_program_starts_from_the_project_folder(start, tmp_path):
    command = [sys.executable, *start]
    if start == ["vsd-jax"]:
        command = [str(pathlib.Path(sys.executable).with_name("vsd-jax"))]
    flags = [
        "--mode=render",
        f"--workdir={tmp_path}",
        "--config=configs/object.py:smoke",
    ]
    done = run([*command, *flags])
    assert done.returncode == 1
    assert "there is no config.json" in done.stderr
    shown = run([*command, "--help"]).stdout
    assert all(f"--{name}" in shown for name in ("config", "workdir", "mode"))


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
