# SPDX-License-Identifier: Apache-2.0
"""The strict judge: which kind an image shows, or that it shows none.

  python -m vsd_jax.toybox.strict_judge --data=DATA --validation=DATA2

The judge (`classifier.py`) has seen whole objects alone, so that it finds a kind in
everything. This one has another answer, "nothing", and has learned it from what is not
an object: lumps of a few primitives, true objects that are melted, and pieces of them.
It has seen soft and hazy renders of true objects too. Its probabilities are calibrated:
one temperature, fitted on the held-out set (arXiv:1706.04599), is in its weights.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from rich.progress import track
from scipy import ndimage, optimize, special

from vsd_jax.program.folder import paths
from vsd_jax.program.terminal.errors import as_sentences
from vsd_jax.toybox import batches, classifier, dataset, metrics, objects, parts, render
from vsd_jax.toybox.text import BACKGROUNDS, COLOURS, ROOM, Prompt
from vsd_jax.types import PyTree

WEIGHTS = classifier.WEIGHTS.with_name("strict_judge.safetensors")
NOTHING = "nothing"
ANSWERS = (*batches.KIND_NAMES, NOTHING)
HEADS = {"kind": len(ANSWERS)}
BATCH = 64
NOTHING_SHARE = 0.4
LARGEST_OVERLAP = 0.85
"""Of a melted silhouette with the object's own; one that is more alike still shows the
kind."""


def lump(rng: np.random.Generator) -> parts.Part:
    """A shape that is no kind: one to five primitives that overlap, in few colours."""
    names = list(COLOURS)
    chosen = [COLOURS[names[rng.integers(len(names))]] for _ in range(2)]
    pieces = []
    for _ in range(rng.integers(1, 6)):
        colour = chosen[int(rng.random() < 0.3)]
        size, at = rng.uniform(0.15, 0.9, 3), rng.uniform(-0.45, 0.45, 3)
        shape = rng.integers(4)
        if shape == 0:
            piece = parts.box(size, (0, 0, 0), colour, taper=rng.uniform(0.3, 1.3))
        elif shape == 1:
            top = size[0] * rng.uniform(0.1, 1.2)
            piece = parts.cylinder(0.5 * size[0], size[1], (0, 0, 0), colour, top=top)
        else:
            piece = parts.ellipsoid(0.55 * size, (0, 0, 0), colour)
        piece = parts.turn(piece, "xyz"[rng.integers(3)], rng.uniform(0, 180))
        pieces.append(parts.move(piece, at))
    reach = rng.uniform(0.6, objects.MAX_RADIUS)
    return objects.normalise(parts.join(*pieces), reach)


def lump_images(number: int, views: int, seed: int) -> np.ndarray:
    """Renders of lumps as a dataset has them: [number views, 64, 64, 4] uint8."""
    blocks = []
    for index in track(range(number), "lumps"):
        rng = dataset.scene_rng(seed, index)
        part = lump(rng)
        seen = [dataset.draw_view(Prompt(kind=None), rng) for _ in range(views)]
        blocks.append(render.render(part, seen, size=dataset.SIZE).rgba)
    return np.round(np.concatenate(blocks) * 255.0).astype(np.uint8)


def melt(rgba: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """An object that ran: blurred, with a silhouette whose edge is not.

    Args:
      rgba: [64, 64, 4] premultiplied, in [0, 1].
      rng: consumed.

    Returns:
      The image, and the overlap (intersection over union) of its silhouette with what
      it was.
    """
    width = rng.uniform(3.0, 7.0)
    blurred = ndimage.gaussian_filter(rgba, (width, width, 0), mode="constant")
    alpha = special.expit((blurred[..., 3:] - rng.uniform(0.3, 0.5)) * 25.0)
    melted = blurred / np.maximum(blurred[..., 3:], 1e-3) * alpha
    was, now = rgba[..., 3] > 0.5, alpha[..., 0] > 0.5
    overlap = (was & now).sum() / max((was | now).sum(), 1)
    return np.concatenate([melted[..., :3], alpha], -1), float(overlap)


def cut(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third to two thirds of an object [64, 64, 4], on one side of a line."""
    angle = rng.uniform(0, 2 * np.pi)
    row, column = np.indices(rgba.shape[:2])
    along = np.cos(angle) * column + np.sin(angle) * row
    covered = rgba[..., 3] > 0.5
    if not covered.any():
        return rgba
    limit = np.quantile(along[covered], rng.uniform(0.35, 0.65))
    return rgba * (along < limit)[..., None]


