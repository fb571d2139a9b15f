# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the main job: runs trained at once are those of the program."""

import pathlib

import numpy as np
import pytest

from benchmarks import main_job
from vsd_jax.experiments import together
from vsd_jax.program.folder import writer
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError

OPTIONS = ["num_steps=3", "vsd.guidance_scale=5"]


@pytest.fixture
def trained(monkeypatch):
    """What `train_at_once` would train, for two prompts and two seeds."""
    found = []
    monkeypatch.setattr(
        together, "train_stages", lambda runs, name, command: found.extend(runs)
    )

    def of(name, options=OPTIONS):
        found.clear()
        jobs = [(p, seed) for seed in (0, 1) for p in main_job.PROMPTS[:2]]
        main_job.train_at_once(name, jobs, pathlib.Path("out"), options)
        return found

    return of


def test_runs_differ_in_prompt_and_seed_and_have_the_methods_settings(trained):
    runs = trained("SDS 100")
    assert [list(stages) for stages in runs] == [[""]] * 4
    configs = [stages[""].config for stages in runs]
    together.check_alike(configs)
    assert [(c.prompt, c.seed) for c in configs] == [
        ("a red mushroom", 0),
        ("an orange snowman", 0),
        ("a red mushroom", 1),
        ("an orange snowman", 1),
    ]
    config = configs[0]
    # The caller's options come after the method's own.
    assert (config.num_steps, config.vsd.guidance_scale) == (3, 5.0)
    assert (config.vsd.method, config.vsd.x0_limit) == ("sds", 0.0)
    assert not config.log.inside
    assert trained("VSD 7.5", [])[0][""].config.family.exact_below == 0.0  # the paper's


def test_a_finished_run_is_not_judged_as_one_of_other_settings(tmp_path):
    asked = ("VSD, refined", main_job.PROMPTS[0], 0, tmp_path)
    for job in main_job.stages_of(*asked, ()).values():
        for name in ("report.html", "evaluation.png"):
            writer.write_bytes(job.folder / name, b"done")
        flat = config_lib.flatten(job.config)
        writer.write_json(job.folder / "config.json", config_lib.nest(flat))
    main_job.run_program(*asked, ())
    with pytest.raises(ConfigError, match=r"guidance_scale: 2\.0 there, 3\.0 now"):
        main_job.run_program(*asked, ("vsd.guidance_scale=3.0",))


def test_both_stages_are_trained_where_the_program_looks_for_them(trained):
    first = trained("VSD, refined")[0]
    folder = main_job.run_folder(
        pathlib.Path("out"), "VSD, refined", main_job.PROMPTS[0], 0
    )
    assert {name: job.folder for name, job in first.items()} == {
        "nerf": folder / "nerf",
        "refine": folder / "refine",
    }
    assert all(job.config.num_steps == 3 for job in first.values())


def test_an_unknown_option_is_refused(trained):
    with pytest.raises(ConfigError, match="no_such"):
        trained("VSD 7.5", ["vsd.no_such=1"])


def test_spread_is_over_seeds():
    names = (*main_job.NAMES, "worst_kind", "frechet", "kernel", "empty")
    seeds = [{"VSD": dict.fromkeys(names, value)} for value in (1.0, 2.0, 6.0)]
    assert f"| {np.mean([1, 2, 6]):.4f} ± 2.6458 |" in main_job.spread_of(seeds)
    one = {"truth": dict.fromkeys(names, 1.0) | {"chamfer": np.nan}}  # has no mesh
    assert "nan" not in main_job.spread_of([one, one])
