# SPDX-License-Identifier: Apache-2.0
"""Three stages in one folder; the prior is replaced by nothing."""

import shutil

import imageio.v3 as imageio
import jax
import numpy as np
import pytest
import tiny_runs
import trimesh
from ml_collections import ConfigDict

from configs import refined, textured_mesh
from vsd_jax.program.build import build, stages
from vsd_jax.program.folder import origin, source, workdir, writer
from vsd_jax.program.run import pipeline, products, session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError

STAGES = ("nerf", "geometry", "texture")


@pytest.fixture(autouse=True)
def no_prior(monkeypatch, fake_run):
    monkeypatch.setattr(build, "build", fake_run)


def staged_config():
    config = textured_mesh.get_config("smoke")
    config.prompt = "a blue car"
    for name in STAGES:
        config[name].num_steps = 2
        config[name].eval.update(turntable_frames=2, num_views=2)
        config[name].export.resolution = 32
    return config


@pytest.fixture
def config():
    return staged_config()


def start(config, folder, *, mode="train", overwrite=False):
    pipeline.start(
        mode, config, str(folder), overwrite=overwrite, command=["python", "test"]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of three finished stages."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build", tiny_runs.make_run)
        start(staged_config(), folder)
    return folder


@pytest.fixture
def trained(finished, tmp_path):
    """A copy of it for each test, which may run in any order and process."""
    return shutil.copytree(finished, tmp_path / "stages")


@pytest.mark.filterwarnings("ignore:os.fork")
def test_stages_follow_each_other(tmp_path, config, capsys):
    trained = tmp_path / "run"
    start(config, trained)
    said = capsys.readouterr().out
    assert "Stage 3 of 3: texture" in said and "surface at density" in said
    for name in STAGES:
        stored = writer.read_json(trained / name / "config.json")
        assert stored["prompt"] == "a blue car"
        mesh = trimesh.load(trained / name / "mesh" / "particle_00.ply")
        assert mesh.is_watertight and mesh.volume > 0
    page = (trained / "report.html").read_text()
    assert page.count("<video") == 3 and "texture/mesh/particle_00.glb" in page


def test_each_stage_takes_over_from_the_one_before(trained):
    nerf, shape, textured = (
        source.load(trained / name, source.read_config(trained / name))
        for name in STAGES
    )
    # A step of the stand-in adds 1e-3 to everything; two were made.
    table = np.asarray(nerf.particles.params["table"])
    np.testing.assert_allclose(
        textured.particles.params["table"], table + 2e-3, atol=1e-6
    )
    nerf_mesh, shape_mesh, textured_mesh_ = (
        trimesh.load(trained / name / "mesh" / "particle_00.ply") for name in STAGES
    )
    assert abs(shape_mesh.volume / nerf_mesh.volume - 1) < 0.15
    np.testing.assert_allclose(textured_mesh_.vertices, shape_mesh.vertices, atol=1e-5)
    assert len(shape.particles.stats) == 0


def test_a_refinement_goes_on_with_the_nerf_before_it(tmp_path):
    config = refined.get_config("smoke")
    assert config.refine.vsd.t_range[1] < config.nerf.vsd.t_range[1]
    assert refined.get_config("sd21").refine.vsd.method == "sdedit"
    for name in config.stages:
        config[name].num_steps = 2
        config[name].eval.update(turntable_frames=2, num_views=2)
        config[name].export.resolution = 32
    start(config, tmp_path / "run")
    before, after = (
        source.load(
            tmp_path / "run" / name, source.read_config(tmp_path / "run" / name)
        )
        for name in ("nerf", "refine")
    )
    # A step of the stand-in adds 1e-3 to everything; two were made.
    table = np.asarray(before.particles.params["table"])
    np.testing.assert_allclose(after.particles.params["table"], table + 2e-3, atol=1e-6)


