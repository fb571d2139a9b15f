# SPDX-License-Identifier: Apache-2.0
"""The documents say what is so: links, the code map, the flags, the README's code."""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tiny_runs

import vsd_jax
import vsd_jax as vsd
from configs import object as object_config

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# The first library example made small: the text that is shown stays as it is.
EMBEDDED = '"toybox"'
PRESET = 'preset = vsd.presets.toybox("a red mushroom")\n'
TINY = """preset = vsd.presets.preset("object", "smoke", prompt="a red mushroom")
preset = preset.replace({"num_steps": 1, "render.size": 16, "vsd.views_per_step": 1})
"""


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
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text())
    for target, anchor in links:
        if target.startswith(("http://", "https://")):
            continue
        there = path.parent / target if target else path
        assert there.exists(), f"{path.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{path.name} links to {target}#{anchor}"


def anchors(path: pathlib.Path) -> set[str]:
    """Of its headings, as the site and code hosts name them."""
    heads = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    plain = [re.sub(r"[^\w\- ]", "", head.lower()) for head in heads]
    return {name.strip().replace(" ", "-") for name in plain}


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


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_documents_name_keys_that_exist(path):
    # These name keys that are gone, keys of another program, and `vsd.` of Python.
    if path.name in ("CHANGELOG.md", "model_card.md", "index.md"):
        return
    text = path.read_text()
    known = known_keys()
    sections = {key.split(".")[0] for key in known if "." in key}
    stages = {"nerf", "refine", "geometry", "texture"}  # of textured_mesh
    for name in re.findall(r"--config\.([a-z_.]+)=", text):
        stage, _, rest = name.partition(".")
        assert (rest if stage in stages else name) in known | {"stages"}, name
    for name in re.findall(r"`([a-z]+\.[a-z_]+)(?:=[^`]*)?`", text):
        ours = name.split(".")[0] in sections and not name.endswith((".py", ".json"))
        library = name.removeprefix("vsd.") in vsd_jax.__all__  # `import ... as vsd`
        assert not ours or library or name in known, name


def test_settings_page_is_what_its_tool_writes():
    tool = ROOT / "tools" / "write_settings.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1200


def test_quick_start_stands_at_the_top():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any("make demo" in line for line in lines[:25])
    assert any("make test" in line for line in lines[:25])


def library_example() -> str:
    text = (ROOT / "README.md").read_text()
    (code,) = (block for block in blocks(text, "python") if "load_prior" in block)
    return code


def test_library_example_is_that_of_the_package():
    shown = [line for line in library_example().splitlines() if line]
    indented = inspect.cleandoc(vsd.__doc__).splitlines()
    told = [line[4:] for line in indented if line.startswith("    ")]
    assert shown == told


def test_readme_library_examples_run(tmp_path):
    """With a tiny prior; with the embedded one in `test_packaging.py`."""
    prior = tiny_runs.write_toybox(
        tmp_path / "prior", channels=(32,), patch=8, camera_input=True
    )
    assert PRESET in library_example() and EMBEDDED in library_example()
    text = (ROOT / "README.md").read_text()
    (own,) = (block for block in blocks(text, "python") if "halfway" in block)
    checks = """
assert int(state.step) == 1 and len(metrics["particle/index"]) == 2
print(sorted(metrics)[0])
"""
    # The second is only traced: it would compile another step.
    trace = "print(jax.eval_shape(run.step, state, weights, prompts)[0].step)"
    code = library_example().replace(PRESET, TINY)
    code = code.replace(EMBEDDED, repr(str(prior)))
    said = run_python("\n".join([code, checks, own, trace]), tmp_path)
    assert said.splitlines() == ["opacity", "ShapeDtypeStruct(shape=(), dtype=int32)"]


def test_library_page_prints_what_it_says(tmp_path):
    text = (ROOT / "docs" / "library.md").read_text()
    code = "\n".join(blocks(text, "python"))
    assert run_python(code, tmp_path) == "".join(blocks(text, "text"))


def documented(*pages: str) -> set[str]:
    folder = ROOT / "docs" / "reference"
    names = pages or [path.name for path in folder.glob("*.md")]
    text = "\n".join((folder / name).read_text() for name in names)
    return set(re.findall(r"^::: ([A-Za-z_.0-9]+)$", text, re.M))


def test_reference_has_every_name_of_the_front_door():
    shown = {name.rsplit(".", 1)[1] for name in documented("index.md")}
    values = {name: getattr(vsd, name) for name in vsd.__all__}
    modules = {name for name, value in values.items() if inspect.ismodule(value)}
    assert {values[name].__name__ for name in {*values} - modules} == shown
    text = (ROOT / "docs" / "reference" / "index.md").read_text()
    assert all(f"`vsd.{name}`" in text for name in modules)


def test_reference_has_every_module_of_the_library():
    core = [*ROOT.glob("vsd_jax/*.py")]
    for folder in ("methods", "diffusion", "scene", "presets"):
        core += (ROOT / "vsd_jax" / folder).rglob("*.py")
    front = ("__init__", "__main__", "main", "meshes")
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in core
        if path.stem not in front
    }
    assert names <= documented()


def test_own_configuration_file_is_one():
    text = (ROOT / "docs" / "configuration.md").read_text()
    names = {}
    (code,) = blocks(text, "python")
    exec(code, names)
    assert names["get_config"]("smoke").vsd.method == "sds"


def test_generated_tables_are_what_their_tool_writes():
    tool = ROOT / "tools" / "write_tables.py"
    done = subprocess.run(
        [sys.executable, tool, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"unfinished": 2}, "not finished"),
        ({"command": "python -m vsd_jax.experiments --name=plane --smoke"}, "a smoke"),
        ({"command": "python -m vsd_jax.experiments --name=levers"}, "No page has"),
    ],
)
def test_only_whole_runs_of_a_page_are_stored_as_tables(tmp_path, changes, says):
    stored = json.loads(
        (ROOT / "docs" / "experiments" / "scores" / "plane.json").read_text()
    )
    (tmp_path / "scores.json").write_text(json.dumps(stored | changes))
    tool = ROOT / "tools" / "write_tables.py"
    done = subprocess.run(
        [sys.executable, tool, "--add", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and says in done.stderr
