# SPDX-License-Identifier: Apache-2.0
"""What rooms, mesh stages and the 2D experiment change; sources as in `numbers.py`."""

from collections.abc import Callable, Mapping

from vsd_jax.presets.numbers import (
    EMBEDDED_VARIANTS,
    GIVEN,
    LAYERS,
    PAPER,
    VARIANTS,
    Layer,
    PartOf,
)

_WHITE_ALONE = dict(
    background_colors=((1.0, 1.0, 1.0),),
    background_words=("",),
    background_shares=(1.0,),
)

# The embedded prior's words for views do not tell a low camera from a high one: its
# "front" is seen from below and from up to 60 degrees, a particle a compromise [ours].
_NOT_OVERHEAD = dict(not_overhead_deg=30.0)
# The mesh stages as the refinement, once there is a shape: nearer to truth than with
# guidance 3 and much noise, no speckle (docs/results.md) [ours].
_LITTLE_NOISE = dict(guidance_scale=2.0, t_range=(0.02, 0.5), t_range_late=(0.02, 0.3))
_TOLD = dict(tell_camera=True)  # it reads the exact camera too (model card)

EMBEDDED_OBJECT: Layer = {  # trials that chose these: docs/results.md [ours]
    "field": dict(density_scale=10.0),
    "render": dict(occupancy_threshold=0.05),
    "prior": _TOLD,
    # Nearer to truth than at 3 (six prompts, one seed).
    "vsd": dict(guidance_scale=2.0, **_NOT_OVERHEAD),
    "family": dict(exact_below=0.2),  # else speckle (docs/results.md)
    # Against haze, once there is a shape; sizes that act beside the residual.
    "regularize": dict(
        z_variance=300.0,
        z_variance_start=PartOf("num_steps", 1, 2),
        opaque=100.0,
        opaque_start=PartOf("num_steps", 1, 2),
    ),
}

SCENE: Layer = {
    "camera": dict(radius=(0.1, 2.3), box_half_extent=0.9),  # [T scene]
    "eval": dict(radius=0.85),  # inside, where training stands [ours]
    "regularize": dict(entropy=0.0, z_variance=1.0),  # [T scene]
    "vsd": dict(anneal_step=PartOf("num_steps", 2, 5)),  # 10,000 [T]
    "field": dict(environment=False),
    "render": dict(environment_share=0.0),  # else it could paint the room on the sky
}
ROOM: Layer = {
    "vsd": dict(view_prompts=False),  # a room has no front
    "field": dict(init="scene"),
    # A room fills the cube: no empty space to skip, and nothing is thinned.
    "render": dict(occupancy_resolution=0, capacity=1.0),
}
OBJECT_IN_SCENE: Layer = {"field": dict(init="object_in_scene")}

EMBEDDED_SCENE: Layer = {  # the cameras that the embedded prior knows
    "prior": _TOLD,  # else a room has blobs in place of windows (docs/results.md)
    "regularize": dict(z_variance=0.0),
    "render": dict(near=0.05, capacity=0.5, background_words=("", "", "")),
    "camera": dict(overhead_share=0.0, box_half_extent=0.0),
    # The hollow of the paper is wider than this cube. Its walls are thin in the middle
    # of each side: they must be opaque there, or the background is seen through them.
    "field": dict(scene_strength=-60.0, scene_radius=0.7),
    # Most of what the prior knows is toys on white, which guidance leads away from.
    "vsd": dict(guidance_scale=2.0),
}
EMBEDDED_ROOM: Layer = {
    "": dict(prompt="a blue room"),
    "render": dict(occupancy_resolution=0, capacity=1.0, near=0.2),
    "camera": dict(
        law="inside",
        position_radius=0.25,
        fov_deg=(75.0, 75.0),
        elevation_deg=(-20.0, 20.0),
    ),
    "eval": dict(fov_deg=75.0, elevation_deg=0.0),
}
EMBEDDED_OBJECT_IN_SCENE: Layer = {
    "": dict(prompt="a red mushroom in a blue room"),
    "field": dict(
        object_radius=0.3,
        switch_radius=0.5,
        scene_strength=-200.0,
        scene_radius=0.8,  # beyond the cameras
        init_centre=(0.0, -0.3, 0.0),
    ),
    "camera": dict(
        target=(0.0, -0.3, 0.0),
        radius=(0.55, 0.7),
        fov_deg=(70.0, 70.0),
        elevation_deg=(5.0, 35.0),
    ),
    "eval": dict(radius=0.62, fov_deg=70.0, elevation_deg=20.0),
}
LONGER_ROOM: Layer = {"": dict(num_steps=600)}

