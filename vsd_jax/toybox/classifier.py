# SPDX-License-Identifier: Apache-2.0
"""The judge: a small network that names kind, colour and view of a Toybox image.

  python -m vsd_jax.toybox.classifier --data=DATA --validation=DATA2 \
      --out=vsd_jax/toybox/weights/classifier.safetensors

It is trained on truth renders alone, on all backgrounds, with small shifts, blur and
noise, so that a render which is a little soft is judged by its content.
"""

import argparse
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from rich.progress import track
from safetensors.numpy import load_file, save

from vsd_jax.diffusion.conv import with_matmul_convs
from vsd_jax.program.folder import paths, writer
from vsd_jax.program.terminal.errors import as_sentences
from vsd_jax.toybox import batches
from vsd_jax.toybox.text import BACKGROUNDS, COLOURS, ROOM, VIEWS
from vsd_jax.types import PyTree

WEIGHTS = Path(__file__).parent / "weights" / "classifier.safetensors"
HEADS = {"kind": len(batches.KIND_NAMES), "colour": len(COLOURS), "view": len(VIEWS)}
FEATURES = 96


class Judge(nn.Module):
    """Convolutions down to 4 x 4, averaged to FEATURES numbers, one head a question.

    Attributes:
      heads: number of answers by question.
    """

    heads: Mapping[str, int]

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """[B, 64, 64, 3] in [0, 1] -> logits by question and "features" [B, 96]."""
        x = 2.0 * images - 1.0
        for width in (16, 32, 64, 128):
            x = nn.Conv(width, (3, 3), (2, 2), padding=((1, 1), (1, 1)))(x)
            x = nn.silu(nn.GroupNorm(8)(x))
            y = nn.Conv(width, (3, 3), padding=((1, 1), (1, 1)))(x)
            x = x + nn.silu(nn.GroupNorm(8)(y))
        pooled = jnp.concatenate([x.mean((1, 2)), x.max((1, 2))], -1)
        features = nn.Dense(FEATURES, name="features")(pooled)
        heads = {
            name: nn.Dense(size, name=name)(nn.silu(features))
            for name, size in self.heads.items()
        }
        return heads | {"features": features}


def load(path: Path = WEIGHTS) -> PyTree:
    """The committed parameters."""
    return unflatten_dict(
        {
            tuple(name.split(".")): jnp.asarray(value, jnp.float32)
            for name, value in load_file(str(path)).items()
        }
    )


