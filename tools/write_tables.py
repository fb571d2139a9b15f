# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of docs/experiments from the stored scores of their runs.

  python tools/write_tables.py                    # write them
  python tools/write_tables.py --check            # exit with 1 if one is out of date
  python tools/write_tables.py --add runs/plane   # store a run's scores, then write

A page has `<!-- table NAME -->` and `<!-- end -->`; what stands between is the table of
`docs/experiments/scores/NAME.json`, the `scores.json` of a run without its cells.
"""

import argparse
import json
import pathlib
import re
import shlex
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout, where the package is not installed

from vsd_jax.experiments import present  # noqa: E402
from vsd_jax.experiments.__main__ import make_parser  # noqa: E402
from vsd_jax.experiments.catalogue import EXPERIMENTS  # noqa: E402

PAGES = ROOT / "docs" / "experiments"
STORED = PAGES / "scores"
BETWEEN = re.compile(r"(<!-- table ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read(name: str) -> dict:
    """The stored scores of a table.

    Raises:
      SystemExit: there are none.
    """
    path = STORED / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: python tools/write_tables.py --add RUN")
    return json.loads(path.read_text())


def filled(page: str) -> str:
    """The page with the tables that its marks ask for."""

    def table(mark: re.Match) -> str:
        name = mark[2]
        record, columns = read(name), EXPERIMENTS[name].columns
        text = present.provenance(record)
        text += present.markdown(record["rows"], columns, record["reference"])
        return f"{mark[1]}{text}{mark[3]}"

    return BETWEEN.sub(table, page)


def pages() -> list[pathlib.Path]:
    """The pages that have such marks."""
    return [
        path for path in sorted(PAGES.glob("*.md")) if BETWEEN.search(path.read_text())
    ]


def add(run: pathlib.Path) -> None:
    """Stores a finished run's scores and its pictures under the table's name.

    Raises:
      SystemExit: the run is not finished or a smoke run, or no page shows its table.
    """
    record = json.loads((run / "scores.json").read_text())
    flags = make_parser().parse_args(shlex.split(record["command"])[3:])
    if flags.smoke or record["unfinished"]:
        raise SystemExit(f"{run}: a smoke run, or not finished: {record['command']}")
    if not any(f"<!-- table {flags.name} -->" in p.read_text() for p in pages()):
        raise SystemExit(f"No page has <!-- table {flags.name} --> and <!-- end -->.")
    del record["cells"]
    STORED.mkdir(exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (STORED / f"{flags.name}.json").write_text(text + "\n")
    shutil.copyfile(run / "pictures.png", PAGES / f"{flags.name}.png")


def main() -> int:
    """Writes the pages, or says which is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", type=pathlib.Path, nargs="+", default=[])
    args = parser.parse_args()
    for run in args.add:
        add(run)
    stale = [path for path in pages() if filled(path.read_text()) != path.read_text()]
    if args.check:
        for path in stale:
            print(f"{path} is out of date: run python tools/write_tables.py")
        return bool(stale)
    for path in stale:
        path.write_text(filled(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
