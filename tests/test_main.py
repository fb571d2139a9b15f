# SPDX-License-Identifier: Apache-2.0
"""The command line: what a user types, and what comes back for a mistake."""

import sys

import pytest
from absl import flags

from configs import object as object_config
from vsd_jax import main
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.settings import named
from vsd_jax.program.terminal import command_line, overrides
from vsd_jax.program.terminal.errors import ConfigError


@pytest.fixture
def parse(monkeypatch):
    """`(*arguments) -> what session.start is given`."""

    def call(*arguments):
        # ml_collections looks for overrides in sys.argv.
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        values = flags.FlagValues()
        command_line.define(values)
        return command_line.read(values, command_line.parse(sys.argv, values)[1:])

    return call


@pytest.fixture
def fault(parse):
    """`(*arguments) -> text of the error`."""

    def call(*arguments):
        with pytest.raises(ConfigError) as error:
            parse(*arguments)
        return str(error.value)

    return call


def test_overrides_reach_the_configuration(parse):
    found = parse(
        "--config=configs/object.py:smoke",
        "--config.prompt=a blue car",
        "--config.camera.radius=(2.0, 3.0)",
        "--config.vsd.view_prompts=False",
        "--config.num_steps=50",
        "--workdir=runs/x",
    )
    config = found.pop("config")
    assert found.pop("overrides") == () and found.pop("serve") is None
    assert found == {"mode": "train", "folder": "runs/x", "overwrite": False}
    assert config.prompt == "a blue car" and config.camera.radius == (2.0, 3.0)
    assert config.vsd.view_prompts is False
    assert config.vsd.anneal_step == 33


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.promt=x", ["'promt'", "prompt"]),
        ("--config.vsd.guidence_scale=1", ["vsd.guidance_scale"]),
        ("--config.vsd_guidance=1", ["vsd_guidance"]),
        ("--config.num_steps=many", ["config.num_steps", "many"]),
        ("--config.vsd.perp_neg=maybe", ["perp_neg", "maybe"]),
        ("--mode=paint", ["mode", "paint"]),
        ("--confg=x", ["confg", "config"]),
        ("mushroom", ["'mushroom' is no flag"]),
    ],
)
def test_mistakes_are_sentences(fault, argument, words):
    text = fault("--config=configs/object.py", "--workdir=x", argument)
    for word in words:
        assert word in text
    assert "Traceback" not in text


def test_one_misspelt_key_does_not_deny_the_others(fault):
    text = fault("--config", "object:smoke", "--config.promt=x", "--config.seed=1")
    assert "Did you mean prompt" in text and "seed" not in text
    text = fault("--config=object", "--config.promt=x", "--workdir=runs/config.1")
    assert "workdir" not in text


def test_a_missing_file_is_named(fault):
    assert "objekt.py" in fault("--config=configs/objekt.py", "--workdir=x")


def test_an_unknown_variant_is_named(fault):
    text = fault("--config=configs/object.py:sd3", "--workdir=x")
    assert "'sd3'" in text and "sd21" in text


def test_without_config_for_a_finished_run(parse):
    found = parse("--mode=render", "--workdir=x")
    assert found["mode"] == "render" and found["config"] is None


def test_changes_to_a_finished_run_need_no_config(parse, fault, tmp_path):
    changes = ("--config.eval.turntable_frames=6", "--config.export.chunk", "128")
    changes += ("--config.eval.elevation_deg", "-20")
    found = parse("--mode=render", *changes, "--workdir=x")
    assert found["config"] is None and found["overrides"] == changes
    flags_file = tmp_path / "flags"
    flags_file.write_text("--mode=render\n--config.eval.fps=3\n")
    assert parse(f"--flagfile={flags_file}")["overrides"] == ("--config.eval.fps=3",)
    assert "'mushroom' is no flag" in fault("--config.eval.fps=3", "mushroom")


