"""`ganctl inspect-sn` as typed: bounds, histories, comparisons, pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganctl.cli.app import main
from ganctl.insight.operator_norms import circular_norm, singular_values
from ganctl.store import checkpoint, runs
from tests.cli.test_cli import TINY

Capture = pytest.CaptureFixture[str]
LAYER = "stages.1.conv"


@pytest.fixture
def run(photos: Path, trained: Callable[..., None]) -> Path:
    """A tiny run in ./run with checkpoints of steps 1, 2 and 3."""
    every = ["--set", "train.checkpoint_every=1", "--steps", "3"]
    trained("--data", str(photos), *TINY, *every, "--run", "run")
    return Path("run")


def as_json(capsys: Capture, *command: str) -> object:
    assert main(["inspect-sn", *command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def raw_weight(run: Path, step: int, layer: str) -> torch.Tensor:
    payload, _ = checkpoint.read(run / "checkpoints" / f"step-{step:09}.pt")
    weight: torch.Tensor = payload["generator"][f"{layer}.parametrizations.weight.original"]
    return weight


def test_the_table_has_each_layers_norm_as_a_map_and_the_networks_bounds(
    run: Path, capsys: Capture
) -> None:
    assert main(["inspect-sn", "run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "as a map" in out
    assert " at 32 " in out
    modulated = "mapping, stem_norm, stages.0.norm, stages.1.norm"
    left_out = f"Without what has no bound ({modulated}, stages.1.attention)"
    assert f"{left_out} G would stretch by at most" in out
    for network in "GD":
        assert f"{network} stretches by at least" in out


def test_the_bound_is_the_product_of_its_pieces(run: Path, capsys: Capture) -> None:
    found = as_json(capsys, "run")
    assert isinstance(found, dict)
    layers = {(x["network"], x["layer"]): x for x in found["layers"]}
    for name, chain in found["lipschitz"].items():
        product = 1.0
        for piece in chain["pieces"]:
            product *= 1 if piece["bound"] is None else piece["bound"]
            if (name, piece["name"]) in layers:
                assert piece["bound"] == layers[name, piece["name"]]["norm_upper"]
        assert chain["bound"] == pytest.approx(product)
    for layer in layers.values():
        assert layer["norm_lower"] <= layer["norm_upper"]
        assert layer["norm_upper"] >= layer["sigma_in_use"] * (1 - 1e-6)  # in fp32


def test_the_history_has_every_checkpoint_and_its_own_figures(run: Path, capsys: Capture) -> None:
    history = as_json(capsys, "run", "--history", "--network", "g")
    assert isinstance(history, list)
    assert [snapshot["step"] for snapshot in history] == [1, 2, 3]
    for snapshot in history:
        found = {x["layer"]: x["singular_values"] for x in snapshot["layers"]}
        exact = singular_values(raw_weight(run, snapshot["step"], LAYER))
        assert found[LAYER] == pytest.approx(exact.tolist(), rel=1e-6)
    damaged = run / "checkpoints" / "step-000000002.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    history = as_json(capsys, "run", "--history")
    assert isinstance(history, list)
    assert [snapshot["step"] for snapshot in history] == [1, 3]
    assert main(["inspect-sn", "run", "--history"]) == 0
    out = capsys.readouterr().out
    assert "gamma of g.stages.1.attention" in out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_run_without_a_checkpoint_has_no_history(
    run: Path, capsys: Capture, form: list[str]
) -> None:
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert main(["inspect-sn", "run", "--history", *form]) == 3
    assert "run has no usable checkpoint (nothing saved yet)" in capsys.readouterr().err


def test_a_checkpoint_that_is_deleted_meanwhile_is_left_out(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a run that goes on deletes its older ones."""
    verified = runs.Run.whole_checkpoints

    def then_one_is_deleted(self: runs.Run) -> list[Path]:
        paths = verified(self)
        paths[0].unlink()
        return paths

    monkeypatch.setattr(runs.Run, "whole_checkpoints", then_one_is_deleted)
    history = as_json(capsys, "run", "--history")
    assert isinstance(history, list)
    assert [snapshot["step"] for snapshot in history] == [2, 3]


def test_two_checkpoints_are_compared(run: Path, capsys: Capture) -> None:
    first = "run/checkpoints/step-000000001.pt"
    pair = as_json(capsys, first, "--against", "run")
    assert isinstance(pair, list)
    assert [snapshot["step"] for snapshot in pair] == [1, 3]
    norms = {layer["layer"]: layer["norm_upper"] for layer in pair[0]["layers"]}
    assert norms["stem"] is not None  # a linear layer
    assert norms[LAYER] is None  # a convolution is not looked at as a map here
    assert main(["inspect-sn", first, "--against", "run"]) == 0
    out = capsys.readouterr().out
    one, other = (singular_values(raw_weight(run, step, LAYER))[0].item() for step in (1, 3))
    (line,) = [line for line in out.splitlines() if f"g.{LAYER} " in line]
    for shown in (f"{one:.4f}", f"{other:.4f}", f"{other / one - 1:+.1%}"):
        assert shown in line


