"""A run's folder: what is newest, what is kept, who may write."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch
from warm import Program

from ganctl.cli.app import main
from ganctl.errors import CheckpointError, ConfigError, RunBusyError
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.store.durable import place_beside
from ganctl.store.runs import Run

PAYLOAD = {"generator": {"w": torch.ones(3)}, "step": 1}


@pytest.fixture
def run(tiny: Callable[..., Config]) -> Run:
    return runs.create(None, "tiny", tiny())


def save(run: Run, *steps: int, keep: int = 10) -> None:
    for step in steps:
        run.save(step, {**PAYLOAD, "step": step}, {"step": step}, keep)


def saved_steps(run: Run) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_runs_are_numbered_and_the_last_started_is_the_newest(tiny: Callable[..., Config]) -> None:
    made = [runs.create(None, "tiny", tiny()) for _ in range(3)]
    assert [run.name for run in made] == ["tiny-001", "tiny-002", "tiny-003"]
    assert runs.find(None).folder == made[-1].folder
    assert runs.find(Path("tiny-001")).folder == made[0].folder


def test_the_newest_run_is_no_matter_of_clocks(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    for day, name in ((3, "zeta"), (2, "alpha"), (1, "middle")):
        monkeypatch.setattr(runs, "now", lambda: f"2026-01-0{day}")  # noqa: B023
        runs.create(Path("runs") / name, "x", tiny())
    assert runs.find(None).name == "middle"


def test_a_new_run_survives_a_power_cut(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files and every folder on the way to them are synced before it is used."""
    synced, fsync = set(), os.fsync

    def remember(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remember)
    folder = runs.create(None, "tiny", tiny()).folder
    for path in (folder / "run.json", folder / "config.yaml", folder, folder.parent, Path()):
        assert path.stat().st_ino in synced, path


def test_what_a_kill_left_of_the_link_does_not_stop_the_next_one(run: Run) -> None:
    left = place_beside(run.folder / "ckpt.pt", run.run_id)
    left.symlink_to("checkpoints/step-000000001.pt")
    run.sweep()
    assert not left.is_symlink()
    save(run, 1, 2, 3, 4, keep=2)
    assert saved_steps(run) == ["step-000000003.pt", "step-000000004.pt"]
    assert (run.folder / "ckpt.pt").resolve().name == "step-000000004.pt"


@pytest.mark.parametrize("owner", ["x", None, [], {"id": 1}])
def test_a_checkpoint_without_a_run_is_nobodys(run: Run, owner: object) -> None:
    save(run, 1)
    for step in (2, 9):
        path = run.checkpoints / f"step-{step:09}.pt"
        checkpoint.write(path, {**PAYLOAD, "step": step}, {"run": owner, "step": step})
    save(run, 3, 4, 5, 6, keep=2)
    assert run.newest_checkpoint().name == "step-000000006.pt"
    assert saved_steps(run) == [f"step-{step:09}.pt" for step in (2, 5, 6, 9)]


