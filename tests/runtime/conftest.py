# SPDX-License-Identifier: Apache-2.0
"""A tiny prior on disk, with random weights."""

import jax
import jax.numpy as jnp
import pytest

from configs import toybox_prior
from vsd_jax.runtime import diffusion_prior
from vsd_jax.toybox import prior_files, train
from vsd_jax.toybox.text import vocabulary


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory):
    """A diffusers-format folder as the Toybox's training writes it, in small."""
    path = tmp_path_factory.mktemp("prior")
    config = toybox_prior.get_config("smoke").to_dict()
    prior_files.write_folder(path, config, [*vocabulary(), ","])
    read = diffusion_prior.read_config
    unet = diffusion_prior.make_unet(read(path / "unet", "config.json"), jnp.float32)
    text = diffusion_prior.make_text_encoder(read(path / "text_encoder", "config.json"))
    with jax.numpy_rank_promotion("allow"):
        params = train.init_params(config, unet, text[0])
    train.save_prior(path, params)
    return path