def test_what_a_finished_run_takes():
    base = config_lib.validate(object_config.get_config("smoke"))
    found = overrides.apply(
        base,
        [
            *("--config.eval.turntable_frames=6", "--config.export.chunk", "128"),
            *("--config.eval.elevation_deg", "-20"),
            "--config.eval.background=(0.0, 0.5, 1.0)",
        ],
    )
    assert found.eval.elevation_deg == -20.0
    assert found.eval.turntable_frames == 6 and found.export.chunk == 128
    assert found.eval.background == (0.0, 0.5, 1.0)
    assert config_lib.differing_keys(base, found) == {}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.eval.turntable_frame=6", ["eval.turntable_frames"]),
        ("--config.vsd.guidance_scale=6", ["vsd.guidance_scale", "learned", "2.0"]),
        ("--config.eval.fps=fast", ["eval.fps", "fast"]),
        ("--config.eval=6", ["'eval'"]),
    ],
)
def test_what_a_finished_run_does_not_take(argument, words):
    base = config_lib.validate(object_config.get_config("smoke"))
    with pytest.raises(ConfigError) as error:
        overrides.apply(base, [argument])
    for word in words:
        assert word in str(error.value)


def test_faults_of_the_user_end_without_traceback(monkeypatch, capsys):
    def refuse(*arguments, **options):
        raise ConfigError("so it is")

    monkeypatch.setattr(main.command_line, "define", lambda values: None)
    monkeypatch.setattr(main.app, "run", refuse)
    with pytest.raises(SystemExit, match="^1$"):
        main.run()
    assert capsys.readouterr().err == "vsd_jax: so it is\n"


def test_the_file_stays_short():
    with open(main.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) <= 60


def place(*arguments):
    values = flags.FlagValues()
    command_line.define(values)
    command_line.parse(["main", *arguments], values)
    return command_line.read_hosts(values)


BY_HAND = ("--coordinator=10.0.0.1:4321", "--num_processes=2", "--process_id=1")


def test_place_among_several_hosts():
    assert place() is None
    assert place("--distributed") == (None, None, None)
    assert place(*BY_HAND) == ("10.0.0.1:4321", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (BY_HAND[:1], ["--coordinator=10.0.0.1:4321 needs", "--num_processes and"]),
        (BY_HAND[1:], ["--num_processes=2 --process_id=1", "needs --coordinator too"]),
        (["--distributed", BY_HAND[1]], ["--num_processes=2", "leave one of them out"]),
        (["--mode=render", *BY_HAND], ["--mode=render", "--coordinator", "one host"]),
        (["--mode=export", "--distributed"], ["--mode=export", "--distributed"]),
        ([*BY_HAND, "--coordinator=here"], ["--coordinator=here", "HOST:PORT"]),
        ([*BY_HAND, "--coordinator=a:70000"], ["--coordinator=a:70000", "HOST:PORT"]),
        ([*BY_HAND, "--process_id=2"], ["--process_id=2", "from 0 to 1"]),
        ([*BY_HAND, "--num_processes=0"], ["--num_processes=0", "at least 1"]),
    ],
)
def test_flags_of_hosts_that_do_not_go_together(arguments, words):
    with pytest.raises(ConfigError) as error:
        place(*arguments)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", named.NAMED)
def test_presets_are_found_by_name_from_any_folder(name, parse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()  # another package of that name
    (tmp_path / "configs" / "__init__.py").touch()
    (tmp_path / name).mkdir()  # such as the stage of a run
    found = parse(f"--config={name}:smoke")["config"]
    assert found.prompt and found.to_dict() == named.NAMED[name]("smoke").to_dict()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("config.promt = 'x'", ["'promt'", "Did you mean prompt"]),
        ("config.vsd.guidence = 3", ["'vsd.guidence'", "vsd.guidance_scale"]),
        ("undefined", ["NameError", "mine.py, line 4"]),
        ("config.nothing.at_all", ["AttributeError", "mine.py, line 4"]),
        ("raise ValueError('no such thing')", ["--config: no such thing"]),
    ],
)
def test_a_users_file_is_checked_like_the_command_line(line, words, parse, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from vsd_jax.program.settings.named import make_config\n"
        "def get_config(variant=''):\n"
        "    config = make_config('object', 'smoke')\n"
        f"    {line}\n"
        "    return config\n"
    )
    with pytest.raises(ConfigError) as error:
        config_lib.validate(parse(f"--config={tmp_path / 'mine.py'}")["config"])
    assert "Traceback" not in str(error.value)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["object:smoek", "scene:room,smoek", "objekt"])
def test_an_unknown_name_or_variant_is_a_sentence(name, parse):
    with pytest.raises(ConfigError) as error:
        parse(f"--config={name}")
    assert "Traceback" not in str(error.value)
    assert "smoke" in str(error.value) or "textured_mesh" in str(error.value)
