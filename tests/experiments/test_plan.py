# SPDX-License-Identifier: Apache-2.0
"""The tables are data: every cell's settings exist, are valid, and none is double."""

import dataclasses
import pathlib

import pytest

from vsd_jax.experiments import cells, plan
from vsd_jax.experiments.catalogue import EXPERIMENTS
from vsd_jax.experiments.plan import Budget
from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
PLANE = EXPERIMENTS["plane"]


@pytest.mark.parametrize("smoke", [False, True], ids=["full", "smoke"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_is_valid(name, smoke):
    for cell in plan.cells(EXPERIMENTS[name], Budget(smoke=smoke, prompts=1, seeds=1)):
        config = cells.make_config(cell)
        assert config.prompt == cell.prompt and config.seed == 0
        stages = pipeline.linked(config, ROOT) if cell.row.stages else {"": config}
        for stage in stages.values():
            valid = config_lib.validate(stage)
            updates = valid.num_steps * valid.particles_per_step
            assert updates <= (32 if smoke else 128 * 600)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_cells_have_folders_of_their_own(name):
    experiment = EXPERIMENTS[name]
    found = plan.cells(experiment, Budget())
    assert len({cell.folder for cell in found}) == len(found)
    number = len(experiment.rows) * len(experiment.prompts) * experiment.seeds
    assert len(found) == number
    assert experiment.reference in ("", *(row.name for row in experiment.rows))


def test_the_first_seed_comes_first():
    seeds = [cell.seed for cell in plan.cells(PLANE, Budget(seeds=2))]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1}


def test_a_budget_replaces_numbers_of_all_rows():
    budget = Budget(steps=7, particles=5, rows=("VSD 1, own score",), seeds=1)
    (cell,) = plan.cells(PLANE, budget)
    config = cells.make_config(cell)
    assert (config.num_steps, config.num_particles) == (7, 5)
    assert config.vsd.guidance_scale == 1.0


@pytest.mark.parametrize(
    ("name", "budget"),
    [("steps", "steps"), ("particles",) * 2, ("particles", "steps")],
)
def test_a_budget_is_refused_where_rows_differ_in_it(name, budget):
    asked = Budget(**{budget: 4})
    with pytest.raises(ConfigError, match=f"--{budget}=4: rows of this table differ"):
        plan.cells(EXPERIMENTS[name], asked)
    one = plan.chosen_rows(EXPERIMENTS[name], Budget())[0].name
    assert plan.cells(EXPERIMENTS[name], Budget(**{budget: 4}, rows=(one,)))


def test_a_row_that_only_samples_has_no_steps_to_differ_in():
    rows = ("DDIM 7.5", "VSD 7.5, LoRA", "SDS 7.5")
    found = plan.cells(EXPERIMENTS["image2d"], Budget(steps=800, rows=rows))
    moved = [cell for cell in found if cell.row.kind == "run"]
    assert {cell.settings["num_steps"] for cell in moved} == {800}


def test_stages_have_steps_of_their_own_and_share_the_particles():
    budget = Budget(steps=7, particles=2, rows=("Fantasia3D",), prompts=1)
    (cell,) = plan.cells(EXPERIMENTS["presets"], budget)
    config = cells.make_config(cell)
    assert config.stages == ("geometry", "texture")
    assert config.texture.num_steps == config.geometry.num_steps == 7
    assert config.texture.num_particles == 2
    assert cell.products == "fantasia3d/a_red_mushroom_0/texture"


def test_other_prompts_than_the_table_s():
    texts = ("a green duck", "a room", "a green duck")
    budget = Budget(rows=("+ VSD",), texts=texts)
    found = plan.cells(EXPERIMENTS["ablation"], budget)
    assert [cell.prompt for cell in found] == ["a green duck", "a room"]
    with pytest.raises(ConfigError, match="a green dog.*dog"):
        plan.cells(EXPERIMENTS["ablation"], Budget(texts=("a green dog",)))
    with pytest.raises(ConfigError, match="DDIM 1.*closed form"):
        plan.cells(PLANE, Budget(texts=("a green duck",)))
    words = "a red chair in a blue room, overhead view"
    with pytest.raises(ConfigError, match="never seen from overhead"):
        plan.cells(EXPERIMENTS["ablation"], Budget(texts=(words,)))


def test_names_that_are_not_there_are_told():
    with pytest.raises(ConfigError, match="image3d.*image2d"):
        plan.find("image3d", EXPERIMENTS)
    with pytest.raises(ConfigError, match="VSD 8"):
        plan.cells(PLANE, Budget(rows=("VSD 8",)))
    with pytest.raises(ConfigError, match="--prompts=9.*1"):
        plan.cells(PLANE, Budget(prompts=9))


def test_a_setting_that_is_no_key_is_told():
    row = plan.Row(name="a", settings={"vsd.guidance": 3.0})
    cell = plan.Cell(
        row=row,
        prompt="a mushroom",
        seed=0,
        config="configs/object.py",
        settings=row.settings,
    )
    with pytest.raises(ConfigError, match="guidance_scale"):
        cells.make_config(cell)


def test_vsd_of_the_papers_claims_is_the_papers():
    """Its own score is learned at all t, where the program's default is exact."""

    def share(name, row):
        (cell,) = plan.cells(EXPERIMENTS[name], Budget(rows=(row,), seeds=1, prompts=1))
        return cells.make_config(cell).family.exact_below

    for row in ("VSD 7.5", "VSD 2"):
        assert share("family_objects", row) == 0.0
    assert share("steps", "steps 450") == share("levers", "none of them") == 0.0
    for name, row in (("family_objects", "this program's default"), ("levers", "all")):
        assert share(name, row) > 0.0


def test_presets_need_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cell,) = plan.cells(PLANE, Budget(seeds=1, rows=("DDIM 1",)))
    assert cells.make_config(cell).field.kind == "latent"


def test_a_missing_file_is_told():
    (cell,) = plan.cells(PLANE, Budget(seeds=1, rows=("DDIM 1",)))
    with pytest.raises(ConfigError, match="is not there"):
        cells.make_config(dataclasses.replace(cell, config="configs/none.py"))
