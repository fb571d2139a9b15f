# SPDX-License-Identifier: Apache-2.0
"""GLB files under Khronos' validator, an npm package; skipped where it is missing.

`npm install --no-save gltf-validator` here, or `npm install --global gltf-validator`.
"""

import functools
import json
import os
import pathlib
import shutil
import subprocess

import pytest

from configs import object as object_config
from configs import textured_mesh
from vsd_jax.program.build import build
from vsd_jax.program.run import pipeline, products, session

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
const file = require('fs').readFileSync(process.argv[1]);
require('gltf-validator').validateBytes(new Uint8Array(file)).then(
  (report) => console.log(JSON.stringify(report)));
"""


def node(*arguments: str) -> str:
    """What node prints; it finds packages of the project and of the system."""
    found = subprocess.run(
        ["node", *arguments],
        cwd=ROOT,
        env=os.environ | {"NODE_PATH": _package_folders()},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return found.stdout


@functools.cache
def _package_folders() -> str:
    folders = [str(ROOT / "node_modules"), os.environ.get("NODE_PATH", "")]
    if shutil.which("npm"):
        command = ["npm", "root", "--global"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        folders.append(found.stdout.strip())
    return os.pathsep.join(filter(None, folders))


@pytest.fixture(scope="module")
def validate():
    """`(path) -> report` of the validator."""
    if not shutil.which("node"):
        pytest.skip("Khronos' validator needs node, which is not installed.")
    try:
        node("-e", "require.resolve('gltf-validator')")
    except subprocess.CalledProcessError:
        pytest.skip(
            "node has no package gltf-validator; npm install --no-save gltf-validator"
        )
    return lambda path: json.loads(node("-e", SCRIPT, str(path)))


@pytest.fixture(autouse=True)
def only_meshes(monkeypatch, fake_run):
    monkeypatch.setattr(build, "build", fake_run)
    monkeypatch.setattr(products, "save_turntables", lambda *args, **options: None)


def assert_sound(report: dict) -> None:
    issues = report["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]
    assert report["info"]["totalTriangleCount"] > 0


def train(start, config, folder):
    start("train", config, str(folder), overwrite=False, command=["test"])


def test_the_validator_finds_a_fault(validate, tmp_path):
    content = json.dumps({"asset": {"version": "2.0"}, "scene": 3}).encode()
    (tmp_path / "bad.gltf").write_bytes(content)
    assert validate(tmp_path / "bad.gltf")["issues"]["numErrors"] > 0


@pytest.mark.parametrize("texture_size", [None, 0])
def test_the_mesh_of_the_demo(validate, tmp_path, texture_size):
    config = object_config.get_config("")  # as `make demo`, but for its training
    config.num_steps = 1
    config.eval.num_views = 2
    if texture_size is not None:
        config.export.texture_size = texture_size  # colours of vertices
    train(session.start, config, tmp_path)
    report = validate(tmp_path / "mesh" / "particle_00.glb")
    assert_sound(report)
    assert report["info"]["hasTextures"] == (texture_size is None)


def test_the_meshes_of_all_stages(validate, tmp_path):
    config = textured_mesh.get_config("smoke")
    for name in pipeline.ORDER:
        config[name].num_steps = 1
        config[name].eval.num_views = 2
        config[name].export.resolution = 32
    train(pipeline.start, config, tmp_path)
    for name in pipeline.ORDER:
        assert_sound(validate(tmp_path / name / "mesh" / "particle_00.glb"))
