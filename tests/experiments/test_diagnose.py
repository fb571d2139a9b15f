# SPDX-License-Identifier: Apache-2.0
"""What is built in is found: one quantity that tells the error, one that does not."""

import json
import sys

import numpy as np
import pytest

from vsd_jax.experiments import diagnose
from vsd_jax.experiments.diagnose import Run


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


def write_run(folder, error, kind="nerf"):
    folder.mkdir()
    mean = {"kind_precision": 1 - error, "multi_face_index": error}
    rows = [{"step": s, "residual/rms": error * s, "opacity": 0.5} for s in range(9)]
    config = {"prompt": folder.name, "field": {"kind": kind}}
    config["vsd"] = {"method": "vsd", "guidance_scale": 3.0}
    (folder / "evaluation.json").write_text(json.dumps({"mean": mean}))
    (folder / "config.json").write_text(json.dumps(config))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)


def test_finished_runs_are_found_and_told_of(tmp_path, monkeypatch, capsys):
    for i in range(10):
        write_run(tmp_path / f"run{i}", i / 10)
    write_run(tmp_path / "flat", 0.3, kind="image")
    command = ["diagnose", f"--runs={tmp_path}", f"--out={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", command)
    diagnose.main()
    said = capsys.readouterr().out
    assert said.startswith("10 runs.")
    assert "| **residual/rms, late** | 1.00 |" in said
    assert (tmp_path / "out" / "diagnostics.png").stat().st_size > 0


def test_too_few_runs_are_told(tmp_path, monkeypatch, capsys):
    command = ["diagnose", f"--runs={tmp_path}", f"--out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        diagnose.main()
    assert "8 are needed" in capsys.readouterr().err
