# SPDX-License-Identifier: Apache-2.0
"""Presets: every number of a run, with its source, as settings of the library's parts.

    preset = presets.toybox("a red mushroom")            # the embedded prior
    preset = presets.stable_diffusion("a pineapple")     # the paper's
    preset = preset.replace({"field.hidden": 16, "num_steps": 900})
    preset.nerf, preset.views, preset.score, preset.tx, preset.prompt, preset.num_steps

The numbers stand in `numbers.py`; what rooms, mesh stages and images change in
`kinds.py`. The program's configurations are made from the same (`program/settings/`).
"""

import copy
from collections.abc import Mapping
from typing import Any

import optax

from vsd_jax.adaptive import AdaptSpec
from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.lora import LoraSpec
from vsd_jax.diffusion.prompt import PromptSpec, ViewPromptSpec
from vsd_jax.diffusion.small_unet import SmallUnetSpec
from vsd_jax.methods import Method, MethodSpec, make_method
from vsd_jax.particle import OptimSpec, particle_optimizer
from vsd_jax.presets.kinds import KINDS, layers_of
from vsd_jax.presets.numbers import VARIANTS, Layer, PartOf
from vsd_jax.scene.camera import CameraSpec
from vsd_jax.scene.image import ImageSpec
from vsd_jax.scene.mesh.geometry import MeshSpec
from vsd_jax.scene.nerf.field import FieldSpec
from vsd_jax.scene.nerf.nerf import NerfSpec, RenderSpec
from vsd_jax.scene.regularizers import RegularizerSpec
from vsd_jax.score_network import ScoreSpec, TrainingSpec
from vsd_jax.spec import pick
from vsd_jax.timesteps import TimestepSpec
from vsd_jax.views import BackgroundSpec, ViewsSpec

__all__ = [
    "KINDS",
    "VARIANTS",
    "PartOf",
    "Preset",
    "Settings",
    "join",
    "preset",
    "stable_diffusion",
    "toybox",
]


