"""The commands as a user types them: exit codes, whole messages, what goes where."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl import runtime, session
from ganctl.cli import dry_run
from ganctl.cli.app import main
from ganctl.cli.outputs import name_part
from ganctl.store import runs
from ganctl.training import state

TINY = [
    "--set", "model.width=8", "--set", "model.latent_dim=8", "--batch-size", "4",
    "--precision", "fp32", "--steps", "2",
]  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(photos: Path, trained: Callable[..., None]) -> Path:
    """A finished tiny run in ./run."""
    trained("--data", str(photos), *TINY, "--run", "run")
    return Path("run")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_train_leaves_a_run_and_prints_its_checkpoint(photos: Path, capsys: Capture) -> None:
    assert main(["train", "--data", str(photos), *TINY]) == 0
    out, err = capsys.readouterr()
    assert out == "runs/photos-faces32-001/ckpt.pt\n"
    assert "step 2/2" in err
    assert "next: ganctl sample runs/photos-faces32-001/ckpt.pt -n 64" in err
    folder = Path("runs/photos-faces32-001")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names == {
        "LOCK", "checkpoints", "checkpoints/step-000000002.pt", "ckpt.pt", "config.yaml",
        "history.jsonl", "metrics.jsonl", "run.json", "samples", "samples/000000002.png", "samples/reals.png",
        "status.json",
    }  # fmt: skip
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert main(["train", "--preset", str(folder / "config.yaml"), "--run", "again"]) == 0


def test_few_images_without_a_preset_get_a_line_on_the_one_for_them(
    photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", "--data", str(photos), *TINY]
    assert main(command) == 0
    assert "photos64" not in capsys.readouterr().err  # of so few it would hold out none, and must
    monkeypatch.setattr("ganctl.cli.training.ENOUGH", 12)
    line = f"hint: a preset for 12 images, at 64 x 64 with augmentation: ganctl train --preset photos64 --data {photos}"
    assert main(command) == 0
    assert line in capsys.readouterr().err
    assert main([*command, "--preset", "faces32"]) == 0
    assert "photos64" not in capsys.readouterr().err
    monkeypatch.setattr("ganctl.cli.training.FEW", 12)
    assert main(command) == 0
    assert "photos64" not in capsys.readouterr().err


def test_sample_and_inspect_take_the_newest_run(photos: Path, capsys: Capture) -> None:
    main(["train", "--data", str(photos), *TINY])
    capsys.readouterr()
    assert main(["sample", "-n", "3"]) == 0
    out, _ = capsys.readouterr()
    assert out == "photos-faces32-001-step2-seeds0-2.png\n"
    assert Path(out.strip()).is_file()
    assert main(["inspect-sn", "--top-k", "2"]) == 0
    assert "g.stages.0.conv" in capsys.readouterr().out


def test_a_checkpoint_alone_is_enough(run: Path, photos: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.pt"
    alone.write_bytes((run / "ckpt.pt").read_bytes())
    for path in photos.rglob("*.png"):
        path.unlink()
    assert main(["sample", str(alone), "-n", "5", "--out", "x.npz"]) == 0
    assert np.load("x.npz")["images"].shape == (5, 32, 32, 3)


def test_averaged_and_raw_weights_and_seeds_are_options(run: Path) -> None:
    for name, options in {
        "ema": ["-n", "4"], "raw": ["-n", "4", "--raw"], "cut": ["-n", "4", "--truncation", "0.5"],
        "same": ["--seeds", "0-3"],
    }.items():  # fmt: skip
        assert main(["sample", "run", "--out", f"{name}.npz", *options]) == 0
    images = {name: np.load(f"{name}.npz")["images"] for name in ("ema", "raw", "cut", "same")}
    assert np.array_equal(images["ema"], images["same"])
    assert not np.array_equal(images["ema"], images["raw"])
    assert not np.array_equal(images["ema"], images["cut"])


def test_inspect_sn_as_json_has_one_object_a_layer_and_all_singular_values(
    run: Path, capsys: Capture
) -> None:
    before = tree(run)
    assert main(["inspect-sn", "run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"checkpoint", "step", "layers", "lipschitz"}
    layers = found["layers"]
    assert tree(run) == before
    assert {layer["network"] for layer in layers} == {"g", "d"}
    for layer in layers:
        assert set(layer) == {
            "network", "layer", "shape", "normalized", "sigma_estimate", "singular_values",
            "sigma_in_use", "stable_rank", "side", "norm_lower", "norm_upper", "gamma",
        }  # fmt: skip
        assert layer["singular_values"] == sorted(layer["singular_values"], reverse=True)
        assert len(layer["singular_values"]) == min(
            layer["shape"][0], math.prod(layer["shape"][1:])
        )
        modulates = layer["layer"].startswith("mapping") or "norm" in layer["layer"]
        assert layer["normalized"] is not modulates
        estimate = 1 if modulates else layer["sigma_estimate"]
        assert layer["sigma_in_use"] == pytest.approx(
            layer["singular_values"][0] / estimate, rel=1e-4
        )


def test_inspect_sn_check_fails_when_a_weight_is_off(run: Path, capsys: Capture) -> None:
    assert main(["inspect-sn", "run", "--check", "--tolerance", "0.5"]) == 0
    assert re.search(
        r"check passed: \d+ norms in use are within 0.5 of 1; [gd]\.\S+ is farthest, with [01]\.\d{3}$",
        capsys.readouterr().err,
    )
    assert main(["inspect-sn", "run", "--check", "--tolerance", "1e-9"]) == 1
    assert re.search(
        r"check failed: norms in use must be within 1e-09 of 1, but \d+ of \d+ are not; [gd]\.",
        capsys.readouterr().err,
    )


def test_networks_without_spectral_norm_train_and_are_listed(photos: Path, capsys: Capture) -> None:
    off = ["--set", "model.g_spectral_norm=false", "--run", "plain"]
    assert main(["train", "--data", str(photos), *TINY, *off]) == 0
    capsys.readouterr()
    assert main(["inspect-sn", "plain", "--json"]) == 0
    normalized = {
        (x["network"], x["normalized"]) for x in json.loads(capsys.readouterr().out)["layers"]
    }
    assert normalized == {("g", False), ("d", True)}


def test_dry_run_reports_and_writes_nothing(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(dry_run, "SPELL", 0.01)
    before = tree(photos.parent)
    assert main(["train", "--data", str(photos), *TINY, "--dry-run"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 7
    for word in (
        "images ",
        "device",
        "parameters",
        "peak memory",
        "images/s",
        "time to finish",
        "disk",
    ):
        assert word in out
    assert main(["train", "--data", str(photos), *TINY, "--dry-run", "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("images ")
    assert "  width: 8" in lines[8:]
    assert main(["train", "--data", str(photos), *TINY, "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 12
    assert report["config"]["model"]["width"] == 8
    assert report["images_per_second"] > 0
    assert tree(photos.parent) == before


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [((1, 1), 8, 12), ((1, 1.05), 8, 12), ((1, 1.5), 40, 45)]
)
def test_dry_run_takes_the_longer_the_less_its_speeds_agree(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], least: float, most: float
) -> None:
    """Steps that are slow and fast in turns: their median, how sure it is, and the time taken."""
    clock = [0.0]
    turns = itertools.cycle(seconds)

    class Tried:
        device = torch.device("cpu")

        def step(self) -> None:
            clock[0] += next(turns)

    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: clock[0])
    median, error = dry_run._seconds_a_step(Tried())  # type: ignore[arg-type]
    assert min(seconds) <= median <= max(seconds)
    assert (error > dry_run.SETTLED) == (seconds == (1, 1.5))
    assert least <= clock[0] <= most


def test_presets_are_listed_and_printed_with_their_comments(capsys: Capture) -> None:
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "celeba64"
    starts = {line.rindex("  ") for line in lines}  # of the last column
    assert len(starts) == 1
    assert main(["presets", "celeba64"]) == 0
    assert "# SAGAN section 4" in capsys.readouterr().out
    assert main(["presets", "faces32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["source"] == "faces"


MISTAKES = [
    (["train", "--preset", "celba64"], 2, "unknown preset 'celba64'", "did you mean celeba64?"),
    (["train", "--preset", "no.yaml"], 2, "there is no preset file no.yaml", "ganctl presets celeba64 > mine.yaml"),
    (["train", "photos/"], 2, "`ganctl train` does not take 'photos/' without an option", "ganctl train --data photos/"),
    (["train", "celeba64"], 2, "`ganctl train` does not take 'celeba64' without", "ganctl train --preset celeba64"),
    (["train", "run"], 2, "`ganctl train` does not take 'run' without", "ganctl resume run"),
    (["sample", "run", "x"], 2, "`ganctl sample` does not take 'x' without", "ganctl sample --help"),
    (["train", "--resume"], 2, "`ganctl train` has no option --resume", "ganctl resume RUN"),
    (["train", "--stesp", "3"], 2, "`ganctl train` has no option --stesp", "did you mean --steps?"),
    (["train", "--steps", "ten"], 2, "--steps is 'ten', but it should be a valid integer", "ganctl train --help"),
    (["sample", "-n=x"], 2, "-n is 'x', but it should be a valid integer", "ganctl sample --help"),
    (["train", "--set"], 2, "option '--set' requires an argument", "ganctl train --help"),
    (["version"], 2, "there is no command version", "ganctl --version"),
    (["list"], 2, "there is no command list", "ganctl runs"),
    (["trian"], 2, "there is no command trian", "did you mean ganctl train?"),
    (["sample", "run", "--out", ""], 2, "--out is empty", "give it a value"),
    (["sample", "run", "--out="], 2, "--out is empty", "give it a value"),
    (["sample", "run", "--scale", "0"], 2, "--scale is 0", ""),
    (["sample", "run", "--scale", "2", "--out", "x.npz"], 2, "--scale is for pictures", "the size that the networks draw"),
    (["resume", ""], 2, "an argument is empty", "give it a value"),
    (["train", "--set", "foo.x=1"], 2, "unknown setting foo.x", "ganctl presets celeba64"),
    (["train", "--set", "loss.foo=1"], 2, "unknown setting loss.foo", "loss has loss.kind, loss.gradient_penalty, loss.r1"),
    (["train", "--set", "optim.g_lr=2"], 2, "--set: optim.g_lr is 2, but", "celeba64 has 1.0e-4 (SAGAN section 4"),
    (["train", "--set", "optim.betas=[1,2]"], 2, "--set: optim.betas.0 is 1, but", "celeba64 has [0, 0.9] (SAGAN section 4"),
    (["train", "--preset", "sagan-cifar10", "--set", "model.initial=x"], 2, "--set: model.initial is 'x', but", "has glorot"),
    (["train", "--set", "model.attention.at=[128]"], 2, "model.attention.at is [128], but", "celeba64 has [32] (the article"),
    (["train", "--run", "/proc/nope"], 5, "cannot write to /proc/nope", "--run DIR chooses another place"),
    (["train", "--verbose"], 2, "--verbose needs --dry-run", "config.yaml"),
    (["plot", "nowhere"], 3, "there is no run nowhere", ""),
    (["inspect-sn", "nowhere", "--plot", "x.png"], 3, "there is no run nowhere", ""),
    (["inspect-sn", "nowhere", "--history", "--plot", "x.png"], 3, "there is no run nowhere", ""),
    (["train", "--set", "optim.g_rl=1"], 2, "unknown setting optim.g_rl", "did you mean optim.g_lr?"),
    (["train", "--steps", "0"], 2, "train.steps is 0, but it should be greater", "presets"),
    (["train", "--json"], 2, "--json needs --dry-run", "metrics.jsonl"),
    (["train", "--device", "tpu"], 2, "there is no device 'tpu'", "auto, cpu, cuda, mps"),
    (["train", "--precision", "fp16"], 2, "fp16 is not for CPUs", "--precision auto"),
    (["train", "--data", "nowhere"], 4, "there are no images at nowhere", "a folder, a zip"),
    (["train", "--run", "run"], 6, "run holds a run already", "ganctl resume run"),
    (["resume", "nowhere"], 3, "there is no run nowhere", ""),
    (["resume", "run/ckpt.pt"], 3, "run/ckpt.pt is not a run's folder", "did you mean run?"),
    (["resume"], 3, "there is no run under runs/", "ganctl train"),
    (["sample", "none.pt"], 3, "there is no checkpoint none.pt", ""),
    (["sample", "run", "-n", "0"], 2, "-n is 0", ""),
    (["sample", "run", "-n", "1000000000"], 2, "-n is 1,000,000,000", ""),
    (["sample", "run", "--seeds", "x"], 2, "--seeds 'x' is not a list", ""),
    (["sample", "run", "--seed", "-1"], 2, "--seed has -1, but seeds are from 0", ""),
    (["sample", "run", "--truncation", "0"], 2, "--truncation is 0.0", ""),
    (["sample", "run", "--precision", "fp8"], 2, "there is no precision 'fp8'", "auto, fp32"),
    (["sample", "run", "--out", "x.gif"], 2, "x.gif would be an animation", "--interpolate"),
    (["sample", "run", "--out", "run"], 2, "run has something in it", "another folder"),
    (["sample", "run", "--out", "run", "--force"], 2, "run has something in it", "another folder"),
    (["sample", "run", "--seeds", "8-3"], 2, "--seeds '8-3' has a range that ends before", ""),
    (["sample", "run", "--seeds", "3", "-n", "2"], 2, "--seeds says which images, so -n", ""),
    (["sample", "run", "--seeds", "3", "--seed", "2"], 2, "--seeds says which images, so --seed", ""),
    (["inspect-sn", "run", "--tolerance", "1"], 2, "--tolerance is for --check", "add --check"),
    (["train", "--run", ""], 2, "--run is empty", "leave it out"),
    (["train", "--run", "."], 2, "--run '.' is the current folder", "a folder of its own"),
    (["train", "--data", "run", "--run", "run/x"], 2, "run/x would be inside", "another --run"),
    (["train", "--data", "."], 2, "runs would be inside the folder of images", "another --run"),
    (["sample", "run", "--out", "no/x.npz"], 5, "cannot write no/x.npz: there is no folder no", ""),
    (["inspect-sn", "run", "--network", "x"], 2, "--network is 'x'", ""),
    (["inspect-sn", "run", "--top-k", "0"], 2, "--top-k is 0", ""),
]  # fmt: skip


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without extras."""
    for name in ("matplotlib", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("command", "code", "message", "hint"),
    [
        (["plot", "nowhere"], 3, "there is no run nowhere", "newest run"),
        (["plot", "run"], 2, "plotting needs matplotlib", "pip install matplotlib"),
        (["inspect-sn", "nowhere", "--plot", "x.png"], 3, "there is no run nowhere", "newest run"),
        (["inspect-sn", "run", "--plot", "x.png"], 2, "plotting needs", "pip install matplotlib"),
        (["resume", "nowhere", "--tensorboard"], 3, "there is no run nowhere", "newest run"),
        (["resume", "run", "--tensorboard"], 2, "--tensorboard needs", "pip install tensorboard"),
    ],
)
def test_a_missing_run_is_told_before_a_missing_extra(
    run: Path, capsys: Capture, command: list[str], code: int, message: str, hint: str
) -> None:
    before = tree(run)
    assert main(command) == code
    error, hinted = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {message}")
    assert hint in hinted
    assert tree(run) == before


