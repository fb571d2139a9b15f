# SPDX-License-Identifier: Apache-2.0
import numpy as np

from vsd_jax.experiments import present
from vsd_jax.experiments.catalogue import EXPERIMENTS


def score(mean, spread=None):
    return {"mean": mean, "spread": spread}


def test_a_table_shows_mean_spread_and_what_is_missing():
    rows = {
        "VSD": {"kind_precision": score(0.5, 0.25), "saturation": score(0.1234)},
        "truth": {"saturation": score(float("nan"))},
    }
    columns = ("kind_precision", "saturation", "chamfer")
    lines = present.markdown(rows, columns, "").splitlines()
    assert lines[0] == "|  | kind right | saturation |"
    assert lines[2] == "| VSD | 50.0 ± 25.0 % | 0.123 |"
    assert lines[3] == "| truth | – | – |"


def test_every_column_has_a_heading():
    columns = {name for e in EXPERIMENTS.values() for name in e.columns}
    assert columns <= set(present.HEADS)


def test_pictures_and_points_are_drawn(tmp_path):
    present.save_pictures(tmp_path / "a.png", {"VSD": np.ones((2, 8, 8, 3))})
    present.save_points(tmp_path / "b.png", {"truth": np.zeros((4, 1, 1, 2))})
    rows = {"VSD": {"saturation": score(0.5, None)}, "truth": {}}
    present.save_plot(tmp_path / "c.png", rows, ("saturation",), "")
    assert all((tmp_path / f"{name}.png").stat().st_size > 0 for name in "abc")
