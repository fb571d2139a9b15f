# SPDX-License-Identifier: Apache-2.0
"""The 2D experiment on priors in closed form: what it should give is known exactly.

A prior is a mixture of Gaussians (`diffusion/exact.py`) of three classes: what the text
asks for ("wanted"), everything else that the prior knows ("other"), and "bad": broad
components between the wanted ones, as blurred or mixed images are. The text allows the
wanted ones alone; `negative` and `source`, for the methods that ask for them, the bad.

The score network is one of two. "mixture": the prior's own components with means and
variances to be learned, from zero change on, as LoRA starts. "own": no network, but the
exact score of the particles themselves, each a Gaussian of width `exact.bandwidth`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import exact
from vsd_jax.diffusion.sampler import ddim_sample
from vsd_jax.distil import Distillation
from vsd_jax.experiments import own_method
from vsd_jax.experiments.plan import Cell
from vsd_jax.methods import Method
from vsd_jax.presets import Settings
from vsd_jax.program import Config
from vsd_jax.program.build import build
from vsd_jax.program.build.stages import make_scene
from vsd_jax.score_network import fixed_score, make_score
from vsd_jax.toybox import dataset
from vsd_jax.toybox.text import Prompt
from vsd_jax.types import NoiseModel, Prior, Prompts, PyTree, Score, VSDState

CLASSES = ("wanted", "other", "bad")
# Stable Diffusion's noise levels (arXiv:2112.10752), at every t of 1,000.
ALPHAS_CUMPROD = np.cumprod(
    1.0 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
).astype(np.float32)


class World(NamedTuple):
    """A prior in closed form.

    Attributes:
      mixture: its parameters, K components of shape [h, w, c].
      classes: [K] int, indices into `CLASSES`.
      weights: [K], sum 1.
    """

    mixture: exact.MixtureParams
    classes: np.ndarray
    weights: np.ndarray


@functools.lru_cache(maxsize=8)
def make_world(name: str) -> World:
    """The prior of that name: "plane" or "images", or with other things wanted.

    After a colon stands what the text asks for: "plane:1,4,6" has other modes wanted,
    "images:duck" another kind. Number and shape of the components stay.
    """
    base, _, wanted = name.partition(":")
    if base == "images":
        return _images(wanted or "mushroom")
    return _plane(tuple(int(mode) for mode in (wanted or "0,2,3").split(",")))


def _plane(modes: tuple[int, int, int]) -> World:
    """Eight modes on a circle, three of them wanted; a broad one in their middle."""
    angle = 2.0 * np.pi * np.arange(8) / 8.0
    means = 1.5 * np.stack([np.cos(angle), np.sin(angle)], -1)
    wanted = np.array(modes)
    classes = np.full(9, CLASSES.index("other"))
    classes[wanted], classes[8] = CLASSES.index("wanted"), CLASSES.index("bad")
    weights = np.full(9, 0.1)
    weights[wanted], weights[8] = (0.05, 0.15, 0.1), 0.2
    means = np.concatenate([means, means[wanted].mean(0, keepdims=True)])
    spread = np.array([0.15] * 8 + [0.6])
    return _world(means[:, None, None], spread, classes, weights)


def _images(wanted: str, size: int = 16, number: int = 12) -> World:
    """Truth renders at 16 x 16: one kind in any colour is wanted, another is not.

    Mushrooms are wanted and ducks are not; where ducks are wanted, mushrooms are not.
    """
    blocks = []
    for seed, kind in ((31, wanted), (32, "mushroom" if wanted == "duck" else "duck")):
        prompts = [Prompt(kind=kind, view="front")] * number
        rgba = dataset.truth_views(prompts, seed=seed)[0].rgba
        white = rgba[..., :3] + 1.0 - rgba[..., 3:]
        side = white.shape[1] // size
        small = white.reshape(number, size, side, size, side, 3).mean((2, 4))
        blocks.append(2.0 * small - 1.0)
    # Bad: means over several wanted images, blurred and of mixed colours.
    blocks.append(blocks[0].reshape(-1, 6, *blocks[0].shape[1:]).mean(1))
    counts = [len(block) for block in blocks]
    spread = np.repeat([0.05, 0.05, 0.1], counts)
    weights = np.repeat([0.4, 0.4, 0.2], counts) / np.repeat(counts, counts)
    classes = np.repeat(np.arange(3), counts)
    return _world(np.concatenate(blocks), spread, classes, weights)


def _world(means, spread, classes, weights) -> World:
    wide = np.broadcast_to(spread.reshape(-1, 1, 1, 1) ** 2, means.shape)
    weights = weights / weights.sum()
    return World(exact.gaussian_mixture(means, wide, weights), classes, weights)


def truth(world: World, number: int, seed: int) -> np.ndarray:
    """Exact samples of the wanted components: [number, h, w, c]."""
    rng = np.random.default_rng([77, seed])
    share = np.where(world.classes == 0, world.weights, 0.0)
    chosen = rng.choice(len(share), size=number, p=share / share.sum())
    means, variances = (np.asarray(world.mixture[k]) for k in ("means", "variances"))
    noise = rng.normal(size=(number, *means.shape[1:]))
    return (means[chosen] + np.sqrt(variances[chosen]) * noise).astype(np.float32)


def run(cell: Cell, config: Config) -> np.ndarray:
    """The particles, or the samples, of a cell: [n, h, w, c].

    The configuration's own seed is not read: one program serves all seeds.
    """
    world = make_world(cell.settings["exact.world"])
    if cell.row.kind == "exact_sample":
        return _draw(cell, config, world)
    return _distil(cell, config, world)


def log_weights(world: World, *allowed: str) -> np.ndarray:
    """[1, K]: zero for the components of these classes; for all if there are none."""
    keep = [CLASSES.index(name) for name in allowed] or [*range(len(CLASSES))]
    return np.where(np.isin(world.classes, keep), 0.0, exact.FORBIDDEN)[None]


def _draw(cell: Cell, config: Config, world: World) -> np.ndarray:
    n = config.num_particles
    shape = (n, *world.mixture["means"].shape[1:])
    start, fresh = jax.random.split(jax.random.key(cell.seed))
    prompts = {
        name: jnp.broadcast_to(jnp.asarray(c, jnp.float32), (n, *c.shape))
        for name, c in (
            ("text", log_weights(world, "wanted")),
            ("negative", log_weights(world)),
        )
    }
    sample = jax.jit(
        functools.partial(
            ddim_sample,
            exact.make_noise_fn(ALPHAS_CUMPROD),
            alphas_cumprod=ALPHAS_CUMPROD,
            num_steps=cell.settings["sample.num_steps"],
            guidance_scale=cell.settings["sample.guidance_scale"],
            eta=cell.settings["sample.eta"],
            key=fresh,
        )
    )
    return np.asarray(sample(world.mixture, jax.random.normal(start, shape), prompts))


def _distil(cell: Cell, config: Config, world: World) -> np.ndarray:
    state, move = start(cell, config, world)
    for _ in range(config.num_steps):
        state = move(state)
    return np.asarray(state.particles.params["pixels"])


def start(
    cell: Cell, config: Config, world: World
) -> tuple[VSDState, Callable[[VSDState], VSDState]]:
    """The state of a cell before its first step, and what a step does with it."""
    kind, width = cell.settings["exact.score"], cell.settings.get("exact.bandwidth", 0)
    method = own_method.of(cell.settings)
    # What the text asks for is an argument, so that all texts share one program.
    base = cell.settings["exact.world"].partition(":")[0]
    init, step = _make_run(_without_numbers(config), base, kind, method)
    numbers = {"scale": config.vsd.guidance_scale, "rate": config.optim.image_lr}
    prompts = make_prompts(world, config.vsd.method)

    def move(state: VSDState) -> VSDState:
        own = _kernels(state.particles.params["pixels"], width) if kind == "own" else {}
        return step(state, {"target": world.mixture, "own": own}, prompts, numbers)

    return init(jax.random.key(cell.seed), world.mixture), move


def _without_numbers(config: Config) -> Config:
    """The configuration without guidance and rate, which a step takes as arguments.

    A guidance of 1 stays: it is another program, which asks the prior for one text.
    """
    plain = config.as_configdict()
    plain.optim.image_lr = 1.0
    if config.vsd.guidance_scale != 1.0:
        plain.vsd.guidance_scale = 2.0
    return Config(plain)


@functools.lru_cache(maxsize=16)
def _make_run(
    config: Config, name: str, kind: str, method: Method | None
) -> tuple[Callable, Callable]:
    """`init(key, weights) -> state` and `step(state, params, prompts, numbers)`.

    Args:
      config: without the two `numbers`, guidance scale and rate of the particles.
      name: of the world, without what is wanted.
      kind: of the score network; "" = none.
      method: None = the configuration's.
    """
    world = make_world(name)
    shape = world.mixture["means"].shape[1:]
    model = exact.make_model(ALPHAS_CUMPROD)
    target = NoiseModel(
        lambda params, *rest: model.apply(params["target"], *rest), "epsilon"
    )
    identity = lambda params, latents, key: latents  # noqa: E731
    prior = Prior(target, identity, None, ALPHAS_CUMPROD, shape, shape[0])
    score = _make_score(kind, world, config) if kind else None
    scene = make_scene(config, size=shape[0], latent_shape=shape)

    def join(numbers: Mapping[str, jax.Array | float]) -> Distillation:
        settings = _with_numbers(config, numbers)
        own = method or settings.method
        return build.join(config, scene, prior, score, own, tx=settings.tx)

    def init(key: jax.Array, weights: PyTree) -> VSDState:
        plain = {"scale": config.vsd.guidance_scale, "rate": config.optim.image_lr}
        made = join(plain).init
        return made(key, weights, num_particles=config.num_particles)

    def step(state, params, prompts, numbers) -> VSDState:
        return join(numbers).step(state, params, prompts)[0]

    return jax.jit(init), jax.jit(step, donate_argnums=0)


def _with_numbers(config: Config, numbers: Mapping[str, jax.Array | float]) -> Settings:
    """The settings with these numbers, but for a guidance of 1, see above."""
    optim = {**config.optim, "image_lr": numbers["rate"]}
    vsd = dict(config.vsd)
    if vsd["guidance_scale"] != 1.0:
        vsd["guidance_scale"] = numbers["scale"]
    return Settings({**config, "optim": optim, "vsd": vsd})


def make_prompts(world: World, method: str) -> Prompts:
    """Prompts as log weights, leaves [4, 1, 1, K]; what NFSD moves away from is bad."""
    allowed = {"text": ("wanted",), "score": ("wanted",), "negative": ()}
    allowed |= {"empty": (), "source": ("bad",)}
    if method == "nfsd":
        allowed["negative"] = ("bad",)
    return {
        name: jnp.broadcast_to(
            jnp.asarray(log_weights(world, *classes), jnp.float32),
            (4, 1, 1, len(world.classes)),
        )
        for name, classes in allowed.items()
    }


def _make_score(kind: str, world: World, config: Config) -> Score:
    noise_fn = exact.make_noise_fn(ALPHAS_CUMPROD)
    num = len(world.classes)

    def own(params, noisy, t, context):
        mixture = params[1]["own"]
        empty = exact.empty_context(noisy.shape[0], len(mixture["log_weights"]))
        return noise_fn(mixture, noisy, t, empty)

    def learned(params, noisy, t, context):
        phi, base = params[0], params[1]["target"]
        mixture = {
            "means": base["means"] + phi["shift"],
            "variances": base["variances"] * jnp.exp(phi["log_scale"]),
            "log_weights": base["log_weights"],
        }
        text = context["text"] + phi["log_weights"].reshape(1, 1, num)
        return noise_fn(mixture, noisy, t, {"text": text})

    if kind == "own":
        return fixed_score(NoiseModel(own, "epsilon"))
    means = world.mixture["means"]
    phi = {
        "shift": jnp.zeros_like(means),
        "log_scale": jnp.zeros((num,) + (1,) * (means.ndim - 1)),
        "log_weights": jnp.zeros(num),
    }
    return make_score(
        NoiseModel(learned, "epsilon"),
        lambda key, weights: phi,
        Settings(config).score.training,
    )


@jax.jit
def _kernels(points: jax.Array, width: float) -> exact.MixtureParams:
    spread = jnp.full_like(points, width**2)
    return exact.gaussian_mixture(jnp.array(points), spread, jnp.ones(len(points)))
