# SPDX-License-Identifier: Apache-2.0
"""The documents' other leaderboards: with tuned settings, and at equal time."""

import csv
import pathlib

import pytest

from vsd_jax.experiments.leaderboard import (
    page,
    ranking,
    records,
    submit,
    tuned,
    tuning,
    worlds,
)
from vsd_jax.program.folder import writer

pytest.importorskip("embreex")
FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "leaderboard"
OTHERS = {
    "tuned": ("tuned", "passes", "## Tuned settings"),
    "time": ("authors", "time", "## Equal wall clock"),
}


def read_csv(path):
    """What the ranking reads of a leaderboard, from its CSV."""
    with path.open() as file:
        lines = list(csv.DictReader(file))
    worlds, cells, truth = {}, {}, {}
    for line in lines:
        world, name = line["world"], line["score"]
        about = worlds.setdefault(world, {"main": "frechet_truth", "scores": {}})
        about["scores"][name] = line["best"]
        block = {"world": world, "prompt": line["prompt"], "seed": line["seed"]}
        key = tuple(block.values())
        cell = {**block, "method": line["method"], "failed": line["failed"]}
        found = cells.setdefault((*key, line["method"]), {**cell, "scores": {}})
        true = truth.setdefault(key, {**block, "scores": {}})
        for kind, owner in (("value", found), ("truth", true)):
            if line[kind]:
                owner["scores"][name] = float(line[kind])
    board = {"worlds": worlds, "cells": [*cells.values()], "truth": [*truth.values()]}
    return board, lines


def test_tuned_settings_are_those_of_their_file():
    found = writer.read_json(FOLDER / "tuned.json")
    assert (FOLDER / "tuned.md").read_text() == tuned.markdown(found)
    # They are of this version's entries and their authors' settings.
    chosen = tuned.read(FOLDER / "tuned.json", list(found["worlds"]), "full")
    assert "plane" in chosen and len(chosen["plane"]) == 20
    text = (FOLDER / "README.md").read_text()
    for name, world in found["worlds"].items():
        said = []
        for key, what in (
            ("vsd.guidance_scale", "the guidance"),
            ("optim.image_lr", "the rate"),
        ):
            own = [each for each in world["entries"].values()]
            factors = [each["chosen"][key] / each["authors"][key] for each in own]
            less, more = (sum(f < 1 for f in factors), sum(f > 1 for f in factors))
            ends = sum(f in (1 / tuning.FURTHEST, tuning.FURTHEST) for f in factors)
            said.append(f"{less} lower {what}, {more} raise it, {ends} to the end")
        assert f"- **{name}**: {'; '.join(said)}" in text


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_said_of_another_leaderboard_follows_from_its_data(name):
    *terms, heading = OTHERS[name]
    readme = (FOLDER / "README.md").read_text()
    if not (FOLDER / name).exists():
        section = readme.partition(heading)[2].partition("\n## ")[0]
        assert "**not run**" in section
        return
    board, lines = read_csv(FOLDER / name / "leaderboard.csv")
    assert {(line["settings_of"], line["equal"]) for line in lines} == {tuple(terms)}
    text = (FOLDER / name / "leaderboard.md").read_text()
    compared = ranking.compare(board, records.read(submit.STORED))
    assert [each["world"] for each in compared] == list(board["worlds"])
    for each in compared:
        sentence = page.against(each)
        assert sentence in text and sentence in readme
        for row in each["ranks"]:
            shown = f"| {row['here']:.1f} | {row['there']:.1f} |"
            assert f"| {each['world']} | {row['method']} {shown}" in text
    assert all(len(line["commit"]) == 40 for line in lines)


def test_what_is_said_of_the_quick_form_follows_from_its_data():
    board, _ = read_csv(FOLDER / "quick" / "leaderboard.csv")
    found = {
        cell["method"]: cell["scores"]["frechet_truth"]
        for cell in board["cells"]
        if cell["world"] == "image2d" and cell["method"] != worlds.CONTROL
    }
    order = sorted(found, key=found.get)
    first, last = [f"{name} ({found[name]:.0f})" for name in order[:3]], order[-1]
    text = (FOLDER / "README.md").read_text()
    assert f"first {', '.join(first)}, last {last} ({found[last]:.0f}) of 17" in text
    assert f"SDS {found['SDS']:.0f}" in text


def test_the_quick_form_s_data_take_a_method_of_one_s_own():
    found = records.read(FOLDER / "quick" / "leaderboard.json")
    assert submit.choose_worlds(["objects"], found) == ["objects"]
    text = (FOLDER / "quick" / "leaderboard.csv").read_text()
    assert text == records.csv_text(found)
    assert (FOLDER / "quick" / "leaderboard.md").read_text() == page.markdown(found)
    said = page.summary(found).splitlines()
    (objects,) = (line for line in said if line.startswith("- **objects**"))
    assert objects in (FOLDER / "README.md").read_text()