def test_live_and_averaged_weights_are_told_apart(run: Path, capsys: Capture) -> None:
    for command, weights in (
        (["inspect-sn", "run"], "live"),
        (["inspect-sn", "run", "--ema"], "averaged"),
        (["inspect-sn", "run", "--history"], "live"),
        (["inspect-sn", "run", "--against", "run", "--ema"], "averaged"),
        (["inspect-attention", "run", "-n", "2", "--rows", "1", "--out", "x.png"], "averaged"),
        (["inspect-attention", "run", "-n", "2", "--rows", "1", "--raw", "--out", "y.png"], "live"),
    ):
        assert main(command) == 0
        assert f"G's {weights} weights" in " ".join(capsys.readouterr().out.split())


def test_the_sigma_that_is_shown_while_training_is_called_that_of_the_raw_weights(
    photos: Path, capsys: Capture
) -> None:
    assert main(["train", "--data", str(photos), *TINY]) == 0
    err = capsys.readouterr().err
    assert "raw sigma" in err and "max sigma" not in err


def test_what_needs_an_extra_says_so_in_its_help(capsys: Capture) -> None:
    needed = {
        "plot": "matplotlib",
        "inspect-sn": "matplotlib",
        "train": "tensorboard",
        "resume": "tensorboard",
    }
    for command, extra in needed.items():
        assert main([command, "--help"]) == 0
        assert f"pip install {extra}" in " ".join(
            re.sub("[│ \n]+", " ", capsys.readouterr().out).split()
        )


