# SPDX-License-Identifier: Apache-2.0
"""The keys of `configs/base.py` that do not touch what is learned."""

from ml_collections import ConfigDict


def evaluation() -> ConfigDict:
    """What is rendered and measured at the end; may differ when a run is resumed."""
    evaluate = ConfigDict()
    evaluate.turntable_frames = 100  # of a full turn [O]
    evaluate.turntable_size = 512  # side of a frame, pixels [T]; 800 in [O]
    evaluate.fps = 25.0  # [O]
    evaluate.radius = 1.8  # [O]
    evaluate.elevation_deg = 15.0  # [T]
    evaluate.fov_deg = 55.0  # middle of the training range [O]
    evaluate.checkpoint = "last"  # or "best", see log.best; training ends with "last"
    evaluate.num_views = 16  # views that the metrics judge
    evaluate.background = (1.0, 1.0, 1.0)  # white [O]
    # What the prior itself says of those views (arXiv:2303.16203): draws of (t, noise)
    # for each, 0 = not asked; t evenly between these shares of its length [ours].
    evaluate.prior_draws = 8
    evaluate.prior_t_range = (0.4, 0.8)
    return evaluate


def export() -> ConfigDict:
    """The mesh; may differ when a run is resumed."""
    export = ConfigDict()
    export.resolution = 256  # nodes of the marching cubes grid along an axis [O][T]
    export.level = 0.0  # density of the surface; 0 = chosen against the renders
    export.min_component = 0.02  # smaller pieces, by faces, are dropped; .01 in [T]
    export.texture_size = 1024  # side of the texture, texels [T]; 0 = vertex colours
    export.max_faces = 50_000  # of the textured mesh [ours]; 100,000 [O]; 0 = no limit
    # Side of the pictures in which a baked texture is compared with the texture stage's
    # own renders, pixels; 0 = not compared.
    export.check_size = 512
    export.chunk = 65_536  # points evaluated at a time (memory, not a result)
    return export


def log(num_steps) -> ConfigDict:
    """What is written while a run goes on; may differ when it is resumed. 0 = never."""
    log = ConfigDict()
    log.metrics_every = 10  # steps
    log.image_every = num_steps // 25  # steps between contact sheets
    log.checkpoint_every = num_steps // 10  # steps
    # Minutes after which one is written as well, where a runtime may be lost at any
    # time; in one process alone.
    log.checkpoint_minutes = 0.0
    log.keep_checkpoints = 2
    # One more stays: that before which this was lowest on average, since the checkpoint
    # before it: "residual/rms" or "score/loss" (metrics.jsonl); "" = none.
    log.best = ""
    log.sheet_views = 6  # views of each particle on a contact sheet
    log.sheet_size = 128  # side of a view on it, pixels
    return log