@jax.jit
def _apply(params: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    heads = {
        name: len(layer["bias"]) for name, layer in params.items() if name in HEADS
    }
    with jax.numpy_rank_promotion("allow"):
        return with_matmul_convs(Judge(heads).apply)({"params": params}, images)


def judge(
    params: PyTree, images: np.ndarray, *, batch: int = 64
) -> dict[str, np.ndarray]:
    """Judges images.

    Args:
      params: from `load`; of their heads those are answered that they have.
      images: [N, 64, 64, 3] in [0, 1], composited on any plain background.
      batch: images at once, at most; the last block is padded to a multiple of 16, so
        that few sizes are compiled.

    Returns:
      "kind", "colour", "view": probabilities [N, classes]; "features": [N, 96].
    """
    blocks = []
    for start in range(0, len(images), batch):
        block = np.asarray(images[start : start + batch], np.float32)
        missing = min(-len(block) % 16, batch - len(block))
        padded = np.pad(block, ((0, missing), (0, 0), (0, 0), (0, 0)))
        out = jax.device_get(_apply(params, padded))
        blocks.append({name: value[: len(block)] for name, value in out.items()})
    merged = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
    probabilities = {n: jax.nn.softmax(v) for n, v in merged.items() if n in HEADS}
    return {k: np.asarray(v) for k, v in probabilities.items()} | {
        "features": merged["features"]
    }


def _draw(data: batches.Dataset, rng: np.random.Generator, indices: np.ndarray):
    """Images on random backgrounds with small disturbances, and their labels."""
    colours = np.asarray(list(BACKGROUNDS.values()), np.float32)
    background = colours[rng.integers(len(colours), size=len(indices))]
    images = batches.composite(data.rgba[indices], background[:, None, None])
    rows, columns = rng.integers(-2, 3, (2, len(indices)))
    images = np.stack(
        [
            np.roll(im, (r, c), (0, 1))
            for im, r, c in zip(images, rows, columns, strict=True)
        ]
    )
    blurred = (
        images
        + np.roll(images, 1, 1)
        + np.roll(images, 1, 2)
        + np.roll(images, (1, 1), (1, 2))
    ) / 4.0
    soft = rng.random((len(indices), 1, 1, 1)) < 0.5
    images = np.where(soft, blurred, images)
    images = images + 0.04 * rng.random((len(indices), 1, 1, 1)) * rng.normal(
        size=images.shape
    )
    labels = {name: data.meta[name][indices].astype(np.int32) for name in HEADS}
    # A room has no view, and a room alone shows its own colour.
    room_alone = labels["kind"] == batches.KIND_NAMES.index(ROOM)
    room_colour = data.meta["room_colour"][indices]
    labels["colour"] = np.where(
        room_alone & (labels["colour"] < 0), room_colour, labels["colour"]
    )
    labels["view"] = np.where(room_alone, -1, labels["view"])
    return np.clip(images, 0.0, 1.0).astype(np.float32), labels


def _batches(data: batches.Dataset, steps: int, seed: int) -> Iterator:
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        yield _draw(data, rng, rng.integers(len(data.rgba), size=64))


def _loss(
    model: Judge, params: PyTree, images: jax.Array, labels: dict[str, jax.Array]
) -> jax.Array:
    out = with_matmul_convs(model.apply)({"params": params}, images)
    total = jnp.zeros(())
    for name in model.heads:
        known = labels[name] >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(
            out[name], jnp.maximum(labels[name], 0)
        )
        total += jnp.sum(losses * known) / jnp.maximum(known.sum(), 1)
    return total


def train(
    drawn: Iterable[tuple[np.ndarray, dict[str, np.ndarray]]],
    heads: Mapping[str, int],
    steps: int,
) -> PyTree:
    """Trains from scratch.

    Args:
      drawn: `steps` batches of images and labels by question (-1 = not known).
      heads: number of answers by question.
      steps: of the optimiser.

    Returns:
      Parameters.
    """
    model = Judge(heads)
    params = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    optimizer = optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3))
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step_fn(params, state, images, labels):
        grads = jax.grad(functools.partial(_loss, model))(params, images, labels)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for images, labels in track(drawn, "judge", total=steps):
        params, state = step_fn(params, state, images, labels)
    return params


def save_params(params: PyTree, path: Path) -> None:
    """Writes parameters as float16."""
    flat = flatten_dict(jax.device_get(params))
    tensors = {".".join(k): v.astype(np.float16) for k, v in flat.items()}
    writer.write_bytes(path, save(tensors))


def accuracy(params: PyTree, data: batches.Dataset) -> dict[str, float]:
    """Share of right answers on the objects of a dataset, white background."""
    objects = np.flatnonzero(
        (data.meta["kind"] != batches.KIND_NAMES.index(ROOM)) & (data.meta["room"] == 0)
    )
    images = batches.composite(data.rgba[objects], np.ones(3, np.float32))
    judged = judge(params, images)
    return {
        name: float(np.mean(judged[name].argmax(-1) == data.meta[name][objects]))
        for name in HEADS
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=paths.argument, required=True, help="dataset to learn from"
    )
    parser.add_argument(
        "--validation",
        type=paths.argument,
        required=True,
        help="dataset of other seeds",
    )
    parser.add_argument(
        "--out", type=paths.argument, default=WEIGHTS, help="file to write"
    )
    parser.add_argument("--steps", type=int, default=2000, help="of 64 images")
    args = parser.parse_args()
    data = batches.open_dataset(args.data)
    params = train(_batches(data, args.steps, seed=0), HEADS, args.steps)
    save_params(params, args.out)
    held_out = batches.open_dataset(args.validation)
    print({k: round(v, 4) for k, v in accuracy(load(args.out), held_out).items()})


if __name__ == "__main__":
    with as_sentences():
        main()
