# SPDX-License-Identifier: Apache-2.0
"""Which of a run's own numbers predict how far from truth it ends?

  python -m vsd_jax.experiments.diagnose --runs FOLDER [FOLDER ...] --out=OUT

Looks below the folders for finished runs in 3D on the embedded prior. Of each it takes
the last third of `metrics.jsonl`, averaged, and the change since the first third, what
the prior itself says of its views (`program/judge/prior_check.py`), and the share of
them in which the strict judge sees the kind. Its true error is the Chamfer distance of
its mesh to true objects, times that of other true objects, and what the judge says of
its views (`evaluation.json`): the share of wrong kinds, and of second fronts, where the
kind is right. Spearman's rank correlation of the one with the other, over all runs and
within each method. Runs of one prompt are alike, so chance is told by the prompts: each
has a correlation of its own, and p is of their mean being 0 (t test of Fisher's z),
times the number of quantities (Bonferroni). A quantity is kept if its |rho| is at least
0.3 and p below 0.05.

A verdict then is one threshold on a quantity, found without the runs of the prompt that
it is tested on; its hit rate stands beside that of always saying what most runs are.
The verdict of the reports (`program/judge/verdict.py`) is tested as it stands.
"""

import argparse
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from vsd_jax.experiments import present, truth
from vsd_jax.program.folder import writer
from vsd_jax.program.judge import verdict
from vsd_jax.program.terminal import progress

Path = pathlib.Path
ERRORS = {
    "kind wrong": lambda mean: 1.0 - mean["kind_precision"],
    "second fronts": lambda mean: mean["multi_face_index"],
}
SHAPE = "Chamfer distance, times truth's"
SEEN = "strict_precision"  # the share of views that the reports' verdict is about
BAD = {SHAPE: verdict.FAR, "kind wrong": 0.1, "second fronts": 0.25}
"""Above which error a run counts as bad."""
LEAST_RHO, LEVEL, FEWEST = 0.3, 0.05, 8
_FEWEST_OF_PROMPT, _FEWEST_PROMPTS = 4, 3  # runs for a correlation, prompts for p
_TRUE_OBJECTS = 4  # other ones, whose distance is the unit
_LEAST_ROWS = 6  # of metrics, for thirds that mean something


class Run(NamedTuple):
    """A finished run: its prompt and method, what it said of itself, its errors."""

    prompt: str
    method: str
    said: dict[str, float]
    errors: dict[str, float]


def read_run(folder: Path) -> Run | None:
    """A run's numbers; None if it is not finished, not judged, or flat."""
    names = ("evaluation.json", "metrics.jsonl", "config.json")
    if not all((folder / name).exists() for name in names):
        return None
    mean = writer.read_json(folder / "evaluation.json")["mean"]
    config = writer.read_json(folder / "config.json")
    known = all(mean.get(n) is not None for n in ("kind_precision", "multi_face_index"))
    rows = writer.read_metrics(folder / "metrics.jsonl")
    rows = [row for row in rows if "residual/rms" in row]
    if config["field"]["kind"] != "nerf" or not known:
        return None
    scale = config["vsd"]["guidance_scale"]
    method = f"{config['vsd']['method']} {scale:g}"
    errors = {name: float(error(mean)) for name, error in ERRORS.items()}
    if errors["kind wrong"] > BAD["kind wrong"]:
        del errors["second fronts"]  # of what is no such thing nobody knows the front
    meshes = sorted((folder / "mesh").glob("particle_*.ply"))
    shape = truth.shape_scores(meshes, config["prompt"])["chamfer"]
    if np.isfinite(shape):
        errors[SHAPE] = shape / _true_distance(config["prompt"])
    said = summarize(rows) if len(rows) >= _LEAST_ROWS else {}
    judged = (name for name in mean if name.startswith("prior_") or name == SEEN)
    said |= {name: mean[name] for name in judged if mean[name] is not None}
    if not said:
        return None
    return Run(config["prompt"], method, said, errors)