class Settings:
    """Settings of the library's parts, read from sections of keys.

    The program's configuration and `Preset` have the same sections, so both are read by
    this.
    """

    def __init__(self, values: Mapping[str, Any]):
        """Reads `values`: top-level keys, and a mapping for each section."""
        self._values = values

    @property
    def num_steps(self) -> int:
        """Training steps."""
        return self._values["num_steps"]

    @property
    def field(self) -> FieldSpec:
        """The radiance field."""
        return pick(FieldSpec, self._values["field"])

    @property
    def render(self) -> RenderSpec:
        """Volume rendering."""
        return pick(RenderSpec, self._values["render"])

    @property
    def nerf(self) -> NerfSpec:
        """A hash-grid NeRF, for `nerf`."""
        return NerfSpec(
            field=self.field,
            render=self.render,
            train_normals=self._values["regularize"]["orientation"] > 0,
        )

    @property
    def image(self) -> ImageSpec:
        """A picture as theta, for `image`."""
        return pick(ImageSpec, self._values["field"])

    @property
    def mesh(self) -> MeshSpec:
        """A mesh on a tetrahedral grid, for `mesh.geometry` and `mesh.texture`."""
        return pick(MeshSpec, self._values["mesh"])

    @property
    def background(self) -> BackgroundSpec:
        """The random backgrounds."""
        return pick(BackgroundSpec, self._values["render"])

    @property
    def timesteps(self) -> TimestepSpec:
        """The schedule of t."""
        values = self._values
        own = {**values["family"], **values["vsd"], "num_steps": values["num_steps"]}
        return pick(TimestepSpec, own)

    @property
    def views(self) -> ViewsSpec:
        """The distribution of views, for `views`."""
        values = self._values
        return ViewsSpec(
            camera=pick(CameraSpec, values["camera"]),
            adapt=pick(AdaptSpec, values["camera"]),
            background=self.background,
            prompts=pick(ViewPromptSpec, values["vsd"]),
            timesteps=self.timesteps,
            views_per_step=values["vsd"]["views_per_step"],
        )

    @property
    def prompt(self) -> PromptSpec:
        """The texts, for `encode_prompts`."""
        values = self._values
        return PromptSpec(
            prompt=values["prompt"],
            prompt_prefix=values["prompt_prefix"],
            negative_prompt=values["negative_prompt"],
            view_prompts=values["vsd"]["view_prompts"],
            height_prompts=values["vsd"]["height_prompts"],
            background_words=tuple(self.background.table()[2]),
            source_words=values["family"]["source_words"],
            score_prompt=values["score"]["prompt"],
        )

    @property
    def guidance(self) -> Guidance:
        """Options of guidance, for every method and for `sample`."""
        return pick(Guidance, self._values["vsd"])

    @property
    def method(self) -> Method:
        """The method that `vsd.method` names."""
        spec = pick(MethodSpec, self._values["vsd"])
        return make_method(spec, self.guidance, self._values["family"])

    @property
    def score(self) -> ScoreSpec:
        """The score network, for `lora` and `small_unet`."""
        values = self._values["score"]
        return ScoreSpec(
            lora=pick(LoraSpec, values),
            unet=pick(SmallUnetSpec, values),
            training=pick(TrainingSpec, values),
        )

    @property
    def optim(self) -> OptimSpec:
        """Adam for theta."""
        values = self._values
        moved = values["num_steps"] * values["particles_per_step"]
        num_updates = max(1, moved // values["num_particles"])
        return pick(OptimSpec, {**values["optim"], "num_updates": num_updates})

    @property
    def tx(self) -> optax.GradientTransformation:
        """The optimizer of one particle."""
        return particle_optimizer(self.optim)

    @property
    def regularizer(self) -> RegularizerSpec:
        """Factors of the regularisers, for `regularizers.make_regularizer`."""
        return pick(RegularizerSpec, self._values["regularize"])


class Preset(Settings):
    """A preset: settings with what follows other numbers worked out."""

    def __init__(self, sections: Layer):
        """Resolves `{section: {key: value or PartOf}}`; the section "" is the top."""
        self._sections = sections
        super().__init__(_resolve(sections))

    def replace(self, changes: Mapping[str, Any]) -> "Preset":
        """The preset with other values, such as `{"field.hidden": 16}`.

        Numbers that follow a changed one (`PartOf`) follow it.

        Raises:
          KeyError: if there is no such key.
        """
        layer: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            section, _, key = name.rpartition(".")
            layer.setdefault(section, {})[key] = value
        return Preset(join(self._sections, layer))

    def __getitem__(self, name: str) -> Any:
        """One value by its full name, such as "vsd.guidance_scale"."""
        section, _, key = name.rpartition(".")
        return (self._values[section] if section else self._values)[key]


def _resolve(sections: Layer) -> dict[str, Any]:
    top = sections[""]

    def plain(value: Any) -> Any:
        return value.of(plain(top[value.key])) if isinstance(value, PartOf) else value

    found: dict[str, Any] = {key: plain(value) for key, value in top.items()}
    for section, values in sections.items():
        if section:
            found[section] = {key: plain(value) for key, value in values.items()}
    return found


def join(*layers: Layer) -> dict[str, dict[str, Any]]:
    """Merges layers of settings; later ones override.

    Raises:
      KeyError: if a later layer has a section or key that the first one lacks.

    Examples:
      >>> vsd.presets.join({"vsd": {"t": 1, "w": 2}}, {"vsd": {"w": 3}})
      {'vsd': {'t': 1, 'w': 3}}
    """
    found = {section: dict(values) for section, values in layers[0].items()}
    for layer in layers[1:]:
        for section, values in layer.items():
            unknown = sorted(values.keys() - found.get(section, {}).keys())
            if unknown:
                name = ".".join(filter(None, (section, unknown[0])))
                raise KeyError(f"There is no key {name!r} in the presets.")
            found[section] |= copy.copy(dict(values))
    return found


def preset(kind: str = "object", variant: str = "", *, prompt: str = "") -> Preset:
    """Makes a preset by its name.

    Args:
      kind: "object", "room", "object_in_scene", "refine", "geometry", "texture" or
        "image2d".
      variant: "" = the embedded prior; "sd21", "sd15" = Stable Diffusion with the
        paper's settings, "sd15_256", "bk_sdm_small", "bk_sdm_tiny" smaller ones of its
        family; "colab" = in an hour on a free T4; "smoke" = the same code in seconds.
      prompt: what to make; "" = the preset's own.

    Raises:
      ValueError: if there is no such kind or variant.

    Examples:
      >>> vsd.presets.preset("room", "sd21").num_steps
      25000
    """
    found = Preset(join(*layers_of(kind, variant)))
    return found.replace({"prompt": prompt}) if prompt else found


def toybox(prompt: str, kind: str = "object") -> Preset:
    """Makes a preset for the embedded prior (minutes on a CPU).

    Examples:
      >>> vsd.presets.toybox("a blue car")["vsd.guidance_scale"]
      2.0
    """
    return preset(kind, prompt=prompt)


def stable_diffusion(
    prompt: str, kind: str = "object", variant: str = "sd21"
) -> Preset:
    """Makes a preset for Stable Diffusion with the paper's settings (accelerators).

    Examples:
      >>> vsd.presets.stable_diffusion("a pineapple")["vsd.guidance_scale"]
      7.5
    """
    return preset(kind, variant, prompt=prompt)
