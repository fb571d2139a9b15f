# SPDX-License-Identifier: Apache-2.0
"""The leaderboard from end to end, in its smoke form with three methods of all."""

import csv
import dataclasses
import io
import re

import numpy as np
import pytest
import tiny_runs

from configs import object as object_config
from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import cells, exact_cells, flat_tables, plan
from vsd_jax.experiments.leaderboard import (
    board,
    page,
    passes,
    published,
    ranking,
    records,
    submit,
    work,
    worlds,
)
from vsd_jax.methods import METHODS
from vsd_jax.presets import Settings
from vsd_jax.program.build import build
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, DivergedError, RunError

pytest.importorskip("embreex")
FEW = ("SDS", "VSD", "CSD")
ENTRIES = worlds.ENTRIES
SMOKE = board.Terms(form="smoke")
# By hand: each network, view and text once, each derivative once more.
PASSES = {
    "sds": 2,  # the text, and what it is guided away from
    "vsd": 3,  # and the score network
    "esd": 4,  # with the camera and without
    "csd": 2,
    "nfsd": 3,  # empty and text in one batch; negative
    "bridge": 2,
    "asd": 3,  # and the text at a noisier t
    "ism": 4 + 1 + 2,  # inversion to s, 650 in strides of 200; at s; at t
    "sdi": 7 * 2 + 2,  # inversion to 700 in strides of 100; at t
    "sdedit": 4 * 2,
    "consistent3d": 2 * 2,
    "l2_vsd": 2 + 2 + 2,  # and a gradient and a tangent of phi
}


@pytest.fixture(autouse=True)
def few_entries(monkeypatch):
    few = tuple(entry for entry in worlds.ENTRIES if entry.name in FEW)
    monkeypatch.setattr(worlds, "ENTRIES", few)
    worlds.starts.cache_clear()
    yield
    worlds.starts.cache_clear()


def start(out, *more):
    program.main(["--name=leaderboard", f"--out={out}", *more])


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return tmp_path_factory.mktemp("leaderboard")


def test_the_files_of_a_world(plane, capsys):
    start(plane, "--smoke", "--worlds", "plane")
    said = capsys.readouterr().out
    assert "[0 of 8 cells are finished]" in said
    assert re.search(r"\[4 of 8 cells are finished, about \d+ s left\]", said)
    found = records.read(plane / "leaderboard.json")
    assert found["form"] == "smoke" and found["not_run"] == [
        *("images", "image2d", "objects", "objects_by_text"),
    ]
    cell = found["cells"][0]
    assert cell["passes"] == 2 * cell["steps"] and cell["machine"].count("cores") == 1
    assert cell["commit"] == workdir.describe_environment()["git_commit"]
    names = {cell["method"] for cell in found["cells"]}
    rows = found["ranking"]["worlds"]["plane"]["frechet_truth"]["methods"]
    assert {row["method"] for row in rows} == set(FEW)
    assert names == {*FEW, worlds.CONTROL}
    table = list(csv.DictReader(io.StringIO((plane / "leaderboard.csv").read_text())))
    assert list(table[0]) == list(records.SCHEMA)
    assert len(table) == 8 * len(worlds.WORLDS["plane"].scores)
    value = {line["score"]: float(line["value"]) for line in table[: len(table) // 8]}
    assert value == pytest.approx(cell["scores"])


def test_the_page_holds_all_that_it_shows(plane):
    start(plane, "--smoke", "--worlds", "plane")
    text = (plane / "leaderboard.html").read_text()
    assert text.count("<img") == text.count("data:image/png;base64,") == 2
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert (
        text.count("<tr>") == 1 + len(FEW) + 2
    )  # heading, methods, the control, truth
    markdown = (plane / "leaderboard.md").read_text()
    assert "Not run: images, image2d, objects, objects_by_text." in markdown
    assert (
        "its numbers mean nothing" in markdown
        and "network passes for each, as" not in (markdown)
    )
    assert all(f"| {name} | " in markdown for name in (*FEW, "truth"))
    assert (plane / "ranks_plane.png").stat().st_size > 0


def test_the_control_is_what_all_begin_with_and_has_no_rank(plane):
    start(plane, "--smoke", "--worlds", "plane")
    found = records.read(plane / "leaderboard.json")
    still = [c for c in found["cells"] if c["method"] == worlds.CONTROL]
    assert [cell["steps"] for cell in still] == [1, 1]
    one = next(
        each
        for each in worlds.starts("plane", "smoke")
        if each.cell.row.name == worlds.CONTROL
    )
    made = np.load(plane / "plane" / one.cell.products / "samples.npy")
    world = exact_cells.make_world(one.cell.settings["exact.world"])
    state, _ = exact_cells.start(one.cell, cells.exact_config(one.cell), world)
    np.testing.assert_array_equal(made, state.particles.params["pixels"])
    rows = found["ranking"]["worlds"]["plane"]["frechet_truth"]["methods"]
    begin = np.mean([cell["scores"]["frechet_truth"] for cell in still])
    nearer = sum(row["mean"] < begin for row in rows)
    said = (plane / "leaderboard.md").read_text()
    assert f"; {nearer} of {len(FEW)} methods end nearer." in said
    assert not any(row["method"] == worlds.CONTROL for row in rows)


def test_it_goes_on_where_it_stopped(plane, capsys, monkeypatch):
    start(plane, "--smoke", "--worlds", "plane")

    def fail(cell, folder):
        raise AssertionError(f"{cell.folder} was finished")

    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, fail))
    start(plane, "--smoke", "--worlds", "plane")
    assert "[8 of 8 cells are finished]" in capsys.readouterr().out
    with pytest.raises(RunError, match="another config and settings"):
        start(plane, "--quick", "--worlds", "plane")


