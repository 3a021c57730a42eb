"""What other programs take of the cores is told, and answered only where it is so."""

import subprocess
import sys
from pathlib import Path

import pytest

from ganctl import busy
from ganctl.cli import dry_run
from ganctl.cli.app import main


def test_busy_cores_by_hand() -> None:
    """Ticks: one core idle, one half busy, one busy all the time; one whose clock stands still."""
    before = {0: (100, 200), 1: (100, 200), 2: (100, 200), 3: (5, 9)}
    after = {0: (130, 230), 1: (115, 230), 2: (100, 230), 3: (5, 9)}
    assert busy.busy_cores(before, after) == pytest.approx(0 + 0.5 + 1 + 0)


def test_times_are_read_of_ourown_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """user nice system idle iowait irq softirq steal guest guest_nice"""
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 20 30 400 50 6 7 8 9 9\ncpu1 1 1 1 1 1 1 1 1 0 0\n"
        "cpu2 1 1 1 1 1 1 1 1 0 0\nintr 5\n"
    )
    monkeypatch.setattr(busy, "STAT", stat)
    monkeypatch.setattr(busy, "own_cores", lambda: {0, 2})
    assert busy._times() == {0: (450, 531), 2: (2, 8)}
    monkeypatch.setattr(busy, "STAT", tmp_path / "none")
    assert busy.taken_by_others() is None


@pytest.mark.parametrize(
    ("taken", "before", "spins"),
    [
        (1.2, {}, "1000"),
        (0.1, {}, None),
        (None, {}, None),
        (1.2, {"GOMP_SPINCOUNT": "5"}, "5"),
        (1.2, {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_sleep_only_beside_others_and_unless_the_user_decided(
    monkeypatch: pytest.MonkeyPatch,
    taken: float | None,
    before: dict[str, str],
    spins: str | None,
) -> None:
    monkeypatch.setattr(busy, "taken_by_others", lambda: taken)
    monkeypatch.delitem(sys.modules, "torch")
    environment = dict(before)
    remark = busy.prepare(environment)
    assert environment.get("GOMP_SPINCOUNT") == spins
    assert ("other programs take 1.2 of" in (remark or "")) == (taken == 1.2)


def test_once_torch_is_loaded_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "taken_by_others", lambda: pytest.fail("it would take a moment"))
    busy.prepare({})


MISTAKES = [["train", "--data", "no"], ["train", "--data", "no", "--dry-run"], ["resume", "no"]]


@pytest.mark.parametrize("command", MISTAKES)
def test_what_is_wrong_with_a_command_comes_first(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(busy, "prepare", lambda: "others compute")
    assert main(command) in (3, 4)
    said = capsys.readouterr().err
    assert said.startswith("error: there ")
    assert "others compute" not in said


def test_it_is_said_when_the_work_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    monkeypatch.setattr(busy, "prepare", lambda: "others compute")
    monkeypatch.setattr(dry_run, "LEAST_SPELLS", 1)
    monkeypatch.setattr(dry_run, "MOST_SECONDS", 0)
    monkeypatch.setattr(dry_run, "SPELL", 0)
    small = ["--set", "model.width=8", "--batch-size", "4", "--precision", "fp32"]
    assert main(["train", *small, "--dry-run"]) == 0
    assert capsys.readouterr().err.endswith("others compute\n")
    assert main(["train", *small, "--steps", "1", "--data", str(photos)]) == 0
    assert "\nothers compute\nruns/" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "--dry-run"], ["resume", "r"]])
def test_it_comes_before_torch(command: list[str]) -> None:
    script = (
        "import sys; from ganctl import busy; from ganctl.cli.app import main\n"
        "busy.prepare = lambda: sys.exit('torch' in sys.modules and 'late' or 'early')\n"
        f"main({command!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "early\n"
