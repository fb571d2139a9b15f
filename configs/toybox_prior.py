# SPDX-License-Identifier: Apache-2.0
"""Training of the embedded prior on the Toybox.

  python -m vsd_jax.toybox.dataset --out=DATA --num_objects=24000 --high=0.36
  python -m vsd_jax.toybox.train --config=configs/toybox_prior.py \
      --config.data=DATA --workdir=RUN

Six minutes on one H200; two cores need 0.4 to 0.9 s for a step of 16 images. Variants:
`:smoke`, the same code in seconds, and `:refine` (`vsd_jax/toybox/refining.py`).
"""

import ml_collections

from vsd_jax.toybox import dataset, refining


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The settings; `variant` is "", "refine" or "smoke"."""
    config = ml_collections.ConfigDict(refining.settings(variant))
    config.data = ""  # folder made by vsd_jax.toybox.dataset
    config.init_from = ""  # diffusers-format folder to start from ("" = random)
    config.seed = 0
    config.num_steps = 16_000
    config.batch_size = 256
    config.learning_rate = 1e-3  # AdamW, after the warm-up
    config.warmup_steps = 500
    config.decay_fraction = 0.6  # of num_steps, at the end, linear
    config.final_fraction = 0.02  # last learning rate / learning_rate
    config.weight_decay, config.max_grad_norm = 0.01, 1.0
    config.ema_decay = 0.999  # reached after a warm-up (1 + step) / (10 + step)
    # Of the loss weight 1 / max(sigma_t^2, floor); above it that is the v-loss.
    config.sigma2_floor = 0.05
    config.t_power = 1.5  # t / T = u^(1 / power), u uniform; 1 = uniform t
    config.snr_divisor = 8.0  # signal-to-noise ratio of Stable Diffusion / ours

    config.text_dropout = 0.1  # empty prompt, for guidance (arXiv:2207.12598)
    # Captions without a view word; without the colour.
    config.view_dropout, config.colour_dropout = 0.1, 0.08
    config.normal_fraction = 0.15  # of object images, shown as normal map
    config.overhead_fraction = dataset.OVERHEAD_FRACTION  # from above alone
    # Half of the above is of these; () = of all.
    config.hard_kinds = dataset.HARD_KINDS
    config.background_weights = (0.7, 0.15, 0.15)  # white, grey, black

    config.patch = 4  # pixels; 64 x 64 images -> 16 x 16 latents
    config.channels = (64, 128, 128)
    config.layers_per_block = 1
    config.num_heads = 4
    config.text_width, config.text_layers = 128, 2
    config.text_length = 16

    config.log_every = 50
    config.save_every = 2000
    config.sample_every = 8000
    if variant == "smoke":
        config.num_steps, config.batch_size, config.warmup_steps = 3, 2, 1
        config.channels = (32, 32, 32)
        config.text_width, config.text_layers = 32, 1
        config.log_every = config.save_every = config.sample_every = 2
    return config
