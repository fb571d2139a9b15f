# SPDX-License-Identifier: Apache-2.0
"""Files and words of unknown origin: they are read, shown and named, never obeyed.

That nothing pickles, here or in what reads for us, is a rule of `source_rules.py`.
"""

import json
import re

import numpy as np
import pytest
import tiny_runs

from configs import object as object_config
from vsd_jax.program.folder import checkpoint, workdir, writer
from vsd_jax.program.prior import diffusion_prior, hub
from vsd_jax.program.report import report
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError, RunError

LONG = "a corgi " * 1250  # 10 kB
HEBREW = "\u05db\u05dc\u05d1 \u05d0\u05d3\u05d5\u05dd"


def config(prompt, **changes):
    settings = object_config.get_config("smoke")
    settings.update(prompt=prompt, **changes)
    settings.prior.path = "some/model"  # whose words are not checked
    return settings


TRAP = b"cposix\n_exit\n(I7\ntR."
"""A pickle that ends the process of whoever loads it."""


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
def test_pickled_weights_are_not_opened(tmp_path, name):
    tiny_runs.write_prior(tmp_path)
    folder = tmp_path / "unet"
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / name).write_bytes(TRAP)
    with pytest.raises(diffusion_prior.WeightsError, match="safetensors is needed"):
        diffusion_prior.load_prior(str(tmp_path), dtype=np.float32)


def test_a_pickle_under_a_good_name_is_refused(tmp_path):
    tiny_runs.write_prior(tmp_path)
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    file.write_bytes(TRAP)
    with pytest.raises(diffusion_prior.WeightsError, match=file.name):
        diffusion_prior.load_prior(str(tmp_path), dtype=np.float32)


def test_a_pickle_in_a_checkpoint_is_damage(tmp_path):
    folder = tmp_path / "step_000001"
    folder.mkdir()
    (folder / "manifest.json").write_bytes(TRAP)
    assert "cannot be read" in checkpoint.find_damage(folder)


def test_a_manifest_cannot_point_out_of_its_checkpoint(tmp_path):
    folder = tmp_path / "step_000001"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    files = {"../secret": [1, checkpoint._sha256(tmp_path / "secret")]}
    writer.write_json(folder / "manifest.json", {"step": 1, "files": files})
    assert "outside" in checkpoint.find_damage(folder)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b@../../x", "/etc", "~/x/y/z"])
def test_a_prior_is_no_way_out_of_the_cache(name):
    if name == "/etc":  # a folder, but of no model
        with pytest.raises(diffusion_prior.WeightsError):
            diffusion_prior.load_prior(name, dtype=np.float32)
        return
    with pytest.raises(diffusion_prior.WeightsError, match="no such folder"):
        hub.resolve(name)


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jcorgi", "a\ncorgi", "a \u202egroc", "a\x00b", "a\u2066b"]
)
@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "prompt_prefix"])
def test_control_characters_are_refused(key, text):
    with pytest.raises(ConfigError) as error:
        config_lib.validate(config(**{"prompt": "a corgi", key: text}))
    said = str(error.value)
    assert key in said and "leave it out" in said
    # The message itself shows them as escapes.
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said
    )


@pytest.mark.parametrize(
    "prompt", [LONG, HEBREW, "../../etc/passwd", "a; rm -rf $HOME `id`", "<img src=x>"]
)
def test_any_other_prompt_is_only_text(tmp_path, prompt):
    valid = config_lib.validate(config(prompt))
    folder = tmp_path / "run"
    folder.mkdir()
    writer.write_json(
        folder / "config.json", config_lib.nest(config_lib.flatten(valid))
    )
    before = {path.name for path in tmp_path.iterdir()}
    page = report.write_report(folder).read_text()
    assert json.loads((folder / "config.json").read_text())["prompt"] == prompt
    assert {path.name for path in folder.iterdir()} == {"config.json", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == before
    heading = re.search('<h1 dir="auto">(.*?)</h1>', page)[1]
    assert len(heading) < 400 and "<img" not in heading
    assert "<img src=x>" not in page


def test_a_damaged_configuration_is_refused_not_run(tmp_path):
    (tmp_path / "config.json").write_bytes(TRAP)
    with pytest.raises(RunError, match="cannot be read"):
        workdir.read_config(tmp_path)