def test_all_singular_values_are_shown_when_asked_for(run: Path, capsys: Capture) -> None:
    values = singular_values(raw_weight(run, 3, "to_rgb"))
    for options, count in (([], 3), (["--top-k", "2"], 2), (["--top-k", "2", "--spectrum"], 3)):
        assert main(["inspect-sn", "run", "--network", "g", *options]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if "g.to_rgb " in x]
        assert line.split()[-count:] == [f"{value:.3f}" for value in values[:count].tolist()]
        assert len(line.split()) == 11 + count  # a name, ten words of other columns


@pytest.mark.parametrize(
    "options", [[], ["--history"], ["--against", "run/checkpoints/step-000000001.pt"]]
)
def test_pictures_are_drawn(run: Path, options: list[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["inspect-sn", "run", *options, "--plot", "x.png"]) == 0
    with Image.open("x.png") as picture:
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 50  # lines of many colours


MISTAKES = [
    (["--history", "--against", "run"], 2, "--history cannot be combined with --against"),
    (["--history", "--check"], 2, "--history cannot be combined with --check"),
    (["--plot", "x.jpg"], 2, "--plot is x.jpg"),
    (["--plot", "run/config.png"], 2, "run/config.png exists"),
    (["--against", "none.pt"], 3, "there is no checkpoint none.pt"),
    (["--check", "--tolerance", "nan"], 2, "--tolerance is nan"),
]


@pytest.mark.parametrize(("options", "code", "message"), MISTAKES, ids=str)
def test_mistakes(run: Path, capsys: Capture, options: list[str], code: int, message: str) -> None:
    (run / "config.png").write_bytes(b"")
    assert main(["inspect-sn", "run", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")


def test_a_foreign_state_dictionary_is_inspected_too(capsys: Capture) -> None:
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(2, 8, 3))
    weight = layer.parametrizations["weight"].original.detach()
    torch.save({"net": layer.state_dict(), "epoch": 3}, "x.pth")
    found = as_json(capsys, "x.pth")
    assert isinstance(found, dict)
    assert (found["step"], found["lipschitz"]) == (None, {})
    (entry,) = found["layers"]
    exact = singular_values(weight)
    assert entry["layer"] == "net"
    assert entry["singular_values"] == pytest.approx(exact.tolist())
    in_use = torch.linalg.matrix_norm(layer.eval().weight.flatten(1), 2).item()
    assert entry["sigma_in_use"] == pytest.approx(in_use, rel=1e-5)
    exact_norm = circular_norm(layer.weight.detach(), 64)
    assert entry["norm_lower"] == 0  # the layer may have groups
    assert exact_norm <= entry["norm_upper"] <= 3 * in_use * (1 + 1e-6)
    assert main(["inspect-sn", "x.pth"]) == 0
    assert f"at most {entry['norm_upper']:.3f}" in capsys.readouterr().out
    for options in (["--network", "d"], ["--ema"]):
        assert main(["inspect-sn", "x.pth", *options]) == 2
        assert "is for ganctl's checkpoints" in capsys.readouterr().err


def test_weights_of_zeros_have_no_spectrum_if_divided_by_it(capsys: Capture) -> None:
    plain = torch.nn.Conv2d(2, 4, 3)
    torch.nn.init.zeros_(plain.weight)
    torch.save(plain.state_dict(), "plain.pth")
    found = as_json(capsys, "plain.pth")
    assert isinstance(found, dict)
    assert (found["layers"][0]["stable_rank"], found["layers"][0]["norm_upper"]) == (0, 0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Conv2d(2, 4, 3))
    torch.nn.init.zeros_(layer.parametrizations["weight"].original)
    torch.save({"a": layer.state_dict()}, "x.pth")
    assert main(["inspect-sn", "x.pth"]) == 3
    assert "error: layer a is divided by a spectral norm of zero" in capsys.readouterr().err


def test_the_check_looks_at_both_files_and_needs_something_to_look_at(capsys: Capture) -> None:
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(9, 8))
    for _ in range(200):
        layer(torch.ones(1, 9))
    torch.save(layer.state_dict(), "good.pth")
    with torch.no_grad():
        layer.parametrizations["weight"].original[0] *= 30  # u and v are no longer those of W
    torch.save(layer.state_dict(), "bad.pth")
    torch.save(torch.nn.Linear(9, 8).state_dict(), "plain.pth")
    assert main(["inspect-sn", "good.pth", "--check"]) == 0
    for files in (["bad.pth"], ["good.pth", "--against", "bad.pth"], ["plain.pth"]):
        assert main(["inspect-sn", *files, "--check"]) == 1
    assert "no layer is spectrally normalised" in capsys.readouterr().err


def test_a_picture_is_kept_although_the_check_fails(run: Path) -> None:
    pytest.importorskip("matplotlib")
    check = ["--check", "--tolerance", "1e-12", "--plot", "x.png"]
    assert main(["inspect-sn", "run", *check]) == 1
    assert Path("x.png").is_file()
