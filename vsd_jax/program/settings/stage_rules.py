# SPDX-License-Identifier: Apache-2.0
"""What a configuration may say of each kind of scene, for `program/build/stages.py`.

Functions take the flat configuration `{"section.key": value}` and yield sentences.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Flat = Mapping[str, Any]


def nerf_faults(flat: Flat) -> Iterator[str]:
    """Of a NeRF."""
    yield from _factor_faults(flat, refused=("normal_consistency", "laplacian"))


def geometry_faults(flat: Flat) -> Iterator[str]:
    """Of the geometry stage."""
    yield from _mesh_faults(flat)
    yield from _factor_faults(flat, allowed=("normal_consistency", "laplacian"))
    if flat["render.environment_share"]:
        yield (
            f"render.environment_share={flat['render.environment_share']} takes a"
            " learned background, which field.kind=geometry has none of; set it to 0."
        )


def texture_faults(flat: Flat) -> Iterator[str]:
    """Of the texture stage."""
    yield from _mesh_faults(flat)
    yield from _factor_faults(flat)


def flat_faults(flat: Flat) -> Iterator[str]:
    """Of an image or a latent."""
    kind = flat["field.kind"]
    if flat["vsd.view_prompts"]:
        yield f"field.kind={kind} has no views; set vsd.view_prompts=False."
    if flat["vsd.views_per_step"] != 1:
        yield (
            f"vsd.views_per_step={flat['vsd.views_per_step']} would repeat one picture"
            f" with field.kind={kind}; set it to 1."
        )
    if flat["mesh.source"]:
        yield (
            f"mesh.source={flat['mesh.source']!r} has no meaning with"
            f" field.kind={kind}, which starts from noise; leave it out."
        )
    if flat["camera.adapt"]:
        yield (
            f"camera.adapt={flat['camera.adapt']} has no views to choose from; leave it"
            " out."
        )
    yield from _factor_faults(flat)


def _mesh_faults(flat: Flat) -> Iterator[str]:
    if flat["camera.law"] != "orbit" or flat["field.init"] != "object":
        yield (
            f"field.kind={flat['field.kind']} is for an object seen from outside; set"
            " camera.law=orbit and field.init=object."
        )
    if not flat["render.near"]:
        yield (
            f"render.near=0 with field.kind={flat['field.kind']}: no face can be seen"
            " at depth 0; give a little more, such as 0.01."
        )


def _factor_faults(
    flat: Flat,
    *,
    allowed: tuple[str, ...] = (),
    refused: tuple[str, ...] = ("",),  # which any name ends with
) -> Iterator[str]:
    """Regularisers of which this kind of scene knows nothing."""
    factors = [
        key
        for key in flat
        if key.startswith("regularize.")
        and flat[key]
        and key.endswith(refused)
        and not key.endswith(("_start", *allowed))
    ]
    if factors:
        yield (
            f"{factors[0]} has no meaning with field.kind={flat['field.kind']}; set it"
            " to 0."
        )
