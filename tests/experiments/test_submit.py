# SPDX-License-Identifier: Apache-2.0
"""A method of the user's: tried before long work, scored as the stored ones are."""

import dataclasses
import pathlib
import re

import pytest
import tiny_runs

import vsd_jax
from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import cells, own_method
from vsd_jax.experiments.leaderboard import records, submit, worlds
from vsd_jax.program.build import build
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import ConfigError

pytest.importorskip("embreex")
pytestmark = pytest.mark.usefixtures("three_entries")
AS_SDS = "def mine(views):\n    return views.guided(100.0) - views.noise\n"
AS_VSD = """
import vsd_jax as vsd

def _direction(views):
    return views.guided(7.5) - views.score()

mine = vsd.Method(_direction, "sigma_squared", trains_score=True)
"""


def write(folder, text, name="mine.py"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


FAULTS = {
    "x = 1\n": r"must hold one public function.*def mine\(views\).*there is none",
    "def a(v): return v\ndef b(v): return v\n": "there is a, b",
    "def mine(views, scale): return views\n": r"mine\(views, scale\) must take one",
    "def mine(views) return 1\n": "cannot be run: SyntaxError",
    "import no_such_module\n": "cannot be run: ModuleNotFoundError",
    "def mine(views): return views.gided(1.0)\n": "fails: AttributeError.*gided",
    "def mine(views): return views.prior('nothing')\n": "fails: Missing.*nothing",
    "def mine(views): return 0.5\n": "returns float, not a JAX array",
    "def mine(views): pass\n": "returns NoneType",
    "def mine(views): return views.noise.sum(0)\n": r"returns shape \(1, 1, 2\); with",
    "def mine(views): return views.noise / 0.0\n": "is not finite",
    "def mine(views): return views.noise if views.t[0] > 5 else views.latents\n": (
        "cannot be compiled.*jnp.where"
    ),
    AS_SDS + "SETTINGS = 3\n": "SETTINGS is no dictionary",
    AS_SDS + "SETTINGS = {'vsd.guidance_scale': 3.0}\n": "hold 'vsd.guidance_scale'",
    AS_VSD.replace(", trains_score=True", ""): "give its Method trains_score=True",
}


@pytest.mark.parametrize("text", FAULTS, ids=range(len(FAULTS)))
def test_what_is_no_method_is_told(text, tmp_path):
    with pytest.raises(ConfigError, match=FAULTS[text]):
        own_method.read(write(tmp_path, text))


def test_other_files_are_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        own_method.read(tmp_path / "none.py")
    with pytest.raises(ConfigError, match="no Python file"):
        own_method.read(write(tmp_path, AS_SDS, "mine.txt"))


def test_what_is_found(tmp_path):
    many = AS_SDS + "def helper(x): return x\nSETTINGS = {'vsd.t_schedule': 'sqrt'}\n"
    found = own_method.read(write(tmp_path, many))
    assert found.name == "mine" and not found.method.trains_score
    assert found.settings == {"vsd.t_schedule": "sqrt"}
    assert own_method.read(write(tmp_path / "b", AS_VSD)).method.trains_score
    asks = "def mine(views):\n    return views.guided(2.0) - views.score()\n"
    assert own_method.read(write(tmp_path / "c", asks)).method.trains_score


def test_the_method_of_the_readme_is_one(tmp_path, request):
    text = (request.config.rootpath / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(def my_method.*?)^```", text, re.S | re.M)
    found = own_method.read(write(tmp_path, code, "my_method.py"))
    assert found.method.trains_score


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("stored")


@pytest.fixture
def stored(shared, capsys):
    """A small leaderboard; what is finished is not run again."""
    start(shared, "--smoke", "--worlds", "plane")
    capsys.readouterr()
    return shared


def start(out, *more):
    program.main(["--name=leaderboard", f"--out={out}", *more])


def folder_of(out, path):
    source = own_method.read(path).source
    return out / "submitted" / f"{path.stem.lower()}_{source}"


def cells_of(path):
    found = {}
    for cell in records.read(path)["cells"]:
        found.setdefault(cell["method"], []).append(cell)
    return found


def test_a_copy_of_sds_is_sds(stored, tmp_path, capsys):
    path = write(tmp_path, AS_SDS)
    start(stored, f"--submit={path}")
    said = capsys.readouterr().out
    assert "mine: no score network; 3 steps in plane. 2 runs." in said
    assert "of 4 by Fréchet to truth" in said
    folder = folder_of(stored, path)
    assert said.rstrip().endswith(f"{folder / 'leaderboard.html'}")
    found = cells_of(folder / "leaderboard.json")
    assert list(found) == ["SDS", "VSD", "CSD", worlds.CONTROL, "mine"]
    for mine, sds in zip(found["mine"], found["SDS"], strict=True):
        assert mine["scores"] == pytest.approx(sds["scores"], rel=1e-4)
        assert (mine["passes"], mine["steps"]) == (sds["passes"], sds["steps"])
    assert list(cells_of(stored / "leaderboard.json")) == [
        "SDS",
        "VSD",
        "CSD",
        worlds.CONTROL,
    ]


def test_a_file_that_changed_is_run_anew(stored, tmp_path, monkeypatch, capsys):
    ran, kinds = [], cells._KINDS["exact"]
    watch = lambda cell, folder: ran.append(cell.seed) or kinds(cell, folder)  # noqa: E731
    monkeypatch.setitem(cells._KINDS, "exact", watch)
    path = write(tmp_path, AS_VSD)
    start(stored, f"--submit={path}")
    assert ran == [0, 1]
    moved = write(tmp_path / "moved", AS_VSD)
    start(stored, f"--submit={moved}")  # the same content in another place
    assert ran == [0, 1]
    start(stored, f"--submit={write(tmp_path, AS_VSD + '# changed')}")
    assert ran == [0, 1, 0, 1]
    assert "trains a score network" in capsys.readouterr().out
    found = cells_of(folder_of(stored, path) / "leaderboard.json")
    for mine, vsd in zip(found["mine"], found["VSD"], strict=True):
        assert mine["scores"] == pytest.approx(vsd["scores"], rel=1e-4)


def test_a_name_that_is_taken_is_told_apart(stored, tmp_path, capsys):
    path = write(tmp_path, AS_SDS.replace("mine", "SDS"), "SDS.py")
    start(stored, f"--submit={path}")
    capsys.readouterr()
    names = [*cells_of(folder_of(stored, path) / "leaderboard.json")]
    assert names == ["SDS", "VSD", "CSD", worlds.CONTROL, "SDS (submitted)"]


def test_the_program_trains_with_it_on_the_embedded_prior(tmp_path, monkeypatch):
    trained = []

    def make_run(config, method=None):
        trained.append((config.vsd.method, method))
        return tiny_runs.make_run(config)

    monkeypatch.setattr(build, "build", make_run)
    start(tmp_path, "--smoke", "--worlds", "image2d")
    assert [method for _, method in trained] == [None] * 4
    for name, text in {"sds": AS_SDS, "vsd": AS_VSD}.items():
        path = write(tmp_path / name, text)
        start(tmp_path, f"--submit={path}", "--worlds", "image2d")
        kind, method = trained.pop()
        assert kind == name and method is own_method.read(path).method
        found = cells_of(folder_of(tmp_path, path) / "leaderboard.json")
        assert list(found) == ["SDS", "VSD", "CSD", worlds.CONTROL, "mine"]
        (mine,), (same,) = found["mine"], found[name.upper()]
        assert mine["passes"] == same["passes"] and mine["prior"] == same["prior"]


def test_texts_that_the_program_does_not_have(stored, tmp_path):
    asks = "def mine(views):\n    return views.prior('empty') - views.noise\n"
    path = write(tmp_path, asks)
    with pytest.raises(
        ConfigError, match=r"asks for the text 'empty'.*texts=\('empty'"
    ):
        own_method.require_texts(own_method.read(path), path)
    names = "import vsd_jax as vsd\ndef _d(views):\n    return views.prior({0!r}) - "
    names += "views.noise\nmine = vsd.Method(_d, 'uniform', texts=({0!r},))\n"
    own_method.require_texts(
        own_method.read(write(tmp_path, names.format("empty"))), path
    )
    with pytest.raises(ConfigError, match="no words for texts"):
        path = write(tmp_path, names.format("source"))
        own_method.require_texts(own_method.read(path), path)


def test_worlds_that_cannot_be(stored, tmp_path):
    path = write(tmp_path, AS_SDS)
    with pytest.raises(ConfigError, match="objects is not on the stored.*plane"):
        start(stored, f"--submit={path}", "--worlds", "objects")
    with pytest.raises(ConfigError, match="images is not on the stored.*plane"):
        start(stored, f"--submit={path}", "--worlds", "images")
    with pytest.raises(ConfigError, match="--quick is refused"):
        start(stored, f"--submit={path}", "--quick")
    found = writer.read_json(stored / "leaderboard.json")
    found["worlds"]["plane"]["passes"] += 1
    writer.write_json(tmp_path / "leaderboard.json", found)
    with pytest.raises(ConfigError, match="another budget"):
        start(tmp_path, f"--submit={path}")
    found["cells"][0]["prior"] = "of before"
    with pytest.raises(ConfigError, match=r"runs of another prior \(of before\)"):
        submit.choose_worlds(["plane"], found)
    found["worlds"] = {"objects": {}}
    with pytest.raises(ConfigError, match="say with --worlds which of objects"):
        submit.choose_worlds([], found)


@pytest.mark.parametrize("what", ["scoring", "settings"])
def test_runs_that_are_not_made_like_this_version_s_are_no_rivals(
    stored, monkeypatch, what
):
    found = records.read(stored / "leaderboard.json")
    assert submit.choose_worlds(["plane"], found) == ["plane"]
    if what == "scoring":
        monkeypatch.setattr(cells, "SCORING", 77)
    else:
        entries = [
            dataclasses.replace(each, settings={"vsd.guidance_scale": 9.5})
            for each in worlds.ENTRIES
        ]
        monkeypatch.setattr(worlds, "ENTRIES", entries)
        worlds.starts.cache_clear()
    with pytest.raises(ConfigError, match="other settings, or scored in another way"):
        submit.choose_worlds(["plane"], found)
    # With tuned settings a run has others on purpose.
    assert submit.choose_worlds(["plane"], {**found, "settings_of": "tuned"})


def test_the_package_brings_a_leaderboard_of_its_own(tmp_path):
    assert submit.STORED.is_relative_to(pathlib.Path(vsd_jax.__file__).parent)
    assert submit.read_stored(tmp_path / "empty") == records.read(submit.STORED)
