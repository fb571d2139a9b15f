# SPDX-License-Identifier: Apache-2.0
"""What the report shows of a run that is still training."""

import datetime
import pathlib
from typing import Any

from vsd_jax.program.folder import writer
from vsd_jax.program.report import page
from vsd_jax.program.terminal import progress

Path = pathlib.Path
FILE = "progress.json"
"""Is there only while a run trains, or after one that was killed."""

_ROWS = 20

SCRIPT = """
let changed = null;
async function watch() {
  try {
    const answer = await fetch(location.href, {method: "HEAD", cache: "no-store"});
    const now = answer.headers.get("X-Changed");
    if (answer.ok && changed !== null && now !== changed) { location.reload(); return; }
    changed = now;
  } catch (error) { }
  setTimeout(watch, 2000);
}
if (location.protocol === "http:") watch();
"""
"""Reloads a page that `serve.py` serves when it was written anew."""


def write(folder: Path, step: int, num_steps: int, seconds_left: float | None) -> None:
    """Writes how far a run is.

    Args:
      folder: of the run.
      step: the last one made.
      num_steps: of the run.
      seconds_left: for the rest; None = not known yet.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row = {"step": step, "num_steps": num_steps, "seconds_left": seconds_left}
    writer.write_json(Path(folder) / FILE, row | {"at": now})


def read(folder: Path) -> dict[str, Any]:
    """What `write` wrote; {} if the run does not train."""
    try:
        return writer.read_json(Path(folder) / FILE)
    except (OSError, ValueError):
        return {}


def stop(folder: Path) -> None:
    """The run does not train any more."""
    (Path(folder) / FILE).unlink(missing_ok=True)


def line(now: dict[str, Any]) -> str:
    """How far it is and how long the rest will take, in a sentence."""
    left = now.get("seconds_left")
    if now["step"] >= now["num_steps"]:
        return f"Trained for {now['step']:,} steps; its products are being made."
    time = "" if left is None else f", about {progress.duration(left)} left"
    return f"Training: step {now['step']:,} of {now['num_steps']:,}{time}."


def show(now: dict[str, Any], rows: list[dict]) -> str:
    """The first lines of the page, as HTML; "" if the run does not train."""
    if not now:
        return ""
    parts = [line(now), f"As of {now['at']}.", describe_score(rows)]
    return f'<p class="live">{page.escape(" ".join(filter(None, parts)))}</p>'


def describe_score(rows: list[dict]) -> str:
    """The state of the score network in a sentence, from the lines of metrics.jsonl."""
    losses = _values(rows, "score/loss")
    if not losses:
        return "There is no score network." if _values(rows, "residual/rms") else ""
    recent = _mean(losses[-_ROWS:])
    text = f"Score network: loss {recent:.3g}"
    if len(losses) > 2 * _ROWS:
        text += f" ({_mean(losses[:_ROWS]):.3g} in the beginning)"
    skipped = sum(_values(rows, "score/skipped"))
    if skipped:
        text += f", {skipped:.0f} updates that were not finite left out"
    errors = [_values(rows, f"inside/score_error_t{i}")[-1:] for i in range(3)]
    if all(errors):
        numbers = ", ".join(f"{error[0]:.3g}" for error in errors)
        text += f"; its x_0 differs from the render by {numbers} at the three t below"
    return text + "."


def _values(rows: list[dict], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
