# SPDX-License-Identifier: Apache-2.0
"""Going on with a run for more steps: exact, recorded, and what was made is kept."""

import jax
import numpy as np
import pytest

from configs import image2d
from vsd_jax.program.build import build
from vsd_jax.program.folder import checkpoint, history, source, writer
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError


def make_config(num_steps, **keys):
    """A ConfigDict as the command line makes it: keys follow `num_steps`."""
    config = image2d.get_config("smoke")
    config.update(num_particles=1, num_steps=num_steps)
    config.render.size = 8
    config.log.update(image_every=2, checkpoint_every=2, sheet_size=8)
    config.update_from_flattened_dict(keys)
    return config


def start(config, folder, mode="train"):
    session.start(mode, config, str(folder), overwrite=False, command=["test"])


def saved(folder):
    config = source.read_config(folder)
    return source.load(folder, config).particles.params


@pytest.fixture(scope="module")
def build_once():
    """`build.build` that makes the same run for the same settings; it is pure."""
    runs, build_real = {}, build.build

    def make(config, *_):
        key = config.to_json_best_effort(sort_keys=True)
        if key not in runs:
            runs[key] = build_real(config)
        return runs[key]

    return make


@pytest.fixture
def fake(monkeypatch, fake_run):
    monkeypatch.setattr(build, "build", fake_run)


def bits(state):
    key = jax.random.key_data(state.key)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.replace(key=key),))]


