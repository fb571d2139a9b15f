# SPDX-License-Identifier: Apache-2.0
"""The report: self-contained, escaped, and made from whatever a folder holds."""

import re

import numpy as np
import pytest

from configs import object as object_config
from configs import textured_mesh
from vsd_jax.program.export import export
from vsd_jax.program.folder import writer
from vsd_jax.program.judge import evaluation, verdict
from vsd_jax.program.report import charts, mesh_data, report
from vsd_jax.program.run import pipeline
from vsd_jax.program.settings import config as config_lib
from vsd_jax.types import Mesh

TETRAHEDRON = Mesh(
    vertices=np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]], np.float32),
    faces=np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32),
    colors=np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32),
)


@pytest.fixture
def folder(tmp_path):
    """A run's folder with one of everything and an evil prompt."""
    config = object_config.get_config("smoke")
    config.prompt = '<script>alert("x")</script> & co'
    writer.write_json(
        tmp_path / "config.json", config_lib.nest(config_lib.flatten(config))
    )
    metrics = writer.MetricsFile(tmp_path / "metrics.jsonl", resume_step=0)
    for step in range(1, 5):
        metrics.write(step, {"residual/rms_t0": 1 / step, "opacity": 0.3, "skipped": 1})
    metrics.write(4, {"alarm": "The scene is <b>empty</b>."})
    image = np.full((16, 16, 3), 0.5, np.float32)
    for step in range(8):
        writer.save_png(tmp_path / "images" / f"step_{step:06d}.png", image)
    writer.write_bytes(tmp_path / "turntable_00.mp4", b"film")
    export.save_ply(tmp_path / "mesh" / "particle_00.ply", TETRAHEDRON)
    writer.write_json(tmp_path / "mesh" / "info.json", [{"faces": 4}])
    particles = [{"kind_precision": 0.75, "opacity": 0.3}]
    evaluation = {"views": 4, "step": 4, "particles": particles, "mean": particles[0]}
    writer.write_json(tmp_path / "evaluation.json", evaluation)
    writer.write_bytes(tmp_path / "command.txt", b"python -m vsd_jax.main '<i>'")
    return tmp_path


def test_everything_is_inside_and_escaped(folder):
    page = report.write_report(folder).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "<b>empty</b>" not in page and "&lt;b&gt;empty" in page
    assert "<i>" not in page
    # Nothing is fetched: sources are data URLs, links are downloads beside the file.
    assert all(src.startswith("data:") for src in re.findall(r'src="([^"]*)"', page))
    for link in re.findall(r'href="([^"]*)"', page):
        assert (folder / link).is_file()
    assert "http://" not in page and "https://" not in page
    assert "default-src 'none'" in page


def test_what_is_there_is_shown(folder):
    page = report.write_report(folder).read_text()
    assert "data:video/mp4" in page
    assert page.count("views at step") == report.MAX_SHEETS
    assert "views at step 0" in page and "views at step 7" in page
    assert "0.750" in page and "4 triangles" in page
    assert "stopped at step 4" in page
    assert "4 particle update(s) were not finite" in page
    assert "vsd.guidance_scale" in page


def test_what_is_left_out_and_what_is_single_is_said(folder):
    page = report.write_report(folder).read_text()
    assert "A row per particle" not in page and "4 views of each" in page
    assert "The first" not in page
    found = writer.read_json(folder / "evaluation.json") | {"views": 1}
    writer.write_json(folder / "evaluation.json", found)
    config = writer.read_json(folder / "config.json") | {"num_particles": 9}
    writer.write_json(folder / "config.json", config)
    page = report.write_report(folder).read_text()
    assert "A row per particle" in page and "One view of each" in page
    assert "The first 8 of 9 particles" in page


def test_files_of_others_are_left_alone(folder):
    """What a user saved beside the products, or what cannot be read, is no fault."""
    for name in ("particle_00_edited.ply", "particle_01.ply"):
        writer.write_bytes(folder / "mesh" / name, b"no mesh")
    writer.write_bytes(folder / "turntable_00_small.mp4", b"film")
    writer.write_bytes(folder / "mesh" / "particle_<i>.glb", b"mesh")
    found = writer.read_json(folder / "evaluation.json") | {"diversity": None}
    writer.write_json(folder / "evaluation.json", found)
    page = report.write_report(folder).read_text()
    assert page.count("<video") == page.count("<canvas") == 1
    assert "particle_&lt;i&gt;.glb" in page and "<i>" not in page
    assert "in features: –." in page
    assert page.count("particle_01.ply cannot be read and is not shown") == 1


def test_the_overview_leads_to_a_stage_that_stopped(tmp_path):
    names = ["geometry", "texture"]
    stopped = tmp_path / "geometry"
    writer.write_bytes(stopped / "report.html", b"stopped")
    writer.write_bytes(stopped / "turntable_00_of_mine.mp4", b"film")
    writer.write_bytes(tmp_path / "texture" / "mesh" / "particle_00 #1.glb", b"mesh")
    config = textured_mesh.get_config("smoke")
    page = pipeline.write_overview(tmp_path, config, names).read_text()
    assert '<a href="geometry/report.html">not finished</a>' in page
    assert page.count("not yet") == 1 and "<video" not in page
    assert 'href="texture/mesh/particle_00%20%231.glb"' in page


def test_an_empty_folder_still_gives_a_page(tmp_path):
    page = report.write_report(tmp_path).read_text()
    assert "(no configuration)" in page and "<canvas" not in page


