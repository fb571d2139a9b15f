# SPDX-License-Identifier: Apache-2.0
"""One command a table.

  python -m vsd_jax.experiments --list
  python -m vsd_jax.experiments --name=plane --out=runs/plane

The same command goes on where it stopped. `--seeds`, `--prompts`, `--steps` and
`--particles` make it smaller or larger, `--rows` runs some rows of it, `--texts` other
prompts; `--smoke` runs the same code in seconds and means nothing. `--at_once` trains
all runs of a row at once, which fills a GPU. Writes scores.json, table.md, pictures.png
and plot.png after each seed, with what is finished until then.

  python -m vsd_jax.experiments --name=leaderboard --out=runs/leaderboard --jobs=2
  python -m vsd_jax.experiments --name=leaderboard --out=runs/mine --submit=mine.py

ranks all methods in several worlds (`--worlds`), `--quick` with less of each, meant for
an hour of two cores; or a method of your own among them. Writes leaderboard.json, .csv,
.md and .html. All have the same number of network passes, or (`--equal=time`) the same
wall clock.

  python -m vsd_jax.experiments --name=leaderboard --out=runs/tuned --tune
  python -m vsd_jax.experiments --name=leaderboard --out=runs/board --settings=FILE

tunes guidance and rate of each method by one rule, on what is not scored (tuned.json,
tuned.md), and ranks them with what was chosen (FILE is that tuned.json).
"""

import argparse
import shlex
import sys

from vsd_jax.experiments import plan, runner
from vsd_jax.experiments.catalogue import EXPERIMENTS
from vsd_jax.experiments.leaderboard import (
    board,
    records,
    submit,
    tuned,
    tuning,
    worlds,
)
from vsd_jax.program.folder import paths
from vsd_jax.program.terminal import process, streams
from vsd_jax.program.terminal.errors import ConfigError, as_sentences

LEADERBOARD = "leaderboard"
_OF_LEADERBOARD = ("worlds", "jobs", "quick", "submit", "tune", "settings", "equal")
_OF_TABLES = ("texts", "prompts", "seeds", "steps", "particles", "rows", "at_once")


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="names of all tables")
    parser.add_argument("--name", default="", help="which table")
    parser.add_argument(
        "--out", type=paths.argument, help="its folder; the same one goes on"
    )
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--texts", nargs="+", default=[], help="prompts instead of its")
    about = "how many of its prompts, from the first"
    texts.add_argument("--prompts", type=_positive, help=about)
    for name, about in (
        ("seeds", "how many seeds, from 0"),
        ("steps", "training steps of each run"),
        ("particles", "particles of each run, samples of each sampler"),
    ):
        parser.add_argument(f"--{name}", type=_positive, help=about)
    parser.add_argument("--rows", nargs="+", default=[], help="names of rows to run")
    parser.add_argument("--smoke", action="store_true", help="seconds, means nothing")
    about = "train all runs of a row at once, on a GPU or TPU"
    parser.add_argument("--at_once", action="store_true", help=about)
    group = parser.add_argument_group("leaderboard")
    group.add_argument("--worlds", nargs="+", default=[], help="some of its worlds")
    group.add_argument("--jobs", type=_positive, help="processes at once (1)")
    group.add_argument("--quick", action="store_true", help="less of everything")
    about = "a Python file with a method of yours, ranked among the stored ones"
    group.add_argument("--submit", type=paths.argument, help=about)
    about = "tune guidance and rate of all methods, on what is not scored"
    group.add_argument("--tune", action="store_true", help=about)
    about = "the tuned.json whose settings take the place of the authors'"
    group.add_argument("--settings", type=paths.argument, help=about)
    about = "what all methods have the same of (passes)"
    group.add_argument("--equal", choices=board.EQUAL, help=about)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def main(argv: list[str]) -> None:
    """Runs a table, or lists them.

    Raises:
      RunError: whatever the user can put right, in words.
    """
    args = make_parser().parse_args(argv)
    if args.list:
        for name, experiment in EXPERIMENTS.items():
            print(f"{name:15} {experiment.about}")
        print(f"{LEADERBOARD:15} All methods, ranked in {', '.join(worlds.WORLDS)}.")
        return
    if args.name != LEADERBOARD:
        experiment = plan.find(args.name, EXPERIMENTS)
        _refuse(args, _OF_LEADERBOARD, f"only --name={LEADERBOARD} takes it")
    if args.out is None:
        raise ConfigError("--out is missing: where shall the table go?")
    process.prepare()
    command = shlex.join(["python", "-m", "vsd_jax.experiments", *argv])
    if args.name == LEADERBOARD:
        print(_leaderboard(args, command))
        return
    budget = plan.Budget(
        seeds=args.seeds,
        prompts=args.prompts,
        steps=args.steps,
        particles=args.particles,
        texts=tuple(args.texts),
        rows=tuple(args.rows),
        smoke=args.smoke,
    )
    options = {"command": command, "at_once": args.at_once}
    print(runner.run(experiment, budget, args.out, **options))


def _leaderboard(args: argparse.Namespace, command: str) -> str:
    why = f"--name={LEADERBOARD} has forms instead, --quick and --smoke, so that all"
    _refuse(args, _OF_TABLES, f"{why} methods are run alike")
    options = {"jobs": args.jobs or 1, "command": command}
    if args.submit is not None:
        why = "--submit runs what the stored leaderboard has run"
        _refuse(args, ("quick", "smoke", "tune", "settings", "equal"), why)
        return submit.run(args.submit, args.worlds, args.out, **options)
    if args.quick and args.smoke:
        raise ConfigError("--quick and --smoke are two forms; leave one out.")
    form = "quick" if args.quick else "smoke" if args.smoke else "full"
    names = worlds.find(args.worlds)
    if args.tune:
        why = "--tune tries settings around the authors' at equal passes"
        _refuse(args, ("settings", "equal"), why)
        return tuning.run(form, names, args.out, **options)
    chosen = None
    if args.settings is not None:
        chosen = tuned.read(args.settings, names, form)
    equal = args.equal or "passes"
    terms = board.Terms(form=form, equal=equal, tuned=chosen)
    options["stored"] = records.read(submit.STORED)
    return board.run(terms, names, args.out, **options)


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name):
            raise ConfigError(f"--{name} is refused: {why}.")


if __name__ == "__main__":
    streams.protect()
    with as_sentences():
        main(sys.argv[1:])
