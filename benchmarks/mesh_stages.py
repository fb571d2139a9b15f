# SPDX-License-Identifier: Apache-2.0
"""The three stages on eight prompts: does geometry get closer to truth?

  python -m benchmarks.mesh_stages --out=runs/mesh_stages [--prompts 8] [options]

Each run is the program itself with `configs/textured_mesh.py`, in a folder of its own,
so the same command goes on where it stopped; further options are passed on. The NeRF
that counts is the refined one, which geometry starts from, where it is refined. A mesh
is compared with the nearest of 16 truth objects of its kind (Chamfer distance), and its
normals with those of that object's nearest points. Truth is a soup of parts that reach
into each other: only what is seen from outside counts. Writes scores.json, scores.md
and renders.png (a row a prompt: three views of NeRF, normals, texture).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from benchmarks.main_job import PROMPTS, read_views
from benchmarks.measure import machine, table
from vsd_jax.experiments import truth
from vsd_jax.program.folder import writer
from vsd_jax.program.folder.workdir import STAGES
from vsd_jax.toybox import metrics, text


def run_program(prompt: text.Prompt, folder: Path, options: list[str]) -> None:
    """Runs or resumes the program, which leaves a finished run as it is."""
    command = [sys.executable, "-m", "vsd_jax.main"]
    command += ["--config=configs/textured_mesh.py"]
    command += [f"--config.prompt={prompt.text()}", f"--workdir={folder}", *options]
    subprocess.run(command, check=True)


def geometry_scores(found: truth.Sampled, surfaces: Sequence[truth.Sampled]) -> dict:
    """Chamfer distance to the nearest of some surfaces, cosine of normals there."""
    distances = [metrics.chamfer(found.points, other.points) for other in surfaces]
    nearest = surfaces[int(np.argmin(distances))]
    _, index = cKDTree(nearest.points).query(found.points)
    # Truth is a soup of parts, some turned inside out where they meet: no sign.
    cosine = np.abs(np.einsum("nc,nc->n", found.normals, nearest.normals[index]))
    return {"chamfer": min(distances), "normals": float(cosine.mean())}


def truth_scores(prompt: str) -> dict[str, float]:
    """Of true objects against the others: what a perfect stage would reach."""
    surfaces = truth.true_surfaces(prompt)
    rows = [
        geometry_scores(one, [other for other in surfaces if other is not one])
        for one in surfaces
    ]
    return {
        f"truth_{key}": float(np.mean([row[key] for row in rows])) for key in rows[0]
    }


def shown_stages(folder: Path) -> dict[str, str]:
    """The folder of NeRF, geometry and texture; a refined NeRF counts for the NeRF."""
    last = "refine" if (folder / "refine").exists() else "nerf"
    return {"nerf": last, "geometry": "geometry", "texture": "texture"}


def stage_scores(folder: Path, prompt: text.Prompt) -> dict[str, float]:
    """All numbers of one run."""
    found, shown = truth_scores(prompt.text()), shown_stages(folder)
    for name in ("nerf", "geometry"):
        file = folder / shown[name] / "mesh" / "particle_00.ply"
        mesh = trimesh.load(file, process=False)
        sampled = truth.sample_surface(mesh, seed=0)
        scores = geometry_scores(sampled, truth.true_surfaces(prompt.text()))
        found |= {f"{name}_{key}": value for key, value in scores.items()}
    for name in ("nerf", "texture"):
        file = folder / shown[name] / "evaluation.json"
        judged = json.loads(file.read_text())["mean"]
        for key in ("kind_precision", "colour_precision", "multi_face_index"):
            found[f"{name}_{key}"] = judged[key]
    nerf, textured = (read_views(folder / shown[n]) for n in ("nerf", "texture"))
    found["texture_psnr"] = float(-10 * np.log10(np.mean((nerf - textured) ** 2)))
    for name in (stage for stage in STAGES if (folder / stage).exists()):
        files = (folder / name / file for file in ("command.txt", "evaluation.json"))
        begin, end = (file.stat().st_mtime for file in files)
        found[f"{name}_seconds"] = end - begin
    return found


def markdown(rows: dict[str, dict[str, float]]) -> str:
    """One row a prompt, and their means."""
    mean = {
        key: float(np.mean([row[key] for row in rows.values()]))
        for key in next(iter(rows.values()))
    }
    header = ["", "Chamfer (truth)", "normals (truth)", "kind", "colour"]
    header += ["PSNR to NeRF", "seconds"]
    lines = []
    for name, row in {**rows, "**mean**": mean}.items():
        pairs = [
            f"{row[f'nerf_{key}']:.4f} → {row[f'geometry_{key}']:.4f}"
            f" ({row[f'truth_{key}']:.4f})"
            for key in ("chamfer", "normals")
        ]
        pairs += [
            f"{row[f'nerf_{key}']:.2f} → {row[f'texture_{key}']:.2f}"
            for key in ("kind_precision", "colour_precision")
        ]
        spent = (row.get(f"{stage}_seconds") for stage in STAGES)
        seconds = " + ".join(f"{each:.0f}" for each in spent if each)
        lines.append([name, *pairs, f"{row['texture_psnr']:.1f} dB", seconds])
    return table(header, lines)


def save_picture(path: Path, folders: list[Path]) -> None:
    """A row a prompt: three views of each stage."""
    rows = []
    for folder in folders:
        views = [read_views(folder / name) for name in shown_stages(folder).values()]
        rows.append(np.concatenate([v[:: len(v) // 5][:3] for v in views]))
    writer.save_png(path, writer.contact_sheet(np.stack(rows), tile_size=64))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--prompts", type=int, default=8, help="how many")
    args, options = parser.parse_known_args()
    chosen = PROMPTS[:: max(len(PROMPTS) // args.prompts, 1)][: args.prompts]
    rows, folders = {}, []
    for prompt in chosen:
        folder = args.out / prompt.kind
        run_program(prompt, folder, options)
        rows[prompt.text()] = stage_scores(folder, prompt)
        folders.append(folder)
    writer.write_json(args.out / "scores.json", rows)
    save_picture(args.out / "renders.png", folders)
    text_found = f"{markdown(rows)}\n\n{machine()}\n"
    (args.out / "scores.md").write_text(text_found)
    print(text_found)


if __name__ == "__main__":
    main()