REFINE: Layer = {  # goes on with a NeRF: pictures denoised in steps [ours]
    "": dict(num_steps=2_500),
    "vsd": dict(
        method="sdedit",
        t_range=(0.02, 0.5),
        t_range_late=(0.02, 0.3),
        anneal_step=PartOf("num_steps", 1, 2),
    ),
    "render": dict(early_size=0),
    "mesh": dict(source=GIVEN),
}
EMBEDDED_REFINE: Layer = {
    "": dict(num_steps=250),
    # Not SDEdit: to the eye legs and slats stay, and colours are not pale.
    "vsd": dict(method="vsd"),
    "family": dict(exact_below=0.2),
    "regularize": dict(z_variance_start=0, opaque_start=0),
    "log": dict(inside=False),  # its program alone compiles for 20 s
}

GEOMETRY: Layer = {
    "": dict(num_steps=15_000),  # [O run.sh]
    "field": dict(kind="geometry", environment=False),
    "vsd": dict(
        method="sds",  # [P]
        guidance_scale=100.0,  # [P]
        t_range=(0.02, 0.5),  # [O]; annealed from .98 at 5,000 in [T]
    ),
    "render": dict(
        density_noise=0.0,
        environment_share=0.0,
        early_size=0,
        occupancy_resolution=0,
        capacity=1.0,
        # Normals on black [T]; [O] adds a background to grey, which was not meant.
        **(_WHITE_ALONE | dict(background_colors=((0.0, 0.0, 0.0),))),
    ),
    "eval": dict(background=(0.0, 0.0, 0.0)),
    "regularize": dict(
        entropy=0.0,
        z_variance=0.0,
        normal_consistency=10_000.0,  # [T], as it takes vertex normals
        laplacian=0.5,  # [O]
    ),
    "camera": dict(fov_deg=(30.0, 60.0)),  # [O]
}
EMBEDDED_GEOMETRY: Layer = {  # normal maps as the embedded prior knows them
    "": dict(prompt_prefix="a normal map of ", num_steps=400),
    "prior": _TOLD,
    "mesh": dict(resolution=40),
    "render": dict(size=128),
    "camera": dict(fov_deg=(40.0, 40.0)),
    "optim": dict(sdf_lr=1e-3, offset_lr=1e-2),
    # At this prior's size the paper's SDS inflates the shape (docs/results.md). VSD's
    # residual is a tenth of SDS's, and so is what must not outweigh it.
    "vsd": dict(method="vsd", **_LITTLE_NOISE, **_NOT_OVERHEAD),
    "family": dict(exact_below=0.2),
    "regularize": dict(normal_consistency=500.0),
}

TEXTURE: Layer = {
    "": dict(num_steps=30_000),  # [T], the flag of [O]
    "field": dict(kind="texture"),
    "vsd": dict(anneal_step=PartOf("num_steps", 1, 6)),  # 5,000 [P][T]
    "render": dict(
        density_noise=0.0, early_size=0, occupancy_resolution=0, capacity=1.0
    ),
    "regularize": dict(entropy=0.0, z_variance=0.0),
    "camera": dict(fov_deg=(30.0, 60.0)),  # [O]
}
EMBEDDED_TEXTURE: Layer = {
    "": dict(num_steps=400),
    "prior": _TOLD,
    "mesh": dict(resolution=40),
    "render": dict(size=128, capacity=0.7),
    "camera": dict(fov_deg=(40.0, 40.0)),
    "vsd": dict(**_LITTLE_NOISE, **_NOT_OVERHEAD),
    "family": dict(exact_below=0.2),
}
SMOKE_MESH: Layer = {
    "": dict(num_steps=4),
    "mesh": dict(resolution=8, surface_capacity=2.0),
}

