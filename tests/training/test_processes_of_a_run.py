"""Several processes that train one run: who writes, who decides, and what happens if one is lost."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from crew import Crew, environment, together

from ganctl import distributed
from ganctl.cli import launching
from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.errors import ConfigError, DataError, OutOfMemoryError, StoppedError
from ganctl.processes import NEEDED
from ganctl.progress import silent
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.settings.strict_yaml import Value
from ganctl.store import checkpoint, runs
from ganctl.training import loop, opening, saving
from ganctl.training.memory import out_of_memory_explained
from ganctl.training.stopping import STOPPING, Interrupted
from tests.training.test_resume import TINY, sections

# Older versions of torch have it under another name.
set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
OFTEN = ["--set", "train.checkpoint_every=2", "--set", "train.log_every=2"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 images, and a cache that they are prepared in only once."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        draw_face(number, 40).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def photos(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GANCTL_CACHE", str(prepared.with_name(f"{prepared.name}-cache")))
    return prepared


def command(*words: str) -> int:
    """`ganctl words`, with what it says in a file a process."""
    errors = os.open(f"err.{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    return main(list(words))


def ganctl(size: int, *words: str, **given: str) -> Crew:
    return Crew(size, command, *words, given=given)


def said(rank: int = 0) -> str:
    path = Path(f"err.{rank}")
    return path.read_text() if path.exists() else ""


def begun(run: str = "r") -> bool:
    return (Path(run) / "metrics.jsonl").exists()


def wait_for(condition: Callable[[], bool], crew: Crew) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert any(process.is_alive() for process in crew.processes), said()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def endless(photos: Path) -> list[str]:
    return ["train", "--data", str(photos), *TINY, *OFTEN, "--steps", "1000000", "--run", "r"]


def whole(run: str = "r") -> int:
    """The step of the newest checkpoint, read to its end."""
    _, metadata = checkpoint.read(runs.find(Path(run)).newest_checkpoint())
    return int(metadata["step"])


def test_a_run_is_resumed_by_more_and_fewer_processes(photos: Path) -> None:
    """1, then 4, then 2; the same again is the same bytes; only the first one writes and speaks."""
    begin = ["train", "--data", str(photos), *TINY, *OFTEN, "--steps", "2", "--run", "a"]
    assert ganctl(1, *begin).results() == [0]
    assert ganctl(4, "resume", "a", "--steps", "4").results() == [0] * 4
    shutil.copytree("a", "b", symlinks=True)
    for run in ("a", "b"):
        assert ganctl(2, "resume", run, "--steps", "6").results() == [0] * 2
    files = [Path(run) / "checkpoints" / "step-000000006.pt" for run in ("a", "b")]
    assert sections(files[0]) == sections(files[1])
    rows = [json.loads(line) for line in (Path("a") / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    history = (Path("a") / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in history] == ["started", "saved", "done"] * 3
    assert "not bit-exact with the run so far: processes was 1, is 4" in said()
    assert "processes was 4, is 2" in said()
    assert said(1) == said(2) == said(3) == ""
    # Its images are the same, too, however many draw them.
    draw = ["sample", "a", "-n", "10", "--batch-size", "4", "--out"]
    assert main([*draw, "one.npz"]) == 0
    assert ganctl(2, *draw, "two.npz").results() == [0, 0]
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()


def test_a_batch_that_cannot_be_shared_is_refused_with_numbers_that_would_do(photos: Path) -> None:
    words = ["train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r"]
    assert ganctl(3, *words).results() == [2] * 3
    assert said().splitlines()[:2] == [
        "error: 3 processes cannot share 4 images, which is a batch of 4 in 1 part(s)",
        "hint: possible are 1, 2, 4 processes, or with 3 of them --batch-size 3 or 6",
    ]
    assert not Path("r").exists()


@pytest.mark.parametrize("saved", [True, False])
def test_what_would_do_to_resume_is_another_number_of_processes(photos: Path, saved: bool) -> None:
    """Its batch is fixed, and `resume` has no option for it."""
    begin = ["train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r"]
    assert ganctl(1, *begin).results() == [0]
    if not saved:
        shutil.rmtree("r/checkpoints")
    Path("err.0").unlink()
    assert ganctl(3, "resume", "r", "--steps", "4").results() == [2] * 3
    assert said().splitlines()[1] == "hint: possible are 1, 2, 4 processes"


def parts_proposed(parts: int) -> str:
    settings: dict[str, Value] = {"optim.batch_size": 12, "optim.grad_accumulation": parts}
    config = replace(presets.load("faces32"), settings)
    with pytest.raises(OutOfMemoryError) as full, out_of_memory_explained(config):
        raise MemoryError
    return str(full.value.hint)


def test_where_memory_is_full_more_parts_are_proposed_that_all_can_share() -> None:
    """Of parts of 3 images, and of 1, two processes have no equal shares."""
    first, second = together(2, parts_proposed, 3)
    assert first == second == "--set optim.grad_accumulation=6 needs about 50% of it"
    assert together(1, parts_proposed, 3)[0].startswith("--set optim.grad_accumulation=4 ")
    hints = together(2, parts_proposed, 6)
    assert all(hint.startswith("start a run with smaller networks") for hint in hints)


@pytest.mark.parametrize("told", [[0], [1], [0, 1, 0, 1]])
def test_a_signal_to_one_or_all_or_twice_stops_all_after_a_save(
    photos: Path, told: list[int]
) -> None:
    crew = ganctl(2, *endless(photos))
    wait_for(begun, crew)
    for rank in told:
        pid = crew.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
    assert crew.results() == [143, 143]
    step = whole()
    assert f"stopped and saved at step {step:,}" in said()
    status = json.loads((Path("r") / "status.json").read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("stopped", step, 143)


@pytest.mark.parametrize("lost", [0, 1])
def test_when_one_is_killed_the_others_end_and_the_newest_checkpoint_is_whole(
    photos: Path, lost: int
) -> None:
    crew = ganctl(2, *endless(photos))
    wait_for((Path("r") / "ckpt.pt").exists, crew)
    crew.processes[lost].kill()
    codes = crew.exit_codes()
    assert codes[lost] == -signal.SIGKILL
    other = json.loads((Path("r") / "status.json").read_text())
    if lost == 1:
        assert "error: process 1 on" in said() and "has ended, and a run needs all" in said()
        assert other["exit_code"] == 10
    step = whole()
    assert main(["resume", "r", "--steps", str(step + 1)]) == 0


def hanging(*words: str) -> int:
    """After step 3 process 1 says nothing any more; the other then waits a second, and no minute."""
    honest = loop.train_step

    def step(state, given, config):  # type: ignore[no-untyped-def]
        metrics = honest(state, given, config)
        if state.step == 3:
            if distributed.rank() == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            impatient()
        return metrics

    loop.train_step = step  # in this process, which ends with the test
    return command(*words)


def impatient() -> None:
    meeting = distributed._meeting
    assert meeting is not None
    meeting.patience = 1
    for group in (None, meeting.control):
        set_timeout(timedelta(seconds=1), group)


def test_one_that_hangs_is_given_up_after_a_while(photos: Path) -> None:
    crew = Crew(2, hanging, *endless(photos))
    crew.processes[0].join(60)
    crew.processes[1].kill()
    assert crew.exit_codes() == [0, -signal.SIGKILL]
    assert json.loads((Path("r") / "status.json").read_text())["exit_code"] == 10
    assert "error: process 1 on" in said() and "has not answered for 1 s" in said(), said()
    assert "GANCTL_TIMEOUT=SECONDS waits longer" in said()
    assert whole() == 2


def differing(*words: str) -> int:
    """As a bit that falls over in a weight: noticed at the next save."""
    honest = loop.train_step

    def step(state, given, config):  # type: ignore[no-untyped-def]
        metrics = honest(state, given, config)
        if state.step == 3 and distributed.rank() == 1:
            with torch.no_grad():
                state.generator_ema.to_rgb.bias += 1e-6
        return metrics

    loop.train_step = step  # in this process, which ends with the test
    return command(*words)


def test_a_process_that_holds_other_weights_ends_the_run_before_anything_is_written(
    photos: Path,
) -> None:
    words = ["train", "--data", str(photos), *TINY, *OFTEN, "--steps", "9", "--run", "r"]
    assert Crew(2, differing, *words).results() == [10, 10]
    assert "error: process 1 on" in said()
    assert "holds other weights than the others, so nothing is saved" in said()
    assert whole() == 2


def poisoned(*words: str) -> int:
    """The first time that training comes to step 5, a weight of G is not a number any more."""
    honest, left = loop.train_step, [1]

    def step(state, given, config):  # type: ignore[no-untyped-def]
        metrics = honest(state, given, config)
        if state.step == 5 and left.pop():
            left.append(0)
            with torch.no_grad():
                state.generator.to_rgb.bias.fill_(torch.nan)
            return metrics._replace(d=metrics.d._replace(loss=metrics.d.loss * torch.nan))
        return metrics

    loop.train_step = step
    return command(*words)


def test_all_roll_back_together(photos: Path) -> None:
    words = ["train", "--data", str(photos), *TINY, *OFTEN, "--set", "train.rollbacks=1"]
    crew = Crew(2, poisoned, *words, "--steps", "8", "--run", "r")
    assert crew.results() == [0, 0], said()
    assert said().count("rolled back to step 4") == 1
    assert whole() == 8


def on_two_machines(seen: list[str]) -> object:
    """As if each process were on a machine of its own."""
    os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    with distributed.joined("cpu"):
        return distributed.each_machine_does(
            lambda show: _worked(show), lambda *now: seen.append(str(now))
        ), seen


def _worked(show: Callable[[int, int], None]) -> int:
    Path(f"began.{distributed.rank()}").touch()
    if distributed.rank() == 1:
        assert Path("done.0").exists()  # the first machine's cache may be this one's, too
        show(3, 4)
        time.sleep(0.3)
    Path(f"done.{distributed.rank()}").touch()
    return distributed.rank()


def test_images_are_prepared_once_a_machine_and_the_first_shows_how_far_all_are() -> None:
    (first, seen), (second, _) = Crew(2, on_two_machines, []).results()
    assert (first, second) == (0, 1)
    assert "(3, 4)" in seen
    assert together(2, distributed.each_machine_does, _alone, None) == [0, None]


def downloaded(config: Config) -> int:
    """The number of images, of a data set that a process downloads by leaving its number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "fetch", lambda _: Path(f"by.{distributed.rank()}").touch())
        return len(opening.source_for(config.data.source, config.data.resolution, silent))


