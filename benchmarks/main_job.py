# SPDX-License-Identifier: Apache-2.0
"""The main job on one prompt of each kind: VSD, refined, and SDS, against truth.

  python -m benchmarks.main_job --out=runs/main_job

Each run is the program itself, in a folder of its own, so the same command goes on
where it stopped: `configs/refined.py`, whose first stage is `configs/object.py` as it
is; VSD at 7.5 and SDS at 100 (`--methods` chooses; further options are passed on to
each stage). Writes scores.json, scores.md and renders.png (a row a prompt: four views
of each method, then truth).

`--seeds=3` runs three seeds, with scores of each in a folder of its own and their mean
and spread in `seeds.md`; `--at_once` trains all runs of a method at once, which fills a
GPU, and then makes the rest of each (`vsd_jax/experiments/together.py`).

The floor of such a table is what one true object a prompt has by the same code: mean
and range of `FLOOR_DRAWS` draws. Many objects a prompt have less.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.measure import table
from vsd_jax.experiments import scores, together, truth
from vsd_jax.program.folder import workdir, writer
from vsd_jax.program.settings import named
from vsd_jax.program.terminal.errors import as_sentences
from vsd_jax.program.terminal.overrides import set_values
from vsd_jax.toybox import metrics, text

PROMPTS = tuple(
    text.Prompt(kind=kind, colour=list(text.COLOURS)[index % len(text.COLOURS)])
    for index, kind in enumerate(text.KINDS)
)


class Method(NamedTuple):
    """A configuration, which of its stages is judged ("" = it has none), settings."""

    config: str
    judged: str = ""
    settings: tuple[str, ...] = ()


METHODS = {
    "VSD": Method("refined", "nerf"),
    "VSD, refined": Method("refined", "refine"),
    # The paper's: its own score is learned at all t.
    "VSD 7.5": Method(
        "object", settings=("vsd.guidance_scale=7.5", "family.exact_below=0.0")
    ),
    # Without the embedded settings' bound on x_0, which turns SDS into a grey haze.
    "SDS 100": Method(
        "object",
        settings=("vsd.method=sds", "vsd.guidance_scale=100.0", "vsd.x0_limit=0.0"),
    ),
}
_STAGES = ("nerf", "refine")  # of the configuration "refined"
_QUIET = ("eval.turntable_frames=8", "export.texture_size=0", "log.inside=False")
TRUTH_OBJECTS, TRUTH_SEED, OTHER_SEED, FLOOR_DRAWS = 8, 100, 200, 4
SIZE = 64
NAMES = (
    *("kind_precision", "strict_precision", "colour_precision", "multi_face_index"),
    *("saturation", "covered", "sharpness", "chamfer"),
)


def run_folder(out: Path, name: str, prompt: text.Prompt, seed: int) -> Path:
    """The folder of a run, that of all its stages."""
    method = METHODS[name]
    folder = method.config + "".join("_" + part for part in method.settings)
    folder = folder.translate(str.maketrans("=.", "__"))
    return out / folder / f"{prompt.kind}_{seed}"


def overrides(
    name: str, prompt: text.Prompt, seed: int, options: Sequence[str]
) -> list[str]:
    """What a run changes in its configuration, as arguments of the program."""
    method = METHODS[name]
    stages = _STAGES if method.judged else ("",)
    settings = (*_QUIET, *method.settings, *options)
    found = [
        f"--config.{stage and stage + '.'}{setting}"
        for stage in stages
        for setting in settings
    ]
    return [*found, f"--config.prompt={prompt.text()}", f"--config.seed={seed}"]


def train_at_once(
    name: str,
    jobs: Sequence[tuple[text.Prompt, int]],
    out: Path,
    options: Sequence[str],
) -> None:
    """Trains the runs of a method that have not begun; the program makes the rest."""
    runs = [stages_of(name, *job, run_folder(out, name, *job), options) for job in jobs]
    command = shlex.join(["python", "-m", "benchmarks.main_job", *sys.argv[1:]])
    together.train_stages(runs, name, command=command)


def stages_of(
    name: str, prompt: text.Prompt, seed: int, folder: Path, options: Sequence[str]
) -> dict[str, together.Job]:
    """The stages of a run, as the program would be asked for them."""
    config = named.NAMED[METHODS[name].config]("")
    set_values(config, overrides(name, prompt, seed, options))
    return together.stages_of(config, folder)


def run_program(
    name: str, prompt: text.Prompt, seed: int, folder: Path, options: Sequence[str]
) -> None:
    """Runs, resumes or (when it is finished) leaves a run of the program."""
    method = METHODS[name]
    judged = folder / method.judged
    if (judged / "report.html").exists() and (judged / "evaluation.png").exists():
        asked = stages_of(name, prompt, seed, folder, options)[method.judged].config
        stored = workdir.read_config(judged)
        workdir.check_same_run(judged, stored, asked, extend=False)
        return
    command = [sys.executable, "-m", "vsd_jax.main", f"--config={method.config}"]
    command += [*overrides(name, prompt, seed, options), f"--workdir={folder}"]
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"{shlex.join(command)} did not end well; the same command goes on.")


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
    """Means over prompts; `empty` counts those that cover under 1 % of the picture.

    Not a number where one prompt has none: its failure must not help the mean.
    """
    means = {
        name: float(np.mean([row.get(name, np.nan) for row in rows])) for name in NAMES
    }
    means["worst_kind"] = min(row["kind_precision"] for row in rows)
    return {**means, "empty": sum(row["covered"] < 0.01 for row in rows)}


def floor(orbit: truth.Orbit, prompts, true_features: np.ndarray) -> dict:
    """Distances of one true object a prompt, as a run is judged: a list of each."""
    found = {"frechet": [], "kernel": []}
    for draw in range(FLOOR_DRAWS):
        one = [
            truth.orbit_images(p.text(), orbit, 1, OTHER_SEED + 50 + draw)
            for p in prompts
        ]
        features = score(np.stack(one), orbit)[1]
        found["frechet"].append(metrics.frechet_distance(features, true_features))
        found["kernel"].append(metrics.kernel_distance(features, true_features))
    return found


def report(
    shown: dict[str, np.ndarray], chamfer: dict, orbit: truth.Orbit, out: Path
) -> dict:
    """Scores all methods, and truth against truth; writes the three files.

    Args:
      shown: of each method [prompts, views, 64, 64, 3].
      chamfer: of each method [prompts].
      orbit: the judged cameras.
      out: where the files go.
    """
    number = len(next(iter(shown.values())))
    prompts = PROMPTS[:number]
    true, others = (
        np.stack(
            [truth.orbit_images(p.text(), orbit, TRUTH_OBJECTS, seed) for p in prompts]
        )
        for seed in (TRUTH_SEED, OTHER_SEED)
    )
    true_features = score(true, orbit)[1]
    sets = {name: images[:, None] for name, images in shown.items()} | {"truth": others}
    found = {}
    for name, images in sets.items():
        rows, features = score(images, orbit)
        for row, distance in zip(rows, chamfer.get(name, ()), strict=False):
            row["chamfer"] = distance
        found[name] = {
            **summary(rows),
            "frechet": metrics.frechet_distance(features, true_features),
            "kernel": metrics.kernel_distance(features, true_features),
            "rows": rows,
        }
    found["truth"]["one_object_a_prompt"] = floor(orbit, prompts, true_features)
    writer.write_json(out / "scores.json", found)
    (out / "scores.md").write_text(markdown(found))
    columns = [images[:, :: orbit.num_views // 4][:, :4] for images in shown.values()]
    columns.append(others[:, 0, :: orbit.num_views // 4][:, :4])
    sheet = writer.contact_sheet(np.concatenate(columns, 1), tile_size=SIZE)
    writer.save_png(out / "renders.png", sheet)
    return found


def markdown(found: dict) -> str:
    """The means, the floor, and one row a prompt."""
    names = (*NAMES, "worst_kind", "frechet", "kernel", "empty")
    means = [
        [method, *(f"{numbers[name]:.3f}" for name in names)]
        for method, numbers in found.items()
    ]
    draws = found["truth"]["one_object_a_prompt"]
    said = [
        f"{name} distance {np.mean(of):.1f} ({min(of):.1f} to {max(of):.1f})"
        for name, of in draws.items()
    ]
    lowest = f"One true object a prompt, {FLOOR_DRAWS} draws: {', '.join(said)}.\n"
    rows = []
    for i, row in enumerate(found["truth"]["rows"]):
        cells = [row["prompt"]]
        for numbers in found.values():
            one = numbers["rows"][i]
            shape = one.get("chamfer", float("nan"))
            cells += [f"{one['strict_precision']:.2f} / {shape:.3f}"]
        rows.append(cells)
    heads = ["prompt (kind right, strictly / Chamfer distance)", *found]
    return f"{table(['', *names], means)}\n\n{lowest}\n{table(heads, rows)}\n"


def judge_seed(args: argparse.Namespace, seed: int, out: Path) -> dict:
    """Scores of all runs of a seed, which are there."""
    shown, chamfer, orbit = {}, {}, None
    for name in args.methods:
        folders = [
            run_folder(args.out, name, prompt, seed) / METHODS[name].judged
            for prompt in PROMPTS[: args.prompts]
        ]
        orbit = orbit or read_orbit(folders[0])
        shown[name] = np.stack([read_views(folder) for folder in folders])
        chamfer[name] = [
            truth.chamfer(folder / "mesh" / "particle_00.ply", prompt.text())
            for folder, prompt in zip(folders, PROMPTS, strict=False)
        ]
    out.mkdir(exist_ok=True)
    return report(shown, chamfer, orbit, out)


def spread_of(found: Sequence[dict]) -> str:
    """Mean and standard deviation over seeds of what `summary` has, as a table."""
    names = (*NAMES, "worst_kind", "frechet", "kernel", "empty")
    rows = []
    for method in found[0]:
        cells = []
        for name in names:
            values = [seed[method][name] for seed in found]
            shown = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
            cells.append(shown if np.isfinite(values).all() else "")
        rows.append([method, *cells])
    return table(["", *names], rows) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="how many")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, help="of all runs")
    seeds.add_argument("--seeds", type=int, default=1, help="how many, from 0")
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, help="which"
    )
    about = "train all runs of a method at once, on a GPU or TPU"
    parser.add_argument("--at_once", action="store_true", help=about)
    args, options = parser.parse_known_args()
    if args.seeds < 1:
        parser.error(f"--seeds={args.seeds} runs nothing; give 1 or more.")
    options = [option.removeprefix("--config.") for option in options]
    numbers = range(args.seeds) if args.seeds > 1 else [args.seed]
    jobs = [(p, seed) for seed in numbers for p in PROMPTS[: args.prompts]]
    for name in args.methods if args.at_once else ():
        train_at_once(name, jobs, args.out, options)
    found = []
    for seed in numbers:
        for name in args.methods:
            for prompt in PROMPTS[: args.prompts]:
                folder = run_folder(args.out, name, prompt, seed)
                run_program(name, prompt, seed, folder, options)
        own = args.out / f"seed_{seed}" if args.seeds > 1 else args.out
        found.append(judge_seed(args, seed, own))
        print((own / "scores.md").read_text(), flush=True)
    if len(found) > 1:
        (args.out / "seeds.md").write_text(spread_of(found))
        print((args.out / "seeds.md").read_text())


if __name__ == "__main__":
    with as_sentences():
        main()
