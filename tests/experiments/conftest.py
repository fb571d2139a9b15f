# SPDX-License-Identifier: Apache-2.0
"""What the tests of the tables and of the leaderboard share."""

import pytest


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch, request):
    """Configurations are found from the project's root."""
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def three_entries(monkeypatch):
    """A leaderboard of SDS, VSD and CSD alone."""
    from vsd_jax.experiments.leaderboard import worlds

    few = tuple(e for e in worlds.ENTRIES if e.name in ("SDS", "VSD", "CSD"))
    monkeypatch.setattr(worlds, "ENTRIES", few)
    worlds.starts.cache_clear()
    yield
    worlds.starts.cache_clear()