IMAGE2D: Layer = {
    # Two of 16 a step: eight updates of the score network for each of a particle. With
    # one it lags, and the particles are less diverse (docs/experiments/image2d.md).
    "": dict(num_steps=1500, num_particles=16, particles_per_step=2),  # [2D]
    "field": dict(environment=False),
    "render": dict(environment_share=0.0, early_size=0, **_WHITE_ALONE),
    # One fixed camera: the score network's camera input carries nothing.
    "camera": dict(
        elevation_deg=(0.0, 0.0),
        azimuth_deg=(0.0, 0.0),
        radius=(1.0, 1.0),
        overhead_share=0.0,
        area_uniform_share=0.0,
    ),
    "vsd": dict(views_per_step=1, view_prompts=False),
    "regularize": dict(entropy=0.0),
    "optim": dict(b2=0.999),
}
PIXELS: Layer = {
    # A start near grey: noise of the width of all colours is not taken away again in
    # these moves (docs/experiments/image2d.md) [ours].
    "field": dict(kind="image", image_sigmoid=False, init_std=0.1),
    # Coordinates in [-1, 1]: every colour is in reach, and rates fall to rest [ours].
    "optim": dict(image_lr=0.05, decay=0.5),
}
LATENTS: Layer = {"field": dict(kind="latent", init_std=1.0)}
SMOKE_IMAGE2D: Layer = {
    "": dict(num_steps=4, num_particles=3, particles_per_step=PartOf("num_particles"))
}


def _object(variant: str) -> tuple[Layer, ...]:
    return (EMBEDDED_OBJECT,) if variant in EMBEDDED_VARIANTS else ()


def _room(variant: str) -> tuple[Layer, ...]:
    if variant not in EMBEDDED_VARIANTS:
        return (SCENE, ROOM)
    longer = () if variant == "smoke" else (LONGER_ROOM,)
    return (SCENE, ROOM, EMBEDDED_SCENE, EMBEDDED_ROOM, *longer)


def _object_in_scene(variant: str) -> tuple[Layer, ...]:
    if variant not in EMBEDDED_VARIANTS:
        return (SCENE, OBJECT_IN_SCENE)
    return (SCENE, OBJECT_IN_SCENE, EMBEDDED_SCENE, EMBEDDED_OBJECT_IN_SCENE)


def _refine(variant: str) -> tuple[Layer, ...]:
    embedded = (EMBEDDED_REFINE,) if variant in EMBEDDED_VARIANTS else ()
    short = ({"": dict(num_steps=4)},) if variant == "smoke" else ()
    return (*_object(variant), REFINE, *embedded, *short)


def _geometry(variant: str) -> tuple[Layer, ...]:
    embedded = (EMBEDDED_GEOMETRY,) if variant in EMBEDDED_VARIANTS else ()
    return (GEOMETRY, *embedded, *((SMOKE_MESH,) if variant == "smoke" else ()))


def _texture(variant: str) -> tuple[Layer, ...]:
    embedded = (EMBEDDED_TEXTURE,) if variant in EMBEDDED_VARIANTS else ()
    return (TEXTURE, *embedded, *((SMOKE_MESH,) if variant == "smoke" else ()))


def _image2d(variant: str) -> tuple[Layer, ...]:
    what = PIXELS if variant in EMBEDDED_VARIANTS else LATENTS
    return (IMAGE2D, what, *((SMOKE_IMAGE2D,) if variant == "smoke" else ()))


KINDS: Mapping[str, Callable[[str], tuple[Layer, ...]]] = {
    "object": _object,
    "room": _room,
    "object_in_scene": _object_in_scene,
    "refine": _refine,
    "geometry": _geometry,
    "texture": _texture,
    "image2d": _image2d,
}


def layers_of(kind: str, variant: str) -> tuple[Layer, ...]:
    """The layers of a preset, `PAPER` first.

    Args:
      kind: one of `KINDS`.
      variant: one of `VARIANTS`.

    Raises:
      ValueError: if there is no such kind or variant.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown preset {kind!r}: use one of {', '.join(KINDS)}.")
    if variant not in VARIANTS:
        raise ValueError(
            f"Unknown variant {variant!r}: use one of {', '.join(VARIANTS[1:])}, or"
            " nothing after the file name for the embedded prior."
        )
    return (PAPER, *LAYERS[variant], *KINDS[kind](variant))