def test_a_checkpoint_under_another_steps_name_is_skipped(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    save(run, 1, 2)
    (run.checkpoints / "step-000000002.pt").rename(run.checkpoints / "step-000000009.pt")
    assert run.newest_checkpoint().name == "step-000000001.pt"
    assert "is of step 2, not of its name" in caplog.text


def test_a_damaged_run_does_not_hide_the_others(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    broken = Path("runs/broken")
    broken.mkdir()
    (broken / "run.json").write_text("{")
    assert runs.find(None).folder == run.folder
    assert "runs/broken/run.json is damaged" in caplog.text


def test_the_newest_whole_checkpoint_counts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    save(run, 9, 10, 100)
    newest = run.newest_checkpoint()
    assert newest.name == "step-000000100.pt"
    assert (run.folder / "ckpt.pt").resolve() == newest.resolve()
    newest.write_bytes(newest.read_bytes()[:-1])
    os.utime(run.checkpoints / "step-000000009.pt")
    assert run.newest_checkpoint().name == "step-000000010.pt"
    assert "skipped:" in caplog.text
    assert "step-000000100.pt" in caplog.text


def test_a_checkpoint_of_exploded_scores_is_taken_with_a_word_on_the_one_before(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    for step, sane in ((1, False), (2, True), (3, False), (4, False)):
        run.save(step, {**PAYLOAD, "step": step}, {"step": step, "sane": sane}, 10)
        newest = run.newest_checkpoint()
        assert newest.name == f"step-{step:09}.pt"
        better = (
            "there is none from before"
            if step == 1
            else f"the newest from before is {run.checkpoints}/step-000000002.pt"
        )
        word = f"D's scores had exploded when {newest} was saved; {better}"
        assert caplog.messages == ([] if sane else [word])
        caplog.clear()


def test_what_a_run_can_go_back_to_stays_however_long_its_scores_explode(run: Run) -> None:
    for step in range(1, 9):
        metadata = {"step": step, "sane": step <= 3}
        run.save(step, {**PAYLOAD, "step": step}, metadata, keep=2)
    assert saved_steps(run) == [f"step-{step:09}.pt" for step in (3, 7, 8)]
    run.save(9, {**PAYLOAD, "step": 9}, {"step": 9, "sane": True}, keep=2)
    assert saved_steps(run) == [f"step-{step:09}.pt" for step in (8, 9)]


def test_another_runs_file_gives_way_and_is_not_called_damaged(run: Run) -> None:
    save(run, 1)
    path = run.checkpoints / "step-000000002.pt"
    checkpoint.write(path, {**PAYLOAD, "step": 2}, {"run": {"id": "another"}, "step": 2})
    content = path.read_bytes()
    save(run, 2)
    assert path.with_suffix(".foreign").read_bytes() == content
    assert run.newest_checkpoint() == path


def test_going_back_puts_a_best_checkpoint_from_later_aside(run: Run) -> None:
    score = {"score_kid": 0.1, "score_kid_error": 0.01, "score_protocol": "x"}
    for step in (1, 2):
        run.save(
            step, {**PAYLOAD, "step": step}, {"step": step, "score": {**score, "step": step}}, 9
        )
    run.publish_best(run.checkpoints / "step-000000001.pt")
    run.set_aside_after(1)
    assert (run.folder / "best.pt").exists()
    run.publish_best(run.checkpoints / "step-000000002.abandoned")
    run.set_aside_after(1)
    assert not (run.folder / "best.pt").exists()
    assert (run.folder / "best.abandoned").exists()


def test_a_run_without_a_usable_checkpoint_says_so(run: Run) -> None:
    with pytest.raises(CheckpointError, match="nothing saved yet"):
        run.newest_checkpoint()
    save(run, 1, 2)
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="2 skipped"):
        run.newest_checkpoint()


def test_the_hint_of_a_run_that_is_going_is_to_wait(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "is_locked", lambda folder: folder == run.folder)
    with pytest.raises(CheckpointError, match="nothing saved yet") as caught:
        run.newest_checkpoint()
    assert (caught.value.hint or "").startswith("it is running: wait for its first save")


def test_the_hint_of_a_run_without_a_whole_checkpoint_starts_it_again_as_it_was(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "model.width=8", "--batch-size", "4", "--precision", "fp32", "--steps", "2"]
    train = ["train", "--preset", "faces32", "--data", str(photos), *small, "--seed", "5"]
    assert main([*train, "--run", "my run"]) == 0
    lost = runs.find(Path("my run"))
    before = checkpoint.peek(lost.newest_checkpoint())
    for path in lost.checkpoints.iterdir():
        path.write_bytes(b"")
    capsys.readouterr()
    assert main(["resume", "my run"]) == 3
    said = capsys.readouterr().err
    assert "my run has no usable checkpoint (1 skipped)" in said
    command = shlex.split(said.partition("start again: ")[2])
    assert command == ["ganctl", "train", "--preset", "my run/config.yaml"]
    assert main(command[1:]) == 0
    after = checkpoint.peek(runs.find(None).newest_checkpoint())
    assert (after["config"], after["sections"]) == (before["config"], before["sections"])


def test_the_newest_are_kept_and_strangers_left_alone(run: Run) -> None:
    (run.checkpoints / "mine.pt").write_text("do not touch")
    save(run, 1, 2, 3, 10, keep=2)
    assert saved_steps(run) == ["mine.pt", "step-000000003.pt", "step-000000010.pt"]


def test_a_damaged_file_is_replaced_and_never_pushes_out_a_whole_one(run: Run) -> None:
    """After a fall-back the run comes by the damaged step again, and has to save it."""
    save(run, 70, 80, 90, 100)
    for step in (90, 100):
        (run.checkpoints / f"step-{step:09}.pt").write_bytes(b"damaged")
    save(run, 85, keep=2)
    assert run.newest_checkpoint().name == "step-000000085.pt"
    assert (run.checkpoints / "step-000000080.pt").exists()
    save(run, 90, keep=2)
    assert run.newest_checkpoint().name == "step-000000090.pt"
    assert (run.checkpoints / "step-000000090.damaged").read_bytes() == b"damaged"


def test_a_save_digests_what_it_wrote_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older files are read once by a process that did not write them, and never again."""
    digested: list[int] = []
    check = checkpoint._check_digest

    def remember(file: IO[bytes], path: Path) -> int:
        digested.append(checkpoint.peek(path)["step"])
        return check(file, path)

    def digested_by_saving(run: Run, step: int) -> list[int]:
        digested.clear()
        save(run, step, keep=3)
        return sorted(digested)

    monkeypatch.setattr(checkpoint, "_check_digest", remember)
    for step in range(1, 6):
        assert digested_by_saving(run, step) == [step]
    later = runs.find(run.folder)  # as another process would
    assert digested_by_saving(later, 6) == [4, 5, 6]
    assert digested_by_saving(later, 7) == [7]
    damaged = run.checkpoints / "step-000000006.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert digested_by_saving(later, 8) == [6, 8]
    assert saved_steps(run) == [f"step-{step:09}.pt" for step in (5, 6, 7, 8)]
    assert digested_by_saving(later, 9) == [9]
    assert saved_steps(run) == [f"step-{step:09}.pt" for step in (7, 8, 9)]


def test_what_was_just_written_stays_whatever_else_is_there(run: Run) -> None:
    """Its bytes were read back; of all others only a verdict is known, which may be out of date."""
    save(run, 80, 90, 100)
    for step in (90, 100):
        path = run.checkpoints / f"step-{step:09}.pt"
        dates = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(bytes(path.stat().st_size))
        os.utime(path, ns=dates)
    save(run, 85, keep=2)
    assert run.newest_checkpoint().name == "step-000000085.pt"


def test_half_written_files_are_swept(run: Run) -> None:
    save(run, 1)
    for folder in (run.folder, run.checkpoints, run.samples):
        place_beside(folder / "x", run.run_id).write_text("half")
    run.sweep()
    assert saved_steps(run) == ["step-000000001.pt"]
    assert not list(run.folder.rglob(".ganctl-*"))


def test_what_is_not_the_runs_own_is_not_swept(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A user's files, whatever they are called, and what another command is writing."""
    mine = [".tmp-x", ".ganctl-x", f".ganctl-{run.run_id}", f".ganctl-{run.run_id}-1-notes"]
    for name in mine:
        (run.checkpoints / name).write_text("mine")
    writing = place_beside(run.checkpoints / "x")
    writing.write_text("another command's")
    (run.folder / ".tmp-x").mkdir()
    folder = place_beside(run.folder / "x", run.run_id)
    folder.mkdir()
    run.sweep()
    assert caplog.messages == []  # else what stopped it there may have saved the others
    assert {path.name for path in run.checkpoints.iterdir()} == {*mine, writing.name}
    assert (run.folder / ".tmp-x").is_dir()
    assert folder.is_dir()


def test_a_live_run_is_locked_and_a_dead_owner_holds_nothing(run: Run) -> None:
    script = f"""
from ganctl.store import checkpoint, runs
from pathlib import Path
try:
    runs.find(Path({str(run.folder.resolve())!r})).lock()
    print("free")
except Exception as error:
    print(error)
"""

    def other_process() -> str:
        return Program(script).communicate()[0]

    assert f"in use by process {os.getpid()} on" in other_process()
    assert run._lock is not None
    os.close(run._lock)  # what the kernel does when the owner dies
    assert other_process() == "free\n"


def test_the_children_of_a_dead_owner_do_not_hold_its_lock(run: Run) -> None:
    """As decoding processes would that outlive a killed training."""
    assert run._lock is not None
    os.close(run._lock)
    script = f"""
import os, time
from pathlib import Path
from ganctl.store import checkpoint, runs
runs.find(Path({str(run.folder.resolve())!r})).lock()
if os.fork() == 0:
    os.close(1)
    time.sleep(60)
print("locked", flush=True)
os.read(0, 1)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=pipe, stdout=pipe, env=environment, process_group=0
    ) as owner:
        assert owner.stdout is not None
        try:
            assert owner.stdout.readline() == b"locked\n"
            with pytest.raises(RunBusyError, match=f"in use by process {owner.pid} on .* since "):
                runs.find(run.folder).lock()
            owner.kill()
            owner.wait()
            runs.find(run.folder).lock()
        finally:
            os.killpg(owner.pid, signal.SIGKILL)  # the sleeping child


def test_an_existing_run_is_not_trained_over(run: Run, tiny: Callable[..., Config]) -> None:
    with pytest.raises(RunBusyError, match="holds a run already"):
        runs.create(run.folder, "tiny", tiny())
    Path("file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        runs.create(Path("file"), "tiny", tiny())


def test_what_a_target_may_be(run: Run) -> None:
    save(run, 5)
    path = run.checkpoints / "step-000000005.pt"
    assert runs.find_checkpoint(None) == path
    assert runs.find_checkpoint(run.folder) == path
    assert runs.find_checkpoint(run.folder / "ckpt.pt").resolve() == path.resolve()
    for target in (Path("none"), Path("none.pt"), Path(".")):
        with pytest.raises(CheckpointError):
            runs.find_checkpoint(target)


def test_metrics_after_a_step_are_cut_and_a_torn_line_ignored(run: Run) -> None:
    for step in (1, 2, 3):
        run.journal.measure({"step": step})
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(b'[1]\n{"step": "x"}\n\xff\xfe\n{}\n{"step": 4, "tor')
    run.journal.cut_metrics(2)
    assert (run.folder / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("torn", [b"", b'{"step": 2, "d_l', b'{"step": 2}\n\xff'])
def test_a_torn_line_does_not_swallow_the_next(run: Run, torn: bytes) -> None:
    """As a disk leaves it that was full for a while."""
    run.journal.measure({"step": 1})
    with (run.folder / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    run.journal.measure({"step": 3})
    run.journal.measure({"step": 4})
    steps = [row["step"] for row in run.journal.rows()]
    assert [step for step in steps if step != 2] == [1, 3, 4]
    assert b"\n\n" not in (run.folder / "metrics.jsonl").read_bytes()


def test_what_is_below_a_runs_folder_leads_to_the_run(run: Run) -> None:
    with pytest.raises(CheckpointError) as caught:
        runs.find(run.folder / "checkpoints")
    assert caught.value.hint == f"did you mean {run.folder}?"