@functools.lru_cache(maxsize=64)
def _true_distance(prompt: str) -> float:
    return truth.true_shape_scores(prompt, _TRUE_OBJECTS, 0)["chamfer"]


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Without repetitions: the same run may be a row of several tables."""
    kept: list[Run] = []
    for run in runs:
        if run not in kept:
            kept.append(run)
    return kept


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of the last third, "..., late", and their change, "..., change"."""
    third = max(1, len(rows) // 3)
    found = {}
    for name in rows[-1]:
        if name == "step" or "count" in name or "skipped" in name:
            continue
        early, late = (_mean(part, name) for part in (rows[:third], rows[-third:]))
        if np.isfinite(late):
            found[f"{name}, late"] = late
        if np.isfinite(late - early):
            found[f"{name}, change"] = late - early
    return found


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    values = [row.get(name) for row in rows]
    values = [v for v in values if isinstance(v, int | float)]
    return float(np.mean(values)) if values else float("nan")


def correlate(runs: Sequence[Run], error: str) -> list[dict[str, Any]]:
    """Rank correlation of each quantity with an error, the strongest first.

    Returns:
      `name`, `rho`, `p` (corrected; 1 with too few prompts), `runs`, `by_method` (rho
      within each), `kept`.
    """
    names = sorted({name for run in runs for name in run.said})
    rows = []
    for name in names:
        having = [run for run in runs if name in run.said and error in run.errors]
        rho = _spearman(having, name, error)
        if not np.isfinite(rho):
            continue
        within = {
            method: _spearman(own, name, error)
            for method in sorted({run.method for run in having})
            if len(own := [run for run in having if run.method == method]) >= FEWEST
        }
        p = min(1.0, _chance(having, name, error) * len(names))
        kept = abs(rho) >= LEAST_RHO and p < LEVEL
        rows.append(
            {"name": name, "rho": rho, "p": p, "runs": len(having), "kept": kept}
            | {"by_method": {k: v for k, v in within.items() if np.isfinite(v)}}
        )
    return sorted(rows, key=lambda row: -abs(row["rho"]))


def _spearman(runs: Sequence[Run], name: str, error: str) -> float:
    x = [run.said[name] for run in runs]
    y = [run.errors[error] for run in runs]
    if len(runs) < FEWEST or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return float("nan")
    return float(stats.spearmanr(x, y).statistic)


def _chance(runs: Sequence[Run], name: str, error: str) -> float:
    """p of the prompts' own correlations being 0 on average."""
    found = []
    for prompt in sorted({run.prompt for run in runs}):
        own = [run for run in runs if run.prompt == prompt]
        x = [run.said[name] for run in own]
        y = [run.errors[error] for run in own]
        if len(own) >= _FEWEST_OF_PROMPT and np.ptp(x) > 0.0 and np.ptp(y) > 0.0:
            found.append(stats.spearmanr(x, y).statistic)
    if len(found) < _FEWEST_PROMPTS:
        return 1.0
    # Few runs can be in perfect order; Fisher's z of that is infinite.
    z = np.arctanh(np.clip(found, -0.99, 0.99))
    if np.ptp(z) == 0.0:
        return 1.0 if z[0] == 0.0 else 0.0
    return float(stats.ttest_1samp(z, 0.0).pvalue)


def verdict_agrees(runs: Sequence[Run]) -> str:
    """How often the reports' verdict says what the Chamfer distance says."""
    having = [run for run in runs if SEEN in run.said and SHAPE in run.errors]
    if not having:
        return ""
    far = np.array([run.errors[SHAPE] > BAD[SHAPE] for run in having])
    unseen = np.array([run.said[SEEN] < verdict.LEAST_SHARE for run in having])
    same, both = int((far == unseen).sum()), int((far & unseen).sum())
    most = max(int(far.sum()), int((~far).sum()))
    return (
        f"The verdict of the reports agrees with the Chamfer distance for {same} of"
        f" {len(far)} runs ({same / len(far):.1%}); always saying what most are would"
        f" for {most} ({most / len(far):.1%}). {int(far.sum())} are far from truth"
        f" (above {BAD[SHAPE]:g} times), {int(unseen.sum())} not recognised, {both}"
        " both.\n"
    )


def hit_rate(runs: Sequence[Run], name: str, error: str) -> tuple[float, float]:
    """Of the verdict "bad" by one threshold, leaving a prompt out; of the majority.

    Args:
      runs: those that report `name`.
      name: the quantity.
      error: what is to be told, see `BAD`.

    Returns:
      NaN for the first where all runs are of one prompt.
    """
    x = np.array([run.said[name] for run in runs])
    bad = np.array([run.errors[error] > BAD[error] for run in runs])
    prompts = np.array([run.prompt for run in runs])
    share = bad.mean()
    if len(set(prompts)) < 2:
        return float("nan"), float(max(share, 1.0 - share))
    hits = np.zeros(len(runs), bool)
    for prompt in set(prompts):
        own = prompts == prompt
        cut, above = best_threshold(x[~own], bad[~own])
        hits[own] = ((x[own] > cut) == above) == bad[own]
    return float(np.mean(hits)), float(max(share, 1.0 - share))


def best_threshold(x: np.ndarray, bad: np.ndarray) -> tuple[float, bool]:
    """The cut with the most hits, and whether values above it mean bad."""
    order = np.unique(x)
    cuts = np.concatenate([[order[0] - 1.0], (order[1:] + order[:-1]) / 2.0])
    right = np.array([np.mean((x > cut) == bad) for cut in cuts])
    best = int(np.argmax(np.maximum(right, 1.0 - right)))
    return float(cuts[best]), bool(right[best] >= 0.5)


def markdown(runs: Sequence[Run], found: dict[str, list[dict]], shown: int) -> str:
    """A table for each error."""
    blocks = [f"{len(runs)} runs.\n", verdict_agrees(runs)]
    for error, rows in found.items():
        methods = sorted({m for row in rows for m in row["by_method"]})
        heads = ["predicts: " + error, "rho", "p, corrected", "hit rate", "bad if"]
        heads += methods
        lines = []
        for row in rows[:shown]:
            name = row["name"]
            having = [run for run in runs if name in run.said and error in run.errors]
            hits, base = hit_rate(having, name, error)
            bad = np.array([run.errors[error] > BAD[error] for run in having])
            cut, above = best_threshold(np.array([r.said[name] for r in having]), bad)
            mark = "**" if row["kept"] else ""
            within = [f"{row['by_method'].get(m, float('nan')):.2f}" for m in methods]
            lines.append(
                [f"{mark}{name}{mark}", f"{row['rho']:.2f}", f"{row['p']:.2g}"]
                + [f"{100 * hits:.0f} % ({100 * base:.0f} %)"]
                + [f"{'above' if above else 'below'} {cut:.3g}", *within]
            )
        blocks.append(present.table(heads, lines) + "\n")
    return "\n".join(blocks)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="where")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--shown", type=int, default=10, help="rows of each table")
    args = parser.parse_args()
    folders = sorted({p.parent for f in args.runs for p in f.rglob("evaluation.json")})
    runs = distinct([run for run in map(read_run, folders) if run is not None])
    if len(runs) < FEWEST:
        parser.error(f"{len(runs)} finished runs were found; {FEWEST} are needed.")
    found = {error: correlate(runs, error) for error in BAD}
    writer.write_json(args.out / "diagnostics.json", found)
    table = markdown(runs, found, args.shown)
    writer.write_bytes(args.out / "diagnostics.md", table.encode())
    present.save_correlations(args.out / "diagnostics.png", runs, found)
    progress.say(table)


if __name__ == "__main__":
    main()
