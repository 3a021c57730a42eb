"""What a command does when nobody reads what it says, or a disk takes no more of it."""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.text import Text
from warm import GANCTL, Program

from ganctl.cli import show, watching
from ganctl.cli.app import main
from tests.cli.test_cli import TINY

Capture = pytest.CaptureFixture[str]
FULL = Path("/dev/full")
needs_dev_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """`ganctl` in it is that of these tests."""
    ganctl = f"{shlex.quote(sys.executable)} -m ganctl"
    command = command.replace("ganctl", ganctl)
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


@pytest.fixture
def training(photos: Path) -> list[str]:
    return ["train", "--data", str(photos), *TINY, "--run", "r"]


FULL_DISK = "os.open('/dev/full', os.O_WRONLY)"
NOBODY = "(pipe := os.pipe(), os.close(pipe[0]))[0][1]"  # reads it: as with `| head -0`


@pytest.mark.parametrize("log", [FULL_DISK, NOBODY], ids=["a full disk", "a closed pipe"])
def test_a_log_that_cannot_be_written_ends_no_run(training: list[str], log: str) -> None:
    if log == FULL_DISK and not FULL.exists():
        pytest.skip("only Linux has /dev/full")
    code = f"import os; os.dup2({log}, 2); {GANCTL}"
    process = Program(code, *training, "--set", "train.log_every=1")
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, "r/ckpt.pt\n")
    assert json.loads(Path("r/status.json").read_text())["state"] == "done"
    assert Path("r/ckpt.pt").exists()


def test_a_log_that_is_closed_ends_no_run(training: list[str]) -> None:
    done = shell(f"{shlex.join(['ganctl', *training])} 2>&-")
    assert (done.returncode, done.stdout) == (0, "r/ckpt.pt\n")
    assert json.loads(Path("r/status.json").read_text())["state"] == "done"


@needs_dev_full
def test_results_that_cannot_be_written_are_exit_5(training: list[str]) -> None:
    assert main(training) == 0
    for command in ("presets", "presets celeba64", "inspect-sn r --json"):
        done = shell(f"ganctl {command} > /dev/full")
        assert done.returncode == 5, command
        assert "error: cannot write the results: No space left on device" in done.stderr
        assert "Exception ignored" not in done.stderr


def test_results_that_nobody_reads_are_no_mistake(training: list[str]) -> None:
    assert main(training) == 0
    for command in ("presets | head -0", "inspect-sn r | head -0", "inspect-sn r --json >&-"):
        done = shell(f"set -o pipefail; ganctl {command}")
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr, command


