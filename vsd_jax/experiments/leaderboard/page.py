# SPDX-License-Identifier: Apache-2.0
"""The leaderboard for people: Markdown tables, and one page that holds all it shows."""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vsd_jax.experiments import present, scores
from vsd_jax.experiments.leaderboard import diagram, records, tables
from vsd_jax.experiments.leaderboard.records import Board
from vsd_jax.experiments.leaderboard.tables import Cell
from vsd_jax.experiments.leaderboard.worlds import CONTROL, WORLDS, Start
from vsd_jax.program.folder import writer
from vsd_jax.program.report import page
from vsd_jax.program.terminal import progress

Path = pathlib.Path
_EQUAL = {
    "passes": "Every method has the same number of network passes for each particle.",
    "time": (
        "Every method has the same wall clock for a run: that of the steps which VSD"
        " makes with the budget of passes, on this machine, without compilation. A step"
        " of each was timed once, after it was compiled: the fastest of twenty blocks."
    ),
}
_RULE = (
    " For each prompt and seed the methods are ranked by how far they are from truth, 1"
    " being the best; what failed shares the last places. A block is a prompt, with the"
    " means of its seeds' ranks, or a seed where all have one prompt. Beside the mean"
    " rank stands the middle 95 % of its means over blocks drawn with replacement: of"
    " three blocks that is their range, of few it covers the true rank less often than"
    " 95 %. Methods under one red bar are not told apart (Nemenyi, 5 %)."
)
# A heading, clicked or chosen by the keyboard, sorts by it; numbers by `data-value`.
_SORT = """
for (const head of document.querySelectorAll("th[data-column]")) {
  head.style.cursor = "pointer";
  head.tabIndex = 0;
  head.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    head.click();
  });
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
_CLOSED = (
    "The prior is a closed form here, so that the time of a step is this machine's"
    " overhead and a mixture's arithmetic, not a network's: what is slow here need not"
    " be slow with a network."
)


def save(out: Path, board: Board, shown: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Writes all files of a leaderboard.

    Args:
      out: its folder.
      board: from `records.collect`.
      shown: world -> pictures or points of each method, from `pictures`.

    Returns:
      The content of `leaderboard.md`.
    """
    writer.write_json(out / records.FILE, board)
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
    parts = ["# Leaderboard", rule(board), _origin(board), summary(board)]
    for world in board["worlds"]:
        parts += [f"## {world}", _about(board, world), world_markdown(board, world)]
        parts.append(f"![Mean ranks in {world}](ranks_{world}.png)")
    for title, (heads, rows) in tables.comparisons(board).items():
        shown = [[text for text, _ in row] for row in rows]
        parts += [f"## {title}", present.table(heads, shown)]
    if board["not_run"]:
        parts.append(f"Not run: {', '.join(board['not_run'])}.")
    return "\n\n".join(parts) + "\n"


def rule(board: Board) -> str:
    """What all have the same of, whose settings they have, how they are ranked."""
    text = _EQUAL[board.get("equal", "passes")]
    if "tuned" in board:
        text += (
            " Guidance and rate of each method are tuned by one rule"
            " (`tuning.py`), on what is not scored."
        )
    return text + _RULE


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
        lines += against_control(board, world)
    for found in board["ranking"]["between"]:
        if found["score"] in {about["main"] for about in board["worlds"].values()}:
            rho, p = (tables.plain(found[key], form)[0] for key, form in tables.RHO)
            lines.append(
                f"- **{' and '.join(found['worlds'])}**: Spearman's rho of the mean"
                f" ranks by {present.HEADS[found['score']][0]} is {rho} (p {p},"
                f" {found['methods']} methods)."
            )
    lines += map(against, board.get("compared", ()))
    return "\n".join(lines)


def against_control(board: Board, world: str) -> list[str]:
    """How many methods are nearer to truth than where they began, in a sentence."""
    main = board["worlds"][world]["main"]
    start = [s[main] for s in tables.control_scores(board, world) if main in s]
    if not start or board["worlds"][world]["scores"][main] != "low":
        return []
    still = scores.spread(start)
    rows = board["ranking"]["worlds"][world][main]["methods"]
    means = [row["mean"] for row in rows if row["mean"] is not None]
    nearer = sum(mean < still["mean"] for mean in means)
    return [
        f"- **{world}, against standing still**: what all begin with has a"
        f" {present.HEADS[main][0]} of {present.number(still, main)}; {nearer} of"
        f" {len(rows)} methods end nearer."
    ]


def against(found: Mapping[str, Any]) -> str:
    """How far a world's ranking is that of the stored leaderboard, in a sentence."""
    rho, p = (tables.plain(found[key], form)[0] for key, form in tables.RHO)
    return (
        f"- **{found['world']}, against the stored leaderboard** (authors' settings,"
        f" equal passes): Spearman's rho of the mean ranks by"
        f" {present.HEADS[found['score']][0]} is {rho} (p {p}, {found['methods']}"
        " methods)."
    )


def world_markdown(board: Board, world: str) -> str:
    """The table of a world alone."""
    heads, rows = tables.world_table(board, world)
    return present.table(heads, [[text for text, _ in row] for row in rows])


def html(out: Path, board: Board) -> str:
    """The page; pictures are those in `out`."""
    how = "A click on a heading sorts its table."
    found = "".join(
        f"<li>{page.escape(line[2:].replace('**', ''))}</li>"
        for line in summary(board).splitlines()
    )
    parts = [
        f'<p class="live">{page.escape(rule(board))} {how}</p>',
        f"<ul>{found}</ul>",
        f'<p class="note">{page.escape(_origin(board, "{}"))}</p>',
    ]
    for world in board["worlds"]:
        parts.append(f"<h2>{page.escape(world)}</h2>")
        parts.append(f"<p>{page.escape(_about(board, world))}</p>")
        parts.append(_html_table(*tables.world_table(board, world)))
        parts += [_figure(out, f"{name}_{world}") for name in ("ranks", "pictures")]
    for title, table in tables.comparisons(board).items():
        parts += [f"<h2>{title}</h2>", _html_table(*table)]
    if board["not_run"]:
        parts.append(f"<p>Not run: {', '.join(board['not_run'])}.</p>")
    number = len({cell["method"] for cell in board["cells"]} - {CONTROL})
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


def _about(board: Board, world: str) -> str:
    about, ranked = board["worlds"][world], board["ranking"]["worlds"][world]
    text = (
        f"{about['about']}. {about['particles']} particles, {about['passes']:,} network"
        f" passes for each, as {about['vsd_moves']} steps of VSD have."
    )
    if "seconds" in about:
        text = (
            f"{about['about']}. {about['particles']} particles, {about['seconds']:.3g}"
            f" seconds of steps for a run, as VSD takes for {about['vsd_moves']} moves"
            " of each particle."
        )
    if board["form"] == "smoke":
        text = (
            f"{about['about']}. A smoke run of a few steps: its numbers mean nothing."
        )
    if "seconds" in about and WORLDS[world].is_exact:
        text += f" {_CLOSED}"
    best = ranked.get(about["main"])
    if best:
        p = tables.plain(best["p"], ".1g")[0]
        difference = tables.plain(best["critical_difference"], ".1f")[0]
        text += (
            f" {best['blocks']} blocks; Friedman's p {p}, critical difference of mean"
            f" ranks {difference}."
        )
    if "unfinished" in about:
        text += f" Not run yet: {about['unfinished']} more, each a prompt and a seed."
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
