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

from benchmarks.measure import table
from vsd_jax.experiments import scores, truth
from vsd_jax.program.folder import writer
from vsd_jax.toybox import metrics, text

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
TRUTH_OBJECTS, TRUTH_SEEDS = 8, (100, 200)
SIZE = 64


def run_program(prompt: text.Prompt, folder: Path, options: list[str]) -> None:
    """Runs, resumes or (when it is finished) leaves a run of the program."""
    if (folder / "report.html").exists() and (folder / "evaluation.png").exists():
        return
    command = [sys.executable, "-m", "vsd_jax.main", "--config=configs/object.py"]
    command += [f"--config.prompt={prompt.text()}", f"--workdir={folder}", *options]
    subprocess.run(command, check=True)


def read_orbit(folder: Path) -> truth.Orbit:
    """The cameras that a run was judged from."""
    return truth.Orbit.of(json.loads((folder / "config.json").read_text()))


def read_views(folder: Path) -> np.ndarray:
    """The judged views of a run's first particle: [views, 64, 64, 3] in [0, 1]."""
    num_views = read_orbit(folder).num_views
    return scores.read_views(folder / "evaluation.png", num_views)[0]


def score(images: np.ndarray, orbit: truth.Orbit) -> tuple[list[dict], np.ndarray]:
    """Rows of numbers and features of [prompts, objects, views, 64, 64, 3]."""
    rows, features = [], []
    for prompt, block in zip(PROMPTS, images, strict=False):
        row, found, _ = scores.judge(block, prompt.text(), orbit.view_words)
        rows.append({"prompt": prompt.text(), **row})
        features.append(found.reshape(-1, found.shape[-1]))
    return rows, np.concatenate(features)


def summary(rows: list[dict]) -> dict[str, float]:
    """Means over prompts; `empty` counts those that cover under 1 % of the picture."""
    names = ("kind_precision", "colour_precision", "multi_face_index", "saturation")
    means = {name: float(np.nanmean([row[name] for row in rows])) for name in names}
    return {**means, "empty": sum(row["covered"] < 0.01 for row in rows)}


def report(shown: dict[str, np.ndarray], orbit: truth.Orbit, out: Path) -> dict:
    """Scores all methods, and truth against truth; writes the three files."""
    number = len(next(iter(shown.values())))
    prompts = PROMPTS[:number]
    true, others = (
        np.stack(
            [truth.orbit_images(p.text(), orbit, TRUTH_OBJECTS, seed) for p in prompts]
        )
        for seed in TRUTH_SEEDS
    )
    true_features = score(true, orbit)[1]
    sets = {name: images[:, None] for name, images in shown.items()} | {"truth": others}
    found = {}
    for name, images in sets.items():
        rows, features = score(images, orbit)
        distance = metrics.frechet_distance(features, true_features)
        found[name] = {**summary(rows), "frechet": distance, "rows": rows}
    writer.write_json(out / "scores.json", found)
    (out / "scores.md").write_text(markdown(found))
    columns = [images[:, :: orbit.num_views // 4][:, :4] for images in shown.values()]
    columns.append(others[:, 0, :: orbit.num_views // 4][:, :4])
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
        [method, *(f"{numbers[name]:.3f}" for name in names)]
        for method, numbers in found.items()
    ]
    rows = []
    for i, row in enumerate(found["truth"]["rows"]):
        cells = [row["prompt"]]
        for numbers in found.values():
            one = numbers["rows"][i]
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
    stacked = {method: np.stack(images) for method, images in shown.items()}
    report(stacked, read_orbit(folder), args.out)
    print((args.out / "scores.md").read_text())


if __name__ == "__main__":
    main()
