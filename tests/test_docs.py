# SPDX-License-Identifier: Apache-2.0
"""The documents say what is so: links, the code map, the flags, the README's code."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs import object as object_config

ROOT = pathlib.Path(__file__).parents[1]
WEIGHTS = ROOT / "vsd_jax" / "toybox" / "weights" / "unet"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def known_keys(config=None, prefix="") -> set[str]:
    found = set()
    for key, value in (
        object_config.get_config() if config is None else config
    ).items():
        nested = hasattr(value, "items")
        found |= known_keys(value, f"{prefix}{key}.") if nested else {prefix + key}
    return found


def run_python(code: str, folder: pathlib.Path) -> str:
    """A process of its own: none of this suite's strict settings."""
    cache = pathlib.Path.home() / ".cache" / "vsd_jax" / "xla"
    environment = {"JAX_COMPILATION_CACHE_DIR": str(cache)} | os.environ
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_architecture_is_a_page_and_names_every_file():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert text.count("\n") <= 110
    for path in (ROOT / "vsd_jax").rglob("*.py"):
        if "weights" not in path.parts:
            group = path.stem.split("_")[0] + "_*"  # one row for several of a kind
            names = {f"`{path.stem}`", f"`{path.name}`", f"`{group}`"}
            assert path.name == "__init__.py" or any(n in text for n in names), path


def test_architecture_names_no_file_that_is_gone():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`([a-z_0-9/]+\.py)`", text):
        found = [ROOT / name, ROOT / "vsd_jax" / name]
        assert any(path.exists() for path in found), name


def test_flags_name_keys_that_exist():
    rows = (ROOT / "docs" / "flags.md").read_text().splitlines()
    known = known_keys()
    named = set()
    for row in rows:
        cells = row.split(" | ")
        if row.startswith("| ") and len(cells) == 4:
            named |= {c.split("=")[0] for c in re.findall(r"`([^`]+)`", cells[2])}
    named = {name for name in named if not name.startswith("--")}
    assert len(named) > 40
    assert named <= known


def test_readme_names_keys_that_exist():
    text = (ROOT / "README.md").read_text()
    known = known_keys()
    sections = {key.split(".")[0] for key in known if "." in key}
    for name in re.findall(r"--config\.([a-z_.]+)=", text):
        assert name in known, name
    for name in re.findall(r"`([a-z]+\.[a-z_]+)(?:=[^`]*)?`", text):
        ours = name.split(".")[0] in sections and not name.endswith((".py", ".json"))
        assert not ours or name in known, name


def test_quick_start_stands_at_the_top():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any("make demo" in line for line in lines[:25])
    assert any("make test" in line for line in lines[:25])


def test_readme_mixture_prints_what_it_says(tmp_path):
    text = (ROOT / "README.md").read_text()
    (code,) = (block for block in blocks(text, "python") if "mixture" in block)
    (said,) = blocks(text, "text")
    assert run_python(code, tmp_path) == said


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the embedded prior is not there yet")
def test_readme_program_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    (code,) = (block for block in blocks(text, "python") if "build.build" in block)
    checks = "assert int(state.step) == config.num_steps; print(sorted(metrics)[0])"
    assert run_python(f"{code}\n{checks}", tmp_path).strip()
