# SPDX-License-Identifier: Apache-2.0
"""What the pages of experiments say stands in the tables that they link to.

`docs/experiments/claims.md` writes a measurement as "`row` column **value**", with the
table's page linked behind it; `docs/experiments.md` only "**value**" and the link.
"""

import itertools
import pathlib
import re
from functools import cache

import pytest

from vsd_jax.experiments.catalogue import EXPERIMENTS

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
FINDINGS = DOCS / "experiments.md"
CLAIMS = DOCS / "experiments" / "claims.md"
HEADS = ["claim", "where", "measured", "n", "verdict", "why"]
VERDICTS = {"holds", "holds in part", "does not", "not measured"}
TOKEN = re.compile(
    r"`(?P<row>[^`]+)`|\*\*(?P<value>[^*]+)\*\*|\[[^\]]*\]\((?P<link>[^)#]+)#?(?P<anchor>[^)]*)\)"
)
NUMBER = re.compile(r"-?\.?\d")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


def section(path: pathlib.Path, anchor: str) -> str:
    """The page, or what stands under one of its headings."""
    if not anchor:
        return path.read_text()
    for part in re.split(r"^#+ ", path.read_text(), flags=re.M):
        heading = part.partition("\n")[0].lower()
        if re.sub(r"[^\w -]", "", heading).replace(" ", "-") == anchor:
            return part
    raise AssertionError(f"{path.name} has no heading {anchor}")


def blocks(text: str) -> list[list[str]]:
    """The tables of a page as lists of lines, heads first."""
    lines = itertools.groupby(text.splitlines(), lambda line: line.startswith("|"))
    return [list(block) for is_table, block in lines if is_table]


@cache
def table_cells(path: pathlib.Path, anchor: str) -> dict[tuple[str, str], list[str]]:
    """(row, column) of all tables there, with what their cells say."""
    found = {}
    for head, _, *rows in blocks(section(path, anchor)):
        for row in rows:
            name, *values = cells(row.replace("**", ""))
            for column, value in zip(cells(head)[1:], values, strict=True):
                found.setdefault((name, column), []).append(value)
    return found


def is_in(value: str, text: str) -> bool:
    """Whether the number stands there, not only as a part of a longer one."""
    return bool(re.search(rf"(?<![\d.]){re.escape(value)}(?!\.?\d)", text))


def faults(measured: str) -> list[str]:
    """What is wrong with a cell "`row` column **value** ([page](page.md))"."""
    found, waiting, row, end, prose = [], [], "", 0, ""
    for match in TOKEN.finditer(measured):
        before = measured[end : match.start()].strip(" ,;")
        end = match.end()
        if match["value"]:
            waiting.append((row, before, match["value"]))
            continue
        prose += before
        row = match["row"] or row
        if match["link"]:
            path = CLAIMS.parent / match["link"]
            known = table_cells(path, match["anchor"]) if waiting else {}
            for name, column, value in waiting:
                if not any(
                    is_in(value, cell) for cell in known.get((name, column), [])
                ):
                    found.append(f"{path.name}: {name}, {column}: {value}")
            waiting = []
    found += [f"no page behind {value}" for *_, value in waiting]
    if re.search(r"\d", prose + measured[end:]):
        found.append(f"a number that is not checked: {measured}")
    return found


@cache
def claims() -> list[dict[str, str]]:
    found = []
    for head, _, *rows in blocks(CLAIMS.read_text()):
        assert cells(head) == HEADS
        found += [dict(zip(HEADS, cells(row), strict=True)) for row in rows]
    return found


def test_findings_are_short():
    assert len(FINDINGS.read_text().split()) <= 1500


def test_findings_link_to_every_page_and_name_every_table():
    text = FINDINGS.read_text()
    for path in (DOCS / "experiments").glob("*.md"):
        assert f"](experiments/{path.name})" in text, path.name
    assert all(f"`{name}`" in text for name in EXPERIMENTS)
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in (DOCS / "experiments").glob("*.md"):
        assert f"experiments/{path.name}\n" in navigation, path.name


def test_numbers_of_findings_stand_in_the_pages_behind_them():
    text = FINDINGS.read_text().partition("\n## Findings")[2]
    waiting, checked = [], 0
    for match in TOKEN.finditer(text):
        if match["value"] and NUMBER.match(match["value"]):
            waiting.append(match["value"])
        if match["link"]:
            page = (DOCS / match["link"]).read_text()
            assert all(is_in(value, page) for value in waiting), (waiting, match[0])
            checked += len(waiting)
            waiting = []
    assert not waiting
    assert checked > 40


def test_each_claim_has_a_place_and_one_of_four_verdicts():
    assert len(claims()) >= 20
    for claim in claims():
        assert claim["verdict"] in VERDICTS, claim["claim"]
        assert claim["where"], claim["claim"]
        assert claim["why"], claim["claim"]
        missing = claim["verdict"] == "not measured"
        assert missing == (claim["measured"] == "–"), claim["claim"]
        assert missing or TOKEN.search(claim["measured"]), claim["claim"]


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim["claim"])
def test_numbers_of_claims_stand_in_their_tables(claim):
    assert not faults(claim["measured"])


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim["claim"])
def test_an_altered_number_is_found(claim):
    text = claim["measured"]
    for match in TOKEN.finditer(text):
        for digit in re.finditer(r"\d", match["value"] or ""):
            at = match.start("value") + digit.start()
            altered = text[:at] + str((int(digit[0]) + 1) % 10) + text[at + 1 :]
            assert faults(altered), altered


def test_a_number_without_its_table_is_found():
    table = table_cells(CLAIMS.parent / "plane.md", "")
    (value,) = table["SDS 7.5", "diversity"]
    good = f"`SDS 7.5` diversity **{value}** ([plane](plane.md))"
    assert not faults(good)
    for bad in (
        good.replace("SDS 7.5", "SDS 100"),
        good.replace("diversity", "kind right"),
        good.replace("plane.md", "images.md"),
        good.replace("**", ""),
        good.partition(" (")[0],
        good + " and 0.34",
    ):
        assert faults(bad), bad