def test_the_help_shows_no_type_of_flags(capsys: Capture) -> None:
    for command in ([], ["train"], ["sample"], ["inspect-sn"]):
        assert main([*command, "--help"]) == 0
        assert "bool" not in capsys.readouterr().out.lower()


def test_presets_that_extend_themselves_are_told(capsys: Capture) -> None:
    Path("a.yaml").write_text("extends: b.yaml\n")
    Path("b.yaml").write_text("extends: a.yaml\n")
    Path("c.yaml").write_text("extends: ./c.yaml\n")
    assert main(["train", "--preset", "a.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "error: b.yaml:1: b.yaml extends itself\nhint: extend a preset that comes"
    )
    assert main(["train", "--preset", "c.yaml"]) == 2
    assert "error: c.yaml:1: c.yaml extends itself" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code", "message", "hint"), MISTAKES, ids=lambda v: str(v)[:40]
)
def test_a_mistake_gets_one_sentence_and_its_exit_code_and_changes_nothing(
    run: Path, capsys: Capture, command: list[str], code: int, message: str, hint: str
) -> None:
    before = tree(run)
    assert main(command) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith(("drawing", "preparing"))]
    assert lines[0].startswith(f"error: {message}")
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert hint in "".join(lines[1:])
    assert tree(run) == before
    assert not Path("runs").exists()