def test_it_goes_on_where_only_its_data_came_along(plane, tmp_path, monkeypatch):
    start(plane, "--smoke", "--worlds", "plane")
    data = (plane / "leaderboard.json").read_bytes()
    (tmp_path / "leaderboard.json").write_bytes(data)

    def fail(cell, folder):
        raise AssertionError(f"{cell.folder} was finished")

    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, fail))
    start(tmp_path, "--smoke", "--worlds", "plane")
    old, new = (records.read(p / "leaderboard.json") for p in (plane, tmp_path))
    assert {**new, "command": ""} == {**old, "command": ""}
    start_of = worlds.starts("plane", "smoke")[0]
    other = dataclasses.replace(start_of.cell, seed=7)
    known = records.known_runs(new)
    assert work.result_of(start_of._replace(cell=other), tmp_path, known) is None


@pytest.fixture
def run_until_vsd_fails(monkeypatch):
    """Runs the plane, where VSD's second seed stops it; what the folder then holds."""

    def draw(cell, folder):
        if cell.row.name == "VSD" and cell.seed:
            raise RunError("The machine went away.")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "samples.npy", 0.5 + np.eye(8)[:, None, None, :2])

    def run(out):
        with monkeypatch.context() as patch:
            patch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, draw))
            patch.setattr(board.processes, "tasks", lambda todo: [[s] for s in todo])
            with pytest.raises(RunError, match="went away"):
                board.run(SMOKE, ["plane"], out, jobs=1, command="")
        found = records.read(out / "leaderboard.json")
        assert [cell["seed"] for cell in found["cells"]] == [0] * (len(FEW) + 1)
        return found

    return run


def test_what_is_finished_of_a_world_is_ranked(tmp_path, run_until_vsd_fails):
    found = run_until_vsd_fails(tmp_path)
    assert found["worlds"]["plane"]["unfinished"] == 1
    assert "Not run yet: 1 more" in (tmp_path / "leaderboard.md").read_text()
    with pytest.raises(ConfigError, match="plane is not finished"):
        submit.choose_worlds(["plane"], found)
    text = board.run(SMOKE, ["plane"], tmp_path, jobs=1, command="")
    assert "Not run yet" not in text
    found = records.read(tmp_path / "leaderboard.json")
    assert len(found["cells"]) == 8 and "unfinished" not in found["worlds"]["plane"]


