# SPDX-License-Identifier: Apache-2.0
"""Memory and time before anything is loaded."""

import copy

import jax
import pytest

from vsd_jax.program.build import build
from vsd_jax.program.devices import preflight
from vsd_jax.program.prior import weights
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal.errors import ConfigError

NEEDS = preflight.Needs(
    prior=10**6, theta=2 * 10**6, phi=10**4, memory=20e9, flops=4e12, traffic=80e9
)


def test_roofline_takes_the_slower_of_both():
    device = preflight.Accelerator(16, 400, 100, 10)
    share = preflight.EFFICIENCY
    # Float32: 4 TFLOP at 10 TFLOP / s; bfloat16: 80 GB at 400 GB / s.
    slow = preflight.step_seconds(NEEDS, device, "float32")
    assert slow == pytest.approx(0.4 / share)
    fast = preflight.step_seconds(NEEDS, device, "bfloat16")
    assert fast == pytest.approx(0.2 / share)
    # Without units for a type it is computed as float32.
    for dtypes, other in ((("float16",), "bfloat16"), (("bfloat16",), "float16")):
        device = preflight.Accelerator(16, 400, 100, 10, dtypes)
        assert preflight.step_seconds(NEEDS, device, other) == slow
        assert preflight.step_seconds(NEEDS, device, dtypes[0]) == fast


def test_answer_names_what_does_not_fit_and_what_to_change(nerf_config):
    text = preflight.describe(config_lib.validate(nerf_config), NEEDS)
    lines = {line[:12].strip(): line for line in text.splitlines()}
    assert " no " in lines["T4"] and " yes " in lines["A100 80 GB"]
    assert "20.00 GB" in text and "is an estimate" in text
    names = [name for name in lines if name in preflight.ACCELERATORS]
    assert names[:2] == ["T4", "TPU v5e-1"]
    assert "has no" not in text
    nerf_config.prior.dtype = "bfloat16"
    text = preflight.describe(config_lib.validate(nerf_config), NEEDS)
    assert text.count("has no bfloat16: prior.dtype=float16") == 1  # the T4


@pytest.mark.parametrize(
    ("devices", "particles", "views", "wanted"),
    [(1, 4, 2, (4, 2)), (2, 4, 2, (2, 2)), (4, 4, 1, (1, 1)), (4, 2, 4, (1, 2))],
)
def test_what_one_of_several_devices_does(
    nerf_config, devices, particles, views, wanted
):
    nerf_config.num_devices, nerf_config.num_particles = devices, particles
    nerf_config.particles_per_step, nerf_config.vsd.views_per_step = particles, views
    alone = preflight.one_device(config_lib.validate(nerf_config))
    assert (alone.num_particles, alone.vsd.views_per_step) == wanted
    assert alone.num_devices == 1 and alone.particles_per_step == wanted[0]


def test_shards_are_refused(nerf_config):
    nerf_config.num_shards = 2
    with pytest.raises(ConfigError, match="num_shards=2"):
        preflight.run(config_lib.validate(nerf_config))


def test_settings_that_fit_are_found_and_named(nerf_config, monkeypatch, capsys):
    nerf_config.render.max_rays = 16_384
    asked = []

    def measure(config):
        asked.append(config)
        room = config.prior.dtype == "float16" and config.render.max_rays == 4096
        return NEEDS._replace(memory=14e9 if room else 20e9)

    monkeypatch.setattr(preflight, "measure", measure)
    preflight.run(config_lib.validate(nerf_config))
    said = capsys.readouterr().out
    wanted = "With --config.prior.dtype=float16 --config.render.max_rays=4096 a step"
    assert wanted in " ".join(said.split()) and "14.00 GB" in said
    assert len(asked) == 3 and asked[0].render.max_rays == 16_384
    monkeypatch.setattr(preflight, "measure", lambda config: NEEDS)
    found = preflight.find_remedy(config_lib.validate(nerf_config))
    assert "--config=object:colab" in found
    monkeypatch.setattr(preflight, "measure", lambda c: NEEDS._replace(memory=1e9))
    preflight.run(config_lib.validate(nerf_config))
    assert "Looking" not in capsys.readouterr().out


def test_every_remedy_is_a_sound_configuration(nerf_config):
    nerf_config.num_devices, nerf_config.num_particles = 4, 2
    nerf_config.vsd.views_per_step = 2
    nerf_config.render.size, nerf_config.render.early_size = 32, 16
    nerf_config.render.early_steps = 1
    for changes in preflight.remedies(config_lib.validate(nerf_config)):
        changed = copy.deepcopy(nerf_config)
        changed.update_from_flattened_dict(changes)
        config_lib.validate(changed)


def test_a_cpu_shares_its_memory_with_the_program(nerf_config):
    needs = NEEDS._replace(program=2.5e9)
    text = preflight.describe(config_lib.validate(nerf_config), needs)
    assert "about 22.50 GB resident" in text and "2.50 GB of the program" in text


def test_a_run_is_compiled_from_shapes_alone(
    nerf_config, prior_folder, monkeypatch, capsys
):
    nerf_config.prior.path = str(prior_folder)
    nerf_config.prompt = "a red mushroom"

    def refuse(*args, **options):
        pytest.fail("reads weights")

    monkeypatch.setattr(weights, "load_params", refuse)
    session.start(
        "preflight", nerf_config, "", overwrite=False, command=["python", "test"]
    )
    said = capsys.readouterr().out
    assert "no weight is loaded" in said and "H100" in said


def test_memory_is_that_of_the_step_itself(nerf_config, prior_folder):
    nerf_config.prior.path = str(prior_folder)
    nerf_config.prompt = "a red mushroom"
    config = config_lib.validate(nerf_config)
    needs = preflight.measure(config)
    run = build.build(config)
    state = run.init()
    arguments = (state, run.prior_params, run.prompts)
    real = run.step.lower(*arguments).compile().memory_analysis()
    held = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(arguments)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    # The state is donated: its buffers hold the result. What is new are temporaries.
    assert needs.memory == pytest.approx(held + real.temp_size_in_bytes, rel=0.1)
    assert needs.flops > 1e6 and needs.traffic > held
    assert 5e7 < needs.program < 2e10
