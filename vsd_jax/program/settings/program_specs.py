# SPDX-License-Identifier: Apache-2.0
"""Settings of what only the program does; the library's stand beside its parts."""

import dataclasses
from typing import Annotated

from vsd_jax.spec import OneOf, Within


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One run.

    Attributes:
      seed: seed of everything random in the run.
      num_steps: updates of each particle.
      num_particles: n, objects that are trained together from one text.
      particles_per_step: m, particles updated in each step; fewer than n saves memory.
      num_devices: devices that share the particles; if there are more devices than
        particles, also their views.
      num_shards: devices that hold one prior together, where one cannot; instead of
        num_devices.
      on_not_finite: "stop" the run when a particle's steps are not finite for long (its
        last checkpoint stays), or "restart" that particle from another draw.
    """

    seed: Annotated[int, Within(0, 2**31 - 1)]
    num_steps: Annotated[int, Within(1)]
    num_particles: Annotated[int, Within(1, 4096)]
    particles_per_step: Annotated[int, Within(1, 4096)]
    num_devices: Annotated[int, Within(1, 1024)]
    num_shards: Annotated[int, Within(1, 64)]
    on_not_finite: Annotated[str, OneOf(("stop", "restart"))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlySpec:
    """Smaller renders at first.

    Attributes:
      early_size: side of a render in the first steps, pixels; 0 = one size.
      early_steps: number of steps at that size.
    """

    early_size: Annotated[int, Within(0, 4096)]
    early_steps: Annotated[int, Within(0)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshStartSpec:
    """What a run goes on with.

    Attributes:
      source: folder of the finished run: a NeRF's for a NeRF ("" = `field.init`, "?" =
        to be given) or the geometry ("" = a ball of field.object_radius), the
        geometry's for the texture.
      smoothing: width of the filter that smooths the NeRF's level set, cells of the
        export grid.
    """

    source: str
    smoothing: Annotated[float, Within(0, 16)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """The frozen diffusion model.

    Attributes:
      path: "toybox" (embedded), a local folder, or a hub id: owner/name[@revision].
      variant: which of its weight files: "fp16" halves what is downloaded.
      image_size: side of its images, pixels, for one tuned to others; 0 = as its
        settings say.
      sha256: checksum that the U-Net's weight file must have; "" = any.
      dtype: type of its weights and activations; "float16" for GPUs without bfloat16
        (T4). Softmax, norms, LoRA and scene stay in float32.
      tell_camera: whether a multi-view prior is told the exact camera beside the text;
        that another prior does not read it is said.
    """

    path: str
    variant: str
    image_size: Annotated[int, Within(0, 4096)]
    sha256: str
    dtype: Annotated[str, OneOf(("float32", "bfloat16", "float16"))]
    tell_camera: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreSourceSpec:
    """Which network phi is.

    Attributes:
      kind: "lora" on the network in `path`, or "unet": a small one from scratch.
      path: folder or hub id of its frozen network; "" = the prior's own.
      prompt: whether it reads the plain prompt, or no text at all.
    """

    kind: Annotated[str, OneOf(("lora", "unet"))]
    path: str
    prompt: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """What is rendered and measured at the end; may differ when a run is resumed.

    Attributes:
      turntable_frames: frames of a full turn.
      turntable_size: side of a frame, pixels.
      fps: frames a second.
      radius: radius of the turntable's orbit, scene units.
      elevation_deg: elevation of the turntable's cameras.
      fov_deg: vertical field of view of the turntable's cameras.
      checkpoint: "last", or "best" (see log.best); training ends with "last".
      num_views: views that the metrics judge.
      background: (r, g, b) in [0, 1] behind those views.
      prior_draws: draws of (t, noise) for each view when the prior is asked about them
        (arXiv:2303.16203); 0 = not asked.
      prior_t_range: (low, high) of the timesteps at which the prior is asked, shares of
        T, evenly between.
    """

    turntable_frames: Annotated[int, Within(1, 10_000)]
    turntable_size: Annotated[int, Within(8, 4096)]
    fps: Annotated[float, Within(1, 120)]
    radius: Annotated[float, Within(0)]
    elevation_deg: Annotated[float, Within(-90, 90)]
    fov_deg: Annotated[float, Within(1, 170)]
    checkpoint: Annotated[str, OneOf(("last", "best"))]
    num_views: Annotated[int, Within(1, 1000)]
    background: tuple[float, float, float]
    prior_draws: Annotated[int, Within(0, 1000)]
    prior_t_range: Annotated[tuple[float, float], Within(0, 1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSpec:
    """The mesh files; may differ when a run is resumed.

    Attributes:
      resolution: nodes of the marching cubes grid along an axis.
      level: density of the surface; 0 = chosen against the renders.
      min_component: smaller pieces, as a share of the faces, are dropped.
      texture_size: side of the texture, texels; 0 = vertex colours.
      max_faces: most faces of the textured mesh; 0 = no limit.
      check_size: side of the pictures in which a baked texture is compared with the
        texture stage's own renders, pixels; 0 = not compared.
      chunk: points evaluated at a time (memory, not a result).
    """

    resolution: Annotated[int, Within(8, 1024)]
    level: Annotated[float, Within(0)]
    min_component: Annotated[float, Within(0, 1)]
    texture_size: Annotated[int, Within(0, 8192)]
    max_faces: Annotated[int, Within(0)]
    check_size: Annotated[int, Within(0, 4096)]
    chunk: Annotated[int, Within(64)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSpec:
    """What is written while a run goes on; may differ when it is resumed.

    Attributes:
      metrics_every: steps between rows of metrics.jsonl.
      image_every: steps between contact sheets; 0 = never.
      checkpoint_every: steps between checkpoints; 0 = only at the end.
      checkpoint_minutes: minutes after which one is written as well, where a runtime
        may be lost at any time; in one process alone. 0 = by steps only.
      keep_checkpoints: number of checkpoints that are kept.
      best: one more is kept: that before which "residual/rms" or "score/loss" was
        lowest on average, since the checkpoint before it; "" = none.
      sheet_views: views of each particle on a contact sheet.
      sheet_size: side of a view on it, pixels.
      inside: with each sheet a look inside the step: render, x_t, the prior's and the
        score network's x_0 at three timesteps. Costs about three steps without their
        gradients.
      tensorboard: event files beside metrics.jsonl; needs tensorboardX.
    """

    metrics_every: Annotated[int, Within(1)]
    image_every: Annotated[int, Within(0)]
    checkpoint_every: Annotated[int, Within(0)]
    checkpoint_minutes: Annotated[float, Within(0)]
    keep_checkpoints: Annotated[int, Within(1, 1000)]
    best: Annotated[str, OneOf(("", "residual/rms", "score/loss"))]
    sheet_views: Annotated[int, Within(1, 64)]
    sheet_size: Annotated[int, Within(8, 1024)]
    inside: bool
    tensorboard: bool