def test_a_data_set_is_downloaded_once_a_machine(tiny: Callable[..., Config]) -> None:
    assert len(set(together(2, downloaded, tiny()))) == 1
    assert sorted(path.name for path in Path().glob("by.*")) == ["by.0"]


def _alone(_: object) -> int:
    return distributed.rank()


def stopped_alone() -> int:
    """As if only process 1 had been told to end while all draw or score images."""
    try:
        with distributed.joined("cpu"):
            if distributed.rank() == 1:
                raise Interrupted(signal.SIGTERM)
            distributed.all_do(lambda: None)
    except StoppedError as error:
        assert error.message.endswith(": stopped")
        return error.exit_code
    except Interrupted as signalled:
        return 128 + signalled.signal_number
    return 0


def test_what_one_is_told_to_end_is_ended_in_all() -> None:
    assert Crew(2, stopped_alone).results() == [143, 143]


def failing_save(*words: str) -> int:
    def full(*_: object) -> None:
        raise saving.StorageError("could not save: the disk is full")

    runs.Run.save = full  # type: ignore[method-assign, assignment]
    return command(*words)


def test_when_the_first_cannot_save_all_end_alike(photos: Path) -> None:
    words = ["train", "--data", str(photos), *TINY, *OFTEN, "--steps", "2", "--run", "r"]
    assert Crew(2, failing_save, *words).results() == [5, 5]
    assert "error: could not save: the disk is full" in said()
    assert said(1) == ""