def test_placeholders_in_a_prompt_are_only_text(tmp_path):
    writer.write_json(tmp_path / "config.json", {"prompt": "a $body of $script"})
    assert "a $body of $script" in report.write_report(tmp_path).read_text()


def test_mesh_is_packed_for_the_viewer(tmp_path):
    export.save_ply(tmp_path / "m.ply", TETRAHEDRON)
    data = mesh_data.pack(tmp_path / "m.ply")
    vertices, faces = np.frombuffer(data, "<u4", 2)
    assert (vertices, faces) == (4, 4)
    position = np.frombuffer(data, "<u2", 12, 8).reshape(4, 3) / 65535 * 2 - 1
    np.testing.assert_allclose(position, TETRAHEDRON.vertices, atol=2e-5)
    colors = np.frombuffer(data, np.uint8, 12, 8 + 24).reshape(4, 3)
    np.testing.assert_array_equal(colors, TETRAHEDRON.colors * 255)
    index = np.frombuffer(data, "<u4", 12, 8 + 24 + 12).reshape(4, 3)
    np.testing.assert_array_equal(index, TETRAHEDRON.faces)


def test_clustering_merges_near_vertices_and_drops_flat_faces():
    vertices = np.array([[0, 0, 0], [0.001, 0, 0], [0.5, 0, 0], [0, 0.5, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    found = mesh_data.cluster(vertices + 0.01, faces, vertices, 10)
    assert len(found[0]) == 3 and len(found[1]) == 1


def test_chart_breaks_nothing_on_gaps_and_constants():
    series = {"a <b>": ([1, 2, 3], [1.0, None, 1.0]), "gone": ([1], [2.0])}
    svg = charts.line_chart("T & U", series, log=False)
    assert svg.count("<path") == 1 and "a &lt;b&gt;" in svg and "T &amp; U" in svg
    (path,) = re.findall(r' d="([^"]*)"', svg)
    assert path.count("M") == path.count("h0") == 2 and "L" not in path
    values = [1.0, 2.0, 0.0, 4.0, 5.0, 6.0]
    svg = charts.line_chart("log", {"x": (range(6), values)}, log=True)
    (path,) = re.findall(r' d="([^"]*)"', svg)
    assert [piece.count("L") for piece in path.split("M")[1:]] == [1, 2]
    assert charts.line_chart("none", {"x": ([1, 2], [0.0, -1.0])}, log=True) == ""


def test_ticks_have_the_digits_that_tell_them_apart():
    values = [0.9996, 0.9998, 0.9997, 0.9999]
    svg = charts.line_chart("x", {"a": ([1, 2, 3, 4], values)}, log=False)
    labels = re.findall(r'text-anchor="end">([^<]*)<', svg)
    assert len(labels) == len(set(labels)) > 2 and "0.9998" in labels


def test_long_curves_are_thinned():
    steps = list(range(10_000))
    svg = charts.line_chart("long", {"x": (steps, steps)}, log=False)
    assert svg.count("L") < charts.MAX_POINTS + 10


def test_a_verdict_is_shown_with_its_hit_rate(folder):
    assert "Verdict" not in report.write_report(folder).read_text()
    verdicts = [
        verdict.judge(verdict.LEAST_SHARE + shift, "a red duck")
        for shift in (0.1, -0.1)
    ]
    assert verdicts[0] == "recognised: duck in 60% of the views"
    assert verdicts[1] == "not recognised: duck in only 40% of the views"
    found = writer.read_json(folder / "evaluation.json")
    found |= {"verdicts": verdicts}
    writer.write_json(folder / "evaluation.json", found)
    page = report.write_report(folder).read_text()
    assert all(text in page for text in verdicts)
    assert f"{verdict.HIT_RATE:.0%} of {verdict.NUM_RUNS} runs" in page
    line = evaluation.judged_line(found | {"mean": {}})
    assert "particle 0: recognised: duck in 60% of the views; particle 1: not" in line
    assert "Verdict: recognised: duck in 60% of the views." in evaluation.judged_line(
        found | {"mean": {}, "verdicts": verdicts[:1]}
    )


def _warnings(rows, *, kind, **settings):
    render = {"size": 8, "num_samples": 3, "num_fine": 1} | settings
    return report._warnings(rows, [], {"render": render, "field": {"kind": kind}})


def test_what_did_not_fit_is_told_by_its_share_of_all_samples():
    rows = [{"step": step, "render/overflow": 100.0} for step in range(1, 11)]
    assert "39% of the samples" in _warnings(rows, kind="nerf")  # 1000 / 64 / 4 / 10
    early = {"early_size": 4, "early_steps": 5}  # 5 steps of 16 rays, 5 of 64
    assert "62% of the samples" in _warnings(rows, kind="nerf", **early)
    rows[0]["render/overflow"], rows[9]["render/overflow"] = 0.0, 0.0
    assert "In 8 of 10 lines" in _warnings(rows, kind="geometry")
    assert not _warnings([{"step": 1, "render/overflow": 0.0}], kind="geometry")


def test_a_mesh_that_failed_is_shown_without_a_number(folder):
    writer.write_json(folder / "mesh" / "info.json", [{"error": "no surface"}])
    page = report.write_report(folder).read_text()
    assert "no surface" in page and "0 triangles" not in page


def test_means_are_of_what_is_known():
    assert evaluation._mean([0.5, float("nan"), 1.0]) == 0.75
    assert np.isnan(evaluation._mean([float("nan")]))
