"""`ganctl plot` and TensorBoard's files: what is drawn, what is written, and without the packages."""

import ast
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganctl.cli import watching
from ganctl.cli.app import main
from ganctl.cli.event_files import EventFiles, numbers
from ganctl.insight import curves, panels
from ganctl.insight.curves import Curves
from ganctl.insight.panels import (
    COLLAPSE,
    FAILURE_MODES,
    PANELS,
    Line,
    Panel,
    panels_with,
    scale_of,
)
from ganctl.store.journal import Row
from ganctl.training import diagnosis

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # matplotlib's first two colours
Capture = pytest.CaptureFixture[str]
TINY = [
    "--set", "model.width=8", "--set", "model.latent_dim=8", "--batch-size", "4",
    "--precision", "fp32", "--set", "train.log_every=1",
]  # fmt: skip


def row(step: int, **figures: object) -> Row:
    """A row with figures of every kind."""
    made: Row = {
        "step": step, "images": 4 * step, "images_per_second": 50.0, "d_loss": 1.5, "g_loss": 0.1 * step,
        "real_score": 0.4, "fake_score": -0.2, "real_spread": 0.3, "fake_spread": 0.2, "real_outside": 0.1,
        "fake_outside": 0.2, "d_gradient": 3.0, "g_gradient": 1e-3 * step, "gamma": {"g.a": 0.01 * step, "d.b": -0.1},
        "sigma_max": 2.0, "sigma_drift": 0.02, "diversity": 0.7, "memorising": 0.1, "memorising_auc": 0.55, "augment_p": 0.3, "alarms": [],
        "score_fd": 90.0, "score_kid": 0.2, "score_kid_error": 0.01, "score_precision": 0.5, "score_recall": 0.4,
        "score_density": 0.9, "score_coverage": 0.6, "score_protocol": "lite0: 50 images",
    }  # fmt: skip
    return {**made, **figures}


def bare(step: int, **figures: object) -> Row:
    """A row with losses only, which is drawn quickly."""
    return {"step": step, "d_loss": 1.5, "g_loss": 0.1 * step, **figures}


def run_in(folder: str, rows: list[Row]) -> Path:
    path = Path(folder)
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"id": "x", "order": 1}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def has(picture: bytes, color: tuple[int, int, int]) -> bool:
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return bool((pixels == color).all(axis=2).any())


