# SPDX-License-Identifier: Apache-2.0
"""Scores the embedded prior's samples against truth (the model card's numbers).

  python -m vsd_jax.toybox.evaluate --out=RESULTS

Prompts are "a <colour> <kind>, <view> view" over all kinds and colours, in equal
shares; pairs that the training never saw stand in a row of their own. Two sets of
truth renders of the same prompts, of seeds that no dataset has, give the distance
that a perfect prior would have and the scores that the judge gives to truth.

With `--tell_camera` a multi-view prior is told a camera beside the text, one of those
that the view word means; and how much it makes of it is measured: its error on true
images with their own camera told, with none, and with that of another image.
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
from vsd_jax.diffusion.noise import add_noise, as_noise_fn, to_x0
from vsd_jax.diffusion.sampler import ddim_sample
from vsd_jax.program.folder import paths, writer
from vsd_jax.program.prior import diffusion_prior
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.program.terminal.errors import as_sentences
from vsd_jax.toybox import batches, classifier, dataset, metrics
from vsd_jax.toybox.text import COLOURS, HELD_OUT_PAIRS, KINDS, VIEWS, Prompt

Request = tuple[str, str, str]
BATCH = 20
TRUTH_SEEDS = (9001, 9002)
CAMERA_SEED = 9003
CAMERA_T = (0.3, 0.6, 0.8, 0.95)
"""Shares of T at which the error is measured."""
ERRORS_OF = 192  # images


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
    prior_path: str,
    wanted: Sequence[Request],
    cameras: np.ndarray | None,
    *,
    guidance: float,
    steps: int,
) -> np.ndarray:
    """Samples one image a request: [N, 64, 64, 3] in [0, 1].

    Args:
      prior_path: folder, or "toybox".
      wanted: N requests.
      cameras: [N, 16] what the prior is told beside the text; None = nothing.
      guidance: scale.
      steps: of DDIM.

    Raises:
      WeightsError: the prior does not read the camera.
    """
    prior, params, encode_text = diffusion_prior.load_prior(
        prior_path, tell_camera=cameras is not None
    )
    if cameras is not None and not prior.reads_camera:
        raise WeightsError(f"--tell_camera: {prior_path} is no multi-view prior.")
    noise_fn = as_noise_fn(prior.model, prior.alphas_cumprod)
    empty = encode_text([""])

    @jax.jit
    def run(key, text, told):
        latents = ddim_sample(
            noise_fn,
            params,
            jax.random.normal(key, (BATCH, *prior.latent_shape)),
            {"text": text, "negative": jnp.broadcast_to(empty, text.shape)} | told,
            alphas_cumprod=prior.alphas_cumprod,
            num_steps=steps,
            guidance_scale=guidance,
            guidance=Guidance(x0_limit=1.0),  # patches of pixels
        )
        return prior.decode(params, latents)

    texts = _texts(wanted)
    blocks = []
    for start in track(range(0, len(texts), BATCH), "sampling"):
        block = texts[start : start + BATCH]
        padded = block + [""] * (BATCH - len(block))
        key = jax.random.fold_in(jax.random.key(0), start)
        told = {}
        if cameras is not None:
            rows = np.arange(start, start + BATCH) % len(cameras)
            told["camera"] = jnp.asarray(cameras[rows])
        blocks.append(np.asarray(run(key, encode_text(padded), told))[: len(block)])
    return np.concatenate(blocks)


def _texts(wanted: Sequence[Request]) -> list[str]:
    return [f"a {colour} {kind}, {view} view" for kind, colour, view in wanted]


def camera_errors(
    prior_path: str, wanted: Sequence[Request], images: np.ndarray, cameras: np.ndarray
) -> dict[str, list[float]]:
    """Mean square error of x_0 on true images at each of `CAMERA_T`.

    Args:
      prior_path: of a multi-view prior.
      wanted: N requests.
      images: [N, 64, 64, 3] in [0, 1], true ones of them.
      cameras: [N, 16] of the images.

    Returns:
      Errors by what is told: the image's own camera, none, and another image's.
    """
    prior, params, encode_text = diffusion_prior.load_prior(
        prior_path, tell_camera=True
    )
    x0 = prior.encode(params, jnp.asarray(images), None)
    noise = jax.random.normal(jax.random.key(0), x0.shape)
    num_t = len(prior.alphas_cumprod)
    text = encode_text(_texts(wanted))

    @jax.jit
    def error(t, camera):
        t = jnp.full(len(x0), t)
        noisy = add_noise(x0, noise, t, prior.alphas_cumprod)
        raw = prior.model.apply(params, noisy, t, {"text": text, "camera": camera})
        kind = prior.model.prediction_type
        found = to_x0(raw, noisy, t, prior.alphas_cumprod, kind)
        return jnp.mean((found - x0) ** 2)

    told = {
        "own": cameras,
        "none": np.zeros_like(cameras),
        "another": np.roll(cameras, 1, 0),
    }
    levels = [int(share * num_t) for share in CAMERA_T]
    return {
        name: [float(error(t, jnp.asarray(camera))) for t in levels]
        for name, camera in told.items()
    }


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
    return truth_and_cameras(wanted, seed)[0]


def truth_and_cameras(
    wanted: Sequence[Request], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """True images of the requests on white, as `truth`, and their cameras [N, 16]."""
    prompts = [Prompt(kind=kind, colour=c, view=view) for kind, c, view in wanted]
    images, views = dataset.truth_views(prompts, seed=seed)
    cameras = np.stack([view.cam_to_world.reshape(16) for view in views])
    white = batches.composite(np.round(images.rgba * 255.0), np.ones(3, np.float32))
    return white, cameras.astype(np.float32)


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
        cameras = None
        if args.tell_camera:
            known, cameras = truth_and_cameras(wanted, CAMERA_SEED)
        images = sample(args.prior, wanted, cameras, **options)
        judged = classifier.judge(judge, images)
        report[name] = {"samples": number} | scores(judged, wanted)
        if not held_out:
            features, shown, asked = judged["features"], images[:96], wanted
            if args.tell_camera:
                given = (wanted[:ERRORS_OF], known[:ERRORS_OF], cameras[:ERRORS_OF])
                report["errors by camera told"] = camera_errors(args.prior, *given)
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
    about = "tell a multi-view prior the camera too"
    parser.add_argument("--tell_camera", action="store_true", help=about)
    args = parser.parse_args()
    if args.num_samples < 16 or args.num_held_out < 1:
        parser.error("--num_samples must be at least 16, --num_held_out at least 1.")
    report, shown = evaluate(args)
    writer.write_json(args.out / "scores.json", report)
    sheet = writer.contact_sheet(shown, tile_size=64)
    writer.save_png(args.out / "samples.png", sheet)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    with as_sentences():
        main()
