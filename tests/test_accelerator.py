# SPDX-License-Identifier: Apache-2.0
"""`benchmarks/accelerator.py` in little: all parts, cut off and gone on with."""

import json

import jax
import pytest
import tiny_runs
from jax import export

from benchmarks import accelerator, accelerator_parts, access, lowering


@pytest.fixture
def run(tmp_path, capsys):
    """`(*more) -> what is printed`, of tiny parts in one folder."""

    def call(*more):
        # Chunks of rays are rendered again for their gradient, with the same keys.
        with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
            flags = [f"--out={tmp_path}", "--size=tiny", "--no-torch", *more]
            accelerator.main(flags)
        return capsys.readouterr().out

    return call


@pytest.mark.slow
def test_all_parts_run_and_make_one_table(run, tmp_path, monkeypatch):
    prior = tiny_runs.write_prior(tmp_path / "prior")
    job = (*accelerator_parts._TINY_JOB, f"--config.prior.path={prior}")
    monkeypatch.setattr(accelerator_parts, "_TINY_JOB", job)
    parts = list(accelerator_parts.PARTS)
    run("--parts", *parts[::2])
    first = {file: file.read_bytes() for file in tmp_path.glob("*.json")}
    said = run()  # goes on with the others
    assert first and all(file.read_bytes() == was for file, was in first.items())
    for part in parts:
        content = json.loads((tmp_path / f"{part}.json").read_text())
        assert "error" not in content, content.get("error")
        assert content["rows"] and content["device"] == "cpu"
    rows = [line for line in said.splitlines() if line.startswith("| ")]
    assert said.strip().endswith((tmp_path / "table.md").read_text().strip())
    (step,) = (row.split(" | ") for row in rows if "whole step" in row)
    assert float(step[1]) > 0 and float(step[5]) > 0
    assert step[2] == "not measured"  # PyTorch was not asked
    (job,) = (row.split(" | ") for row in rows if "main job" in row)
    assert float(job[1]) > 0
    assert (tmp_path / "parts.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "part", ["networks", "attention", "hash_grid", "nerf", "mesh", "prior_training"]
)
def test_parts_lower_for_accelerators(part, monkeypatch):
    """No call back, double or slow access in any; the step: `test_lowering.py`."""
    seen = []

    def lowered(name, function, args, size, dtype=None):
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        for platform in ("cuda", "tpu"):
            text = export.export(jax.jit(function), platforms=[platform])(*args)
            text = text.mlir_module()
            found = lowering.faults(text) + access.slow_accesses(text)
            assert not found, (name, platform)
        monkeypatch.undo()
        monkeypatch.setattr(accelerator_parts, "timed", lowered)
        seen.append(name)
        return {"name": name}

    monkeypatch.setattr(accelerator_parts, "timed", lowered)
    with jax.numpy_rank_promotion("allow"), jax.debug_key_reuse(False):
        rows = [row["name"] for row in accelerator_parts.PARTS[part]("tiny")]
    assert rows == seen and rows


ROW = {"name": "a", "ms": 2.0, "flops": 3e12, "bytes": 4e9, "torch_ms": 4.0}


def test_a_second_call_goes_on_and_faults_are_told(run, tmp_path, monkeypatch):
    asked = []

    def sound(size):
        asked.append(size)
        yield ROW

    def broken(size):
        yield ROW | {"name": "b"}
        raise MemoryError("the card is full")

    monkeypatch.setattr(accelerator_parts, "PARTS", {"x": sound, "y": broken})
    said = run("--parts", "x")
    assert asked == ["tiny"] and "| y" in said
    said = run()
    assert asked == ["tiny"]  # its file is there
    assert "y FAILED" in said and "MemoryError: the card is full" in said
    assert "| b" in said  # what was measured before stays
    (tmp_path / "y.json").unlink()
    run("--seconds=-1")
    assert not (tmp_path / "y.json").exists()


def test_cells_of_a_known_card(monkeypatch):
    device = accelerator_parts.preflight.ACCELERATORS["H100 SXM"]
    monkeypatch.setattr(accelerator_parts, "card", lambda: device)
    cells = accelerator.cells(ROW)
    # 3 TFLOP in 2 ms are 1,500 TFLOP / s, of 989.
    assert cells[1:7] == ["2.0", "4.0", "0.50", "4.00", "3", "152%"]
    assert accelerator.cells({"name": "c", "note": "none"})[1] == "none"


def test_preflight_estimates_every_program(monkeypatch):
    device = accelerator_parts.preflight.ACCELERATORS["H100 SXM"]
    assert accelerator_parts.estimate({}, "float32") == {}  # a CPU's peaks
    monkeypatch.setattr(accelerator_parts, "card", lambda: device)
    row = {"bytes": 0, "flops": 989e9, "traffic": 0.0}
    half = accelerator_parts.estimate(row, "bfloat16")["estimate_ms"]
    assert half == pytest.approx(1 / accelerator_parts.preflight.EFFICIENCY)
    assert accelerator_parts.estimate(row, "float32")["estimate_ms"] > half
    product = accelerator_parts.timed("a", jax.numpy.sin, (ROW["ms"],), "tiny")
    assert product["estimate_ms"] > 0


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB"),
        ("NVIDIA H100 PCIe", None),  # slower than the one that is known
        ("NVIDIA L40S", None),
        ("TPU v4", "TPU v4"),
        ("TPU v5 lite", "TPU v5e-1"),
        ("TPU v5", "TPU v5p"),
        ("TPU v6 lite", "TPU v6e"),
        ("cpu", None),
    ],
)
def test_cards_are_known_by_their_kind(kind, name, monkeypatch):
    class Device:
        device_kind = kind

        def memory_stats(self):
            # JAX may take nine tenths; a card's gigabytes are a little more than 1e9.
            memory = 80 if "80GB" in kind else 40
            return {"bytes_limit": 0.9 * 1.07e9 * memory}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    known = accelerator_parts.preflight.ACCELERATORS
    assert accelerator_parts.card() == known.get(name)
