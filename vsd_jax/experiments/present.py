# SPDX-License-Identifier: Apache-2.0
"""A finished table as files: scores.json, table.md, pictures.png, plot.png."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure  # not pyplot, whose state a notebook shares

from vsd_jax.experiments.scores import TRUTH
from vsd_jax.program.folder import writer

Path = pathlib.Path
RowScores = Mapping[str, Mapping[str, Any]]
HEADS = {
    "kind_precision": ("kind right", "%"),
    "strict_precision": ("strictly", "%"),
    "colour_precision": ("colour right", "%"),
    "multi_face_index": ("a second front", "%"),
    "saturation": ("saturation", ".3f"),
    "sharpness": ("contrast of neighbours", ".3f"),
    "diversity": ("diversity", ".2f"),
    "covered": ("covered", "%"),
    "chamfer": ("Chamfer distance", ".4f"),
    "mmd": ("of truth to the nearest (MMD)", ".4f"),
    "frechet_truth": ("Fréchet to truth", ".3g"),
    "kernel_truth": ("kernel to truth", ".3g"),
    "frechet_reference": ("Fréchet to {reference}", ".3g"),
    "kernel_reference": ("kernel to {reference}", ".3g"),
    "mode_error": ("modes wrong", "%"),
    "within": ("spread in a mode / true", ".2f"),
    "log_density": ("log p(x) / number", ".2f"),
    "seconds": ("processor seconds", ".0f"),
}
"""Score -> its heading and how it is written."""
SHOWN = 14


def markdown(
    found: Mapping[str, RowScores], columns: Sequence[str], reference: str
) -> str:
    """A row each, `mean ± spread`; a column that truth alone has is left out."""
    columns = _shown(found, columns)
    heads = [_head(name, reference) for name in columns]
    lines = [
        [row, *(number(scores.get(name), name) for name in columns)]
        for row, scores in found.items()
    ]
    return table(["", *heads], lines) + "\n"


def _shown(found: Mapping[str, RowScores], columns: Sequence[str]) -> list[str]:
    made = [scores for row, scores in found.items() if row != TRUTH]
    return [
        name for name in columns if any(number(s.get(name), name) != "–" for s in made)
    ]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, without a line break at its end."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _head(name: str, reference: str) -> str:
    return HEADS[name][0].format(reference=reference)


def number(score: Mapping[str, Any] | None, name: str) -> str:
    """A score as it is written, `mean ± spread`; a dash if there is none."""
    if score is None or score["mean"] is None or not math.isfinite(score["mean"]):
        return "–"
    text = _number(score["mean"], name)
    if score["spread"] is not None:
        text += f" ± {_number(score['spread'], name)}"
    return text + (" %" if HEADS[name][1] == "%" else "")


def _number(value: float, name: str) -> str:
    form = HEADS[name][1]
    return f"{100 * value:.1f}" if form == "%" else f"{value:{form}}"


def about(record: Mapping[str, Any]) -> str:
    """What the table is, and its `provenance`."""
    return f"{record['about']}\n\n{provenance(record)}"


def provenance(record: Mapping[str, Any]) -> str:
    """Command, commit, machine and time in a few lines, above the table."""
    budget, where = record["budget"], record["environment"]
    commits = ", ".join(_short(commit) for commit in record["commits"])
    lines = [
        f"`{record['command']}`",
        "",
        f"{budget['cells']} cells (seeds: {budget['seeds']}; prompts:"
        f" {', '.join(budget['prompts'])}); commit {commits or 'unknown'};"
        f" prior {record['prior']}; {where['cpu_count']} cores, {record['cpu_minutes']}"
        f" minutes of processor time, {record['wall_minutes']} of wall clock.",
        f"Mean ± sample standard deviation over {record['spread_over']}.",
    ]
    if record["unfinished"]:
        lines.append(f"**Unfinished: {record['unfinished']} cells are missing.**")
    each = budget["seeds"] * len(budget["prompts"])
    stopped: dict[str, list] = {}
    for cell in record.get("stopped", ()):
        stopped.setdefault(cell["row"], []).append(cell)
    lines += [_stopped(row, own, each) for row, own in stopped.items()]
    return "\n".join(lines) + "\n\n"


def _stopped(row: str, cells: Sequence[Mapping[str, Any]], each: int) -> str:
    """The runs of a row that diverged: which, and the first one's two sentences."""
    which = "; ".join(f"{cell['prompt']}, seed {cell['seed']}" for cell in cells)
    why = ". ".join(cells[0]["stopped"].rstrip(".").split(". ")[:2])
    return (
        f"**Stopped: {len(cells)} of {each} runs of {row}**, which are in no number"
        f" here: {which}. Means of such a seed are of its other prompts, and it has no"
        f" distance between sets. The first: {why}."
    )


def _short(commit: str) -> str:
    """Seven digits, and whether the source was edited since."""
    return commit[:7] + "+" * commit.endswith("+changes")


