# SPDX-License-Identifier: Apache-2.0
"""All modes on a small NeRF and on images; the prior is replaced by nothing."""

import concurrent.futures
import os
import shutil
import types

import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import tiny_runs
import trimesh

from vsd_jax import methods
from vsd_jax.program.build import build
from vsd_jax.program.folder import writer
from vsd_jax.program.judge import prior_check, verdict
from vsd_jax.program.run import session, train
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.program.terminal.errors import ConfigError, RunError


@pytest.fixture(autouse=True)
def no_prior(monkeypatch, fake_run):
    monkeypatch.setattr(build, "build", fake_run)


def start(mode, config, folder, *, overwrite=False):
    session.start(mode, config, str(folder), overwrite=overwrite, command=["test"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", tiny_runs.make_run)
        start("train", tiny_runs.nerf_config(), folder)
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of it for each test, which may run in any order and process."""
    return shutil.copytree(finished, tmp_path / "run")


def test_a_step_without_room_is_told_in_words(
    tmp_path, flat_config, fake_run, monkeypatch
):
    def full(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB\nmore")

    monkeypatch.setattr(
        build, "build", lambda *_: fake_run(flat_config)._replace(step=full)
    )
    with pytest.raises(RunError, match="--mode=preflight.*keep_features.*9 GB$"):
        start("train", flat_config, tmp_path)


def change(mode, folder, *overrides):
    session.start(
        *(mode, None, str(folder)), overwrite=False, command=[], overrides=overrides
    )


@pytest.mark.filterwarnings("ignore:os.fork")
def test_train_leaves_all_products(tmp_path, nerf_config, capsys):
    trained = tmp_path / "run"
    start("train", nerf_config, trained)
    said = capsys.readouterr().out
    assert "a red mushroom" in said and "CPU" in said and "4 steps to do" in said
    for name in (
        *("config.json", "command.txt", "environment.json", "metrics.jsonl"),
        *("images/step_000004.png", "turntable_00.mp4", "turntable_00.gif"),
        *(f"mesh/particle_00.{kind}" for kind in ("glb", "obj", "mtl", "png", "ply")),
        "mesh/info.json",
        *("evaluation.json", "report.html"),
    ):
        assert (trained / name).stat().st_size > 0, name
    assert imageio.imread(trained / "turntable_00.mp4").shape == (2, 16, 16, 3)


def test_mesh_is_the_initial_blob(trained):
    mesh = trimesh.load(trained / "mesh" / "particle_00.ply")
    info = writer.read_json(trained / "mesh" / "info.json")[0]
    assert info["faces"] == len(mesh.faces) and info["overlap"] > 0.7
    assert mesh.is_watertight
    assert np.abs(mesh.bounds).max() < 0.9
    thin = trimesh.load(trained / "mesh" / "particle_00.glb", force="mesh")
    assert info["texture"]["faces"] == len(thin.faces) <= 500
    assert thin.visual.material.baseColorTexture.size == (64, 64)
    assert abs(thin.volume / mesh.volume - 1) < 0.02
    assert info["texture"]["error"]["median"] < 0.01


def test_evaluation_says_why_there_is_no_judge(trained):
    found = writer.read_json(trained / "evaluation.json")
    assert 0 < found["mean"]["opacity"] < 1
    assert found["note"] or "kind_precision" in found["mean"]


def test_modes_work_on_the_folder_alone(trained, monkeypatch):
    monkeypatch.setattr(
        build, "build", lambda config, *_: pytest.fail("loads the prior")
    )
    for name in ("mesh/particle_00.glb", "evaluation.json", "report.html"):
        (trained / name).unlink()
    start("export", None, trained)
    start("evaluate", None, trained)
    for name in ("mesh/particle_00.glb", "evaluation.json", "report.html"):
        assert (trained / name).exists()


def test_a_failed_export_leaves_no_mesh_of_before(trained, capsys):
    change("export", trained, "--config.export.level=1e9")
    assert "No point of the scene reaches" in capsys.readouterr().out
    assert [path.name for path in (trained / "mesh").iterdir()] == ["info.json"]
    assert "no point" in (trained / "report.html").read_text().lower()


def test_a_prior_that_is_split_over_devices_is_not_asked(
    trained, nerf_config, monkeypatch, fake_run, capsys
):
    asked = []

    def evaluate(*arguments, run, **options):
        asked.append(run)
        return {"mean": {}}

    monkeypatch.setattr(session.evaluation, "evaluate", evaluate)
    run, place = fake_run(nerf_config), types.SimpleNamespace(path=trained)
    for nerf_config.num_shards in (1, 2):
        config = config_lib.validate(nerf_config)
        session._make_products(("evaluate",), config, place, (None, 6), run)
    assert asked == [run, None]
    assert "num_shards splits it" in capsys.readouterr().out


def test_the_prior_is_asked_if_it_is_at_hand(
    trained, nerf_config, monkeypatch, fake_run, capsys
):
    def with_prior(config):
        return fake_run(config)._replace(check_texts=())

    def without(config):
        raise RunError("its weights are gone")

    nerf_config.eval.prior_draws = 1
    answers = [{"prior_text_gain": 0.1}]
    monkeypatch.setattr(prior_check, "check", lambda *args: answers)
    monkeypatch.setattr(build, "build", with_prior)
    start("evaluate", nerf_config, trained)
    found = writer.read_json(trained / "evaluation.json")
    assert found["mean"]["prior_text_gain"] == 0.1
    capsys.readouterr()
    with monkeypatch.context() as patch:  # as if its weights were not here
        patch.setattr(build, "is_at_hand", lambda config: False)
        patch.setattr(build, "build", lambda config: pytest.fail("would fetch"))
        start("evaluate", nerf_config, trained)
    assert "are not fetched for it" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(build, "build", without)
    start("evaluate", nerf_config, trained)
    assert "its weights are gone" in capsys.readouterr().out
    assert (
        "prior_text_gain" not in writer.read_json(trained / "evaluation.json")["mean"]
    )


def test_what_four_steps_make_is_not_recognised(trained, nerf_config, capsys):
    start("evaluate", nerf_config, trained)
    found = writer.read_json(trained / "evaluation.json")
    assert found["mean"]["strict_precision"] < verdict.LEAST_SHARE
    assert found["verdicts"][0].startswith("not recognised: mushroom")
    assert "Verdict: not recognised" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", "a red mushroom in a blue room"),
        ("prior.path", "sd21"),
        ("field.kind", "geometry"),
        ("camera.law", "inside"),
    ],
)
def test_no_verdict_where_none_was_measured(nerf_config, key, value):
    nerf_config.prompt = "a red mushroom"
    assert verdict.was_measured(nerf_config)
    nerf_config.update_from_flattened_dict({key: value})
    assert not verdict.was_measured(nerf_config)


def test_vertex_colours_take_the_place_of_the_texture(trained, nerf_config):
    nerf_config.export.texture_size = 0
    start("export", nerf_config, trained)
    left = {path.name for path in (trained / "mesh").iterdir()}
    assert left == {"particle_00.glb", "particle_00.ply", "info.json"}
    assert b"COLOR_0" in (trained / "mesh" / "particle_00.glb").read_bytes()
    assert "texture" not in writer.read_json(trained / "mesh" / "info.json")[0]


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_finished_run_is_rendered_in_another_way_without_its_settings(trained):
    change("render", trained, "--config.eval.turntable_frames=3")
    assert imageio.imread(trained / "turntable_00.mp4").shape == (3, 16, 16, 3)
    stored = writer.read_json(trained / "config.json")
    assert stored["eval"]["turntable_frames"] == 3
    for override, words in (
        ("--config.vsd.guidance_scale=2", "belongs to what was learned"),
        ("--config.eval.turntable_fps=2", "turntable_fps"),
        ("--config.export.check_size=77", "has no meaning with field.kind='nerf'"),
    ):
        with pytest.raises(ConfigError, match=words):
            change("render", trained, override)
    with pytest.raises(ConfigError, match="--config is missing"):
        change("train", trained, "--config.eval.turntable_frames=3")
    assert writer.read_json(trained / "config.json") == stored


def test_where_it_is_rendered_is_not_where_it_was_made(trained):
    path = trained / "environment.json"
    writer.write_json(path, {"devices": ["gpu:elsewhere"]})
    change("render", trained, "--config.eval.turntable_frames=3")
    assert writer.read_json(path)["devices"] == ["gpu:elsewhere"]
    assert "gpu:elsewhere" in (trained / "report.html").read_text()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_stop_tells_what_goes_on(tmp_path, flat_config, monkeypatch, overwrite):
    def stop(self, state):
        raise train.Interrupted("Stopped. The same command goes on from there.")

    start("train", flat_config, tmp_path)
    monkeypatch.setattr(train.Loop, "run", stop)
    flat_config.num_steps += 1
    with pytest.raises(train.Interrupted) as error:
        start("train", flat_config, tmp_path, overwrite=overwrite)
    assert ("leave --overwrite out" in str(error.value)) == overwrite
    # A scheduler that queues it once more would delete it once more.
    assert error.value.status == (1 if overwrite else 75)


def test_a_method_given_from_code_is_told_and_held(tmp_path, flat_config):
    """No setting names it: another one would go on in silence."""

    def follow_noise(views):
        return views.prior("text") - views.noise

    def train(given=None, **options):
        made = given and methods.Method(given, "sigma_squared")
        with_it = {"command": ["test"], "overwrite": False, "method": made} | options
        session.start("train", flat_config, str(tmp_path), **with_it)

    train(follow_noise)
    page = (tmp_path / "report.html").read_text()
    name = "test_a_method_given_from_code_is_told_and_held"
    assert f"{name}, guidance" in page
    flat_config.num_steps += 1
    with pytest.raises(ConfigError, match=f"{name}, and would go on with the one that"):
        train()
    train(follow_noise)
    train(overwrite=True)
    with pytest.raises(ConfigError, match="names, and would go on with test_a"):
        train(follow_noise)


def test_training_again_finds_it_finished(trained, nerf_config, capsys):
    before = (trained / "metrics.jsonl").read_text()
    weights = writer.read_json(trained / "prior.json")["unet"]
    writer.write_json(trained / "prior.json", {"unet": "another"})
    nerf_config.eval.turntable_frames = 1
    start("train", nerf_config, trained)
    said = " ".join(capsys.readouterr().out.split())
    assert "Going on from step 4. All its steps are done." in said
    assert f"other weights ({weights}) than this run had so far (another)" in said
    assert (trained / "metrics.jsonl").read_text() == before


def test_another_configuration_is_refused_before_the_prior(
    trained, nerf_config, monkeypatch
):
    monkeypatch.setattr(build, "build", lambda config, *_: pytest.fail("too late"))
    nerf_config.vsd.guidance_scale = 100.0
    with pytest.raises(ConfigError, match=r"vsd\.guidance_scale"):
        start("train", nerf_config, trained)


def test_images_are_rendered_as_pictures(tmp_path, flat_config):
    start("train", flat_config, tmp_path)
    pictures = sorted(path.name for path in tmp_path.glob("views_*.png"))
    assert pictures == ["views_00.png", "views_01.png", "views_02.png"]
    assert not (tmp_path / "mesh").exists()
    with pytest.raises(RunError, match="no mesh"):
        start("export", None, tmp_path)
    rows = writer.read_json(tmp_path / "evaluation.json")
    assert rows["diversity_pixels"] > 0


def test_overwrite_starts_anew(tmp_path, flat_config):
    start("train", flat_config, tmp_path)
    flat_config.seed = 3
    start("train", flat_config, tmp_path, overwrite=True)
    assert writer.read_json(tmp_path / "config.json")["seed"] == 3


def refuse(config, *_):
    raise ConfigError(f"prior.path={config.prior.path!r} is no folder")


def test_nothing_is_deleted_before_all_that_is_read_is_sound(
    trained, nerf_config, monkeypatch
):
    before = files(trained)
    inside = trained / "at_step_000002"
    shutil.copytree(trained, inside)
    before |= files(trained)
    for place, word in (
        ("/typo", "no config.json"),
        ("", "is the --workdir itself"),
        (inside.name, "lies in the --workdir"),
    ):
        nerf_config.mesh.source = str(trained / place)
        with pytest.raises(ConfigError, match=rf"mesh\.source=.*{word}"):
            start("train", nerf_config, trained, overwrite=True)
    nerf_config.mesh.source = ""
    monkeypatch.setattr(build, "build", refuse)
    with pytest.raises(ConfigError, match="is no folder"):
        start("train", nerf_config, trained, overwrite=True)
    assert files(trained) == before
    with pytest.raises(ConfigError, match="is no folder"):
        start("train", nerf_config, trained / "new")
    assert files(trained / "new") == {".lock"}  # the right command goes on from here


def test_a_run_of_bridge_that_began_without_words_goes_on(
    tmp_path, nerf_config, monkeypatch
):
    nerf_config.vsd.method = "bridge"
    with pytest.raises(ConfigError, match=r"family\.source_words"):
        start("train", nerf_config, tmp_path)
    monkeypatch.setattr(session.config_lib, "require_words", lambda config: None)
    start("train", nerf_config, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(build, "build", tiny_runs.make_run)
    start("train", nerf_config, tmp_path)


def test_a_refinement_of_nothing_is_refused(tmp_path):
    config = named.NAMED["refine"]("smoke")
    with pytest.raises(ConfigError, match=r"mesh\.source is not given"):
        start("train", config, tmp_path / "run")
    assert files(tmp_path) == {"run/.lock"}
    config.mesh.source = ""  # said so, it begins from its own start
    start("train", config, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:os.fork")
def test_overwrite_leaves_nothing_of_a_run_of_another_kind(
    tmp_path, nerf_config, flat_config, monkeypatch, fake_run
):
    monkeypatch.setattr(build, "build", lambda config, *_: with_lora(fake_run(config)))
    start("train", nerf_config, tmp_path)
    of_another = files(tmp_path)
    for name in ("lora", "mesh", "turntable_00.gif"):
        assert any(path.startswith(name) for path in of_another), name
    monkeypatch.setattr(build, "build", fake_run)
    start("train", flat_config, tmp_path / "alone")
    expected = files(tmp_path / "alone")
    (tmp_path / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "alone")
    start("train", flat_config, tmp_path, overwrite=True)
    assert files(tmp_path) == expected | {"notes.txt"}


def files(folder) -> set[str]:
    """All of a folder but the insides of checkpoints, whose names are random."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    names = {path.relative_to(folder).as_posix() for path in found}
    return {name for name in names if not name.startswith("checkpoints/")}


def with_lora(run):
    """The run with a score network as `adapter.save_lora` knows it."""
    one = np.ones((2, 2), np.float32)
    params = {"lora": {"mid": {"down": one, "up": one}}, "camera": {"a": {"bias": one}}}

    def init(start=None):
        state = run.init(start)
        return state.replace(score=state.score.replace(params=params))

    return run._replace(init=init)


@pytest.mark.parametrize("mask", [0o027, 0o002])
@pytest.mark.filterwarnings("ignore:os.fork")
def test_all_that_is_written_has_the_mode_of_the_umask(
    tmp_path, nerf_config, monkeypatch, fake_run, mask
):
    def refuse(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod"):  # a disk without modes is no fault either
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(build, "build", lambda config, *_: with_lora(fake_run(config)))
    before = os.umask(mask)
    try:
        start("train", nerf_config, tmp_path / "run")
    finally:
        assert os.umask(before) == mask
    kinds = {path.suffix for path in (tmp_path / "run").rglob("*")}
    assert kinds >= {".json", ".png", ".gif", ".mp4", ".glb", ".obj", ".mtl", ".ply"}
    assert kinds >= {".html", ".jsonl", ".safetensors"}
    for path in (tmp_path / "run").rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o7777 == wanted, path


@pytest.mark.filterwarnings("ignore:os.fork")
def test_two_worker_threads_run_in_two_folders(tmp_path, nerf_config, flat_config):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(start, "train", config, tmp_path / name)
            for name, config in (("nerf", nerf_config), ("flat", flat_config))
        ]
        for job in jobs:
            job.result()
    assert (tmp_path / "nerf" / "mesh" / "particle_00.glb").exists()
    assert (tmp_path / "flat" / "views_02.png").exists()


@pytest.mark.parametrize(
    ("mode", "folder", "overwrite", "word"),
    [
        ("train", "x", False, "--config is missing"),
        ("render", "", False, "--workdir is missing"),
        ("render", "x", True, "--overwrite has no meaning"),
        ("export", "x", False, "holds no run"),
    ],
)
def test_what_is_missing_is_said(tmp_path, mode, folder, overwrite, word):
    with pytest.raises(RunError, match=word):
        start(mode, None, folder and tmp_path / folder, overwrite=overwrite)


def test_a_run_without_checkpoint_cannot_be_rendered(tmp_path, nerf_config):
    from vsd_jax.program.settings import config as config_lib

    flat = config_lib.flatten(nerf_config)
    writer.write_json(tmp_path / "config.json", config_lib.nest(flat))
    with pytest.raises(RunError, match="no checkpoint yet"):
        start("render", None, tmp_path)


def test_a_disk_that_fills_up_is_said(tmp_path, flat_config, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.Workdir, "record", full)
    with pytest.raises(RunError, match="No space left"):
        start("train", flat_config, tmp_path)
