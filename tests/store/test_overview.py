"""What is told of runs at a glance: true whatever became of the process, and no byte is changed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from warm import GANCTL, Program

from ganctl.cli.app import main
from ganctl.store import overview, runs
from tests.cli.test_cli import TINY, tree

Capture = pytest.CaptureFixture[str]


def train(photos: Path, *options: str) -> int:
    return main(["train", "--data", str(photos), *TINY, "--set", "train.log_every=1", *options])


def test_a_run_is_one_line_with_what_it_is_of_and_how_it_stands(
    photos: Path, capsys: Capture
) -> None:
    assert train(photos) == 0
    assert train(photos, "--run", "runs/mine") == 0
    before = tree(Path("runs"))
    capsys.readouterr()
    assert main(["runs"]) == 0
    out = capsys.readouterr().out.splitlines()
    columns = ["run", "preset", "data", "step", "state", "score or loss", "last change", "size"]
    assert " ".join(out[1].split()) == " ".join(columns)
    first, second = (line.split() for line in out if " of 2 " in line)
    assert first[:7] == ["photos-faces32-001", "faces32", "photos", "2", "of", "2", "done"]
    assert second[0] == "mine"
    assert " s ago" in " ".join(first)
    assert tree(Path("runs")) == before


def test_as_json_it_is_whole_and_in_plain_units(photos: Path, capsys: Capture) -> None:
    assert train(photos) == 0
    capsys.readouterr()
    assert main(["runs", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["data"], found["step"], found["steps"]) == (str(photos), 2, 2)
    sizes = [path.stat().st_size for path in Path("runs").rglob("*") if path.is_file()]
    assert found["size"] == pytest.approx(sum(sizes), rel=0.9)
    rows = Path("runs/photos-faces32-001/metrics.jsonl").read_text().splitlines()
    assert found["losses"] == [json.loads(rows[-1])["d_loss"], json.loads(rows[-1])["g_loss"]]


def test_the_newest_score_stands_for_the_losses(photos: Path, capsys: Capture) -> None:
    assert train(photos, "--run", "runs/r") == 0
    run = runs.find(Path("r"))
    run.journal.scores["score"] = {"step": 1, "kid": 0.125}
    run.journal.set_status("done", 2)
    run.journal.measure({"step": 2, "d_loss": 1.0, "g_loss": 0.5})
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert "KID 0.1250" in capsys.readouterr().out


def test_a_file_with_two_names_counts_once(photos: Path) -> None:
    assert train(photos, "--run", "r") == 0
    before = overview.of(Path("r")).size
    Path("r/best.pt").hardlink_to(Path("r/checkpoints/step-000000002.pt"))
    assert overview.of(Path("r")).size == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_running_is_believed_only_while_the_lock_is_held(photos: Path, number: int) -> None:
    """A process that is stopped holds its lock; one that was killed does not."""
    options = ["--data", str(photos), *TINY, "--steps", "100000", "--run", "r"]
    process = Program(GANCTL, "train", *options)
    run = Path("r")
    try:
        while not (run / "status.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert overview.of(run).state == "running"
        process.send_signal(number)
        if number == signal.SIGKILL:
            process.wait()
        killed = number == signal.SIGKILL
        assert overview.of(run).state == ("killed" if killed else "running")
    finally:
        process.kill()
        process.wait()
    assert json.loads((run / "status.json").read_text())["state"] == "running"


TWO_SIGNALS = (
    "import os, signal, sys; from ganctl.training import loop; from ganctl.cli.app import main\n"
    "from ganctl.store.journal import Journal\n"
    "def interrupt(*_): os.kill(os.getpid(), signal.SIGINT)\n"
    "def step(*_): {before}; interrupt(); interrupt()\n"
    "loop.train_step = step; main(sys.argv[1:])"
)


@pytest.mark.parametrize("before", ["pass", "Journal.set_status = interrupt"])
def test_a_second_signal_leaves_a_true_status_and_a_third_does_not_wait_for_it(
    photos: Path, before: str
) -> None:
    """It would be waited for on a disk that does not answer."""
    script = TWO_SIGNALS.replace("{before}", before)
    process = Program(script, "train", "--data", str(photos), *TINY, "--run", "r")
    assert process.wait() == -signal.SIGINT, process.communicate()
    status = json.loads(Path("r/status.json").read_text())
    told = ("stopped", 130, "a second signal") if before == "pass" else ("running", 0, "")
    assert (status["state"], status["exit_code"], status["reason"]) == told


@pytest.mark.parametrize("name", ["config.yaml", "status.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xff{", b"[]", b'{"step": "x"}'])
def test_damaged_files_are_left_out(
    photos: Path, capsys: Capture, name: str, content: bytes
) -> None:
    assert train(photos, "--run", "runs/r") == 0
    (Path("runs/r") / name).write_bytes(content)
    assert main(["runs"]) == 0
    assert " r " in capsys.readouterr().out


def test_a_damaged_run_is_skipped_with_a_word(photos: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        assert train(photos, "--run", f"runs/{name}") == 0
    Path("runs/a/run.json").write_text("{")
    capsys.readouterr()
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert err == "warning: skipped: runs/a/run.json is damaged\n"
    assert " b " in out and " a " not in out


def test_no_runs_is_a_mistake_with_a_hint(capsys: Capture) -> None:
    assert main(["runs"]) == 3
    err = capsys.readouterr().err
    assert err == "error: there is no run in runs/\nhint: train one with `ganctl train`\n"


def test_names_say_what_a_run_is_of(photos: Path, capsys: Capture) -> None:
    steps = ["--steps", "1"]
    odd = photos.rename(photos.with_name("my photos [2024]"))
    os.symlink(odd, "link")
    for where in (str(odd), "link"):
        assert main(["train", "--data", where, *TINY, *steps]) == 0
    Path("mine.yaml").write_text(f"extends: faces32\ndata: {{source: '{odd}'}}\n")
    assert main(["train", "--preset", "mine.yaml", *TINY, *steps]) == 0
    names = sorted(path.name for path in Path("runs").iterdir())
    assert names == [
        "my-photos--2024--faces32-001", "my-photos--2024--faces32-002", "my-photos--2024--mine-001",
    ]  # fmt: skip
    assert overview.of(Path("runs") / names[2]).preset == "mine"
