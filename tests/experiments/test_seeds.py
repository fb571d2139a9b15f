# SPDX-License-Identifier: Apache-2.0
"""Diversity over seeds of objects that are one particle of a run each."""

import dataclasses

import numpy as np
import pytest
import tiny_runs

from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import scores
from vsd_jax.experiments.leaderboard import records, seeds, work, worlds
from vsd_jax.program.build import build
from vsd_jax.toybox import metrics

pytest.importorskip("embreex")


@pytest.fixture(autouse=True)
def two_seeds(monkeypatch, request):
    """SDS and VSD in the smoke form of `objects`, with two seeds of one prompt."""
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    monkeypatch.setattr(worlds, "ENTRIES", worlds.ENTRIES[:2])
    objects = worlds.WORLDS["objects"]
    quick = dataclasses.replace(objects.forms["quick"], seeds=2)
    changed = dataclasses.replace(objects, forms={**objects.forms, "quick": quick})
    monkeypatch.setitem(worlds.WORLDS, "objects", changed)
    worlds.starts.cache_clear()
    yield
    worlds.starts.cache_clear()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("seeds")


@pytest.fixture
def out(shared, capsys):
    more = ["--smoke", "--worlds", "objects", f"--out={shared}"]
    program.main(["--name=leaderboard", *more])
    capsys.readouterr()
    return shared


def test_the_leaderboard_says_it(out):
    found = records.read(out / "leaderboard.json")
    assert [(each["method"], each["seeds"]) for each in found["between_seeds"]] == [
        *(("SDS", 2), ("VSD", 2), (worlds.CONTROL, 2)),
    ]
    for truth in found["truth"]:
        assert truth["scores"]["kind_precision"] > 0.95
    for cell in found["cells"]:
        assert set(cell["scores"]) <= set(worlds.WORLDS["objects"].scores)
        assert cell["scores"]["frechet_truth"] > truth["scores"]["frechet_truth"]
        assert cell["prior"] and not cell["failed"]
    for each in found["between_seeds"]:
        cells = [
            start.cell
            for start in worlds.starts("objects", "smoke")
            if start.cell.row.name == each["method"]
        ]
        one, two = (
            scores.score_cell(cell, out / "objects" / cell.products)[1][0]
            for cell in cells
        )
        apart = np.linalg.norm(one - two, axis=-1).mean()
        assert each["diversity"] == pytest.approx(apart, rel=1e-5)
        true = scores.score_truth(cells[0], out / "objects" / cells[0].products)[1]
        assert each["truth"] == pytest.approx(metrics.diversity(true)) and each["truth"]
    markdown = (out / "leaderboard.md").read_text()
    table = markdown.partition("## Are objects of other seeds different?")[2]
    (line,) = (
        line for line in table.splitlines() if line.startswith("| objects | VSD")
    )
    assert line.endswith("| 2 | 1 |")


def test_what_has_no_other_seed_is_left_out(out):
    starts = worlds.starts("objects", "smoke")
    pairs = [(start, work.result_of(start, out)) for start in starts]
    assert len(seeds.between_seeds(pairs, out)) == 3
    assert seeds.between_seeds([p for p in pairs if not p[0].cell.seed], out) == []
    broken = [
        (start, {**result, "failed": "Stopped." * (start.cell.row.name == "SDS")})
        for start, result in pairs
    ]
    left = [each["method"] for each in seeds.between_seeds(broken, out)]
    assert left == ["VSD", worlds.CONTROL]


def test_several_particles_have_a_diversity_of_their_own():
    for name, world in worlds.WORLDS.items():
        row = worlds.rows(world)[0]
        start = worlds.starts_of(name, "full", row)[0]
        assert seeds.is_single(start) == name.startswith("objects")
