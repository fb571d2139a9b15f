# SPDX-License-Identifier: Apache-2.0
"""The rules between folders and the size of things; each rule also on a planted fault.

The rules themselves: `tests/source_rules.py`. Their reasons: ARCHITECTURE.md.
"""

import pathlib

import pytest
import source_rules as rules
from source_rules import Source

ROOT = pathlib.Path(__file__).parents[1]
RULES = {
    "imports": rules.import_faults,
    "names": rules.name_faults,
    "unsafe loads": rules.unsafe_load_faults,
    "headers": rules.header_faults,
    "sizes": rules.size_faults,
    "repeats": rules.repeat_faults,
    "rooms": rules.room_faults,
}
HEAD = '# SPDX-License-Identifier: Apache-2.0\n"""What it is for."""\n'


def load(*folders: str) -> list[Source]:
    paths = sorted(p for f in folders for p in (ROOT / f).rglob("*.py"))
    return [Source(p.relative_to(ROOT).as_posix(), p.read_text()) for p in paths]


@pytest.fixture(scope="module")
def code() -> list[Source]:
    return load("vsd_jax", "configs", "benchmarks")


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_rule_holds(rule, code):
    faults = list(rule(code))
    assert not faults, "\n" + "\n".join(faults)


def test_tests_have_the_licence_line():
    assert not list(rules.header_faults(load("tests")))


def test_all_folders_are_read(code):
    read = {source.path.rsplit("/", 1)[0] for source in code}
    folders = ("", "/scene", "/diffusion", "/program", "/toybox", "/experiments")
    assert {f"vsd_jax{folder}" for folder in folders} | {"configs"} <= read


def test_core_is_most_of_what_the_shell_does_not_hold(code):
    core = {source.path for source in code if source.is_core}
    assert {"vsd_jax/distil.py", "vsd_jax/views.py", "vsd_jax/scene/camera.py"} <= core
    assert not any(path.startswith("vsd_jax/program") for path in core)


def lines(num: int, start: int = 0) -> str:
    return "".join(f"    x{i} = {i}\n" for i in range(start, start + num))


FAULTS = {
    "scene knows diffusion": (
        "imports",
        "vsd_jax/scene/a.py",
        "import vsd_jax.diffusion.b",
    ),
    "diffusion knows scene": (
        "imports",
        "vsd_jax/diffusion/a.py",
        "from vsd_jax import scene",
    ),
    "scene knows distil": (
        "imports",
        "vsd_jax/scene/a.py",
        "from vsd_jax import distil",
    ),
    "core knows shell": ("imports", "vsd_jax/a.py", "from vsd_jax.program import b"),
    "core knows experiments": (
        *("imports", "vsd_jax/distil.py"),
        "from vsd_jax.experiments import plan",
    ),
    "core knows toybox": ("imports", "vsd_jax/a.py", "import vsd_jax.toybox.b"),
    "toybox knows shell": ("imports", "vsd_jax/toybox/text.py", "from absl import app"),
    "core knows config": ("imports", "vsd_jax/distil.py", "import ml_collections"),
    "late import": ("imports", "vsd_jax/a.py", "def f():\n    from PIL import Image"),
    "relative": ("imports", "vsd_jax/program/a.py", "from . import b"),
    "diffusers": ("names", "vsd_jax/program/run/train.py", "from diffusers import x"),
    "transformers": ("names", "vsd_jax/toybox/train.py", "import transformers"),
    "pmap": ("names", "vsd_jax/program/run/train.py", "import jax\njax.pmap(len)"),
    "vmap": ("names", "vsd_jax/scene/a.py", "from jax import vmap"),
    "pickle": ("names", "vsd_jax/program/a.py", "import pickle"),
    "np pickle": ("unsafe loads", "vsd_jax/a.py", "load('x', allow_pickle=True)"),
    "nan_to_num": ("names", "vsd_jax/a.py", "jnp.nan_to_num(1)"),
    "raw key": ("names", "vsd_jax/a.py", "jax.random.PRNGKey(0)"),
    "torch": ("names", "vsd_jax/a.py", "import torch"),
    "file name": ("names", "vsd_jax/scene/utils.py", ""),
    "function name": ("names", "vsd_jax/a.py", "def get_rays(): pass"),
    "no docstring": ("headers", "vsd_jax/a.py", "def rays(): pass"),
    "long file": ("sizes", "vsd_jax/a.py", "\n" * 400),
    "long function": ("sizes", "vsd_jax/a.py", "def f():\n" + lines(60)),
    "long functions": (
        *("sizes", "vsd_jax/a.py"),
        "\n".join(f"def f{i}():\n" + lines(30, 30 * i) for i in range(8)),
    ),
    "many arguments": ("sizes", "vsd_jax/a.py", "def f(a, b, c, d, e, f): pass"),
    "many parameters": (
        *("sizes", "vsd_jax/a.py"),
        "def f(*, a, b, c, d, e, f, g, h, i, j, k, l, m): pass",
    ),
    "deep": (
        *("sizes", "vsd_jax/a.py"),
        "def f():\n if a:\n  for b in c:\n   with d:\n    while e:\n     pass",
    ),
    "repeat": (
        *("repeats", "vsd_jax/a.py"),
        "def f():\n" + lines(12) + "def g():\n" + lines(12),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name, code):
    rule, path, text = FAULTS[name]
    planted = Source(path, HEAD + text + "\n")
    assert list(RULES[rule]([planted])), "the rule does not see it"


def test_crowded_folder_is_found():
    files = [Source(f"vsd_jax/program/a/f{i}.py", HEAD) for i in range(13)]
    assert list(rules.room_faults(files))
    assert not list(rules.room_faults(files[1:]))


def test_missing_licence_line_is_found():
    source = Source("tests/test_a.py", '"""What it is for."""\n')
    assert list(rules.header_faults([source]))


INNOCENT = {
    "vsd_jax/scene/a.py": "from vsd_jax.scene import b\nfrom vsd_jax.types import c",
    "vsd_jax/particle.py": "import jax\njax.vmap(len)",
    "vsd_jax/program/b.py": "import jax\nimport PIL\njax.vmap(len)",
    "vsd_jax/toybox/train.py": "from absl import app\nfrom vsd_jax.program import b",
    "vsd_jax/toybox/objects.py": "import trimesh",
    "vsd_jax/toybox/rooms.py": "from vsd_jax.toybox import e\nimport vsd_jax.types",
    "vsd_jax/e.py": "# pmap, pickle and nan_to_num in a comment are only words.",
    "vsd_jax/f.py": (
        "def f(a, *, b, c, d, e, g):\n    'Doc.'\n    if a:\n        return b\n"
        "    elif c:\n        return d\n    elif e:\n        return g"
    ),
}


@pytest.mark.parametrize("path", INNOCENT)
def test_innocent_code_passes(path):
    source = Source(path, HEAD + INNOCENT[path] + "\n")
    assert not [fault for rule in RULES.values() for fault in rule([source])]
