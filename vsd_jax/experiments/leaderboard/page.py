# SPDX-License-Identifier: Apache-2.0
"""The leaderboard for people: Markdown tables, and one page that holds all it shows."""

import itertools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vsd_jax.experiments import present, scores
from vsd_jax.experiments.leaderboard import diagram, records
from vsd_jax.experiments.leaderboard.records import Board
from vsd_jax.experiments.leaderboard.worlds import Start
from vsd_jax.program.folder import writer
from vsd_jax.program.report import page
from vsd_jax.program.terminal import progress

Path = pathlib.Path
_RULE = (
    "Every method has the same number of network passes for each particle. In each"
    " block, a prompt and a seed, the methods are ranked by how far they are from"
    " truth, 1 being the best; what failed shares the last places. Beside the mean rank"
    " stands its 95 % interval, over blocks drawn with replacement. Methods under one"
    " red bar are not told apart (Nemenyi, 5 %)."
)
# A click on a heading sorts by it; numbers by `data-value`, which is what they are.
_SORT = """
for (const head of document.querySelectorAll("th[data-column]")) {
  head.style.cursor = "pointer";
  head.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const th of table.querySelectorAll("th")) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[head.cellIndex].dataset.value;
    const number = text => text === "" ? NaN : Number(text);
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a), y = value(b), i = number(x), j = number(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(i) || isNaN(j) ? x.localeCompare(y) : i - j;
      return up ? order : -order;
    });
    body.append(...rows);
  });
}
"""
_RHO = (("rho", ".2f"), ("p", ".2g"))
Cell = tuple[str, Any]
"""What is shown and what is sorted by."""


