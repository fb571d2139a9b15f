# SPDX-License-Identifier: Apache-2.0
"""The pieces of the prior's training against closed forms."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from configs import toybox_prior
from vsd_jax.program.prior import hub, schedule
from vsd_jax.program.terminal.errors import ConfigError
from vsd_jax.toybox import batches, prior_files, sheets, train


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_timesteps_are_stratified_with_the_stated_density(power):
    draws = np.concatenate(
        [
            batches.stratified_t(jax.random.key(seed), 8, 1000, power)
            for seed in range(200)
        ]
    )
    assert draws.min() >= 0 and draws.max() <= 999
    # P(t / T < x) = x^power; each draw of 8 has exactly one in every eighth of it.
    for x in (0.3, 0.5, 0.9):
        assert np.mean(draws < 1000 * x) == pytest.approx(x**power, abs=0.02)
    eighths = np.floor((draws.reshape(-1, 8) / 1000.0) ** power * 8 + 1e-3)
    assert np.mean(eighths == np.arange(8)) > 0.97


def test_loss_is_the_v_loss_above_the_floor():
    x0, noise, error = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 3))
    sigma_t = np.array([0.6, 0.8]).reshape(2, 1, 1, 1)
    alpha_t = np.sqrt(1 - sigma_t**2)
    noisy = alpha_t * x0 + sigma_t * noise
    v = alpha_t * noise - sigma_t * x0
    v_pred = (alpha_t * noisy - (x0 + error)) / sigma_t
    loss = train.weighted_x0_loss(x0 + error, x0, jnp.asarray(sigma_t), 0.1)
    assert float(loss) == pytest.approx(np.mean((v_pred - v) ** 2), rel=1e-5)
    floored = train.weighted_x0_loss(x0 + error, x0, jnp.asarray(sigma_t * 0.1), 0.1)
    assert float(floored) == pytest.approx(np.mean(error**2) / 0.1, rel=1e-5)


def test_relative_loss_counts_every_noise_level_alike():
    config = {"error_scale": 0.02, "error_power": 0.5, "error_limit": 0.4}
    x0, error = np.random.default_rng(0).normal(size=(2, 2, 4, 4, 3))
    for ratio, expected in ((0.1, 0.002), (2.0, 0.04), (100.0, 0.4)):
        sigma_t = jnp.full((2, 1, 1, 1), ratio / np.sqrt(1 + ratio**2))
        loss = train.relative_x0_loss(x0 + error, x0, sigma_t, config)
        assert float(loss) == pytest.approx(np.mean(error**2) / expected, rel=1e-3)


def test_head_alone_is_trained_and_rates_slow_the_rest(monkeypatch):
    """Four leaves, gradient one each: who moves, and how far."""
    config = toybox_prior.get_config("smoke").to_dict() | {
        "unet_rate": 0.5,
        "text_rate": 0.25,
        "camera_rate": 3.0,
        "batch_size": 2,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "train_only": "",
    }
    batch = jnp.zeros((2, 64, 64, 3)), jnp.zeros((2, 4), jnp.int32), jnp.zeros((2, 16))
    monkeypatch.setattr(train.batches, "draw_batch", lambda *_: batch)
    params = {
        "unet": {
            "body": jnp.zeros(1),
            "refine": {"head": jnp.zeros(1)},
            "camera_embedding": {"layer": jnp.zeros(1)},
        },
        "text": {"tower": jnp.zeros(1)},
    }

    def unet_fn(params, noisy, t, context):
        unet = params["unet"]
        total = unet["body"] + unet["refine"]["head"] + context["text"]
        total += unet["camera_embedding"]["layer"]
        return jnp.ones_like(noisy) + total.reshape(1, 1, 1, 1)

    def moved(config):
        part = train.trained_part(params, config["train_only"])
        state = train.TrainState(
            params=params,
            average=params,
            opt_state=train.make_optimizer(config).init(part),
            step=jnp.zeros((), jnp.int32),
        )
        step = train.make_train_step(
            config, unet_fn, lambda p, ids: p["tower"], np.linspace(0.99, 0.01, 1000)
        )
        state, _ = step(jax.tree.map(jnp.copy, state), None)
        after = jax.device_get(state.params)
        unet, tower = after["unet"], after["text"]["tower"]
        head, camera = unet["refine"]["head"], unet["camera_embedding"]["layer"]
        return [float(x[0] / head[0]) for x in (unet["body"], tower, camera)]

    assert moved(config) == pytest.approx([0.5, 0.25, 3.0], rel=1e-4)
    assert moved(config | {"train_only": "refine"}) == [0.0, 0.0, 0.0]


def test_learning_rate_warms_up_stays_and_decays():
    config = toybox_prior.get_config().to_dict() | {
        "num_steps": 100,
        "warmup_steps": 10,
        "learning_rate": 1.0,
        "weight_decay": 0.0,
        "decay_fraction": 0.3,
    }
    optimizer = train.make_optimizer(config)
    params = jnp.ones(3)
    state = optimizer.init(params)
    sizes = []
    for _ in range(100):
        # Adam's step for a constant gradient is the learning rate.
        updates, state = optimizer.update(jnp.ones(3), state, params)
        sizes.append(float(-updates[0]))
    assert sizes[0] == 0.0 and sizes[5] == pytest.approx(0.5, rel=1e-3)
    assert sizes[10] == pytest.approx(1.0, rel=1e-3) == pytest.approx(sizes[69])
    assert sizes[85] == pytest.approx(0.51, abs=0.02) and sizes[99] < 0.06


def test_the_tokenizer_goes_with_the_weights(tmp_path):
    # The word pieces' order has ties, so that writing them anew may number them anew.
    config = toybox_prior.get_config("smoke").to_dict()
    first, second = tmp_path / "first", tmp_path / "second"
    prior_files.write_folder(first, config, ["red", "car"])
    vocab = first / "tokenizer" / "vocab.json"
    swapped = vocab.read_text().replace('"a": ', '"?": ', 1).replace('"b": ', '"a": ')
    vocab.write_text(swapped)
    prior_files.write_folder(first, config, ["red", "car"])  # as resuming does
    config["init_from"] = str(first)
    prior_files.write_folder(second, config, ["red", "car"])
    for folder in (first, second):
        assert (folder / "tokenizer" / "vocab.json").read_text() == swapped
    written = (second / "text_encoder" / "config.json").read_text()
    assert written == (first / "text_encoder" / "config.json").read_text()


def _write_dataset(folder):
    """Four random pictures of a car, of all view words."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, channels in (("rgba", 4), ("normal", 3)):
        shape = (4, 64, 64, channels)
        np.save(folder / f"{name}.npy", rng.integers(0, 256, shape, np.uint8))
    columns = {"kind": 9, "colour": 0, "room": 0, "room_colour": -1}
    np.savez(
        folder / "meta.npz",
        **{name: np.full(4, value) for name, value in columns.items()},
        azimuth_deg=np.array([0.0, 90.0, 180.0, 0.0]),
        elevation_deg=np.array([0.0, 0.0, 0.0, 80.0]),
        cam_to_world=np.tile(np.eye(4), (4, 1, 1)),
    )