def test_a_folder_of_runs_is_no_run(photos: Path, capsys: Capture) -> None:
    command = ["train", "--data", str(photos), *TINY]
    assert main(command) == 0
    assert main([*command, "--run", "runs"]) == 2
    assert "error: --run 'runs' is a folder of runs" in capsys.readouterr().err


def test_names_from_files_cannot_steer_the_terminal(photos: Path, capsys: Capture) -> None:
    (photos / "\x1b[31mred[bold].png").write_bytes(b"x")
    assert main(["train", "--data", str(photos), *TINY]) == 0
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert r"\x1b[31mred[bold].png: not a PNG, JPEG, WEBP, BMP image" in err
    assert "warning: 1 of 13 files were left out:" in err


def test_a_fault_of_our_own_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def broken(target: object) -> None:
        raise ZeroDivisionError("surprise")

    monkeypatch.setattr(runs, "find", broken)
    assert main(["resume"]) == 1
    assert "a fault in ganctl itself: ZeroDivisionError: surprise" in capsys.readouterr().err
    monkeypatch.setenv("GANCTL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["resume"])


def full(*arguments: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("parts", "next_parts"), [(1, 2), (2, 3), (3, 6)])
def test_memory_that_runs_out_is_explained_with_a_hint_that_can_be_followed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, parts: int, next_parts: int
) -> None:
    """In a run that exists, by its own file: `resume` has no --set."""
    batch = ["--batch-size", "6", "--set", f"optim.grad_accumulation={parts}"]
    train = ["train", "--data", str(photos), *TINY, *batch, "--steps", "2", "--run", "r"]
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", full)
        assert main(train) == 8
        hint = f"hint: --set optim.grad_accumulation={next_parts} needs about"
        assert hint in capsys.readouterr().err  # nothing was saved yet
        Path("r").rename("empty")
    assert main(train) == 0
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", full)
        assert main(["resume", "r", "--steps", "3"]) == 8
    err = capsys.readouterr().err
    assert (
        f"error: out of memory with batches of 6 in {parts} part(s) of {6 // parts} images" in err
    )
    hint = (
        f"hint: set optim.grad_accumulation to {next_parts} in r/config.yaml, then ganctl resume r"
    )
    assert hint in err
    file = Path("r/config.yaml")
    changed = file.read_text().replace(f"accumulation: {parts}", f"accumulation: {next_parts}")
    file.write_text(changed)
    assert main(["resume", "r", "--steps", "4"]) == 0
    expected = (
        f"not bit-exact with the run so far: optim.grad_accumulation was {parts}, is {next_parts}"
    )
    assert expected in capsys.readouterr().err


