# SPDX-License-Identifier: Apache-2.0
"""Scores the embedded prior's samples against truth (the model card's numbers).

  python -m vsd_jax.toybox.evaluate --out=RESULTS

Prompts are "a <colour> <kind>, <view> view" over all kinds and colours, in equal
shares; pairs that the training never saw stand in a row of their own. Two sets of
truth renders of the same prompts, of seeds that no dataset has, give the distance
that a perfect prior would have and the scores that the judge gives to truth.
"""

import argparse
import itertools
import json
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from vsd_jax.diffusion.guidance import Guidance
from vsd_jax.diffusion.noise import as_noise_fn
from vsd_jax.diffusion.sampler import ddim_sample
from vsd_jax.program.folder import paths, writer
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.toybox import batches, classifier, dataset, metrics
from vsd_jax.toybox.text import COLOURS, HELD_OUT_PAIRS, KINDS, VIEWS, Prompt

Request = tuple[str, str, str]
BATCH = 20
TRUTH_SEEDS = (9001, 9002)


def requests(held_out: bool, number: int) -> list[Request]:
    """`number` triples (kind, colour, view), each combination as often as possible."""
    pairs = [
        pair
        for pair in itertools.product(KINDS, COLOURS)
        if (pair in HELD_OUT_PAIRS) == held_out
    ]
    rng = np.random.default_rng(0)
    order = [pairs[i] for i in rng.permutation(len(pairs))]
    endless = itertools.cycle(order)
    views = itertools.cycle(VIEWS)
    # A view lasts for a whole round of pairs, so every pair meets every view.
    chosen, view = [], next(views)
    for index in range(number):
        if index and index % len(order) == 0:
            view = next(views)
        chosen.append((*next(endless), view))
    return chosen


def sample(
    prior_path: str, wanted: Sequence[Request], *, guidance: float, steps: int
) -> np.ndarray:
    """Samples one image a request: [N, 64, 64, 3] in [0, 1]."""
    prior, params, encode_text = diffusion_prior.load_prior(prior_path)
    noise_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    empty = encode_text([""])

    @jax.jit
    def run(key, text):
        latents = ddim_sample(
            noise_fn,
            params,
            jax.random.normal(key, (BATCH, *prior.latent_shape)),
            {"text": text, "negative": jnp.broadcast_to(empty, text.shape)},
            alphas_cumprod=prior.alphas_cumprod,
            num_steps=steps,
            guidance_scale=guidance,
            guidance=Guidance(x0_limit=1.0),  # patches of pixels
        )
        return prior.decode(params, latents)

    texts = [f"a {colour} {kind}, {view} view" for kind, colour, view in wanted]
    blocks = []
    for start in track(range(0, len(texts), BATCH), "sampling"):
        block = texts[start : start + BATCH]
        padded = block + [""] * (BATCH - len(block))
        key = jax.random.fold_in(jax.random.key(0), start)
        blocks.append(np.asarray(run(key, encode_text(padded)))[: len(block)])
    return np.concatenate(blocks)


def scores(judged: dict[str, np.ndarray], wanted: Sequence[Request]) -> dict:
    """Share of samples judged as asked, by question, and of kinds by view word."""
    names = {"kind": list(KINDS), "colour": list(COLOURS), "view": list(VIEWS)}
    right = {
        question: judged[question].argmax(-1)
        == [names[question].index(request[column]) for request in wanted]
        for column, question in enumerate(names)
    }
    asked = np.array([view for _, _, view in wanted])
    by_view = {
        f"kind, {view}": float(right["kind"][asked == view].mean())
        for view in VIEWS
        if (asked == view).any()
    }
    return {question: float(r.mean()) for question, r in right.items()} | by_view


def truth(wanted: Sequence[Request], seed: int) -> np.ndarray:
    """True images of the requests on white: [N, 64, 64, 3] in [0, 1]."""
    prompts = [Prompt(kind=kind, colour=c, view=view) for kind, c, view in wanted]
    images, _ = dataset.truth_views(prompts, seed=seed)
    return batches.composite(np.round(images.rgba * 255.0), np.ones(3, np.float32))


def evaluate(args: argparse.Namespace) -> tuple[dict, np.ndarray]:
    """The report, and a sheet of samples [6, 16, 64, 64, 3]."""
    judge = classifier.load()
    options = {"guidance": args.guidance, "steps": args.steps}
    report = {"prior": args.prior, **options}
    for name, held_out, number in (
        ("seen pairs", False, args.num_samples),
        ("held-out pairs", True, args.num_held_out),
    ):
        wanted = requests(held_out, number)
        images = sample(args.prior, wanted, **options)
        judged = classifier.judge(judge, images)
        report[name] = {"samples": number} | scores(judged, wanted)
        if not held_out:
            features, shown, asked = judged["features"], images[:96], wanted
    true = [classifier.judge(judge, truth(asked, seed)) for seed in TRUTH_SEEDS]
    report["truth"] = {"samples": len(asked)} | scores(true[0], asked)
    first, second = (judged["features"] for judged in true)
    report["frechet to truth"] = metrics.frechet_distance(features, first)
    report["frechet of two truths"] = metrics.frechet_distance(first, second)
    rows = len(shown) // 16
    return report, shown[: 16 * rows].reshape(rows, 16, *shown.shape[1:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prior", default="toybox", help="folder of the prior")
    parser.add_argument(
        "--out", type=paths.argument, required=True, help="folder to write"
    )
    parser.add_argument("--num_samples", type=int, default=1000, help="of seen pairs")
    parser.add_argument("--num_held_out", type=int, default=200, help="of the others")
    parser.add_argument("--guidance", type=float, default=3.0, help="scale")
    parser.add_argument("--steps", type=int, default=30, help="of DDIM")
    args = parser.parse_args()
    if args.num_samples < 16 or args.num_held_out < 1:
        parser.error("--num_samples must be at least 16, --num_held_out at least 1.")
    report, shown = evaluate(args)
    writer.write_json(args.out / "scores.json", report)
    sheet = writer.contact_sheet(shown, tile_size=64)
    writer.save_png(args.out / "samples.png", sheet)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