def save(out: Path, board: Board, shown: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Writes all files of a leaderboard.

    Args:
      out: its folder.
      board: from `records.collect`.
      shown: world -> pictures or points of each method, from `pictures`.

    Returns:
      The content of `leaderboard.md`.
    """
    writer.write_json(out / "leaderboard.json", board)
    writer.write_bytes(out / "leaderboard.csv", records.csv_text(board).encode())
    for world, ranked in board["ranking"]["worlds"].items():
        by = board["worlds"][world]["main"]
        if by in ranked:
            title = f"{world}: mean rank by {present.HEADS[by][0]}"
            diagram.save(out / f"ranks_{world}.png", ranked[by], title)
        if world in shown:
            draw = present.save_pictures
            if next(iter(shown[world].values())).shape[-1] != 3:
                draw = present.save_points
            draw(out / f"pictures_{world}.png", shown[world])
    text = markdown(board)
    writer.write_bytes(out / "leaderboard.md", text.encode())
    writer.write_bytes(out / "leaderboard.html", html(out, board).encode())
    return text


def pictures(starts: Iterable[Start], out: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the cells of seed 0 and the first prompt made, and truth, of each world."""
    found: dict[str, dict[str, np.ndarray]] = {}
    prompts: dict[str, str] = {}
    for world, cell, _ in starts:
        folder = out / world / cell.products
        done = (out / world / cell.folder / "cell.json").exists()
        if cell.seed or not done or prompts.get(world, cell.prompt) != cell.prompt:
            continue
        prompts[world] = cell.prompt
        rows = found.setdefault(world, {})
        if not rows:
            rows[scores.TRUTH] = _flat(scores.score_truth(cell, folder, 0)[2])
        rows[cell.row.name] = _flat(scores.score_cell(cell, folder)[2])
    return found


def _flat(images: np.ndarray) -> np.ndarray:
    """One picture of each particle, or all views of the first one."""
    return images[:, 0] if images.shape[1] == 1 else images[0]


def markdown(board: Board) -> str:
    """All tables, and where they come from."""
    parts = ["# Leaderboard", _RULE, _origin(board), summary(board)]
    for world in board["worlds"]:
        parts += [f"## {world}", _about(board, world), world_markdown(board, world)]
        parts.append(f"![Mean ranks in {world}](ranks_{world}.png)")
    for title, (heads, rows) in _comparisons(board).items():
        shown = [[text for text, _ in row] for row in rows]
        parts += [f"## {title}", present.table(heads, shown)]
    if board["not_run"]:
        parts.append(f"Not run: {', '.join(board['not_run'])}.")
    return "\n\n".join(parts) + "\n"


def summary(board: Board) -> str:
    """The first and last of each world, how many pairs are told apart, agreement."""
    lines = []
    for world, ranking in board["ranking"]["worlds"].items():
        main = board["worlds"][world]["main"]
        if main not in ranking:
            continue
        rows = ranking[main]["methods"]
        first = ", ".join(f"{row['method']} ({row['rank']:.1f})" for row in rows[:3])
        pairs = itertools.combinations([row["rank"] for row in rows], 2)
        least = ranking[main]["critical_difference"]
        apart = [abs(a - b) >= least for a, b in pairs]
        lines.append(
            f"- **{world}**, by {present.HEADS[main][0]}: first {first}, last"
            f" {rows[-1]['method']} ({rows[-1]['rank']:.1f}) of {len(rows)};"
            f" {sum(apart)} of {len(apart)} pairs are told apart"
            f" ({ranking[main]['blocks']} blocks)."
        )
    for found in board["ranking"]["between"]:
        if found["score"] in {about["main"] for about in board["worlds"].values()}:
            rho, p = (_plain(found[key], form)[0] for key, form in _RHO)
            lines.append(
                f"- **{' and '.join(found['worlds'])}**: Spearman's rho of the mean"
                f" ranks by {present.HEADS[found['score']][0]} is {rho} (p {p},"
                f" {found['methods']} methods)."
            )
    return "\n".join(lines)


def world_markdown(board: Board, world: str) -> str:
    """The table of a world alone."""
    heads, rows = world_table(board, world)
    return present.table(heads, [[text for text, _ in row] for row in rows])


def html(out: Path, board: Board) -> str:
    """The page; pictures are those in `out`."""
    how = "A click on a heading sorts its table."
    found = "".join(
        f"<li>{page.escape(line[2:].replace('**', ''))}</li>"
        for line in summary(board).splitlines()
    )
    parts = [
        f'<p class="live">{_RULE} {how}</p>',
        f"<ul>{found}</ul>",
        f'<p class="note">{page.escape(_origin(board, "{}"))}</p>',
    ]
    for world in board["worlds"]:
        parts.append(f"<h2>{page.escape(world)}</h2>")
        parts.append(f"<p>{page.escape(_about(board, world))}</p>")
        parts.append(_html_table(*world_table(board, world)))
        parts += [_figure(out, f"{name}_{world}") for name in ("ranks", "pictures")]
    for title, table in _comparisons(board).items():
        parts += [f"<h2>{title}</h2>", _html_table(*table)]
    if board["not_run"]:
        parts.append(f"<p>Not run: {', '.join(board['not_run'])}.</p>")
    number = len({cell["method"] for cell in board["cells"]})
    chips = (
        f"{number} methods",
        f"{len(board['cells'])} runs",
        f"form: {board['form']}",
    )
    return page.fill(
        title="Leaderboard · vsd_jax",
        over="vsd_jax · score distillation where the answer is known",
        heading="Leaderboard",
        chips="".join(f"<li>{page.escape(chip)}</li>" for chip in chips),
        body="\n".join(parts),
        script=_SORT,
    )


def _figure(out: Path, name: str) -> str:
    path = out / f"{name}.png"
    if not path.exists():
        return ""
    url = page.data_url(path, "image/png")
    return f'<figure><img alt="{name}" style="max-width: 100%" src="{url}"></figure>'


def world_table(board: Board, world: str) -> tuple[list[str], list[list[Cell]]]:
    """Headings and rows of a world, best first by its main score, truth last."""
    ranking = board["ranking"]["worlds"][world]
    main = board["worlds"][world]["main"]
    columns = [name for name in board["worlds"][world]["scores"] if name in ranking]
    heads = ["method", "mean rank", "95 %", *(present.HEADS[n][0] for n in columns)]
    heads += ["failed", "steps", "processor seconds"]
    by_method = {
        name: {row["method"]: row for row in ranking[name]["methods"]}
        for name in columns
    }
    rows = []
    for best in ranking[main]["methods"] if main in ranking else ():
        name = best["method"]
        values = [by_method[column][name] for column in columns]
        rows.append(
            [
                (name, name),
                (f"{best['rank']:.1f}", best["rank"]),
                _interval(best["interval"]),
                *(
                    (present.number(value, column), value["mean"])
                    for value, column in zip(values, columns, strict=True)
                ),
                *_costs(board, world, name),
            ]
        )
    return heads, [*rows, _truth(board, world, columns)]


def _comparisons(board: Board) -> dict[str, tuple[list[str], list[list[Cell]]]]:
    """Tables of agreement by their titles, without empty ones."""
    found = {
        "Do the worlds agree?": between_table(board),
        "Do they agree with rankings on Stable Diffusion?": published_table(board),
    }
    return {title: (heads, rows) for title, (heads, rows) in found.items() if rows}


def between_table(board: Board) -> tuple[list[str], list[list[Cell]]]:
    """How far each two worlds agree, by each score that both have."""
    heads = ["worlds", "ranked by", "methods", "Spearman's rho", "p", "95 %"]
    rows = []
    for found in board["ranking"]["between"]:
        worlds = " and ".join(found["worlds"])
        score = present.HEADS[found["score"]][0]
        rows.append(
            [
                (worlds, worlds),
                (score, score),
                (str(found["methods"]), found["methods"]),
                _plain(found["rho"], ".2f"),
                _plain(found["p"], ".2g"),
                _interval(found["interval"], ".2f"),
            ]
        )
    return heads, rows


def published_table(board: Board) -> tuple[list[str], list[list[Cell]]]:
    """How far each world agrees with what others found with Stable Diffusion."""
    heads = ["published table", "its column", "world", "ranked by", "methods of both"]
    rows = []
    for found in board["ranking"]["published"]:
        score = present.HEADS[found["score"]][0]
        texts = (found["table"], found["column"], found["world"], score)
        rows.append(
            [
                *((text, text) for text in texts),
                (", ".join(found["methods"]), len(found["methods"])),
                *(_plain(found[key], form) for key, form in _RHO),
            ]
        )
    return [*heads, "Spearman's rho", "p"], rows


def _costs(board: Board, world: str, method: str) -> list[Cell]:
    own = [
        cell
        for cell in board["cells"]
        if (cell["world"], cell["method"]) == (world, method)
    ]
    failed = float(np.mean([bool(cell["failed"]) for cell in own]))
    seconds = float(np.mean([cell["cpu_seconds"] for cell in own]))
    steps = own[0]["steps"]
    return [
        (f"{100 * failed:.0f} %", failed),
        (str(steps), steps),
        (f"{seconds:.0f}", seconds),
    ]


def _truth(board: Board, world: str, columns: Sequence[str]) -> list[Cell]:
    blocks = [b["scores"] for b in board["truth"] if b["world"] == world]
    cells: list[Cell] = []
    for column in columns:
        values = [b[column] for b in blocks if b.get(column) is not None]
        score = scores.spread(values)
        cells.append((present.number(score, column), score["mean"]))
    return [(scores.TRUTH, scores.TRUTH), ("", None), ("", None), *cells, *_BLANKS]


_BLANKS: tuple[Cell, ...] = (("", None),) * 3


def _plain(value: float | None, form: str) -> Cell:
    if value is None or not math.isfinite(value):
        return "–", None
    return f"{value:{form}}", value


def _interval(edges: Sequence[float] | None, form: str = ".1f") -> Cell:
    if edges is None or not all(
        edge is not None and math.isfinite(edge) for edge in edges
    ):
        return "–", None
    low, high = edges
    return f"{low:{form}} to {high:{form}}", low


def _about(board: Board, world: str) -> str:
    about, ranked = board["worlds"][world], board["ranking"]["worlds"][world]
    text = (
        f"{about['about']}. {about['particles']} particles, {about['passes']:,} network"
        f" passes for each, as {about['vsd_moves']} steps of VSD have."
    )
    if board["form"] == "smoke":
        text = (
            f"{about['about']}. A smoke run of a few steps: its numbers mean nothing."
        )
    best = ranked.get(about["main"])
    if best:
        p = _plain(best["p"], ".1g")[0]
        difference = _plain(best["critical_difference"], ".1f")[0]
        text += (
            f" {best['blocks']} blocks; Friedman's p {p}, critical difference of mean"
            f" ranks {difference}."
        )
    return text[0].upper() + text[1:]


def _origin(board: Board, code: str = "`{}`") -> str:
    """Command, commits, priors and machines."""

    def all_of(name: str) -> str:
        return ", ".join(sorted({cell[name] or "" for cell in board["cells"]} - {""}))

    commits = {cell["commit"] for cell in board["cells"]} - {""}
    shown = ", ".join(sorted(c[:7] + "+" * c.endswith("+changes") for c in commits))
    spent = progress.duration(sum(cell["cpu_seconds"] for cell in board["cells"]))
    return (
        f"{code.format(board['command'])}, commit {shown or 'unknown'}, prior"
        f" {all_of('prior') or 'in closed form'}, {all_of('machine')};"
        f" {len(board['cells'])} runs, {spent} of processor time."
    )


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    top = "".join(f"<th data-column>{page.escape(head)}</th>" for head in heads)
    lines = (
        "".join(
            f'<td class="num" data-value="{page.escape("" if v is None else v)}">'
            f"{page.escape(text)}</td>"
            for text, v in row
        )
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f'<tbody style="white-space: nowrap">{body}</tbody></table></div>'
    )
