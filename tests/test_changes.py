# SPDX-License-Identifier: Apache-2.0
"""The table "To change ... open ..." of ARCHITECTURE.md holds."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import try_changes  # noqa: E402

FILES = {"option of guidance": 2, "regulariser": 2}


@pytest.mark.parametrize("change", try_changes.CHANGES, ids=lambda change: change.name)
def test_a_change_touches_the_files_that_the_table_names(change):
    assert len({name for name, *_ in change.edits}) == FILES.get(change.name, 1)
    assert not try_changes.attempt(change)


def test_a_change_that_does_not_act_is_noticed():
    change = try_changes.CHANGES[0]._replace(use="assert False")
    assert "AssertionError" in try_changes.attempt(change)