@pytest.mark.parametrize(
    ("keys", "later"),
    [
        # Constant from step 2 on: the same as a straight run of six steps.
        ({"vsd.anneal_step": 2, "optim.decay": 0.0}, {}),
        # Follows num_steps: held where it was, at 2 of 4.
        ({}, {}),
        # Falls over all of the run: spread over six steps from step 4 on.
        ({"vsd.t_schedule": "sqrt"}, {}),
        # Set with the new number: from step 4 on.
        ({}, {"vsd.anneal_step": 5}),
    ],
    ids=["constant", "held", "sqrt", "set"],
)
def test_more_steps_are_those_of_the_settings_from_then_on(
    keys, later, prior_folder, tmp_path, monkeypatch, build_once
):
    monkeypatch.setattr(build, "build", build_once)
    keys = keys | {"prior.path": str(prior_folder)}
    start(make_config(4, **keys), tmp_path)
    start(make_config(6, **keys, **later), tmp_path)

    def steps(state, config, num):
        run = build.build(config_lib.validate(config))
        state = run.init() if state is None else state
        for _ in range(num):
            state, _ = run.step(state, run.prior_params, run.prompts)
        return state

    first = make_config(4, **keys)
    held = {"vsd.anneal_step": first.vsd.anneal_step} | keys | later
    expected = steps(steps(None, first, 4), make_config(6, **held), 2)
    target = jax.eval_shape(lambda: expected)
    found = checkpoint.load_state(tmp_path / "checkpoints", target, warn=pytest.fail)
    for a, b in zip(bits(expected), bits(found), strict=True):
        np.testing.assert_array_equal(a, b)
    if "vsd.anneal_step" in keys:
        straight = steps(None, make_config(6, **keys), 6)
        for a, b in zip(bits(straight), bits(found), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_change_of_the_timestep_is_felt(prior_folder, build_once):
    # Else the test above could not tell when a change came.
    found = []
    for schedule in ("two_stage", "sqrt"):
        keys = {"prior.path": str(prior_folder), "vsd.t_schedule": schedule}
        run = build_once(config_lib.validate(make_config(4, **keys)))
        state, _ = run.step(run.init(), run.prior_params, run.prompts)
        found.append(np.asarray(state.particles.params["pixels"]))
    assert (found[0] != found[1]).any()


def test_the_end_before_is_kept_as_a_run_and_told(fake, tmp_path, capsys):
    start(make_config(4), tmp_path)
    picture = (tmp_path / "views_00.png").read_bytes()
    before = saved(tmp_path)["pixels"]
    capsys.readouterr()
    start(make_config(6), tmp_path)
    said = capsys.readouterr().out
    assert "vsd.anneal_step stays 2 (a new run of 6 steps has 4)" in said
    assert "--config.vsd.anneal_step=4" in said
    assert "What was made so far is kept in" in said
    kept = tmp_path / "at_step_000004"
    assert (kept / "views_00.png").read_bytes() == picture
    assert (tmp_path / "views_00.png").read_bytes() != picture
    assert writer.read_json(kept / "evaluation.json")["step"] == 4
    assert writer.read_json(tmp_path / "evaluation.json")["step"] == 6
    assert writer.read_json(kept / "config.json")["num_steps"] == 4
    np.testing.assert_array_equal(saved(kept)["pixels"], before)
    start(None, kept, mode="render")
    assert (kept / "views_00.png").read_bytes() == picture
    rows = [row for row in writer.read_metrics(tmp_path / "metrics.jsonl")]
    assert sorted({row["step"] for row in rows}) == [1, 2, 3, 4, 5, 6]


def test_an_end_that_could_not_be_put_aside_is_put_aside_later(
    fake, tmp_path, monkeypatch
):
    start(make_config(4), tmp_path)
    picture = (tmp_path / "views_00.png").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(history.shutil, "copy2", full)
        with pytest.raises(RunError, match="free some space"):
            start(make_config(6), tmp_path)
    start(make_config(6), tmp_path)
    kept = tmp_path / "at_step_000004"
    assert (kept / "views_00.png").read_bytes() == picture
    start(None, kept, mode="render")  # its checkpoint is there
    assert (kept / "views_00.png").read_bytes() == picture


def test_products_of_a_checkpoint_that_is_damaged_keep_their_step(fake, tmp_path):
    start(make_config(4), tmp_path)
    stored = tmp_path / "checkpoints" / "step_000004"
    next(path for path in stored.rglob("*") if path.is_file()).unlink()
    start(make_config(4), tmp_path)
    kept = tmp_path / "at_step_000004"
    assert writer.read_json(kept / "evaluation.json")["step"] == 4
    assert not (tmp_path / "at_step_000002").exists()
    assert checkpoint.list_steps(kept / "checkpoints") == []
    assert checkpoint.find_damage(stored) == ""


def test_former_settings_stand_with_the_step_until_which_they_held(fake, tmp_path):
    start(make_config(4), tmp_path)
    start(make_config(6), tmp_path)
    start(make_config(8, **{"vsd.anneal_step": 7}), tmp_path)
    present = writer.read_json(tmp_path / "config.json")
    assert (present["num_steps"], present["vsd"]["anneal_step"]) == (8, 7)
    rows = history.read(tmp_path)
    assert [row["until_step"] for row in rows] == [4, 6]
    assert rows[0]["changed"] == {"num_steps": [4, 6]}
    assert rows[1]["changed"] == {"num_steps": [6, 8], "vsd.anneal_step": [2, 7]}
    assert [row["settings"]["num_steps"] for row in rows] == [4, 6]
    page = (tmp_path / "report.html").read_text()
    assert "at_step_000004/report.html" in page and "at_step_000006/report.html" in page
    assert "num_steps 4 → 6" in page and "vsd.anneal_step 2 → 7" in page


def test_the_same_command_again_changes_nothing(fake, tmp_path, capsys):
    start(make_config(4), tmp_path)
    start(make_config(6), tmp_path)
    before = (tmp_path / "config.json").read_text()
    capsys.readouterr()
    start(make_config(6), tmp_path)
    assert "All its steps are done" in capsys.readouterr().out
    assert (tmp_path / "config.json").read_text() == before
    assert len(history.read(tmp_path)) == 1


def test_fewer_steps_than_made_is_a_sentence(fake, tmp_path):
    start(make_config(4), tmp_path)
    with pytest.raises(ConfigError, match="has made 4 steps of 4.*num_steps=4 or more"):
        start(make_config(2), tmp_path)
    assert writer.read_json(tmp_path / "config.json")["num_steps"] == 4
    assert not history.read(tmp_path) and (tmp_path / "views_00.png").exists()


@pytest.mark.parametrize("keys", [{"seed": 5}, {"vsd.guidance_scale": 9.0}])
def test_nothing_else_changes_with_the_number_of_steps(fake, tmp_path, keys):
    start(make_config(4), tmp_path)
    with pytest.raises(ConfigError, match=next(iter(keys))):
        start(make_config(6, **keys), tmp_path)


def test_a_schedule_alone_does_not_change(fake, tmp_path):
    start(make_config(4), tmp_path)
    with pytest.raises(ConfigError, match=r"vsd\.anneal_step: 2 there, 3 now"):
        start(make_config(4, **{"vsd.anneal_step": 3}), tmp_path)
    with pytest.raises(ConfigError, match="num_steps: 4 there, 6 now"):
        start(make_config(6), tmp_path, mode="render")


def test_a_damaged_checkpoint_moves_the_change_to_the_one_before(fake, tmp_path):
    start(make_config(4), tmp_path)
    (tmp_path / "checkpoints" / "step_000004" / "manifest.json").write_text("{}")
    start(make_config(6), tmp_path)
    assert [row["until_step"] for row in history.read(tmp_path)] == [2]


def test_overwrite_takes_the_new_number_as_it_is(fake, tmp_path):
    start(make_config(4), tmp_path)
    start(make_config(6), tmp_path)
    session.start(
        "train", make_config(8), str(tmp_path), overwrite=True, command=["test"]
    )
    assert writer.read_json(tmp_path / "config.json")["vsd"]["anneal_step"] == 5
    assert not history.read(tmp_path) and not list(tmp_path.glob("at_step_*"))


def test_keys_that_follow_are_found():
    config = make_config(4)
    assert {"vsd.anneal_step", "render.early_steps"} <= set(
        config_lib.followers(config)
    )
    config.vsd.anneal_step = 3
    assert "vsd.anneal_step" not in config_lib.followers(config)
    assert config_lib.followers(config_lib.validate(config)) == []
    assert config.num_steps == 4
