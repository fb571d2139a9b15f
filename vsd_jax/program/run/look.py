# SPDX-License-Identifier: Apache-2.0
"""The look inside the step as a picture and as numbers, beside each contact sheet."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from vsd_jax import inside
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build.build import Run
from vsd_jax.program.folder import writer
from vsd_jax.program.terminal import progress
from vsd_jax.scene.camera import make_camera_sampler
from vsd_jax.types import VSDState

LEVELS = (0.2, 0.5, 0.8)
"""Timesteps that are looked at, as shares of the diffusion's length."""

COLUMNS = {
    "render": "render",
    "noisy": "x_t",
    "prior": "prior's x_0",
    "score": "score network's x_0",
}
_TOP, _LEFT = 22, 62
_CANDIDATES = 32


def make_view(config: Config) -> inside.View:
    """The same view at every look: as training draws them, as much from the front as
    one of some draws is, before the background that is drawn most."""
    settings = Settings(config)
    sample = make_camera_sampler(settings.views.camera)
    cameras = jax.vmap(sample)(
        jax.random.split(jax.random.key(config.seed), _CANDIDATES)
    )
    height = np.abs(np.asarray(cameras.elevation_deg) - config.eval.elevation_deg)
    nearest = int(np.argmin(np.abs(np.asarray(cameras.azimuth_deg)) + height))
    colors, shares, _ = settings.background.table()
    index = int(np.argmax(shares))
    return inside.View(
        camera=jax.tree.map(lambda leaf: leaf[nearest], cameras),
        background=jnp.asarray(colors[index]),
        background_index=jnp.int32(index),
    )


class Looker:
    """Looks at particle 0, always from the same side and through the same noise."""

    def __init__(self, config: Config, run: Run):
        """Compiles nothing yet.

        Args:
          config: validated.
          run: from `build.build`; one without `look` gives no pictures.
        """
        self._run, self._tile = run, config.log.sheet_size
        self._on = config.log.inside and run.look is not None
        if not self._on:
            return
        if config.num_shards > 1:
            progress.say("No look inside the step: num_shards holds the prior apart.")
            self._on = False
            return
        view = make_view(config)
        num_t = len(run.prior.alphas_cumprod)
        self._t = np.array([round(level * num_t) for level in LEVELS], np.int32)

        @jax.jit
        def look(one, networks, prompts):
            key = jax.random.key(config.seed)
            t = jnp.asarray(self._t)
            return run.look(one, networks, prompts, view, key, t=t)

        self._look = look

    def picture(self, state: VSDState) -> tuple[np.ndarray, dict[str, float]] | None:
        """A row for each timestep of `LEVELS`, a column for each of `COLUMNS`.

        Args:
          state: of one or several devices; not donated.

        Returns:
          (picture [H, W, 3] in [0, 1], `inside/prior_error_t0` and so on: root mean
          square difference of x_0 from that of the render); None if it is switched off,
          or the device has no memory for it, which is said once.
        """
        if not self._on:
            return None
        networks = (state.score.params, self._run.prior_params)
        particles = (state.particles.params, state.particles.stats)
        one = jax.tree.map(lambda leaf: leaf[0], particles)
        try:
            # Of several devices' run the particle is spread over all of them, and the
            # frozen weights are on the host.
            one, networks = jax.device_put((one, networks), jax.local_devices()[0])
            found = self._look(one, networks, self._run.prompts)
            found = jax.device_get(found)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            self._on = False
            progress.say("No more looks inside the step: the memory does not suffice.")
            return None
        numbers = {
            f"inside/{name}_t{row}": float(value)
            for name in ("prior_error", "score_error")
            for row, value in enumerate(found.get(name, ()))
        }
        return self._draw(found), numbers

    def _draw(self, found: dict[str, np.ndarray]) -> np.ndarray:
        found["render"] = np.broadcast_to(found["render"], found["noisy"].shape)
        names = [name for name in COLUMNS if name in found]
        images = np.stack([found[name] for name in names], axis=1)
        sheet = writer.contact_sheet(images, tile_size=max(self._tile, 128))
        paper = np.ones((sheet.shape[0] + _TOP, sheet.shape[1] + _LEFT, 3))
        paper[_TOP:, _LEFT:] = sheet
        picture = Image.fromarray(writer.to_uint8(paper))
        draw = ImageDraw.Draw(picture)
        height, width = (
            n / count
            for n, count in zip(sheet.shape[:2], images.shape[:2], strict=True)
        )
        for column, name in enumerate(names):
            place = (_LEFT + (column + 0.5) * width, _TOP / 2)
            draw.text(place, COLUMNS[name], fill=(60, 60, 60), anchor="mm")
        for row, t in enumerate(self._t):
            place = (_LEFT / 2, _TOP + (row + 0.5) * height)
            draw.text(place, f"t = {t}", fill=(60, 60, 60), anchor="mm")
        return np.asarray(picture, np.float32) / 255
