# SPDX-License-Identifier: Apache-2.0
"""Numbers about a finished run: what its views show, against what was asked for.

With the embedded prior the truth is known, and a small classifier trained on truth
renders judges kind, colour and view (`vsd_jax/toybox/metrics.py`). With any other prior
only what needs no judge is reported; no text-image model is shipped or downloaded. The
prior itself is asked too, if it is at hand (`prior_check.py`).
"""

import pathlib
from typing import Any

import numpy as np

from vsd_jax.diffusion import prompt as prompt_lib
from vsd_jax.particle import fit_images
from vsd_jax.program import Config
from vsd_jax.program.build.build import Run
from vsd_jax.program.build.stages import stage_of
from vsd_jax.program.folder import writer
from vsd_jax.program.judge import prior_check, verdict
from vsd_jax.program.run import renders
from vsd_jax.program.terminal import progress
from vsd_jax.types import Particles

Path = pathlib.Path
JUDGED_SIZE = 64
"""Side of the images that the Toybox's classifier reads, pixels."""


def evaluate(
    folder: Path,
    config: Config,
    particles: Particles,
    step: int,
    *,
    decode: renders.Decode | None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Renders `eval.num_views` views of each particle and judges them.

    Writes the numbers, `evaluation.json`, and what was judged, `evaluation.png`: a row
    a particle, a column a view, without gaps. With a `run` its prior is asked as well.

    Returns:
      `prompt`, `step`, `views`; `particles`: a dict of numbers for each; `mean`: their
      averages; `verdicts` (`verdict.py`), where they were measured; `diversity_pixels`
      and, with a judge, `diversity` for n >= 2; `note`: why there is no judgement, or
      "".
    """
    toybox = config.prior.path == "toybox"
    size = JUDGED_SIZE if toybox else config.render.size
    num_views = 1 if stage_of(config).is_flat else config.eval.num_views
    cameras = renders.judged_cameras(config, num_views)
    render = renders.make_renderer(config, size=size, decode=decode)
    seen = renders.render_views(render, particles, cameras)
    sheet = writer.contact_sheet(seen["rgb"][..., :3], tile_size=size, gap=0)
    writer.save_png(folder / "evaluation.png", sheet)
    rows = [{"opacity": float(opacity.mean())} for opacity in seen["opacity"]]
    report: dict[str, Any] = {
        "prompt": config.prompt,
        "step": step,
        "views": num_views,
        "particles": rows,
        "note": "",
    }
    if len(rows) > 1:
        report["diversity_pixels"] = renders.pixel_diversity(seen["rgb"])
    try:
        report |= _judge(config, seen["rgb"], cameras, rows)
    except _NoJudgeError as reason:
        report["note"] = str(reason)
        progress.say(f"No judgement of kind and colour: {reason}")
    if run is not None and run.check_texts is not None:
        said = prior_check.check(config, run, seen["rgb"], cameras)
        for row, answers in zip(rows, said, strict=True):
            row |= answers
    if verdict.was_measured(config) and not report["note"]:
        shares = [row["strict_precision"] for row in rows]
        report["verdicts"] = [verdict.judge(share, config.prompt) for share in shares]
    numbers = sorted({name for row in rows for name in row})
    report["mean"] = {name: _mean([row[name] for row in rows]) for name in numbers}
    writer.write_json(folder / "evaluation.json", report)
    return report


def _mean(values: list[float]) -> float:
    """Of those that are known: who shows nothing has no saturation, for one."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


class _NoJudgeError(Exception):
    """Why a run cannot be judged; not a fault."""


def _judge(config: Config, rgb: np.ndarray, cameras, rows: list[dict]) -> dict:
    """Adds the Toybox's judgement to the rows; returns what concerns all of them."""
    if config.prior.path != "toybox":
        raise _NoJudgeError("the judge knows only the embedded prior's world.")
    if not stage_of(config).has_colours:
        raise _NoJudgeError("the judge reads colours, not normals.")
    from vsd_jax.toybox import classifier, metrics, strict_judge, text

    for weights in (classifier.WEIGHTS, strict_judge.WEIGHTS):
        if not weights.exists():
            raise _NoJudgeError(f"its weights are absent ({weights}).")
    wanted = text.parse(config.prompt)
    n, num_views = rgb.shape[:2]
    # A picture has the size that it is made with, whatever the judge reads.
    images = fit_images(rgb.reshape(-1, *rgb.shape[2:]), JUDGED_SIZE)
    images = np.clip(np.asarray(images), 0.0, 1.0)
    found = strict_judge.judge(images)
    true_views = prompt_lib.view_index(
        cameras.azimuth_deg,
        cameras.elevation_deg,
        overhead_deg=config.vsd.overhead_deg,
        front_half_angle_deg=config.vsd.front_half_angle_deg,
    )
    for i, row in enumerate(rows):
        own = slice(i * num_views, (i + 1) * num_views)
        row |= metrics.score_images(
            {name: values[own] for name, values in found.items()},
            images[own],
            kind=wanted.kind,
            colour=wanted.colour,
            views=np.asarray(true_views),
            background=np.asarray(config.eval.background, np.float32),
        )
    if n < 2:
        return {}
    features = found["features"].reshape(n, num_views, -1)
    return {"diversity": metrics.diversity(features)}


def judged_line(report: dict[str, Any]) -> str:
    """The evaluation in one line for the terminal."""
    shown = {
        "kind_precision": "kind right in {:.0%} of the views",
        "strict_precision": "by the strict judge in {:.0%}",
        "colour_precision": "colour in {:.0%}",
        "multi_face_index": "a second front in {:.0%}",
        "opacity": "{:.0%} of the picture covered",
    }
    parts = [
        form.format(report["mean"][name])
        for name, form in shown.items()
        if name in report["mean"] and np.isfinite(report["mean"][name])
    ]
    line = "Evaluation: " + ", ".join(parts) + "."
    found = report.get("verdicts", [])
    if len(set(found)) <= 1:
        return f"{line}\nVerdict: {found[0]}." if found else line
    each = "; ".join(f"particle {i}: {text}" for i, text in enumerate(found))
    return f"{line}\nVerdict: {each}."