@pytest.fixture
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("matplotlib")
def test_each_run_has_a_colour_of_its_own() -> None:
    one, other = [bare(step) for step in (1, 2)], [bare(step, d_loss=1.0) for step in (1, 2, 3)]
    alone = curves.draw({"a": Curves(one)})
    assert has(alone, BLUE)
    assert not has(alone, ORANGE)
    both = curves.draw({"a": Curves(one), "b": Curves(other)})
    assert has(both, BLUE)
    assert has(both, ORANGE)


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize("rows", [[bare(1)], [bare(1), bare(2, d_loss=None), bare(3)]])
def test_a_figure_without_neighbours_is_seen_too(rows: list[Row]) -> None:
    """Without a legend, which has the run's colour as well."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.add_subplot()
    curves.draw_line(axes, Line("d_loss"), rows, "C0")
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert has(file.getvalue(), BLUE)


def titles(*rows: Row) -> list[str]:
    return [
        p.title
        for p in panels_with(
            dict.fromkeys(name for r in rows for name in sorted(panels.names_in(r)))
        )
    ]


def test_panels_are_those_that_have_figures() -> None:
    assert titles(row(1)) == [*(panel.title for panel in PANELS), "gamma of d.b", "gamma of g.a"]
    assert titles(bare(1), bare(2)) == ["D's loss", "G's loss"]
    late = [bare(1), bare(2, gamma={"g.b": None}), bare(3, diversity=0.5, gamma={"g.a": 0.0})]
    assert titles(*late) == ["D's loss", "G's loss", PANELS[2].title, "gamma of g.a"]
    many = titles(bare(1, gamma={str(i): 0.1 for i in range(100)}))
    assert len(many) == 2 + panels.MOST_GAMMAS
    assert titles(bare(1, score_fid=9.0))[-1] == "score fid"


def test_all_failure_modes_that_are_told_are_known_so_that_their_alarms_can_end() -> None:
    calls = ast.walk(ast.parse(Path(diagnosis.__file__).read_text()))
    told = {
        call.args[0].value
        for call in calls
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) == "Diagnosis"
        and isinstance(call.args[0], ast.Constant)
    }
    assert COLLAPSE in told
    assert told <= set(FAILURE_MODES)


def test_rows_that_say_nothing_of_a_figure_are_no_gaps_in_it() -> None:
    assert panels.has({"step": 1, "x": None}, "x")
    assert not panels.has({"step": 1}, "x")
    assert panels.has({"gamma": {"g.a": None}}, "gamma g.a")
    assert not panels.has({"gamma": 3}, "gamma g.a")


def test_d_of_real_and_of_fake_images_share_an_axis() -> None:
    (both,) = panels_with(["real_score", "fake_score"])
    assert [line.label for line in both.lines] == ["D(real)", "D(fake)"]


def test_an_axis_is_logarithmic_where_values_run_away() -> None:
    plain, gradient, share = (
        Panel("x", ()),
        Panel("x", (), logarithmic=True),
        Panel("x", (), share=True),
    )
    usual = [1.0] * 20
    assert scale_of(plain, [*usual, 99.0, float("nan"), float("inf")]) == "linear"
    assert scale_of(plain, [*usual, 1e6]) == "log"
    assert scale_of(plain, [*usual, -1e6]) == "symlog"
    assert scale_of(plain, [0.0, 0.0, 0.0]) == "linear"
    assert scale_of(plain, []) == "linear"
    assert scale_of(gradient, usual) == "log"
    assert scale_of(gradient, [0.0]) == "linear"
    assert scale_of(share, [*usual, 1e6]) == "linear"


@pytest.mark.usefixtures("matplotlib")
def test_failures_are_marked_and_alarms_named() -> None:
    rows = [bare(step) for step in (1, 5, 9)]
    alarm = {"event": "alarm", "step": 5, "name": "mode $collapse"}
    failed = {"event": "failed", "step": 9}
    assert curves.marks([{"event": "saved", "step": 1}, alarm, failed]) == [alarm, failed]
    plain, marked = (curves.draw({"a": Curves(rows, events)}) for events in ([], [alarm, failed]))
    assert plain != marked
    assert [curves._described(event) for event in (alarm, failed)] == ["mode $collapse", "failed"]


@pytest.mark.usefixtures("matplotlib")
def test_what_happened_after_the_last_row_is_marked_at_the_end() -> None:
    rows = [{"step": step, "d_loss": 1.0} for step in (10, 20)]
    at_end, later = (
        curves.draw({"a": Curves(rows, [{"event": "failed", "step": step}])})
        for step in (20, 2**61)
    )
    assert at_end == later


@pytest.mark.usefixtures("matplotlib")
def test_odd_rows_are_drawn_as_far_as_they_are_numbers() -> None:
    odd: list[dict[str, Any]] = [
        {"d_loss": "x", "gamma": 3, "alarms": None},
        {"d_loss": 10**400, "g_loss": None, "gamma": {"$\\frac": 0.1, "_b": None}},
        {"alarms": ["mode collapse", 7], "g_gradient": 0.0},
        {"real_score": 1.0, "real_spread": None, "sigma_drift": "\x1b[31m"},
    ]
    rows = [bare(1), *(bare(i + 2, **figures) for i, figures in enumerate(odd)), bare(9)]
    assert has(curves.draw({"_x $\\frac{1}$": Curves(rows)}), BLUE)


@pytest.mark.usefixtures("matplotlib")
def test_as_many_runs_as_one_likes_have_different_colours() -> None:
    assert len(set(curves._colors(30))) == 30


@pytest.mark.usefixtures("matplotlib")
def test_plot_writes_a_picture_and_replaces_it_only_by_force(capsys: Capture) -> None:
    run_in("runs/one", [bare(1), bare(2)])
    run_in("other", [bare(1), bare(2)])
    assert main(["plot"]) == 0
    assert capsys.readouterr().out == "curves.png\n"
    first = Path("curves.png").read_bytes()
    assert main(["plot", "other", "one"]) == 2
    assert "error: curves.png exists\nhint: --force replaces it" in capsys.readouterr().err
    assert main(["plot", "other", "one", "--force"]) == 0
    assert Path("curves.png").read_bytes() != first
    assert main(["plot", "one", "--out", "x.PNG"]) == 0
    assert Path("x.PNG").read_bytes().startswith(b"\x89PNG")


MISTAKES = [
    (["plot", "nowhere"], 3, "there is no run nowhere", ""),
    (["plot", "new"], 2, "new has no figures in metrics.jsonl yet", "train.log_every"),
    (["plot", "one", "--out", "x.pdf"], 2, "--out is x.pdf, but curves are drawn into a .png file", ""),
    (["plot", "one", "--out", "no/x.png"], 5, "cannot write no/x.png: there is no folder no", ""),
]  # fmt: skip


@pytest.mark.usefixtures("matplotlib")
@pytest.mark.parametrize(("command", "code", "message", "hint"), MISTAKES)
def test_mistakes(capsys: Capture, command: list[str], code: int, message: str, hint: str) -> None:
    run_in("one", [bare(1)])
    run_in("new", [])
    assert main(command) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {message}")
    assert hint in err
    assert not list(Path().glob("*.png"))


def test_without_matplotlib_one_sentence_says_how_to_get_it(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_in("one", [bare(1)])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["plot", "one"]) == 2
    assert capsys.readouterr().err == (
        "error: plotting needs matplotlib, which is not installed\nhint: pip install matplotlib\n"
    )


class Writer:
    """In place of tensorboard's: remembers what it is given."""

    written: dict[str, list[Any]]

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.written = {"opened": [(folder, purge_step)], "scalars": []}
        Writer.last = self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.written["scalars"].append((name, value, step))

    def add_image(self, name: str, image: np.ndarray, step: int, dataformats: str) -> None:
        self.written.setdefault("images", []).append((name, image.shape, step, dataformats))

    def flush(self) -> None: ...

    def close(self) -> None:
        self.written["closed"] = [True]

    last: "Writer"


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    stub = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stub)
    return Writer


