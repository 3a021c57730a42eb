"""A state takes over a payload whole, or names what does not fit."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silent, given

from ganctl import resuming, session
from ganctl.errors import CheckpointError
from ganctl.models import swaps, winograd
from ganctl.models.layers import UpsampleConv2d
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.training import state
from ganctl.training.metrics import DMetrics, GMetrics
from ganctl.training.step import train_step

PATH = Path("x.pt")


def damage(payload: dict[str, Any], kind: str) -> None:
    generator, moments = payload["generator"], payload["d_optimizer"]["state"]
    match kind:
        case "generator is missing":
            del payload["generator"]
        case "generator: to_rgb.bias is missing":
            del generator["to_rgb.bias"]
        case "generator: extra is missing or unexpected":
            generator["extra"] = torch.ones(1)
        case "generator.to_rgb.bias is torch.float32 \\(4,\\)":
            generator["to_rgb.bias"] = torch.zeros(4)
        case "generator.to_rgb.bias is torch.float64":
            generator["to_rgb.bias"] = generator["to_rgb.bias"].double()
        case "generator.to_rgb.bias is no tensor":
            generator["to_rgb.bias"] = [0.0, 0.0, 0.0]
        case "generator.to_rgb.bias has values that are not finite":
            generator["to_rgb.bias"][0] = float("nan")
        case "d_optimizer: exp_avg of parameter 0":
            moments[0]["exp_avg"] = torch.zeros(3)
        case "d_optimizer: exp_avg_sq of parameter 1":
            moments[1]["exp_avg_sq"] -= 1
        case "d_optimizer: step of parameter 2":
            moments[2]["step"] -= 9
        case "d_optimizer: the moments of parameter 3":
            moments[3]["max_exp_avg_sq"] = moments[3]["exp_avg_sq"]
        case "d_optimizer is not the state":
            payload["d_optimizer"] = {"state": {}}


@pytest.mark.parametrize(
    "kind",
    [
        "generator is missing",
        "generator: to_rgb.bias is missing",
        "generator: extra is missing or unexpected",
        "generator.to_rgb.bias is torch.float32 \\(4,\\)",
        "generator.to_rgb.bias is torch.float64",
        "generator.to_rgb.bias is no tensor",
        "generator.to_rgb.bias has values that are not finite",
        "d_optimizer: exp_avg of parameter 0",
        "d_optimizer: exp_avg_sq of parameter 1",
        "d_optimizer: step of parameter 2",
        "d_optimizer: the moments of parameter 3",
        "d_optimizer is not the state",
    ],
)
def test_what_does_not_fit_is_named(
    kind: str, tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny()
    trained = state.create(config, torch.device("cpu"))
    train_step(trained, given(faces, config), config)
    payload = trained.payload()
    state.create(config, torch.device("cpu")).load(payload, PATH)
    damage(payload, kind)
    with pytest.raises(CheckpointError, match=kind):
        state.create(config, torch.device("cpu")).load(payload, PATH)


def test_a_checkpoint_from_before_rows_were_resumed_is_measured_from_there_on(
    tiny: Callable[..., Config],
) -> None:
    trained = state.create(tiny(), torch.device("cpu"))
    payload = trained.payload()
    trained.measured.fill_(3)
    del payload["measured"]
    trained.load(payload, PATH)
    assert trained.measured.tolist() == [0] * (state.MEASURED + 1)
    assert len(DMetrics._fields) + len(GMetrics._fields) == state.MEASURED
    for bad in (torch.zeros(3), torch.full((state.MEASURED + 1,), torch.nan), "x", 1):
        with pytest.raises(CheckpointError, match="measured is not"):
            trained.load({**payload, "measured": bad}, PATH)


def test_a_payload_is_a_copy(tiny: Callable[..., Config], faces: np.ndarray) -> None:
    config = tiny()
    trained = state.create(config, torch.device("cpu"))
    payload = trained.payload()
    before = payload["generator"]["to_rgb.bias"].clone()
    train_step(trained, given(faces, config), config)
    assert torch.equal(payload["generator"]["to_rgb.bias"], before)


def test_a_step_that_is_no_number_is_refused(tiny: Callable[..., Config]) -> None:
    trained = state.create(tiny(), torch.device("cpu"))
    for step in ("3", -1, True, None, 1.0):
        with pytest.raises(CheckpointError, match=r"step is .*, not a count"):
            trained.load({**trained.payload(), "step": step}, PATH)


LIES = {"lr": 123.0, "betas": ["x", None], "eps": -1.0, "weight_decay": 1e9, "fused": None}


@pytest.mark.parametrize("lies", [{name: lie} for name, lie in LIES.items()] + [LIES])
def test_rates_and_betas_are_the_configurations_whatever_a_file_says(
    lies: dict[str, Any], tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny()
    honest, deceived = (state.create(config, torch.device("cpu")) for _ in range(2))
    train_step(honest, given(faces, config), config)
    payload = honest.payload()
    for name in ("g_optimizer", "d_optimizer"):
        payload[name]["param_groups"][0].update(lies)
    deceived.load(payload, PATH)
    for trained in (honest, deceived):
        train_step(trained, given(faces, config, 1), config)
    assert checkpoint.digest_of(deceived.payload()) == checkpoint.digest_of(honest.payload())


@pytest.mark.parametrize(
    "lies",
    [
        {"scale": 0.0}, {"scale": -1.0}, {"scale": float("nan")}, {"scale": float("inf")},
        {"scale": "x"}, {"_growth_tracker": -1}, {"_growth_tracker": None},
    ],
)  # fmt: skip
def test_a_scale_that_is_none_is_refused(lies: dict[str, Any], tiny: Callable[..., Config]) -> None:
    config = tiny(train__precision="fp16")
    trained = state.create(config, torch.device("cpu"))
    payload = trained.payload()
    payload["g_scaler"].update(growth_interval="x")
    trained.load(payload, PATH)
    assert trained.g_scaler.get_growth_interval() == 2000
    payload["g_scaler"].update(lies)
    for section in (payload["g_scaler"], {}, [], None):
        with pytest.raises(CheckpointError, match="g_scaler"):
            trained.load({**payload, "g_scaler": section}, PATH)


def test_its_networks_compute_with_what_pays_here(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "WORTH", 0)
    monkeypatch.setattr(swaps, "winograd_pays", lambda: True)
    made = state.create(tiny(), torch.device("cpu"))
    for generator in (made.generator, made.generator_ema):
        assert isinstance(generator.to_rgb, UpsampleConv2d)
        assert generator.to_rgb.convolve is winograd.convolve


def test_a_resumed_run_computes_with_what_it_began_with(
    tiny: Callable[..., Config], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits depend on it, so it is no longer asked what pays."""
    monkeypatch.setattr(winograd, "WORTH", 0)
    monkeypatch.setattr(swaps, "winograd_pays", lambda: True)
    config = tiny(data__source=str(photos), train__steps=1)
    begun, run = session.start(config, "cpu", Path("r"), "x")
    session.train_run(begun, run, Silent())
    os.close(run._lock or 0)
    monkeypatch.setattr(swaps, "winograd_pays", lambda: False)
    assert swaps.found_in(session.new(config, "cpu").state.generator).convolution == "plain"
    resumed = resuming.resume(runs.find(Path("r")), "cpu", 2)
    assert resumed is not None
    assert swaps.found_in(resumed.state.generator).convolution == "winograd"
