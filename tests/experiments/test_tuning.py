# SPDX-License-Identifier: Apache-2.0
"""Tuned settings: one rule, on what is not scored, and a leaderboard with them."""

import csv
import dataclasses
import io
import itertools

import numpy as np
import pytest

from vsd_jax.experiments import __main__ as program
from vsd_jax.experiments import cells, exact_cells
from vsd_jax.experiments.leaderboard import board, records, tuned, tuning, worlds
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.toybox import text

pytest.importorskip("embreex")
pytestmark = pytest.mark.usefixtures("three_entries")
GUIDANCE, RATE = "vsd.guidance_scale", "optim.image_lr"


def start(out, *more):
    program.main(["--name=leaderboard", f"--out={out}", "--worlds", "plane", *more])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture
def file(shared, capsys, monkeypatch):
    """Tuned in the smoke form; what is finished is not run again."""
    monkeypatch.setattr(tuning, "FURTHEST", 4.0)  # each trial takes seconds
    start(shared, "--tune", "--smoke")
    capsys.readouterr()
    return shared / "tuned.json"


def gaps(name):
    """Distances of the wanted modes on the circle, turned and mirrored alike."""
    (modes,) = np.nonzero(exact_cells.make_world(name).classes == 0)
    steps = [int(step) for step in np.diff([*modes, modes[0] + 8])]
    turned = [tuple(steps[i:] + steps[:i]) for i in range(3)]
    return min(turned + [each[::-1] for each in turned])


def test_what_is_tuned_on_is_never_scored():
    scored = {prompt for world in worlds.WORLDS.values() for prompt in world.prompts}
    for name, world in worlds.WORLDS.items():
        assert len(world.tuning) == 2, name
        for prompt, settings in world.tuning:
            assert text.parse(prompt) and prompt not in scored
            other = settings.get("exact.world")
            assert (other is not None) == world.is_exact
            assert other != world.table.settings.get("exact.world") or other is None
    asked = [own["exact.world"] for _, own in worlds.WORLDS["plane"].tuning]
    for one, other in itertools.combinations(["plane", *asked], 2):
        assert gaps(one) != gaps(other)  # nor is it the same in other coordinates


@pytest.mark.parametrize("name", ["plane:1,4,6", "images:duck", "images:chair"])
def test_other_things_are_wanted(name):
    world, usual = map(exact_cells.make_world, (name, name.partition(":")[0]))
    assert world.weights.sum() == pytest.approx(1.0)
    for mine, theirs in zip(
        world.mixture.values(), usual.mixture.values(), strict=True
    ):
        assert mine.shape == theirs.shape  # one program serves both
    drawn = exact_cells.truth(world, 64, seed=0)
    means = np.asarray(world.mixture["means"])
    distance = np.square(drawn[:, None] - means[None]).sum((2, 3, 4))
    narrow = world.classes < 2
    nearest = distance[:, narrow].argmin(1)
    assert np.mean(world.classes[narrow][nearest] == 0) > 0.95
    wanted = [
        each["means"][w.classes == 0]
        for each, w in zip((world.mixture, usual.mixture), (world, usual), strict=True)
    ]
    assert not np.allclose(*wanted)


def assert_is_enclosed(means):
    """The best of an axis is no edge, or as far from the authors' as is allowed."""
    best = min(means, key=means.get)
    assert {0.5, 1, 2} <= set(means)
    ends = (1 / tuning.FURTHEST, tuning.FURTHEST)
    assert best in ends or {best / 2, 2 * best} <= set(means)


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ((0, 0), [(1, 1), (0.5, 1), (2, 1), (1, 0.5), (1, 2)]),
        ((-2, 1), [(0.25, 1), (0.125, 1), (0.25, 1), (0.25, 2), (0.25, 4)]),
        ((9, -9), [(64, 1), (64, 0.5), (64, 2), (64, 0.25), (64, 1 / 64)]),
    ],
)
def test_the_search_goes_on_while_an_edge_is_best(best, expected):
    def distance(guidance, rate):
        return abs(np.log2(guidance) - best[0]) + abs(np.log2(rate) - best[1])

    tried = []
    for axis in ("guidance", "rate"):
        while pairs := tuning.ahead(axis, tried):
            tried += [dict(guidance=g, rate=r, mean=distance(g, r)) for g, r in pairs]
    pairs = [(each["guidance"], each["rate"]) for each in tried]
    assert len(set(pairs)) == len(pairs) and set(expected) <= set(pairs)
    nearest = 2.0 ** np.clip(best, -6, 6)
    chosen = tuned.choose(tried)
    assert (chosen["guidance"], chosen["rate"]) == tuple(nearest)