def test_nothing_of_before_is_lost(plane, tmp_path, run_until_vsd_fails):
    start(plane, "--smoke", "--worlds", "plane")
    data = records.read(plane / "leaderboard.json")
    old = [{**cell, "method": "old", "run": ""} for cell in data["cells"][:1]]
    some = [cell for cell in data["cells"] if cell["method"] != "VSD"]
    writer.write_json(tmp_path / "leaderboard.json", {**data, "cells": some + old})
    found = run_until_vsd_fails(tmp_path)
    kept = {(cell["method"], cell["seed"]) for cell in found["kept"]}
    assert kept == {("SDS", 1), ("CSD", 1), (worlds.CONTROL, 1), ("old", 0)}
    assert len(records.known_runs(found)) == 7
    again = records.collect(
        [], names=[], command="", terms={"form": "smoke"}, before=found
    )
    assert len(again["kept"]) == 8


def test_of_diversities_over_seeds_those_of_most_stay():
    place = {"world": "objects", "method": "SDS", "prompt": "a duck"}
    two, three = ({**place, "seeds": n, "diversity": n} for n in (2, 3))
    terms = dict(names=["objects"], command="", terms={"form": "quick"})
    for found, before, best in (
        ([two], [three], 3),
        ([three], [two], 3),
        ([], [two], 2),
    ):
        joined = records.collect(
            [], **terms, between_seeds=found, before=_with_seeds(before)
        )
        assert [each["seeds"] for each in joined["between_seeds"]] == [best]


def test_diversities_of_other_runs_go():
    place = {"world": "objects", "method": "SDS", "prompt": "a duck"}
    old = {**place, "seeds": 3, "diversity": 1.0, "runs": ["gone"]}
    new = {**place, "seeds": 2, "diversity": 2.0, "runs": ["a", "b"]}
    terms = dict(names=["objects"], command="", terms={"form": "quick"})
    for found, expected in (([], []), ([new], [2])):
        joined = records.collect(
            [], **terms, between_seeds=found, before=_with_seeds([old])
        )
        assert [each["seeds"] for each in joined["between_seeds"]] == expected


def _with_seeds(between):
    return {"cells": [], "truth": [], "between_seeds": between}


def test_what_was_scored_in_another_way_is_scored_anew(plane, monkeypatch):
    start(plane, "--smoke", "--worlds", "plane")
    one = worlds.starts("plane", "smoke")[0]
    path = plane / "plane" / one.cell.folder / "score.json"
    old = writer.read_json(path)
    writer.write_json(path, {**old, "scoring": 1, "scores": {}})
    assert work.result_of(one, plane) is None
    monkeypatch.setattr(cells, "_KINDS", {})  # it is not run again
    work.run(one, plane)
    assert work.result_of(one, plane)["scores"] == pytest.approx(old["scores"])


def test_two_processes_give_the_same(plane, tmp_path, capsys):
    start(plane, "--smoke", "--worlds", "plane")
    start(tmp_path, "--smoke", "--worlds", "plane", "--jobs=2")
    capsys.readouterr()
    one, two = (records.read(p / "leaderboard.json") for p in (plane, tmp_path))
    for first, second in zip(one["cells"], two["cells"], strict=True):
        assert first["scores"] == pytest.approx(second["scores"], rel=1e-4)
    assert (tmp_path / "plane" / "sds" / "a_mushroom_0" / "log.txt").exists()


def test_a_run_that_diverges_is_a_result(tmp_path, monkeypatch):
    def diverge(cell, folder):
        folder.mkdir(parents=True)
        if cell.row.name == "VSD":
            raise DivergedError("Stopped at step 2.")
        number = np.nan if cell.row.name == "CSD" else 0.5
        points = number + np.eye(8)[:, None, None, :2]
        np.save(folder / "samples.npy", points)

    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, diverge))
    spent = {"seconds": 3.0, "cpu_seconds": 2.0}
    monkeypatch.setattr(cells.Stopwatch, "spent", lambda watch: spent)
    text = board.run(SMOKE, ["plane"], tmp_path, jobs=1, command="")
    made = records.read(tmp_path / "leaderboard.json")
    assert {cell["seconds"] for cell in made["cells"]} == {3.0}
    found = made["ranking"]
    assert found["failed"]["plane"] == {"SDS": 0.0, "VSD": 1.0, "CSD": 1.0}
    rows = found["worlds"]["plane"]["frechet_truth"]["methods"]
    assert [(row["method"], row["rank"]) for row in rows] == [
        *(("SDS", 1.0), ("CSD", 2.5), ("VSD", 2.5)),
    ]
    assert "100 %" in text


