# SPDX-License-Identifier: Apache-2.0
"""`~` in every path; users that are not there; bytes that are no text."""

import argparse
import os
import pwd

import pytest

from configs import object as object_config
from vsd_jax.program.folder import paths, source, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.prior import hub
from vsd_jax.program.run import pipeline, session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import command_line
from vsd_jax.program.terminal.errors import ConfigError, RunError

NOBODY = "~nobody-of-that-name/run"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_home(monkeypatch):
    """As a container runs a user that its passwd does not know."""

    def unknown(user):
        raise KeyError(user)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


def test_tilde_is_the_home_folder(home):
    assert paths.expand("~/runs/a", "--workdir") == home / "runs" / "a"
    assert paths.expand("runs/~a", "--workdir").as_posix() == "runs/~a"
    workdir = Workdir("~/run", create=True)
    workdir.close()
    assert workdir.path == home / "run" and (home / "run").is_dir()
    (home / "prior").mkdir()
    assert hub.resolve("~/prior") == home / "prior"
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=paths.argument)
    assert parser.parse_args(["--out=~/x"]).out == home / "x"


def test_tilde_in_mesh_source_and_in_the_folder_of_stages(home):
    flat = config_lib.flatten(object_config.get_config("smoke"))
    writer.write_json(home / "nerf" / "config.json", config_lib.nest(flat))
    assert source.read_config("~/nerf").prompt == "a red mushroom"
    writer.write_json(home / "run" / "stages.json", {"stages": ["nerf"]})
    with pytest.raises(RunError, match=f"{home}/run holds several stages"):
        pipeline.start("render", None, "~/run", overwrite=False, command=[])


@pytest.mark.parametrize("split", [False, True])
def test_tilde_in_config_and_workdir_flags(home, split, monkeypatch):
    (home / "mine.py").write_text("from configs.object import get_config\n")
    arguments = ["--config=~/mine.py:smoke", "--workdir=~/run"]
    if split:
        arguments = [part for each in arguments for part in each.split("=")]
    found = parse(monkeypatch, *arguments)
    assert found["folder"] == str(home / "run")
    assert found["config"].num_steps == object_config.get_config("smoke").num_steps
    (home / "flags").write_text("\n".join(arguments), "utf-8")
    found = parse(monkeypatch, "--flagfile=~/flags", "--config.seed=7")
    assert found["folder"] == str(home / "run") and found["config"].seed == 7


def parse(monkeypatch, *arguments):
    from absl import flags

    monkeypatch.setattr("sys.argv", ["main", *arguments])
    values = flags.FlagValues()
    command_line.define(values)
    command_line.parse(["main", *arguments], values)
    return command_line.read(values)


def test_a_user_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="no user 'nobody-of-that-name'"):
        Workdir(NOBODY, create=True)
    with pytest.raises(ConfigError, match=r"prior\.path.*no user"):
        hub.resolve(NOBODY)
    with pytest.raises(argparse.ArgumentTypeError, match="no user"):
        paths.argument(NOBODY)


@pytest.mark.parametrize("key", ["prior.path", "score.path", "mesh.source"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        (NOBODY, "no user 'nobody-of-that-name'"),
        ("a\udcffb", "bytes that are not UTF-8"),
        ("a\x00b", "NUL"),
    ],
)
def test_faults_of_paths_come_before_any_work(key, path, words):
    config = object_config.get_config("smoke")
    config.update_from_flattened_dict({key: path})
    with pytest.raises(ConfigError) as error:
        config_lib.validate(config)
    assert key in str(error.value) and words in str(error.value)


def test_no_home_is_said_where_it_is_needed_and_only_there(no_home, tmp_path):
    with pytest.raises(ConfigError, match="HOME is not set"):
        paths.expand("~/run", "--workdir")
    assert paths.expand(tmp_path, "--workdir") == tmp_path
    assert hub.resolve("toybox") == hub.TOYBOX


@pytest.mark.parametrize(
    "argument",
    [
        "--config.prompt=a \udcff",
        "--workdir=runs/\udcff",
        "--config=\udcff.py",
        "\udcff",
    ],
)
def test_bytes_of_the_command_line_that_are_no_text(argument, monkeypatch):
    given = ["--config=configs/object.py:smoke", "--workdir=x", argument]
    with pytest.raises(ConfigError, match="bytes that are not UTF-8") as error:
        parse(monkeypatch, *given)
    str(error.value).encode()  # the sentence itself can be shown


def test_a_flagfile_in_another_encoding_is_named(tmp_path, monkeypatch):
    (tmp_path / "flags").write_bytes("--config.prompt=grün\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        parse(monkeypatch, f"--flagfile={tmp_path / 'flags'}")
    with pytest.raises(ConfigError, match="--flagfile.*none"):
        parse(monkeypatch, f"--flagfile={tmp_path / 'none'}")


def test_prompts_and_folders_of_the_library_too(tmp_path):
    config = object_config.get_config("smoke")
    config.prompt = "a red \udcff"
    config.prior.path = "some/model"
    with pytest.raises(ConfigError, match="prompt=.*not UTF-8"):
        config_lib.validate(config)
    with pytest.raises(ConfigError, match="--workdir=.*not UTF-8"):
        session.start("render", None, "a\udcff", overwrite=False, command=[])


def test_a_home_that_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "\udcff"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        paths.expand("~/run", "--workdir")


def test_a_current_folder_that_is_no_text_or_gone(tmp_path, monkeypatch):
    odd = tmp_path / os.fsdecode(b"\xff")
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(ConfigError, match="not UTF-8"):
        paths.expand("run", "--workdir")
    odd.rmdir()
    with pytest.raises(ConfigError, match="current folder, which is gone"):
        paths.expand("run", "--workdir")
    assert paths.expand(tmp_path, "--workdir") == tmp_path