def test_suggested_commands_can_be_typed(photos: Path, capsys: Capture) -> None:
    odd = "a b'c"
    assert main(["train", "--data", str(photos), *TINY, "--run", odd]) == 0
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("next: ganctl ")]
    assert main(shlex.split(line.removeprefix("next: ganctl "))) == 0
    assert main(["resume", odd]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hint: ")]
    assert main(shlex.split(line.removeprefix("hint: ganctl ").removesuffix(" trains on"))) == 0


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_panel_fits_and_leaves_room_for_the_terminals_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    screen = Console(width=width, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(show, "console", screen)
    row = {
        "images_per_second": 1234.5, "d_loss": 1.5, "g_loss": 0.1, "real_score": 0.4, "fake_score": -0.2,
        "real_spread": 0.3, "fake_spread": 0.2, "real_outside": 0.1, "fake_outside": 0.2, "d_gradient": 123.4,
        "g_gradient": 1e-3, "gamma": {"g.a": 0.01, "d.b": -0.1}, "sigma_max": 2.0, "sigma_drift": 0.02, "diversity": 0.7, "memorising": 0.1, "memorising_auc": 0.55, "augment_p": 0.3,
        "alarms": ["mode collapse"],
    }  # fmt: skip
    panel = watching.LivePanel("runs/x", 0, 9000, 100)
    panel._row = row
    with screen.capture() as captured:
        screen.print(panel._panel())
    plain = Text.from_ansi(captured.get()).plain.splitlines()
    assert max(map(len, plain)) <= width - 3
    for value in ("1234.5", "+0.010 -0.100", "10% 20%", "1.2e+02 0.001", "mode collapse"):
        assert value in " ".join(plain)


@pytest.mark.parametrize("more", [0, 6])
def test_neither_digits_nor_names_of_a_table_are_lost_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """Where there is no room the name is folded, and then lines are longer than the terminal."""
    columns = ("weight", "estimate", "exact", "in use", "rank", *[f"more {n}" for n in range(more)])
    table = show.table("x", ("layer", *columns))
    row = ["512x1024x5x5", "1.2345", "1.3456", "1.4567", "123.45", *["at most 12.345"] * more]
    table.add_row("d.stages.0.attention.output", *row)
    narrow = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(show, "_tables", lambda: narrow)
    with narrow.capture() as captured:
        show.result_table(table)
    lines = captured.get().splitlines()
    for value in (*columns, *row):
        assert value in captured.get()
    assert any(line.strip().startswith("d.stages.0") for line in lines)
    assert (max(map(len, lines)) > 80) == (more > 0)


def test_a_pipe_gets_one_line_about_work_that_is_quick(capsys: Capture) -> None:
    with show.ProgressBar("looking") as progress:
        for done in range(1, 1001):
            progress(done, 1000)
    assert capsys.readouterr().err == "looking: 1,000 of 1,000\n"


def test_a_pipe_gets_a_line_a_minute_about_work_that_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    clock = iter(range(0, 10_000, 25))  # seconds
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    with show.ProgressBar("looking") as progress:
        for done in range(1, 11):
            progress(done, 10)
    lines = capsys.readouterr().err.splitlines()
    assert 1 < len(lines) < 10
    assert lines[-1] == "looking: 10 of 10"


def test_lines_break_between_words_in_a_terminal_and_not_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = "runs/" + 60 * "x" + "/ckpt.pt"
    text = f"next: ganctl sample {path} -n 64, and so on"
    show.note(text)
    assert capsys.readouterr().err == f"{text}\n"
    screen = Console(width=30, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(show, "console", screen)
    with screen.capture() as captured:
        show.note(text)
    assert captured.get().splitlines() == ["next: ganctl sample", path, "-n 64, and so on"]


@needs_dev_full
@pytest.mark.parametrize("words", ["--help", "--version", "train --help"])
def test_help_that_cannot_be_written_is_exit_5_and_one_that_nobody_reads_no_mistake(
    words: str,
) -> None:
    done = shell(f"ganctl {words} > /dev/full")
    assert done.returncode == 5
    assert done.stderr == "error: cannot write the results: No space left on device\n"
    done = shell(f"set -o pipefail; ganctl {words} | head -0")
    assert (done.returncode, done.stderr) == (0, "")


@needs_dev_full
def test_a_mistake_that_cannot_be_told_has_its_exit_code_all_the_same() -> None:
    assert shell("ganctl nosuch 2>/dev/full").returncode == 2


def test_a_preview_that_was_not_written_is_not_named(training: list[str], capsys: Capture) -> None:
    assert main([*training, "--run", "r"]) == 0
    assert "The last preview is r/samples/000000002.png" in capsys.readouterr().err
    Path("r/samples/000000003.png").mkdir()
    Path("r/samples/000000003.png/x").touch()
    assert main(["resume", "r", "--steps", "3"]) == 0
    said = capsys.readouterr().err
    assert "the picture 000000003.png was not written" in said
    assert "\ndone.\n" in said


FULL_MEMORY = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
    MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("error", FULL_MEMORY, ids=lambda error: str(error)[:30])
def test_full_memory_is_exit_8_in_every_command_that_computes(
    training: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """With what to lower where something can be, on every device."""
    assert main(training) == 0
    capsys.readouterr()

    def full(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("ganctl.sampling.draw.latents", full)
    monkeypatch.setattr("ganctl.sampling.interpolate.latents", full)
    monkeypatch.setattr("ganctl.insight.attention_views.look", full)
    monkeypatch.setattr("ganctl.insight.snapshots.of_checkpoint", full)
    lowered = {
        "sample r -n 8 --batch-size 64": "--batch-size 16 needs about a quarter of it",
        "sample r -n 8 --batch-size 1": "end other programs",
        "sample r -n 3 --interpolate 8 --out x.gif": "--interpolate 2 needs about a quarter of it",
        "inspect-attention r": "a lower -n",
        "inspect-sn r": "end other programs",
    }
    for command, hint in lowered.items():
        assert main(command.split()) == 8, command
        said = capsys.readouterr().err
        assert "error: out of memory" in said
        assert hint in said
