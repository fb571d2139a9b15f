# SPDX-License-Identifier: Apache-2.0
"""Tables from end to end, in their smoke form; the embedded prior is replaced."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs

from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import cells, plan, together
from vsd_jax.experiments.catalogue import EXPERIMENTS
from vsd_jax.program.build import build
from vsd_jax.program.folder import writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.program.terminal.errors import ConfigError, DivergedError, RunError
from vsd_jax.types import NoiseModel, Prior

pytest.importorskip("embreex")
FILES = ("scores.json", "table.md", "pictures.png", "plot.png")


def start(out, name, *more):
    program.main([f"--name={name}", f"--out={out}", "--smoke", *more])


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return tmp_path_factory.mktemp("plane")


ROWS = ("--rows", "DDIM 7.5", "SDS 7.5", "VSD 7.5, own score")


def test_a_table_in_closed_form(plane, capsys):
    start(plane, "plane", "--seeds=2", *ROWS)
    said = capsys.readouterr().out
    assert "6 cells, 0 of them finished" in said and "left]" in said
    assert all((plane / name).stat().st_size > 0 for name in FILES)
    found = writer.read_json(plane / "scores.json")
    assert list(found["rows"]) == [*ROWS[1:], "truth"]
    assert "--seeds=2" in found["command"] and found["environment"]["cpu_count"] > 0
    for scores in found["rows"].values():
        assert len(scores["mode_error"]["values"]) == 2
    assert "frechet_reference" not in found["rows"]["DDIM 7.5"]
    assert "over seeds" in (plane / "table.md").read_text()


def test_it_goes_on_where_it_stopped(plane, capsys, monkeypatch):
    def fail(cell, folder):
        raise AssertionError(f"{cell.folder} was finished")

    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, fail))
    start(plane, "plane", "--seeds=2", *ROWS)
    assert "6 cells, 6 of them finished" in capsys.readouterr().out
    with pytest.raises(RunError, match="another settings"):
        start(plane, "plane", "--seeds=1", "--steps=2", *ROWS)


def test_a_run_that_diverges_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    """By row and seed: SDS's second seed, and all of VSD's."""
    real = cells._KINDS["exact"]

    def draw(cell, folder):
        if (cell.row.name, cell.seed) == ("SDS 7.5", 1) or "VSD" in cell.row.name:
            raise DivergedError("Stopped at step 2. It grew. Lower it. Last: none yet.")
        real(cell, folder)

    monkeypatch.setattr(cells, "_KINDS", cells._KINDS | {"exact": draw})
    for _ in range(2):  # the second one runs nothing
        start(tmp_path, "plane", "--seeds=2", *ROWS)
        monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, None))
    found = writer.read_json(tmp_path / "scores.json")
    sds = found["rows"]["SDS 7.5"]
    assert list(found["rows"]) == [*ROWS[1:], "truth"]
    assert [len(sds[k]["values"]) for k in ("mode_error", "frechet_truth")] == [1, 1]
    assert found["rows"]["VSD 7.5, own score"] == {} and found["unfinished"] == 0
    where = [(cell["row"], cell["seed"]) for cell in found["stopped"]]
    assert set(where) == {(ROWS[2], 1), (ROWS[3], 0), (ROWS[3], 1)}
    table = (tmp_path / "table.md").read_text()
    assert "1 of 2 runs of SDS 7.5**, which are in no number here: a mushroom" in table
    assert "2 of 2 runs of VSD 7.5, own score**" in table
    assert "Stopped at step 2. It grew.\n" in table and "Lower it" not in table
    assert "| VSD 7.5, own score | – |" in table


def test_what_was_spent_before_it_stopped_counts(tmp_path, monkeypatch):
    def stop(cell, folder):
        folder.mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    watches = iter([{"seconds": 3.0}, {"seconds": 4.0}, {"seconds": 5.0}])
    monkeypatch.setattr(cells.Stopwatch, "spent", lambda self: next(watches))
    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, stop))
    (cell, *_) = plan.cells(EXPERIMENTS["plane"], plan.Budget(seeds=1))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            cells.run_cell(cell, tmp_path)
    end = dict.fromkeys(cells._KINDS, lambda cell, folder: None)
    monkeypatch.setattr(cells, "_KINDS", end)
    folder = cells.run_cell(cell, tmp_path)
    assert writer.read_json(folder / "cell.json")["seconds"] == 12.0


def test_a_table_of_runs_of_the_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    start(tmp_path, "ablation", "--rows", "+ VSD")
    capsys.readouterr()
    found = writer.read_json(tmp_path / "scores.json")
    vsd, truth = found["rows"]["+ VSD"], found["rows"]["truth"]
    assert truth["kind_precision"]["mean"] == 1.0
    assert vsd["chamfer"]["mean"] > 0.0
    assert vsd["frechet_truth"]["mean"] > truth["frechet_truth"]["mean"]
    run = tmp_path / "vsd" / "a_red_mushroom_0"
    assert writer.read_json(run / "config.json")["vsd"]["guidance_scale"] == 7.5
    assert (run / "report.html").exists()


def test_runs_at_once_are_the_runs_one_by_one(tmp_path, monkeypatch, capsys):
    """The same pictures and shapes, stage by stage, and folders that may go on."""
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    row = "all, refined"
    some = ("--texts", "a blue chair", "--rows", row)
    start(tmp_path / "each", "levers", *some, "--seeds=1")
    start(tmp_path / "once", "levers", *some, "--seeds=2", "--at_once")
    assert "2 runs at once" in capsys.readouterr().out
    found = [
        writer.read_json(tmp_path / each / "scores.json")["rows"][row]
        for each in ("each", "once")
    ]
    first = [
        {name: scores[name]["values"][0] for name in scores if name != "seconds"}
        for scores in found
    ]
    assert first[0] == first[1] and len(first[0]) > 5
    assert len(found[1]["chamfer"]["values"]) == 2
    runs = [path.parent for path in (tmp_path / "once").glob("**/metrics.jsonl")]
    assert len(runs) == 4  # two stages of each
    for path in (tmp_path / "once").glob("**/cell.json"):
        trained = writer.read_json(path.with_name(cells.TRAINED))
        assert writer.read_json(path)["cpu_seconds"] > trained["cpu_seconds"] > 0
    for run in runs:
        (line,) = writer.read_metrics(run / "metrics.jsonl")[-1:]
        assert line["step"] == writer.read_json(run / "config.json")["num_steps"]


def test_a_run_that_diverges_leaves_the_others_saved(tmp_path, monkeypatch):
    def step(state, weights, prompts):
        seed = jax.random.key_data(jax.random.clone(state.key))[-1]
        broken = jax.tree.map(
            lambda leaf: jnp.where(seed == 1, jnp.nan, leaf), state.particles.params
        )
        particles = state.particles.replace(params=broken)
        state = state.replace(particles=particles, step=state.step + 1)
        return state, tiny_runs.make_metrics(1)

    make = functools.partial(tiny_runs.make_run, step=step)
    monkeypatch.setattr(build, "build", make)
    jobs = []
    for seed in range(3):
        config = named.make_config("object", "smoke")
        config.update(seed=seed, num_steps=1)
        job = together.Job(config_lib.validate(config), tmp_path / str(seed))
        jobs.append(job)
    with pytest.raises(DivergedError, match="/1 are not finite. The others are saved"):
        together.train(jobs, command=["test"])
    assert [together.has_begun(job.folder) for job in jobs] == [True, False, True]
    with pytest.raises(ConfigError, match="has begun already"):
        together.train(jobs[:1], command=["test"])


def test_a_table_of_runs_at_once_goes_on_after_one_diverged(
    tmp_path, monkeypatch, capsys
):
    """It is left to be run by itself; its row has a record of what was spent."""

    def fail(runs, name, command):
        for run in runs:
            for job in run.values():
                job.folder.mkdir(parents=True)
        raise DivergedError("The particles of a run are not finite.")

    monkeypatch.setattr(together, "train_stages", fail)
    todo = plan.cells(EXPERIMENTS["levers"], plan.Budget(seeds=1, prompts=1))
    together.train_cells(todo, tmp_path, command="test")
    assert "are not finite" in capsys.readouterr().out
    assert len([*tmp_path.glob(f"**/{cells.TRAINED}")]) == len(todo) > 1


def test_only_runs_that_are_alike_are_trained_at_once():
    first = config_lib.validate(named.make_config("object", "smoke"))
    config = named.make_config("object", "smoke")
    config.update(prompt="a blue chair", seed=3)
    together.check_alike([first, config_lib.validate(config)])
    config.vsd.guidance_scale = 1.0
    with pytest.raises(ConfigError, match="vsd.guidance_scale is 2.0 in one run and 1"):
        together.check_alike([first, config_lib.validate(config)])


def test_a_row_of_several_stages(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    start(tmp_path, "presets", "--rows", "Fantasia3D")
    capsys.readouterr()
    scores = writer.read_json(tmp_path / "scores.json")["rows"]["Fantasia3D"]
    assert scores["chamfer"]["mean"] > 0.0 and scores["covered"]["mean"] > 0.0
    run = tmp_path / "fantasia3d" / "a_red_mushroom_0"
    weighting = writer.read_json(run / "texture" / "config.json")["vsd"]["weighting"]
    assert weighting == "alpha_sigma_squared"
    assert (run / "geometry" / "report.html").exists()


def test_samples_of_the_prior(tmp_path, monkeypatch):
    """A prior whose x_0 is always 0.5: DDIM and DDPM give it back."""
    model = NoiseModel(lambda params, x, t, context: jnp.full_like(x, 0.5), "sample")
    decode = lambda params, x: jnp.broadcast_to(x, (len(x), 64, 64, 3))  # noqa: E731
    abar = np.linspace(0.99, 0.01, 10, dtype=np.float32)
    prior = Prior(model, None, decode, abar, (1, 1, 3), 64)
    encode = lambda texts: np.zeros((len(texts), 1, 1))  # noqa: E731
    monkeypatch.setattr(build, "load_prior", lambda *args: (prior, {}, encode))
    start(tmp_path, "image2d", "--rows", "DDIM 7.5", "DDPM 1", "--particles=3")
    for row in ("ddim_7_5", "ddpm_1"):
        sheet = writer.Image.open(tmp_path / row / "a_mushroom_0" / "evaluation.png")
        assert sheet.size == (64, 3 * 64)
        assert np.abs(np.asarray(sheet).astype(int) - 127.5).max() < 1


def test_the_tables_are_listed(capsys):
    program.main(["--list"])
    said = capsys.readouterr().out
    assert "image2d" in said and "ablation" in said


def test_refuses_impossible_flags(tmp_path, capsys):
    with pytest.raises(ConfigError, match="is no experiment; there are plane"):
        start(tmp_path, "plan")
    with pytest.raises(ConfigError, match="--out"):
        program.main(["--name=plane"])
    with pytest.raises(SystemExit):
        start(tmp_path, "plane", "--seeds=0")
    assert "above 0" in capsys.readouterr().err
