# SPDX-License-Identifier: Apache-2.0
"""A run's folder: locked, compared, cleared of its own files alone."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import subprocess

import pytest

from configs import object as object_config
from vsd_jax.program.folder import workdir as workdir_lib
from vsd_jax.program.folder import writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError


@pytest.fixture
def config():
    return object_config.get_config("smoke")


def adopted(path, config, **options):
    options = {"overwrite": False} | options
    with contextlib.closing(Workdir(path, create=True)) as workdir:
        workdir.adopt(config_lib.validate(config), **options)
    return workdir


def test_same_configuration_resumes(tmp_path, config):
    assert not adopted(tmp_path / "run", config).resumed
    assert adopted(tmp_path / "run", config).resumed
    stored = workdir_lib.read_config(tmp_path / "run")
    assert stored["prompt"] == "a red mushroom"
    assert stored["camera"]["radius"] == [2.4, 2.8]


def test_another_configuration_is_refused_by_key(tmp_path, config):
    adopted(tmp_path, config)
    config.vsd.guidance_scale = 100.0
    with pytest.raises(ConfigError) as error:
        adopted(tmp_path, config)
    assert "vsd.guidance_scale: 2.0 there, 100.0 now" in str(error.value)
    assert "--overwrite" not in str(error.value)  # rendering refuses it
    with pytest.raises(ConfigError, match="or --overwrite to delete it"):
        adopted(tmp_path, config, extend=True)
    assert workdir_lib.read_config(tmp_path)["vsd"]["guidance_scale"] == 2.0


def test_reporting_keys_may_change(tmp_path, config):
    adopted(tmp_path, config)
    config.eval.turntable_frames = 7
    assert adopted(tmp_path, config).resumed
    assert workdir_lib.read_config(tmp_path)["eval"]["turntable_frames"] == 7


def test_overwrite_removes_the_run_and_nothing_else(tmp_path, config):
    adopted(tmp_path, config)
    for name in ("metrics.jsonl", "images/step_000001.png", "notes.txt"):
        writer.write_bytes(tmp_path / name, b"x")
    config.seed = 5
    assert not adopted(tmp_path, config, overwrite=True).resumed
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == [
        "config.json",
        "notes.txt",
    ]


def test_overwrite_removes_what_any_method_wrote(tmp_path, config):
    adopted(tmp_path, config)
    for name in (
        *("lora/pytorch_lora_weights.safetensors", "checkpoints/step_000001/x"),
        *("turntable_00.mp4", "turntable_00.gif", ".turntable_00.part.mp4"),
        *("views_00.png", "mesh/particle_00.glb", "mesh/info.json", "prior.json"),
        *("evaluation.json", "evaluation.png", "report.html", "command.txt"),
        *(".report.html.0a1b2c3d", ".metrics.jsonl.0a1b2c3d", "metrics.jsonl"),
        *("notes.txt", ".config.json.swp", "nerf/config.json"),
    ):
        writer.write_bytes(tmp_path / name, b"x")
    (tmp_path / "elsewhere").mkdir()
    writer.write_bytes(tmp_path / "elsewhere" / "kept", b"x")
    (tmp_path / "images").symlink_to(tmp_path / "elsewhere")
    adopted(tmp_path, config, overwrite=True)
    left = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert left == {
        *("config.json", "notes.txt", ".config.json.swp", ".lock"),
        *("elsewhere/kept", "nerf/config.json"),  # another run, not a stage of this
    }
    assert not (tmp_path / "images").is_symlink()


def test_overwrite_removes_stages_of_which_none_is_used(tmp_path, config):
    writer.write_json(tmp_path / "stages.json", {"stages": ["nerf", "texture", "../x"]})
    for name in ("nerf", "texture"):
        adopted(tmp_path / name, config)
    writer.write_bytes(tmp_path / "texture" / "notes.txt", b"x")
    used = Workdir(tmp_path / "texture", create=False)
    with pytest.raises(RunError, match="Another run is using"):
        adopted(tmp_path, config, overwrite=True)
    assert (tmp_path / "nerf" / "config.json").exists()
    used.close()
    adopted(tmp_path, config, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(".lock", "config.json", "texture")
    ]
    assert [path.name for path in (tmp_path / "texture").iterdir()] == ["notes.txt"]


def test_checkpoints_without_their_configuration_are_refused(tmp_path, config):
    (tmp_path / "checkpoints" / "step_000900").mkdir(parents=True)
    with pytest.raises(ConfigError, match="config.json is gone"):
        adopted(tmp_path, config)
    adopted(tmp_path, config, overwrite=True)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "code",
    [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM],
)
def test_a_disk_without_locks_is_said_once_and_used(
    tmp_path, config, monkeypatch, capsys, code
):
    def refuse(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not adopted(tmp_path, config).resumed
    said = capsys.readouterr().out
    assert said.count("has no locks") == 1 and os.strerror(code) in said


def test_a_disk_that_does_not_tell_its_room_is_used(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(workdir_lib.shutil, "disk_usage", refuse)
    workdir = Workdir(tmp_path, create=True)
    workdir.require_space(2**60)
    workdir.close()


def test_two_runs_cannot_share_a_folder(tmp_path):
    first = Workdir(tmp_path, create=True)
    with pytest.raises(RunError, match="Another run"):
        Workdir(tmp_path, create=True)
    first.close()
    Workdir(tmp_path, create=True).close()


def test_render_wants_a_run(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        Workdir(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(workdir_lib.Path, "mkdir", refuse)
    with pytest.raises(RunError, match="Read-only file system"):
        Workdir(tmp_path / "run", create=True)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        Workdir(tmp_path / "run", create=True)


def test_missing_space_is_found_first(tmp_path):
    workdir = Workdir(tmp_path, create=True)
    workdir.require_space(1)
    with pytest.raises(RunError, match="MiB free"):
        workdir.require_space(2**60)
    workdir.close()


def test_checkpoints_that_are_there_take_no_space_anew(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(workdir_lib.shutil, "disk_usage", lambda path: usage)
    workdir = Workdir(tmp_path, create=True)
    with pytest.raises(RunError, match="MiB free"):
        workdir.require_space(3000)
    (workdir.checkpoints / "step_000001").mkdir(parents=True)
    (workdir.checkpoints / "step_000001" / "all").write_bytes(bytes(2000))
    workdir.require_space(3000)
    workdir.close()


def test_damaged_config_is_an_error_in_words(tmp_path, config):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        adopted(tmp_path, config)


def test_every_command_and_the_environment_of_the_steps_are_kept(tmp_path):
    workdir = Workdir(tmp_path, create=True)
    workdir.record(["python", "-m", "vsd_jax.main", "--config.prompt=a red car"])
    workdir.record(["again", "\udcff"])
    assert not (tmp_path / "environment.json").exists()
    workdir.note_environment()
    workdir.close()
    lines = (tmp_path / "command.txt").read_text().splitlines()
    assert lines[0].startswith("python -m vsd_jax.main '--config.prompt=a red car'")
    assert lines[1].startswith("again")
    found = writer.read_json(tmp_path / "environment.json")
    assert found["versions"]["jax"] and found["cpu_count"] == os.cpu_count()
    assert found["devices"][0].startswith("cpu")


def test_record_names_the_commit(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("the tests are run outside of git")
    git = ["git", "-C", str(root), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    found = workdir_lib.describe_environment()["git_commit"]
    assert found.removesuffix("+changes") == commit.strip()


def test_the_prior_before_is_remembered_until_overwritten(tmp_path, config):
    workdir = adopted(tmp_path, config)
    one, two = {"prior.path": "a"}, {"prior.path": "b", "score.path": "c"}
    assert workdir.note_weights(one) == {}
    assert workdir.note_weights(two) == one
    assert workdir.note_weights(one) == two
    assert writer.read_json(tmp_path / "prior.json") == {"unet": "a"}
    assert adopted(tmp_path, config, overwrite=True).note_weights(two) == {}