def test_what_the_program_refuses_is_not_tried():
    (row,) = (r for r in worlds.rows(worlds.WORLDS["plane"]) if r.name == "SDS")
    for factor, allowed in ((8.0, True), (16.0, False)):  # of 100; 1000 is the most
        settings = tuning.scaled("plane", row, factor, 1.0)
        assert tuning.is_allowed(settings) == allowed
        if allowed:
            assert tuning.trial("plane", "smoke", row, factor, 1.0).starts
        else:
            with pytest.raises(ConfigError, match="out of range"):
                tuning.trial("plane", "smoke", row, factor, 1.0)


def test_where_all_fails_the_search_ends():
    tried = [dict(guidance=g, rate=1.0, mean=None) for g in (1.0, 0.5, 2.0)]
    assert tuning.ahead("guidance", tried) == []
    assert tuning.ahead("rate", tried) == [(1.0, 0.5), (1.0, 2.0)]


def test_the_rule(file):
    found = writer.read_json(file)["worlds"]["plane"]
    assert found["prior"] == "" and list(found["entries"]) == ["SDS", "VSD", "CSD"]
    for entry, own in found["entries"].items():
        pairs = [(each["guidance"], each["rate"]) for each in own["tried"]]
        means = [each["mean"] for each in own["tried"]]
        by_pair = dict(zip(pairs, means, strict=True))
        by_guidance = {g: mean for (g, rate), mean in by_pair.items() if rate == 1}
        best = min(by_guidance, key=by_guidance.get)
        by_rate = {rate: mean for (g, rate), mean in by_pair.items() if g == best}
        assert pairs[:3] == [(1, 1), (0.5, 1), (2, 1)]
        assert set(pairs) == {(g, 1) for g in by_guidance} | {
            (best, rate) for rate in by_rate
        }
        assert_is_enclosed(by_guidance)
        assert_is_enclosed(by_rate)
        assert own["chosen"] == own["tried"][int(np.argmin(means))]["settings"]
        scale = 100.0 if entry == "SDS" else 7.5
        assert own["authors"] == {GUIDANCE: scale, RATE: 0.03}
        for (guidance, rate), each in zip(pairs, own["tried"], strict=True):
            assert each["settings"] == {GUIDANCE: scale * guidance, RATE: 0.03 * rate}
            assert each["mean"] == pytest.approx(np.mean(each["distances"]))
            assert len(each["distances"]) == 2
    markdown = (file.parent / "tuned.md").read_text()
    assert "| SDS | 100 | 0.03 | " in markdown and "mean nothing" in markdown
    assert "plane:1,4,6; plane:1,5,6" in markdown
    assert not list((file.parent / "tuning").glob("plane/*/a_mushroom_*"))


def test_a_smaller_distance_wins_and_a_tie_is_the_authors():
    tried = [dict(mean=m, name=i) for i, m in enumerate([2.0, None, 1.0, 1.0])]
    assert tuned.choose(tried)["name"] == 2
    assert tuned.choose([dict(mean=m) for m in (1.0, 1.0)]) == dict(mean=1.0)
    assert tuned.choose(tried[1:2])["mean"] is None
    equal = [dict(mean=3.0, name=0), dict(mean=3.0, name=1)]
    assert tuned.choose(equal)["name"] == 0


def test_what_fails_in_one_is_out():
    row = dict(failed="", steps=1, passes=1, cpu_seconds=1.0, commit="c")
    results = [
        {**row, "scores": {"frechet_truth": 1.0}},
        {**row, "scores": {}, "failed": "Stopped."},
    ]
    found = tuning._record(tuning.Trial("SDS", 1.0, 1.0, {}, ()), results)
    assert found["mean"] is None and found["failed"] == ["Stopped."]


def test_tuning_goes_on_where_it_stopped(file, monkeypatch, capsys):
    def fail(cell, folder):
        raise AssertionError(f"{cell.folder} was finished")

    before = writer.read_json(file)
    monkeypatch.setattr(cells, "_KINDS", dict.fromkeys(cells._KINDS, fail))
    start(file.parent, "--tune", "--smoke")
    tried = [own["tried"] for own in before["worlds"]["plane"]["entries"].values()]
    said = capsys.readouterr().out
    # All of the first axis at once; the two prompts of each.
    assert "[18 of 18 cells are finished]" in said
    assert sum(map(len, tried)) >= 3 * 5
    assert writer.read_json(file) == before


