# SPDX-License-Identifier: Apache-2.0
"""Every configuration is sound, and each `:smoke` runs from text to report."""

import pathlib

import pytest
import tiny_runs

from configs import image2d, scene
from configs import object as object_config
from vsd_jax.presets import VARIANTS
from vsd_jax.program.folder import writer
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib

FOLDER = pathlib.Path(scene.__file__).parent
SCENE_VARIANTS = (
    *("", "room", "object", "object,sd21", "room,sd15", "object,smoke"),
    *("object,sd15_256", "room,bk_sdm_tiny", "room,colab"),
)
EVERY = [
    *((object_config, variant) for variant in VARIANTS),
    *((image2d, variant) for variant in VARIANTS),
    *((scene, variant) for variant in SCENE_VARIANTS),
]


@pytest.mark.parametrize(
    ("module", "variant"), EVERY, ids=lambda v: getattr(v, "__name__", v)
)
def test_configuration_is_sound(module, variant):
    config_lib.validate(module.get_config(variant))


def test_unknown_variant_is_refused():
    for module in (object_config, image2d, scene):
        with pytest.raises(ValueError, match="sd21"):
            module.get_config("sd4")


def test_stable_diffusion_keeps_the_numbers_of_the_paper():
    flat = config_lib.flatten(object_config.get_config("sd21"))
    paper = {
        "num_steps": 25_000,
        "vsd.guidance_scale": 7.5,
        "vsd.t_range": (0.02, 0.98),
        "vsd.t_range_late": (0.02, 0.5),
        "vsd.anneal_step": 5_000,
        "render.size": 512,
        "render.num_samples": 64,
        "render.num_fine": 32,
        "field.num_levels": 16,
        "field.log2_table_size": 19,
        "score.rank": 4,
        "score.learning_rate": 1e-4,
        "optim.table_lr": 0.01,
        "optim.decoder_lr": 0.001,
    }
    assert {key: flat[key] for key in paper} == paper


def test_derived_keys_follow_and_can_be_set():
    config = object_config.get_config()
    config.num_steps = 1000
    config.num_particles = 3
    assert config.vsd.anneal_step == 666 and config.particles_per_step == 3
    config.vsd.anneal_step = 7
    config.num_steps = 500
    assert config.vsd.anneal_step == 7 and config.num_steps == 500


def test_files_stay_small_and_say_how_to_run():
    for path in FOLDER.glob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 60, path.name
        assert "python -m vsd_jax" in text


@pytest.fixture(scope="module")
def prior_path(tmp_path_factory):
    return str(tiny_runs.write_prior(tmp_path_factory.mktemp("prior")))


@pytest.mark.filterwarnings("ignore:os.fork")
@pytest.mark.parametrize(
    ("module", "variant"),
    [(object_config, "smoke"), (scene, "object,smoke"), (image2d, "smoke")],
    ids=["object", "scene", "image2d"],
)
def test_smoke_runs_from_text_to_report(module, variant, prior_path, tmp_path):
    config = module.get_config(variant)
    config.prior.path = prior_path
    config.num_steps = 2
    session.start("train", config, str(tmp_path), overwrite=False, command=["test"])
    assert (tmp_path / "report.html").stat().st_size > 10_000
    rows = writer.read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows if "residual/rms" in row] == [1, 2]
    assert all(row["residual/rms"] > 0 for row in rows if "residual/rms" in row)
