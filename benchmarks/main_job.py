# SPDX-License-Identifier: Apache-2.0
"""The main job on one prompt of each kind: VSD beside SDS, against truth.

  python -m benchmarks.main_job --out=runs/main_job

Each run is the program itself, in a folder of its own, so the same command goes on
where it stopped: with its default settings, and as VSD at 7.5 and SDS at 100
(`--methods` chooses; further options are passed on). All make the same number of steps.
Writes scores.json, scores.md and renders.png (a row a prompt: four views of each
method, then truth).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import table
from vsd_jax.runtime import writer
from vsd_jax.toybox import batches, classifier, metrics, objects, render, text

PROMPTS = tuple(
    text.Prompt(kind=kind, colour=list(text.COLOURS)[index % len(text.COLOURS)])
    for index, kind in enumerate(text.KINDS)
)
METHODS = {
    "default": [],
    "vsd": ["--config.vsd.method=vsd", "--config.vsd.guidance_scale=7.5"],
    # Without the embedded settings' bound on x_0, which turns SDS into a grey haze.
    "sds": [
        *("--config.vsd.method=sds", "--config.vsd.guidance_scale=100.0"),
        "--config.vsd.x0_limit=0.0",
    ],
}
TRUTH_OBJECTS = 8
SIZE = 64


def run_program(prompt: text.Prompt, folder: Path, options: list[str]) -> None:
    """Runs, resumes or (when it is finished) leaves a run of the program."""
    if (folder / "report.html").exists() and (folder / "evaluation.png").exists():
        return
    command = [sys.executable, "-m", "vsd_jax.main", "--config=configs/object.py"]
    command += [f"--config.prompt={prompt.text()}", f"--workdir={folder}", *options]
    subprocess.run(command, check=True)


def read_views(folder: Path) -> np.ndarray:
    """The judged views of a run's first particle: [views, 64, 64, 3] in [0, 1]."""
    with Image.open(folder / "evaluation.png") as image:
        row = np.asarray(image.convert("RGB"), np.float32)[:SIZE] / 255.0
    return np.stack(np.split(row, row.shape[1] // SIZE, axis=1))


def true_views(prompt: text.Prompt, settings: dict, first: int) -> np.ndarray:
    """Truth from the judged cameras, [TRUTH_OBJECTS, views, 64, 64, 3] on white."""
    azimuths = np.arange(settings["num_views"]) * (360.0 / settings["num_views"])
    cameras = [
        render.orbit_view(
            azimuth,
            settings["elevation_deg"],
            radius=settings["radius"],
            fov_deg=settings["fov_deg"],
        )
        for azimuth in azimuths
    ]
    blocks = []
    for index in range(TRUTH_OBJECTS):
        rng = np.random.default_rng([first, index])
        rgba = render.render(objects.make_object(rng, prompt), cameras, size=SIZE).rgba
        blocks.append(rgba[..., :3] + 1.0 - rgba[..., 3:])
    return np.stack(blocks).astype(np.float32)


def score(images: np.ndarray, settings: dict) -> tuple[list[dict], np.ndarray]:
    """Rows of numbers and features of [prompts, objects, views, 64, 64, 3]."""
    judge, rows, features = classifier.load(), [], []
    count = images.shape[1]
    azimuths = np.arange(settings["num_views"]) * (360.0 / settings["num_views"])
    seen_from = batches.view_index(azimuths, np.full(len(azimuths), 15.0))
    for prompt, block in zip(PROMPTS, images, strict=False):
        flat = block.reshape(-1, *block.shape[2:])
        judged = classifier.judge(judge, flat)
        row = metrics.score_images(
            judged,
            flat,
            kind=prompt.kind,
            colour=prompt.colour,
            views=np.tile(seen_from, count),
            background=np.ones(3, np.float32),
        )
        covered = float(np.mean(np.abs(flat - 1.0).max(-1) > 0.1))
        rows.append({"prompt": prompt.text(), **row, "covered": covered})
        features.append(judged["features"])
    return rows, np.concatenate(features)


def summary(rows: list[dict]) -> dict[str, float]:
    """Means over prompts; `empty` counts those that cover under 1 % of the picture."""
    names = ("kind_precision", "colour_precision", "multi_face_index", "saturation")
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in names}
    return {**means, "empty": sum(row["covered"] < 0.01 for row in rows)}


def report(shown: dict[str, np.ndarray], settings: dict, out: Path) -> dict:
    """Scores all methods, and truth against truth; writes the three files."""
    number = len(next(iter(shown.values())))
    prompts = PROMPTS[:number]
    truth = np.stack([true_views(p, settings, first=100) for p in prompts])
    others = np.stack([true_views(p, settings, first=200) for p in prompts])
    truth_features = score(truth, settings)[1]
    sets = {name: images[:, None] for name, images in shown.items()} | {"truth": others}
    found = {}
    for name, images in sets.items():
        rows, features = score(images, settings)
        distance = metrics.frechet_distance(features, truth_features)
        found[name] = {**summary(rows), "frechet": distance, "rows": rows}
    writer.write_json(out / "scores.json", found)
    (out / "scores.md").write_text(markdown(found))
    columns = [
        images[:, :: settings["num_views"] // 4][:, :4] for images in shown.values()
    ]
    columns.append(others[:, 0, :: settings["num_views"] // 4][:, :4])
    sheet = writer.contact_sheet(np.concatenate(columns, 1), tile_size=SIZE)
    writer.save_png(out / "renders.png", sheet)
    return found


def markdown(found: dict) -> str:
    """Two tables: the means, and one row a prompt."""
    names = [
        *("kind_precision", "colour_precision", "multi_face_index", "saturation"),
        *("frechet", "empty"),
    ]
    means = [
        [method, *(f"{scores[name]:.3f}" for name in names)]
        for method, scores in found.items()
    ]
    rows = []
    for i, row in enumerate(found["truth"]["rows"]):
        cells = [row["prompt"]]
        for scores in found.values():
            one = scores["rows"][i]
            cells += [f"{one['kind_precision']:.2f} / {one['colour_precision']:.2f}"]
        rows.append(cells)
    heads = ["prompt (kind / colour right)", *found]
    return table(["", *names], means) + "\n\n" + table(heads, rows) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="which")
    args, options = parser.parse_known_args()
    shown = {method: [] for method in args.methods}
    for prompt in PROMPTS[: args.prompts]:
        for method in args.methods:
            folder = args.out / method / prompt.kind
            run_program(prompt, folder, METHODS[method] + options)
            shown[method].append(read_views(folder))
    settings = json.loads((folder / "config.json").read_text())["eval"]
    stacked = {method: np.stack(images) for method, images in shown.items()}
    report(stacked, settings, args.out)
    print((args.out / "scores.md").read_text())


if __name__ == "__main__":
    main()