def test_memory_that_runs_out_when_networks_are_made_is_explained_too(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """In a trial as well, and without a run the hint is an option."""
    monkeypatch.setattr(state, "create", full)
    for options in (["--dry-run"], ["--run", "r"]):
        assert main(["train", "--data", str(photos), *TINY, *options]) == 8
        assert (
            "hint: --set optim.grad_accumulation=2 needs about 50% of it" in capsys.readouterr().err
        )
    assert main(["train", "--data", str(photos), *TINY, "--batch-size", "1", "--dry-run"]) == 8
    assert "hint: start a run with smaller networks (model.width)" in capsys.readouterr().err


def test_memory_that_runs_out_while_images_are_prepared_is_explained_too(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ganctl.data.chunks.fit", full)
    for options in ([], ["--dry-run"]):
        assert main(["train", "--data", str(photos), *TINY, *options]) == 8
        assert "error: out of memory while preparing images" in capsys.readouterr().err


def test_a_user_without_a_home_is_told_what_to_do(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, run: Path
) -> None:
    """As in a container whose user has no name; what needs no cache goes on without it."""
    for name in ("GANCTL_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert main(["train", "--data", str(photos), *TINY]) == 5
    said = capsys.readouterr().err
    assert (
        "error: there is no home folder to keep the image cache in\nhint: GANCTL_CACHE=FOLDER"
        in said
    )
    assert main(["sample", str(run), "-n", "1"]) == 0


def test_a_default_name_fits_whatever_it_is_made_of() -> None:
    """Four parts and a few words, in bytes."""
    long = name_part("é" * 300)
    assert len(long.encode()) <= 55
    assert long != name_part("é" * 299)
    assert name_part("\udcff" * 100).isascii()


def python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr


NO_TORCH = [
    ["--help"],
    ["--version"],
    ["train", "--help"],
    ["plot", "--help"],
    ["presets"],
    ["runs", "--json"],
]


@pytest.mark.parametrize("command", NO_TORCH)
def test_what_needs_no_torch_does_not_import_it(command: list[str]) -> None:
    code = (
        f"import sys; from ganctl.cli.app import main; assert main({command!r}) == 0;"
        "print('torch' in sys.modules, 'torchvision' in sys.modules)"
    )
    assert python(code).endswith("False False\n")


def test_decoding_workers_do_not_import_torch() -> None:
    code = "import sys, ganctl.data.packing, ganctl.data.sources; print('torch' in sys.modules)"
    assert python(code) == "False\n"


def test_the_help_shows_examples(capsys: Capture) -> None:
    commands = (
        "train",
        "resume",
        "sample",
        "inspect-sn",
        "inspect-attention",
        "plot",
        "presets",
        "runs",
    )
    for command in commands:
        assert main([command, "--help"]) == 0
        assert f" ganctl {command}" in capsys.readouterr().out


def test_the_precision_of_sample_is_also_that_of_the_device(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tf32 is a setting of the device: nothing else switches it on."""
    assert main(["train", "--data", str(photos), *TINY, "--run", "run"]) == 0
    prepared: list[object] = []
    monkeypatch.setattr(runtime, "prepare", lambda *arguments: prepared.append(arguments))
    assert main(["sample", "run", "-n", "1", "--precision", "bf16", "--device", "cpu"]) == 0
    assert prepared == [(torch.device("cpu"), "bf16")]
