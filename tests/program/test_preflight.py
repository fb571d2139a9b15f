# SPDX-License-Identifier: Apache-2.0
"""Memory and time before anything is loaded."""

import jax
import pytest

from vsd_jax.program.build import build
from vsd_jax.program.devices import preflight
from vsd_jax.program.prior import weights
from vsd_jax.program.run import session
from vsd_jax.program.settings import config as config_lib

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


def test_answer_names_what_does_not_fit_and_what_to_change(nerf_config):
    text = preflight.describe(config_lib.validate(nerf_config), NEEDS)
    lines = {line[:12].strip(): line for line in text.splitlines()}
    assert " no " in lines["T4"] and " yes " in lines["A100 80 GB"]
    assert "prior.dtype=bfloat16" in text and "20.00 GB" in text


def test_a_cpu_shares_its_memory_with_the_program(nerf_config):
    needs = NEEDS._replace(program=2.5e9)
    text = preflight.describe(config_lib.validate(nerf_config), needs)
    assert "about 22.50 GB resident" in text and "2.50 GB of the program" in text


def test_a_run_is_compiled_from_shapes_alone(
    nerf_config, prior_folder, monkeypatch, capsys
):
    nerf_config.prior.path = str(prior_folder)
    nerf_config.prompt = "anything"

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
    nerf_config.prompt = "anything"
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