def save(
    out: Path,
    record: Mapping[str, Any],
    shown: Mapping[str, np.ndarray],
    columns: Sequence[str],
) -> str:
    """Writes all four files.

    Args:
      out: the experiment's folder.
      record: what `scores.json` holds.
      shown: pictures [n, H, W, 3] of each row, or points [n, 1, 1, 2].
      columns: scores of the table, in order.

    Returns:
      The content of `table.md`.
    """
    writer.write_json(out / "scores.json", record)
    table = about(record) + markdown(record["rows"], columns, record["reference"])
    writer.write_bytes(out / "table.md", table.encode())
    if next(iter(shown.values())).shape[-1] == 3:
        save_pictures(out / "pictures.png", shown)
    else:
        save_points(out / "pictures.png", shown)
    save_plot(out / "plot.png", record["rows"], columns, record["reference"])
    return table


def save_pictures(path: Path, shown: Mapping[str, np.ndarray]) -> None:
    """A strip of the first pictures of each row, with its name."""
    wide = min(SHOWN, max(map(len, shown.values())))
    figure, axes = _grid(
        len(shown), 1, figsize=(wide * 0.75 + 2.4, 0.8 * len(shown)), squeeze=False
    )
    for axis, (name, images) in zip(axes[:, 0], shown.items(), strict=True):
        images = images[:wide]
        size = images.shape[1]
        blank = np.ones((wide - len(images), *images.shape[1:]), np.float32)
        strip = np.concatenate([*images, *blank], axis=1)
        axis.imshow(strip, interpolation="nearest")
        axis.set_xticks([])
        axis.set_yticks([size / 2], [name])
        axis.tick_params(length=0)
        axis.set_frame_on(False)
    finish(figure, path)


def save_points(path: Path, shown: Mapping[str, np.ndarray]) -> None:
    """A scatter plot of each row, over truth where there is such a row."""
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = _grid(
        rows, columns, figsize=(2.3 * columns, 2.4 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.set_visible(False)
    for axis, (name, points) in zip(axes.flat, shown.items(), strict=False):
        axis.set_visible(True)
        true = shown.get("truth")
        if true is not None:
            axis.scatter(*true.reshape(-1, 2).T, s=4, c="0.8")
        axis.scatter(*points.reshape(-1, 2).T, s=4, c="tab:red")
        axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[])
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=8)
    finish(figure, path)


def save_plot(
    path: Path, found: Mapping[str, RowScores], columns: Sequence[str], reference: str
) -> None:
    """One panel a score: a bar each row with its spread, truth as a line."""
    columns = _shown(found, columns)
    wide = min(3, len(columns))
    rows = -(-len(columns) // wide)
    height = 0.24 * len(found) + 0.8
    figure, axes = _grid(
        rows, wide, figsize=(4.2 * wide, height * rows), squeeze=False, sharey=True
    )
    for axis in axes.flat[len(columns) :]:
        axis.set_visible(False)
    names = list(found)
    for axis, name in zip(axes.flat, columns, strict=False):
        scores = [found[row].get(name, {}) for row in names]
        means = [_finite(score.get("mean")) for score in scores]
        spreads = [_finite(score.get("spread"), 0.0) for score in scores]
        axis.barh(names, means, xerr=spreads, color="tab:blue", ecolor="0.3")
        if TRUTH in found and np.isfinite(means[names.index(TRUTH)]):
            axis.axvline(means[names.index(TRUTH)], color="tab:red", lw=1)
        axis.set_title(_head(name, reference), fontsize=9)
        axis.tick_params(labelsize=7)
    axes[0, 0].invert_yaxis()
    figure.supxlabel("lines: ± standard deviation; red: truth", fontsize=8)
    finish(figure, path)


def save_correlations(path: Path, runs: Sequence[Any], found: Mapping) -> None:
    """The four strongest quantities against each error; a colour a method."""
    figure, axes = _grid(len(found), 4, figsize=(13, 3 * len(found)), squeeze=False)
    methods = sorted({run.method for run in runs})
    for row, (error, quantities) in zip(axes, found.items(), strict=True):
        for axis, quantity in zip(row, quantities[:4], strict=False):
            name = quantity["name"]
            for method in methods:
                own = [r for r in runs if r.method == method and name in r.said]
                own = [r for r in own if error in r.errors]
                x, y = [r.said[name] for r in own], [r.errors[error] for r in own]
                axis.scatter(x, y, s=12, label=method)
            axis.set_title(f"rho = {quantity['rho']:.2f}", fontsize=9)
            axis.set_xlabel(name, fontsize=8)
            axis.set_ylabel(error, fontsize=8)
    if axes[0, 0].collections:
        axes[0, 0].legend(fontsize=7)
    finish(figure, path)


def _grid(rows: int, columns: int, **options: Any) -> tuple[Figure, np.ndarray]:
    """As pyplot's `subplots`, always [rows, columns] axes."""
    figure = Figure(figsize=options.pop("figsize"))
    return figure, figure.subplots(rows, columns, **options)


def _finite(value: Any, other: float = float("nan")) -> float:
    return other if value is None or not np.isfinite(value) else value


def finish(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=100, format="png")
    partial.replace(path)
