# SPDX-License-Identifier: Apache-2.0
"""What is built in is found: one quantity that tells the error, one that does not."""

import json
import sys

import numpy as np
import pytest

from vsd_jax.experiments import diagnose
from vsd_jax.experiments.diagnose import Run
from vsd_jax.program.judge import verdict


def make_runs(num=40):
    rng = np.random.default_rng(0)
    for i in range(num):
        error = rng.random()
        said = {"tells": -(error**3), "noise": rng.normal(), "constant": 1.0}
        errors = {"kind wrong": error, "second fronts": 0.5}
        yield Run(f"prompt {i % 8}", "vsd 3", said, errors)


def test_what_tells_the_error_is_kept_and_noise_is_not():
    rows = diagnose.correlate(list(make_runs()), "kind wrong")
    by_name = {row["name"]: row for row in rows}
    assert by_name["tells"]["rho"] == pytest.approx(-1.0) and by_name["tells"]["kept"]
    assert not by_name["noise"]["kept"]
    assert "constant" not in by_name
    assert rows[0]["name"] == "tells"
    assert diagnose.correlate(list(make_runs()), "second fronts") == []


def test_runs_of_one_prompt_are_not_so_many_proofs():
    """Two prompts that differ in both: rho is high, and nothing is shown by it."""
    rng = np.random.default_rng(0)
    runs = [
        Run(f"prompt {i % 4}", "vsd 3", {"a": i % 4 // 2 + x}, {"kind wrong": y})
        for i, (x, y) in enumerate(rng.normal(scale=1e-3, size=(80, 2)))
    ]
    runs = [
        run._replace(errors={"kind wrong": run.errors["kind wrong"] + (i % 4 // 2)})
        for i, run in enumerate(runs)
    ]
    (row,) = diagnose.correlate(runs, "kind wrong")
    assert row["rho"] > 0.6 and row["p"] > 0.05 and not row["kept"]
    few = [run for run in make_runs() if run.prompt in ("prompt 0", "prompt 1")]
    assert all(row["p"] == 1.0 for row in diagnose.correlate(few, "kind wrong"))


def test_the_verdict_of_the_reports_is_tested_as_it_stands():
    far, near = 2 * verdict.FAR, 0.5 * verdict.FAR
    kinds = [(0.0, far)] * 2 + [(1.0, far)] * 3 + [(0.4, near)] * 4 + [(0.5, near)] * 5
    runs = [
        Run("a", "vsd 3", {diagnose.SEEN: seen}, {diagnose.SHAPE: distance})
        for seen, distance in kinds
    ]
    said = diagnose.verdict_agrees([*runs, *make_runs()])
    assert "for 7 of 14 runs (50.0%); always saying what most are would for 9" in said
    assert "5 are far from truth (above 2.5 times), 6 not recognised, 2 both" in said
    assert diagnose.verdict_agrees(list(make_runs())) == ""


def test_a_run_of_several_tables_counts_once():
    runs = list(make_runs(num=5))
    assert diagnose.distinct([*runs, *runs[:3]]) == runs


def test_the_verdict_is_tested_on_other_prompts():
    runs = list(make_runs())
    hits, base = diagnose.hit_rate(runs, "tells", "kind wrong")
    assert hits > 0.9
    by_prompt = [run._replace(said={"a": float(run.prompt[-1])}) for run in runs]
    assert diagnose.hit_rate(by_prompt, "a", "kind wrong")[0] <= base + 0.1


def test_a_threshold_may_lie_on_either_side():
    x, bad = np.arange(6.0), np.array([0, 0, 0, 1, 1, 1], bool)
    assert diagnose.best_threshold(x, bad) == (2.5, True)
    assert diagnose.best_threshold(x, ~bad) == (2.5, False)


def write_run(folder, error, prompt="a red mug", kind="nerf"):
    folder.mkdir()
    mean = {"kind_precision": 1 - error, "multi_face_index": error}
    rows = [{"step": s, "residual/rms": error * s, "opacity": 0.5} for s in range(9)]
    config = {"prompt": prompt, "field": {"kind": kind}}
    config["vsd"] = {"method": "vsd", "guidance_scale": 3.0}
    (folder / "evaluation.json").write_text(json.dumps({"mean": mean}))
    (folder / "config.json").write_text(json.dumps(config))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


def test_finished_runs_are_found_and_told_of(tmp_path, monkeypatch, capsys):
    prompts = ("a red mug", "a blue car", "a house")
    for i in range(12):
        write_run(tmp_path / f"run{i}", i / 12, prompts[i % 3])
    write_run(tmp_path / "flat", 0.3, kind="image")
    command = ["diagnose", f"--runs={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", command)
    diagnose.main()
    said = capsys.readouterr().out
    assert said.startswith("12 runs.")
    assert "| **residual/rms, late** | 1.00 |" in said
    assert (tmp_path / "out" / "diagnostics.png").stat().st_size > 0


def test_too_few_runs_are_told(tmp_path, monkeypatch, capsys):
    command = ["diagnose", f"--runs={tmp_path}", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        diagnose.main()
    assert "8 are needed" in capsys.readouterr().err