def test_images_of_the_embedded_prior(tmp_path, monkeypatch, capsys):
    # Objects: test_seeds.py.
    world = "image2d"
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    monkeypatch.setattr(worlds, "ENTRIES", ENTRIES[:2])
    start(tmp_path, "--smoke", "--worlds", world)
    capsys.readouterr()
    found = records.read(tmp_path / "leaderboard.json")
    ((truth),) = found["truth"]
    assert truth["scores"]["kind_precision"] > 0.95
    for cell in found["cells"]:
        assert set(cell["scores"]) <= set(worlds.WORLDS[world].scores)
        assert cell["scores"]["frechet_truth"] > truth["scores"]["frechet_truth"]
        assert cell["prior"] and not cell["failed"]
    assert (tmp_path / f"pictures_{world}.png").stat().st_size > 0
    one = tmp_path / world / "sds" / f"{plan.slug(cell['prompt'])}_0"
    assert writer.read_json(one / "config.json")["vsd"]["guidance_scale"] == 100.0


@pytest.mark.parametrize("name", METHODS)
def test_passes_are_counted(name):
    found = passes.count(METHODS[name](guidance_scale=7.5))
    assert found.prior + found.score == PASSES[name]


def test_options_cost_what_they_ask():
    vsd = METHODS["vsd"]
    assert passes.count(vsd(guidance_scale=1.0)) == (1, 1)
    assert passes.count(vsd(guidance_scale=7.5, weighting="dmd")) == (2, 1)
    assert passes.Passes(2, 1).total(updates=1) == worlds.PASSES_OF_VSD
    assert passes.Passes(2, 1).total(updates=4) == 11


def test_passes_that_depend_on_t_are_averaged_over_the_run_s_t():
    config = object_config.get_config()
    config.vsd.update(method="ism", t_range=(0.02, 0.5))
    config.family.num_inversions = 5
    config = config_lib.validate(config)
    s = np.maximum(np.linspace(0.02, 0.5, 2000) * 1000 - 50, 0)
    expected = np.ceil(s / 200).mean() + 1 + 2
    found = passes.of_move(config, Settings(config).method)
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("world", worlds.WORLDS)
@pytest.mark.parametrize("form", ["full", "quick"])
def test_all_have_the_same_passes(world, form):
    budget = worlds.WORLDS[world].forms[form].passes
    sizes = worlds.WORLDS[world].forms[form]
    found = worlds.starts(world, form)
    assert len(found) == (len(FEW) + 1) * sizes.seeds * sizes.prompts
    for one in found:
        if one.cell.row.name == worlds.CONTROL:
            continue
        assert budget - 5 < one.passes <= budget
        assert cells.make_config(one.cell).num_steps == one.cell.settings["num_steps"]


def test_every_method_competes_with_the_tables_settings(monkeypatch):
    monkeypatch.setattr(worlds, "ENTRIES", ENTRIES)
    for name, world in worlds.WORLDS.items():
        rows = {row.name: row.settings for row in worlds.rows(world)}
        named = {settings.get("vsd.method", "vsd") for settings in rows.values()}
        without = set() if world.is_exact else {"bridge"}  # no word for its source
        assert named == set(METHODS) - without, name
        scales = {row: settings["vsd.guidance_scale"] for row, settings in rows.items()}
        assert scales.pop("Consistent3D") == 50.0 and scales.pop("SDI") == 8.5
        assert all(s == (100.0 if "SDS" in row else 7.5) for row, s in scales.items())
        assert rows["ISM"]["family.num_inversions"] == 5
    rows = {row.name: row.settings for row in worlds.rows(worlds.WORLDS["plane"])}
    family = {row.name: row.settings for row in flat_tables.FAMILY.rows}
    own = {"vsd.guidance_scale": 8.5}  # 7.5 by its authors' formula
    assert rows["SDI"] == family["SDI"] | own and rows["SDS"] == family["SDS 100"]