def test_tensorboard_gets_every_figure_of_every_row(photos: Path, writer: type[Writer]) -> None:
    command = ["train", "--data", str(photos), *TINY, "--run", "r", "--tensorboard"]
    assert main([*command, "--steps", "2"]) == 0
    written = writer.last.written
    assert written["opened"] == [("r/tensorboard", 1)]
    assert written["closed"] == [True]
    rows = [json.loads(line) for line in Path("r/metrics.jsonl").read_text().splitlines()]
    expected = [(n, v, r["step"]) for r in rows for n, v in numbers(r).items()]
    assert written["scalars"] == expected
    assert {"d_loss", "diversity", "gamma/g.stages.1.attention"} <= {n for n, _, _ in expected}
    assert written["images"] == [("preview", (512, 512, 3), 2, "HWC")]
    assert main(["resume", "r", "--steps", "3", "--tensorboard"]) == 0
    assert [image[2] for image in writer.last.written["images"]] == [3]
    assert writer.last.written["opened"] == [("r/tensorboard", 3)]


def test_after_a_roll_back_tensorboard_hides_what_came_later(writer: type[Writer]) -> None:
    opened = []
    with EventFiles(watching.PlainWatcher(9), Path("r"), 0) as files:
        for step in (2, 4, 6, 4, 6):
            files.measured(row(step))
            opened.append(writer.last.written["opened"][0][1])
    assert opened == [1, 1, 1, 4, 4]


def test_tensorboards_real_writer_leaves_event_files(photos: Path) -> None:
    pytest.importorskip("tensorboard")
    command = ["train", "--data", str(photos), *TINY, "--run", "r", "--tensorboard"]
    assert main([*command, "--steps", "1"]) == 0
    (file,) = Path("r/tensorboard").glob("events.*")
    assert b"d_loss" in file.read_bytes()


def test_tensorboards_files_that_cannot_be_written_do_not_end_a_run(
    photos: Path, writer: type[Writer], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "add_scalar", full)
    command = ["train", "--data", str(photos), *TINY, "--run", "r", "--tensorboard"]
    assert main([*command, "--steps", "3"]) == 0
    message = "TensorBoard's files cannot be written: No space left on device"
    assert capsys.readouterr().err.count(message) == 1


def test_a_file_where_tensorboards_folder_should_be_does_not_end_a_run(
    photos: Path, capsys: Capture
) -> None:
    pytest.importorskip("tensorboard")
    command = ["train", "--data", str(photos), *TINY, "--run", "r"]
    assert main([*command, "--steps", "1"]) == 0
    Path("r/tensorboard").write_text("")
    assert main(["resume", "r", "--steps", "2", "--tensorboard"]) == 0
    assert "TensorBoard's files cannot be written: " in capsys.readouterr().err


def test_figures_are_flat_and_absent_ones_left_out() -> None:
    flat = numbers(row(3, real_outside=None, alarms=["mode collapse"]))
    assert flat["gamma/d.b"] == -0.1
    assert flat["alarm/mode-collapse"] == 1.0
    assert flat["alarm/discriminator-overpowers"] == 0.0
    assert numbers(row(4))["alarm/mode-collapse"] == 0.0
    assert not {"step", "real_outside", "gamma", "alarms"} & set(flat)


def test_without_tensorboard_one_sentence_says_how_to_get_it(
    photos: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    command = ["train", "--data", str(photos), *TINY, "--run", "r", "--tensorboard"]
    assert main([*command, "--steps", "1"]) == 2
    assert (
        "error: --tensorboard needs tensorboard, which is not installed\n"
        "hint: pip install tensorboard\n"
    ) in capsys.readouterr().err
    assert not Path("r").exists()
