# SPDX-License-Identifier: Apache-2.0
"""Small configurations, and the parts of `tests/tiny_runs.py` as fixtures."""

import pytest
import tiny_runs

from configs import image2d


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory):
    """A tiny prior on disk."""
    return tiny_runs.write_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def flat_config():
    """Three 8 x 8 images, six steps; a ConfigDict."""
    config = image2d.get_config("smoke")
    config.update(num_steps=6, num_particles=3)
    config.render.size = 8
    config.log.update(image_every=3, checkpoint_every=2, sheet_size=8)
    return config


@pytest.fixture
def nerf_config():
    """One small NeRF; a ConfigDict."""
    return tiny_runs.nerf_config()


@pytest.fixture
def fake_run():
    """`(config, step=None) -> Run`, see `tiny_runs.make_run`."""
    return tiny_runs.make_run


@pytest.fixture
def fake_metrics():
    """`(n, **changes) -> metrics`, see `tiny_runs.make_metrics`."""
    return tiny_runs.make_metrics