def elsewhere(*words: str) -> int:
    """As on a machine that lacks the images."""

    def absent(source: str, resolution: int) -> None:
        raise DataError(f"there are no images at {source}")

    if os.environ["RANK"] == "1":
        opening.open_source = absent  # type: ignore[assignment]
    return command(*words)


def test_what_only_one_finds_out_is_told_by_the_first(photos: Path) -> None:
    words = ["train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r"]
    assert Crew(2, elsewhere, *words).results() == [4, 4]
    assert "error: process 1 on" in said() and f"there are no images at {photos}" in said()
    assert said(1) == ""
    assert not Path("r").exists()


def lost_at_first(*words: str) -> int:
    """Process 1 is killed in the first step, unless torchrun has started all anew."""
    honest = loop.train_step

    def step(state, given, config):  # type: ignore[no-untyped-def]
        if distributed.rank() == 1 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(state, given, config)

    loop.train_step = step
    return command(*words)


def test_a_run_lost_before_its_first_save_begins_anew_when_torchrun_starts_it_again(
    photos: Path,
) -> None:
    """What the processes meet in is torchrun's own, and still has the words of those before."""
    meeting_place = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    given = {
        "MASTER_PORT": str(meeting_place.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_MAX_RESTARTS": "1", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    words = ["train", "--data", str(photos), *TINY, *OFTEN, "--steps", "2", "--run", "r"]
    assert Crew(2, lost_at_first, *words, given=given).exit_codes() == [0, -signal.SIGKILL]
    assert json.loads((Path("r") / "status.json").read_text())["exit_code"] == 10
    given["TORCHELASTIC_RESTART_COUNT"] = "1"
    assert Crew(2, lost_at_first, *words, given=given).results() == [0, 0], said()
    assert "nothing was saved in r yet: it begins again at its first step" in said()
    assert whole() == 2


def test_a_port_in_use_is_one_sentence(photos: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r"]
        crew = Crew(1, command, *words, given={**environment(0, 2, port), "GANCTL_TIMEOUT": "5"})
        assert crew.results() == [2]
    assert f"error: port {port} (MASTER_PORT) is in use by another program\n" in said()


class Forked:
    """A process that `--processes` starts, forked from this one instead of started anew."""

    def __init__(self, words: list[str], env: Mapping[str, str]) -> None:
        assert words[:3] == [sys.executable, "-m", "ganctl"]
        self.pid = os.fork()
        if self.pid == 0:
            for number in STOPPING:
                signal.signal(number, signal.SIG_DFL)
            os.environ.update(env)
            os._exit(command(*words[3:]))

    def poll(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def launching_by_forks(*words: str) -> int:
    for name in (*NEEDED, "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    launching.subprocess.Popen = Forked  # type: ignore[misc, assignment]
    return main(list(words))


def test_a_launcher_that_is_killed_is_not_survived(photos: Path) -> None:
    """Its processes save and end, as if they had been told to."""
    crew = Crew(1, launching_by_forks, *endless(photos), "--processes", "2")
    wait_for(begun, crew)
    pid = crew.processes[0].pid
    assert pid is not None
    workers = children(pid)
    assert len(workers) == 2
    crew.processes[0].kill()
    deadline = time.monotonic() + 120
    while any(state_of(pid) != "Z" for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    status = json.loads((Path("r") / "status.json").read_text())
    assert (status["state"], status["exit_code"], status["step"]) == ("stopped", 143, whole())


def children(pid: int) -> list[int]:
    """The processes that `pid` has started, in that order."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return "Z"


def test_shares_are_of_equal_size_and_in_order() -> None:
    assert together(2, distributed.share, 10, 8) == [(10, 4), (14, 4)]
    assert distributed.share(10, 8) == (10, 8)
    distributed.check_shares(7, 1)
    with pytest.raises(ConfigError):
        distributed.check_shares(7, 2)


def wished(rank_that_wishes: int) -> list[list[int]]:
    agreement = distributed.Agreement()
    mine = distributed.rank() == rank_that_wishes
    return [agreement.of(15 if mine and step == 1 else 0, int(step == 2)) for step in range(4)]


def test_what_one_wishes_at_a_step_holds_for_all_at_the_next() -> None:
    assert together(2, wished, 1) == [[[0, 0], [0, 0], [15, 0], [0, 1]]] * 2
    assert wished(0) == [[0, 0], [15, 0], [0, 1], [0, 0]]