def _one_matrix(folder):
    """Networks of one matrix each in place of those in `folder`: nothing to compile."""

    def unet_fn(params, latents, t, context):
        mean = context["text"].mean(1)[:, None, None]
        return latents @ params["unet"]["kernel"] + mean

    return sheets.Models(
        latent_shape=(16, 16, 48),
        unet_init=None,
        unet_fn=unet_fn,
        text_init=None,
        text_fn=lambda params, ids: params["kernel"][ids],
        tokenize=lambda texts: np.array([[len(text)] * 2 for text in texts]),
        alphas_cumprod=np.linspace(0.99, 0.01, 1000),
    )


@pytest.mark.parametrize("channels", [0, 8])
def test_a_stopped_training_goes_on_to_the_same_weights(
    tmp_path, monkeypatch, channels
):
    _write_dataset(tmp_path / "data")
    monkeypatch.setattr(train, "make_models", _one_matrix)
    params = {"unet": np.eye(48), "text": np.zeros((99, 48))}
    monkeypatch.setattr(
        train,
        "init_params",
        lambda *_: {k: {"kernel": jnp.asarray(v)} for k, v in params.items()},
    )
    config = toybox_prior.get_config("smoke").to_dict() | {
        "data": str(tmp_path / "data"),
        "save_every": 1,
        "log_every": 1,
        "refine_channels": channels,
    }
    steps = []

    def stop_once(path, *_):
        steps.append(path.stem)
        if len(steps) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(sheets, "save_sheet", stop_once)
    with pytest.raises(KeyboardInterrupt):
        train.train(config, tmp_path / "stopped")
    stopped = train.train(config, tmp_path / "stopped")
    assert steps == ["step_000002", "step_000003"]  # of 3, the sheets at 2 and the last
    straight = train.train(config, tmp_path / "straight")
    logs = [
        [json.loads(line)["loss"] for line in open(folder.parent / "metrics.jsonl")]
        for folder in (stopped, straight)
    ]
    assert logs[0] == logs[1] and len(set(logs[0])) == 3
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        files = [f / f"{part}.safetensors" for f in (stopped, straight)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_committed_schedule_is_that_of_a_prior_with_a_head():
    """A head's schedule begins with less noise and ends in the same."""
    committed = json.loads(
        (hub.TOYBOX / "scheduler" / "scheduler_config.json").read_text()
    )
    made = prior_files.scheduler_config(8.0, 0.5)
    # The last bits of exp and log are the processor's.
    betas = committed.pop("trained_betas")
    assert made.pop("trained_betas") == pytest.approx(betas, rel=1e-9)
    assert made == committed
    own, refined = (
        schedule.noise_schedule(prior_files.scheduler_config(8.0, first))
        for first in (None, 0.5)
    )
    assert (1 - refined[0]) / refined[0] == pytest.approx(
        (1 - own[0]) / own[0] / 16, rel=1e-3
    )
    assert refined[-1] == own[-1]


_CONFIG = f"--config={Path(toybox_prior.__file__)}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((f"{_CONFIG}:smok",), "there is no variant :smok; there are :smoke, :refine"),
        ((_CONFIG, "--config.num_stepz=3"), 'Did you mean "num_steps"'),
        ((_CONFIG, "--config.num_steps=few"), "--config.num_steps=few"),
        (("--config=nothing.py",), "nothing.py"),
        (("--wurkdir=here",), "wurkdir"),
        ((_CONFIG,), "workdir is missing"),
    ],
)
def test_wrong_flags_are_told_in_words(arguments, said, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", *arguments])  # ml_collections reads it
    values = train.define(flags.FlagValues())
    with pytest.raises(ConfigError, match=re.escape(said)):
        train.parse(sys.argv, values)