def test_time_left_is_each_world_s_own():
    few = worlds.starts("plane", "smoke")[:2] + worlds.starts("images", "smoke")[:1]
    seconds = {"plane": [1.0, 3.0], "images": [10.0]}
    assert board.seconds_left(few, seconds, 2) == pytest.approx((2 * 2 + 10) / 2)
    assert board.seconds_left(few, {"plane": [1.0]}, 1) is None
    assert board.seconds_left([], seconds, 1) is None


def test_results_of_other_settings_are_refused(plane):
    start(plane, "--smoke", "--worlds", "plane")
    one = worlds.starts("plane", "smoke")[0]
    other = one._replace(
        cell=dataclasses.replace(one.cell, settings={**one.cell.settings, "a": 1})
    )
    assert work.result_of(one, plane)["method"] == "SDS"
    with pytest.raises(RunError, match="another settings"):
        work.result_of(other, plane)


def test_rankings_are_compared_with_published_ones(monkeypatch):
    column = published.Published("a paper", "CLIP", "high", {"a": 3, "b": 2, "c": 1})
    reverse = column._replace(score="failures", best="low")
    other = column._replace(values={"a": 1, "b": 2, "unknown": 3})
    monkeypatch.setattr(ranking, "TABLES", (column, reverse, other))
    scores = {"d": 0.5, "c": 3.0, "a": 1.0, "b": 2.0}
    cells = [
        dict(world="w", method=name, prompt="", seed=0, failed=None, scores={"x": x})
        for name, x in scores.items()
    ]
    board = dict(worlds={"w": dict(main="x", scores={"x": "low"})}, cells=cells)
    found = ranking.rank_board({**board, "truth": []})["published"]
    told = [(row["column"], row["rho"], row["p"]) for row in found]
    # Of the six orders of three two are as extreme.
    assert told == [
        ("CLIP", pytest.approx(1), pytest.approx(1 / 3)),
        ("failures", pytest.approx(-1), pytest.approx(1 / 3)),
    ]
    assert found[0]["methods"] == ["a", "b", "c"]


def test_the_documents_show_the_stored_one(request):
    docs = request.config.rootpath / "docs"
    found = records.read(submit.STORED)
    assert found["form"] == "full"
    assert submit.choose_worlds([], found) == ["plane", "images"]
    again = ranking.rank_board(found)
    for world, scores in found["ranking"]["worlds"].items():
        for score, ranked in scores.items():
            names = [row["method"] for row in ranked["methods"]]
            new = again["worlds"][world][score]["methods"]
            assert [row["method"] for row in new] == names
    stored = docs / "leaderboard"
    assert (stored / "leaderboard.md").read_text() == page.markdown(found)
    assert (stored / "leaderboard.csv").read_text() == records.csv_text(found)
    assert page.summary(found) in (stored / "README.md").read_text()
    assert all(re.fullmatch("[0-9a-f]{40}", cell["commit"]) for cell in found["cells"])


def test_refuses_impossible_flags(tmp_path):
    with pytest.raises(ConfigError, match="--worlds=moon.*plane, images"):
        start(tmp_path, "--worlds", "moon")
    with pytest.raises(ConfigError, match="--seeds is refused"):
        start(tmp_path, "--seeds=2")
    with pytest.raises(ConfigError, match="two forms"):
        start(tmp_path, "--quick", "--smoke")
    with pytest.raises(ConfigError, match="--jobs is refused.*leaderboard"):
        program.main(["--name=plane", f"--out={tmp_path}", "--jobs=2"])
    (tmp_path / "leaderboard.json").write_text('{"version": 0}')
    with pytest.raises(RunError, match="no leaderboard of version"):
        records.read(tmp_path / "leaderboard.json")
    writer.write_bytes(tmp_path / "leaderboard.json", b"{")
    with pytest.raises(RunError, match="cannot be read"):
        records.read(tmp_path / "leaderboard.json")
