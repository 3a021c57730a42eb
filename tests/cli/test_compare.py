"""`ganctl compare`: what differs, and scores of unlike protocols never in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganctl.cli.app import main
from ganctl.insight.sample_sheet import CAPTION, GAP, MARGIN, sample_sheet
from tests.cli.test_cli import TINY, tree

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def runs(photos: Path, trained: Callable[..., None]) -> list[Path]:
    """Two runs that differ in width and rate."""
    for name, rate in (("one", "1e-4"), ("two", "2e-4")):
        settings = ["--set", f"optim.g_lr={rate}", "--run", name]
        trained("--data", str(photos), *TINY, *settings)
    return [Path("one"), Path("two")]


def scored(run: Path, protocol: str, *figures: tuple[int, float]) -> None:
    """Add scores to metrics.jsonl: steps and their KID."""
    with (run / "metrics.jsonl").open("a") as file:
        for step, kid in figures:
            row: dict[str, Any] = {
                "step": step,
                "score_kid": kid,
                "score_kid_error": 0.01,
                "score_fd": 100 * kid,
            }
            row |= {f"score_{name}": 0.5 for name in ("precision", "recall", "density", "coverage")}
            file.write(json.dumps({**row, "score_protocol": protocol}) + "\n")


def lines_of(out: str, start: str) -> list[list[str]]:
    return [
        re.split(r" {2,}", line.strip())
        for line in out.splitlines()
        if line.strip().startswith(start)
    ]


def test_runs_are_put_side_by_side(runs: list[Path], capsys: Capture) -> None:
    before = [tree(run) for run in runs]
    assert main(["compare", "one", "two"]) == 0
    out = capsys.readouterr().out
    assert lines_of(out, "optim.g_lr") == [["optim.g_lr", "0.0001", "0.0002"]]
    assert lines_of(out, "optim.d_lr") == []
    assert lines_of(out, "steps") == [["steps", "2", "2"]]
    assert lines_of(out, "images seen") == [["images seen", "8", "8"]]
    assert "No run was scored while it was trained; `ganctl score RUN` scores it now." in out
    assert [tree(run) for run in runs] == before


def test_the_best_of_each_run_is_compared(runs: list[Path], capsys: Capture) -> None:
    protocol = "EfficientNet-Lite0: 50 images at 32 px [abc]"
    scored(runs[0], protocol, (3, 0.5), (4, 0.3), (5, 0.4))
    scored(runs[1], protocol, (3, 0.2))
    assert main(["compare", "one", "two"]) == 0
    out = capsys.readouterr().out
    assert lines_of(out, "lowest at step") == [["lowest at step", "4", "3"]]
    assert lines_of(out, "KID") == [["KID (EfficientNet-Lite0)", "0.30000", "0.20000"]]
    assert lines_of(out, "FD") == [["FD (EfficientNet-Lite0)", "30.0", "20.0"]]
    assert protocol in out.splitlines()


def test_unlike_protocols_have_lines_of_their_own(runs: list[Path], capsys: Capture) -> None:
    scored(runs[0], "Inception: 50 images [abc]", (3, 0.5))
    scored(runs[1], "Inception: 60 images [def]", (3, 0.2))
    assert main(["compare", "one", "two"]) == 0
    out = capsys.readouterr().out
    assert lines_of(out, "FID") == [["FID (1)", "50.0", "-"], ["FID (2)", "-", "20.0"]]
    assert "(1) Inception: 50 images [abc]" in out
    assert main(["compare", "one", "two", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [list(each["scores"]) for each in found] == [
        ["Inception: 50 images [abc]"], ["Inception: 60 images [def]"],
    ]  # fmt: skip


def test_a_file_that_says_nonsense_is_no_score(runs: list[Path], capsys: Capture) -> None:
    with (runs[0] / "metrics.jsonl").open("a") as file:
        for value in ('"x"', "null", "[]", "1e999"):
            file.write(
                f'{{"step": 3, "score_kid": {value}, "score_fd": 1, "score_protocol": []}}\n'
            )
    assert main(["compare", "one", "two"]) == 0
    assert "No run was scored" in capsys.readouterr().out


def test_the_picture_has_the_same_seeds_in_each_row(runs: list[Path], capsys: Capture) -> None:
    assert main(["compare", "one", "two", "--plot", "both.png", "-n", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "both.png"
    sheet = np.asarray(Image.open("both.png"))
    assert sheet.shape == (
        2 * MARGIN + 2 * (CAPTION + 96 + GAP) - GAP,
        2 * MARGIN + 3 * (96 + GAP) - GAP,
        3,
    )
    assert main(["sample", "one", "--seeds", "0-2", "--out", "x.npz"]) == 0
    first = np.load("x.npz")["images"][0]
    shown = sheet[MARGIN + CAPTION :, MARGIN:][: 3 * 32 : 3, : 3 * 32 : 3]
    assert np.abs(shown.astype(int) - first).max() <= 1


def test_images_of_unlike_sizes_fit_in_one_picture() -> None:
    small, large = np.full((2, 32, 32, 3), 9, np.uint8), np.full((2, 64, 64, 3), 7, np.uint8)
    sheet = sample_sheet([("a", small), ("b", large)])
    top = MARGIN + CAPTION
    assert (sheet[top : top + 128, MARGIN : MARGIN + 128] == 9).all()
    second = top + 128 + GAP + CAPTION
    assert (sheet[second : second + 128, MARGIN : MARGIN + 128] == 7).all()


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["compare", "one"], 2, "compare takes 2 to 12 runs, not 1"),
        (["compare", "one", "nowhere"], 3, "there is no run nowhere"),
        (["compare", "one", "two", "-n", "0"], 2, "-n is 0, but it must be from 1 to 64"),
        (["compare", "one", "two", "--plot", "x.gif"], 2, "--plot is x.gif, but images are drawn into a .png file"),
        (["compare", "one", "two", "--plot", "one"], 2, "--plot is one, but images are drawn into a .png file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    runs: list[Path], capsys: Capture, command: list[str], code: int, message: str
) -> None:
    assert main(command) == code
    assert f"error: {message}" in capsys.readouterr().err