def test_the_same_command_does_nothing_twice(trained, config, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", lambda config, *_: pytest.fail("trains again"))
    start(config, trained)
    assert capsys.readouterr().out.count("Finished before.") == 3


def test_the_folder_may_be_spelled_in_another_way(trained, config, monkeypatch, capsys):
    monkeypatch.chdir(trained.parent)
    start(config, trained.name)
    assert capsys.readouterr().out.count("Finished before.") == 3


def test_a_page_of_an_ended_run_does_not_say_that_it_trains(
    trained, config, monkeypatch
):
    def stop(*arguments, **options):
        raise RunError("Stopped.")

    (trained / "texture" / "evaluation.json").unlink()
    monkeypatch.setattr(session, "start", stop)
    with pytest.raises(RunError):
        start(config, trained)
    assert "trains now" not in (trained / "report.html").read_text()


def test_a_texture_needs_a_mesh_when_it_begins(trained, config):
    alone = config.texture  # as `--mode=preflight` has it, which needs no folder
    assert alone.mesh.source == ""
    with pytest.raises(ConfigError, match="texture needs a mesh; give the folder"):
        source.require(config_lib.validate(alone))


def test_a_texture_whose_nerf_is_gone_says_so(trained, config):
    shutil.rmtree(trained / "nerf")
    texture = config_lib.validate(pipeline.linked(config, trained)["texture"])
    with pytest.raises(ConfigError, match="is gone; put it back"):
        source.read_beginning(texture)


def test_a_finished_stage_is_not_passed_off_as_another(trained, config):
    config.geometry.optim.sdf_lr = 0.5
    with pytest.raises(ConfigError, match=r"optim\.sdf_lr"):
        start(config, trained)


def move(trained, name):
    moved = trained.parent / name
    shutil.copytree(trained, moved)
    return moved


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_moved_folder_goes_on(trained, config, monkeypatch, tmp_path, capsys):
    moved = move(trained, "moved")
    stored = writer.read_json(moved / "texture" / "config.json")
    assert stored["mesh"]["source"] == "../geometry"
    away = trained.with_name("away")
    trained.rename(away)  # where it was is gone
    try:
        read = source.read_config(moved / "texture")
        assert read.mesh.source == str((moved / "geometry").resolve())
        with monkeypatch.context() as patch:
            patch.setattr(
                build, "build", lambda config, *_: pytest.fail("trains again")
            )
            start(config, moved)
        assert capsys.readouterr().out.count("Finished before.") == 3
        shutil.rmtree(moved / "texture")  # as if it had stopped before this stage
        start(config, moved)
        assert capsys.readouterr().out.count("Finished before.") == 2
        assert (moved / "texture" / "evaluation.json").exists()
    finally:
        away.rename(trained)


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_moved_folder_of_an_older_version_goes_on(trained, config, capsys):
    moved = move(trained, "older")
    for name, before in zip(STAGES[1:], STAGES, strict=False):
        path = moved / name / "config.json"
        old = writer.read_json(path)
        old["mesh"]["source"] = f"/where/it/was/{before}"
        writer.write_json(path, old)
        (moved / name / "source.json").unlink()
    start(config, moved)
    assert capsys.readouterr().out.count("Finished before.") == 3


@pytest.mark.filterwarnings("ignore:os.fork")
def test_more_steps_of_a_stage_start_the_later_ones_anew(trained, config, capsys):
    folder = move(trained, "longer")
    before = (folder / "texture" / "mesh" / "particle_00.ply").read_bytes()
    config.geometry.num_steps = 4
    start(config, folder)
    said = capsys.readouterr().out
    assert said.count("Finished before.") == 1
    assert "geometry has changed since this stage began from its step 2" in said
    kept = folder / "geometry" / "at_step_000002"
    assert (kept / "mesh" / "particle_00.ply").exists()
    assert source.read_config(kept).mesh.source == str((folder / "nerf").resolve())
    aside = folder / "texture_of_step_000002"
    assert (aside / "mesh" / "particle_00.ply").read_bytes() == before
    shape, textured = (
        trimesh.load(folder / name / "mesh" / "particle_00.ply")
        for name in ("geometry", "texture")
    )
    np.testing.assert_allclose(textured.vertices, shape.vertices, atol=1e-5)
    start(config, folder)
    assert capsys.readouterr().out.count("Finished before.") == 3
    config.geometry.num_steps = 2
    with pytest.raises(ConfigError, match="has made 4 steps of 4"):
        start(config, folder)


def test_a_stage_that_is_in_use_is_not_set_aside(trained, config):
    writer.write_json(trained / "texture" / origin.RECORD, {"step": 1, "manifest": ""})
    stage = pipeline.linked(config, trained)["texture"]
    user = workdir.Workdir(trained / "texture", create=False)
    try:
        with pytest.raises(RunError, match="Another run is using"):
            pipeline.set_aside(trained / "texture", stage)
    finally:
        user.close()
    pipeline.set_aside(trained / "texture", stage)
    assert not (trained / "texture").exists()


def test_a_stage_whose_source_is_gone_or_damaged_stays(trained, config):
    shutil.rmtree(trained / "nerf" / "checkpoints" / "step_000001", ignore_errors=True)
    stage = pipeline.linked(config, trained)["geometry"]
    newest = sorted((trained / "nerf" / "checkpoints").glob("step_*"))[-1]
    known = origin.state_of(trained / "nerf")
    damaged = shutil.copytree(newest, newest.with_name("step_000009"))
    (damaged / "manifest.json").write_text("{}")
    assert origin.state_of(trained / "nerf") == known
    pipeline.set_aside(trained / "geometry", stage)
    shutil.rmtree(trained / "nerf")
    pipeline.set_aside(trained / "geometry", stage)
    assert (trained / "geometry").exists()


@pytest.mark.filterwarnings("ignore:os.fork")
def test_products_are_made_anew_where_others_are_asked_for(trained, config, capsys):
    config.texture.eval.turntable_frames = 3
    start(config, trained)
    assert capsys.readouterr().out.count("Finished before.") == 2
    film = imageio.imread(trained / "texture" / "turntable_00.mp4")
    assert len(film) == 3


def test_a_texture_takes_no_other_hash_grid(trained, config):
    stage = pipeline.linked(config, trained)["texture"]
    stage.field.smooth = not stage.field.smooth
    with pytest.raises(ConfigError, match="another hash grid"):
        source.read_beginning(stage)


@pytest.mark.parametrize(
    ("variant", "refines"), [("", True), ("smoke", False), ("sd21", False)]
)
def test_the_embedded_prior_refines_before_its_geometry(variant, refines):
    names = textured_mesh.get_config(variant).stages
    assert names[0] == "nerf" and names[-2:] == ("geometry", "texture")
    assert ("refine" in names) == refines


def test_one_prior_for_all_stages(config):
    config.prior.path, config.prior.dtype = "somewhere", "bfloat16"
    config.geometry.prior.path = "another"
    paths = [config[name].prior.path for name in STAGES]
    assert paths == ["somewhere", "another", "somewhere"]
    assert {config[name].prior.dtype for name in STAGES} == {"bfloat16"}
    stages = pipeline.linked(config, source.pathlib.Path("x"))
    assert [stages[name].prior.path for name in STAGES] == paths


@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_run_of_one_stage_gives_way_to_several_and_back(
    tmp_path, config, nerf_config, flat_config
):
    start(nerf_config, tmp_path)
    with pytest.raises(ConfigError, match="holds a run of one stage.*--overwrite"):
        start(config, tmp_path)
    config.stages = ("nerf",)
    start(config, tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".lock", "nerf", "stages.json", "report.html"}
    with pytest.raises(RunError, match="holds several stages.*--overwrite"):
        start(flat_config, tmp_path)
    start(flat_config, tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert "views_00.png" in left and not left & {"nerf", "stages.json"}


def test_overwrite_deletes_nothing_where_the_prior_is_none(
    trained, config, monkeypatch
):
    def refuse(config, *_):
        raise ConfigError("prior.path is no folder")

    monkeypatch.setattr(build, "build", refuse)
    before = {path for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is no folder"):
        start(config, trained, overwrite=True)
    assert {path for path in trained.rglob("*") if path.is_file()} == before


def test_overwrite_keeps_the_run_that_the_first_stage_goes_on_with(trained, config):
    before = {path for path in trained.rglob("*") if path.is_file()}
    config.stages = ("geometry", "texture")
    config.geometry.mesh.source = str(trained / "nerf")
    with pytest.raises(ConfigError, match="lies in the --workdir"):
        start(config, trained, overwrite=True)
    assert {path for path in trained.rglob("*") if path.is_file()} == before


def test_overwrite_also_replaces_a_finished_stage_of_other_settings(
    trained, config, monkeypatch
):
    done = []
    monkeypatch.setattr(pipeline.session, "start", lambda *a, **o: done.append(a))
    monkeypatch.setattr(pipeline, "_begin", lambda *arguments, **options: None)
    monkeypatch.setattr(pipeline, "write_overview", lambda *a, **options: "")
    config.geometry.optim.sdf_lr = 0.5
    start(config, trained, overwrite=True)
    assert len(done) == 3


@pytest.mark.parametrize("mode", ["render", "export"])
def test_modes_name_the_stage_to_give(trained, config, mode):
    with pytest.raises(ConfigError, match="--workdir"):
        start(config, trained, mode=mode)
    with pytest.raises(RunError, match="texture"):
        start(None, trained, mode=mode)


def test_preflight_asks_for_one_stage(config):
    with pytest.raises(ConfigError, match="one stage"):
        start(config, "", mode="preflight")


def test_stages_must_be_known(tmp_path, config):
    config.stages = ("nerf", "mesh")
    with pytest.raises(ConfigError, match="nerf, refine, geometry, texture"):
        start(config, tmp_path)


def test_faults_of_a_later_stage_come_before_the_first(tmp_path, config):
    config.texture.render.near = -1.0
    with pytest.raises(ConfigError, match=r"render\.near"):
        start(config, tmp_path)
    assert not (tmp_path / "nerf").exists()


def test_a_source_of_another_kind_or_number_is_refused(trained, config):
    stage = config.geometry
    stage.mesh.source = str(trained / "texture")
    with pytest.raises(ConfigError, match=r"mesh\.source.*nerf"):
        source.read_beginning(stage)
    stage.mesh.source = str(trained / "nerf")
    config.num_particles = 3
    with pytest.raises(ConfigError, match="num_particles=3"):
        source.read_beginning(stage)


def test_a_radiance_field_goes_on_as_it_is(trained, config, capsys):
    stage = config.nerf
    stage.mesh.source = str(trained / "nerf")
    before = source.load(trained / "nerf", source.read_config(trained / "nerf"))
    theta, stats = source.read_beginning(stage).start
    same = jax.tree.map(np.array_equal, theta, before.particles.params)
    assert all(jax.tree.leaves(same))
    assert stats["occupancy"].max() > 0
    assert "Note" not in capsys.readouterr().out
    stage.prompt = "a brown donut"
    source.read_beginning(stage)
    assert 'goes on with "a brown donut"' in capsys.readouterr().out
    stage.field.density_scale = 20.0
    with pytest.raises(ConfigError, match=r"density_scale=20\.0, but 10\.0"):
        source.read_beginning(stage)


@pytest.mark.parametrize(
    "name, before", [("geometry", "nerf"), ("texture", "geometry")]
)
def test_a_later_stage_remembers_views_too(trained, config, name, before):
    stage = config[name]
    stage.mesh.source = str(trained / before)
    stage.camera.adapt = "residual"
    theta, stats = source.read_beginning(stage).start
    one = jax.tree.map(lambda leaf: leaf[0], theta)
    scene = stages.make_scene(stage, size=stage.render.size)
    wanted = jax.eval_shape(scene.init_stats, one)
    assert jax.tree.structure(stats) == jax.tree.structure(wanted)
    assert (stats["views"]["by_direction"] == 1).all()


def test_too_little_room_for_the_mesh_is_an_error_with_the_remedy(trained, config):
    stage = config.geometry
    stage.mesh.source = str(trained / "nerf")
    stage.mesh.surface_capacity = 0.05
    with pytest.raises(RunError, match=r"mesh\.surface_capacity=0\.05"):
        source.read_beginning(stage)


def test_what_an_evaluation_does_not_know_is_a_dash(trained, config):
    path = trained / "nerf" / "evaluation.json"
    found = writer.read_json(path)
    found["mean"] = {"multi_face_index": None, "opacity": 0.25}
    writer.write_json(path, found)
    start(config, trained)
    page = (trained / "report.html").read_text()
    assert "multi face index –, opacity 0.250" in page


def _changed(folder, **changes):
    """A stage's run, with other settings."""
    found = source.load(folder, source.read_config(folder))
    flat = config_lib.flatten(found.config) | changes
    return config_lib.validate(ConfigDict(config_lib.nest(flat))), found.particles


def test_a_geometry_that_overflows_is_not_exported(trained):
    folder = trained / "geometry"
    infos = products.save_meshes(
        folder, *_changed(folder, **{"mesh.surface_capacity": 0.05})
    )
    assert "mesh.surface_capacity=0.05" in infos[0]["error"]
    assert not list((folder / "mesh").glob("particle_*"))


def test_there_is_no_density_where_nothing_was_drawn(trained):
    run = _changed(trained / "nerf", **{"render.half_extent": 0.5})
    grid, _, _ = products.find_level(*run, 0, given=1.0)
    x = np.abs(np.linspace(-1, 1, len(grid)))
    outside = np.maximum(np.maximum(x[:, None, None], x[:, None]), x) > 0.5
    assert not grid[outside].any() and (grid[~outside] > 0).all()