def soften(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What distillation leaves on a render: blur, pale or strong contrast, noise."""
    out = np.empty_like(images)
    for i, image in enumerate(images):
        width = rng.uniform(0.0, 1.8) * (rng.random() < 0.7)
        shifted = np.roll(image, rng.integers(-2, 3, 2), (0, 1))
        blurred = ndimage.gaussian_filter(shifted, (width, width, 0), mode="nearest")
        plain = blurred[0, 0]
        contrast = rng.uniform(0.7, 1.15)
        noise = rng.normal(size=(*image.shape[:2], 1 if rng.random() < 0.5 else 3))
        out[i] = plain + contrast * (blurred - plain) + rng.uniform(0, 0.06) * noise
    return np.clip(out, 0.0, 1.0)


def draw(
    data: batches.Dataset, lumps: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A batch of images [BATCH, 64, 64, 3] in [0, 1] and the answers "kind"."""
    rows = rng.integers(len(data.rgba), size=BATCH)
    rgba = data.rgba[rows].astype(np.float32) / 255.0
    kinds = data.meta["kind"][rows].astype(np.int32)
    # What stands in a room, and a room, has no silhouette.
    alone = (data.meta["room"][rows] == 0) & (kinds != ANSWERS.index(ROOM))
    nothing = ANSWERS.index(NOTHING)
    for i in np.flatnonzero(alone & (rng.random(BATCH) < NOTHING_SHARE)):
        source = rng.integers(3)
        if source == 0:
            rgba[i] = lumps[rng.integers(len(lumps))] / 255.0
            kinds[i] = nothing
        elif source == 1:
            rgba[i], overlap = melt(rgba[i], rng)
            kinds[i] = nothing if overlap < LARGEST_OVERLAP else kinds[i]
        else:
            rgba[i], kinds[i] = cut(rgba[i], rng), nothing
    colours = np.asarray(list(BACKGROUNDS.values()), np.float32)
    plain = colours[rng.integers(len(colours), size=BATCH)][:, None, None]
    images = rgba[..., :3] + (1.0 - rgba[..., 3:]) * plain
    return soften(images, rng).astype(np.float32), {"kind": kinds}


def _draws(
    data: batches.Dataset, lumps: np.ndarray, number: int, seed: int
) -> Iterator:
    for index in range(number):
        yield draw(data, lumps, np.random.default_rng([seed, index]))


def load(path: Path = WEIGHTS) -> PyTree:
    """The committed parameters, for `classifier.judge`."""
    return classifier.load(path)


def judge(images: np.ndarray) -> dict[str, np.ndarray]:
    """What both committed judges say of images [N, 64, 64, 3] in [0, 1].

    Returns:
      That of `classifier.judge`, and "strict": probabilities [N, answers] over ANSWERS.
    """
    found = classifier.judge(classifier.load(), images)
    return found | {"strict": classifier.judge(load(), images)["kind"]}


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number that logits [N, classes] are divided by to be calibrated.

    It minimises the negative log likelihood of labels [N] (arXiv:1706.04599).
    """

    def loss(log_t: float) -> float:
        log_p = special.log_softmax(logits / np.exp(log_t), -1)
        return -float(log_p[np.arange(len(labels)), labels].mean())

    found = optimize.minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded")
    return float(np.exp(found.x))


def calibrate(params: PyTree, logits: np.ndarray, labels: np.ndarray) -> PyTree:
    """Parameters whose logits are divided by their temperature."""
    layer = jax.tree.map(lambda x: x / temperature(logits, labels), params["kind"])
    return params | {"kind": layer}


def report(params: PyTree, data: batches.Dataset, lumps: np.ndarray) -> dict:
    """Shares of right answers by what is shown, and the calibration."""
    alone = (data.meta["room"] == 0) & (data.meta["kind"] != ANSWERS.index(ROOM))
    rgba = data.rgba[alone].astype(np.float32) / 255.0
    kinds, nothing = data.meta["kind"][alone], ANSWERS.index(NOTHING)
    rng = np.random.default_rng(1)
    melted = [image for image, o in (melt(x, rng) for x in rgba) if o < LARGEST_OVERLAP]

    def answers(shown: np.ndarray) -> np.ndarray:
        images = shown[..., :3] + 1.0 - shown[..., 3:]
        return classifier.judge(params, images)["kind"].argmax(-1)

    soft = soften(rgba[..., :3] + 1.0 - rgba[..., 3:], rng)
    soft_answers = classifier.judge(params, soft)["kind"].argmax(-1)
    cuts = np.stack([cut(x, rng) for x in rgba])
    mixed, labels = _judged(params, data, lumps, seed=8)
    shares = {
        "sharp right": answers(rgba) == kinds,
        "soft right": soft_answers == kinds,
        "lumps rejected": answers(lumps / 255.0) == nothing,
        "pieces rejected": answers(cuts) == nothing,
        "melted rejected": answers(np.stack(melted)) == nothing,
        "mixed right": mixed.argmax(-1) == labels,
    }
    found = {name: float(np.mean(right)) for name, right in shares.items()}
    return found | {"calibration error": metrics.calibration_error(mixed, labels)}


def _judged(params: PyTree, data: batches.Dataset, lumps: np.ndarray, seed: int):
    """Probabilities [N, answers] and labels [N] of 40 batches as in training."""
    drawn = list(_draws(data, lumps, 40, seed))
    images = np.concatenate([images for images, _ in drawn])
    labels = np.concatenate([answers["kind"] for _, answers in drawn])
    return classifier.judge(params, images)["kind"], labels


def _halves(data: batches.Dataset) -> list[batches.Dataset]:
    """Objects of even and of odd number."""
    odd = data.meta["object_index"] % 2
    return [
        batches.Dataset(
            data.rgba[odd == half],
            data.normal[odd == half],
            {name: values[odd == half] for name, values in data.meta.items()},
        )
        for half in (0, 1)
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    path = {"type": paths.argument}
    parser.add_argument("--data", **path, required=True, help="dataset to learn from")
    parser.add_argument("--validation", **path, required=True, help="of other seeds")
    parser.add_argument("--out", **path, default=WEIGHTS, help="file to write")
    parser.add_argument("--steps", type=int, default=3000, help=f"of {BATCH} images")
    parser.add_argument("--lumps", type=int, default=1000, help="shapes of four views")
    args = parser.parse_args()
    data, held_out = (batches.open_dataset(d) for d in (args.data, args.validation))
    lumps = lump_images(args.lumps, views=4, seed=1)
    fitted, reported = (
        lump_images(args.lumps // 8 + 1, views=2, seed=s) for s in (2, 3)
    )
    drawn = _draws(data, lumps, args.steps, seed=0)
    params = jax.device_get(classifier.train(drawn, HEADS, args.steps))
    # One half of the objects that training did not see fits the temperature, the other
    # is reported.
    halves = _halves(held_out)
    probabilities, labels = _judged(params, halves[0], fitted, seed=7)
    params = calibrate(params, np.log(np.maximum(probabilities, 1e-12)), labels)
    classifier.save_params(params, args.out)
    for name, value in report(load(args.out), halves[1], reported).items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    with as_sentences():
        main()