def test_a_leaderboard_with_what_was_chosen(file, tmp_path, capsys):
    start(tmp_path, f"--settings={file}", "--smoke")
    capsys.readouterr()
    found = records.read(tmp_path / "leaderboard.json")
    chosen = tuned.read(file, ["plane"], "smoke")
    assert found["tuned"] == chosen and found["settings_of"] == "tuned"
    for cell in found["cells"]:
        if cell["method"] == worlds.CONTROL:  # its rate is 0 whatever is chosen
            continue
        path = tmp_path / "plane" / cell["method"].lower() / "a_mushroom_0"
        settings = writer.read_json(path / "score.json")["settings"]
        own = chosen["plane"][cell["method"]]
        assert {key: settings[key] for key in own} == own
        assert cell["settings_of"] == "tuned" and cell["equal"] == "passes"
    table = csv.DictReader(io.StringIO((tmp_path / "leaderboard.csv").read_text()))
    assert {line["settings_of"] for line in table} == {"tuned"}
    markdown = (tmp_path / "leaderboard.md").read_text()
    head = next(line for line in markdown.splitlines() if line.startswith("| method"))
    assert head.endswith("| guidance | rate |") and "tuned by one rule" in markdown
    (row,) = (line for line in markdown.splitlines() if line.startswith("| SDS |"))
    scale, rate = tuned.say(chosen["plane"]["SDS"])
    assert row.endswith(f"| {scale} | {rate} |")
    assert "compared" not in found  # the stored one is of the full form


def test_it_is_compared_with_one_of_the_same_form(file, tmp_path):
    usual, mine = board.Terms(form="smoke"), tuned.read(file, ["plane"], "smoke")
    options = dict(jobs=1, command="")
    board.run(usual, ["plane"], tmp_path / "usual", **options)
    stored = records.read(tmp_path / "usual" / "leaderboard.json")
    assert "compared" not in stored and stored["settings_of"] == "authors"
    terms = dataclasses.replace(usual, tuned=mine)
    text = board.run(terms, ["plane"], tmp_path / "tuned", stored=stored, **options)
    found = records.read(tmp_path / "tuned" / "leaderboard.json")
    (compared,) = found["compared"]
    there = stored["ranking"]["worlds"]["plane"]["frechet_truth"]["methods"]
    assert {r["method"]: r["there"] for r in compared["ranks"]} == {
        row["method"]: row["rank"] for row in there
    }
    assert "**plane, against the stored leaderboard**" in text


FAULTS = {
    "is not tuned in world plane but in moon": lambda found: found.update(
        worlds={"moon": found["worlds"]["plane"]}
    ),
    "lacks the entry 'CSD' of world plane": lambda found: found["worlds"]["plane"][
        "entries"
    ].pop("CSD"),
    "has, and this version does not, the entry 'X'": lambda found: found["worlds"][
        "plane"
    ]["entries"].update(X={}),
    "with the prior abc, but here is one in closed form": lambda found: found["worlds"][
        "plane"
    ].update(prior="abc"),
    "around other settings of 'VSD'": lambda found: found["worlds"]["plane"]["entries"][
        "VSD"
    ]["authors"].update({RATE: 0.1}),
    "no tuned.json of version 1": lambda found: found.update(version=0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_settings_of_something_else_are_refused(fault, file, tmp_path):
    found = writer.read_json(file)
    FAULTS[fault](found)
    writer.write_json(tmp_path / "other.json", found)
    with pytest.raises(ConfigError, match=fault):
        start(tmp_path, f"--settings={tmp_path / 'other.json'}", "--smoke")


def test_refuses_impossible_flags(file, tmp_path):
    with pytest.raises(ConfigError, match="smoke form and means nothing"):
        start(tmp_path, f"--settings={file}", "--quick")
    with pytest.raises(ConfigError, match="cannot be read"):
        start(tmp_path, f"--settings={tmp_path / 'none.json'}")
    with pytest.raises(ConfigError, match="--settings is refused: --tune tries"):
        start(tmp_path, f"--settings={file}", "--tune")
    with pytest.raises(ConfigError, match="--equal is refused: --tune tries"):
        start(tmp_path, "--equal=time", "--tune")
    with pytest.raises(ConfigError, match="--tune is refused: --submit runs"):
        start(tmp_path, "--submit=mine.py", "--tune")
    with pytest.raises(ConfigError, match="--tune is refused: only"):
        program.main(["--name=plane", f"--out={tmp_path}", "--tune"])
