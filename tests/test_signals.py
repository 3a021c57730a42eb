"""A signal at any time: nothing half-written is left, no process lives on, and no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from warm import Program

from ganctl.cache import cache_folder
from ganctl.cli.app import main
from ganctl.training.stopping import Interrupted, interruptible
from tests.cli.test_cli import TINY

Capture = pytest.CaptureFixture[str]
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

SLOW = """
import os, sys, time
from ganctl.data import chunks
os.cpu_count = lambda: 2
chunks.ALONE = 0
from ganctl.cli.app import main
sys.exit(main(sys.argv[1:]))
"""


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_empty(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def building() -> list[Path]:
    return list((cache_folder() / "packed").glob(".building-*"))


def images_in_place() -> bool:
    """Whether workers have decoded some."""
    return any(path.stat().st_blocks for folder in building() for path in folder.glob("images.u8"))


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL])
@pytest.mark.parametrize("whole_group", [False, True], ids=["the process", "its group"])
def test_no_process_lives_on_that_prepared_images(
    capsys: Capture, number: signal.Signals, whole_group: bool
) -> None:
    """Whoever reads what they may write would wait for them; a terminal and a scheduler signal all."""
    process = Program(SLOW, "train", *TINY, "--run", "r")
    wait_for(lambda: images_in_place() or process.poll() is not None)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    try:
        _, said = process.communicate(timeout=60)
        wait_for(lambda: is_empty(process.pid))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if number == signal.SIGKILL:
        assert process.returncode == -number
        assert whole_group or building()
        return
    assert process.returncode == 128 + number, said
    assert said.splitlines()[-1] == "stopped before the first step: nothing was saved"
    assert "Traceback" not in said
    assert not building()
    assert not Path("r").exists()


def test_a_signal_while_a_run_is_opened_again_says_that_it_is_as_it_was(photos: Path) -> None:
    first = Program(SLOW, "train", "--data", str(photos), *TINY, "--run", "r")  # holds its lock
    assert first.communicate()
    assert first.returncode == 0
    code = (
        "import os, signal, sys\nfrom ganctl import resuming\nfrom ganctl.cli.app import main\n"
        "resuming.open_images = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    before = (Path("r") / "status.json").read_bytes()
    process = Program(code, "resume", "r", "--steps", "9")
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (143, "stopped before the first step: r has what it had\n")
    assert (Path("r") / "status.json").read_bytes() == before


def test_usr1_before_the_first_step_ends_nothing() -> None:
    with interruptible():
        os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_unwinds_and_the_second_ends_at_once(number: signal.Signals) -> None:
    """Where a hang-up that is ignored stays ignored."""
    code = (
        "import os, signal, sys\nfrom ganctl.training.stopping import *\n"
        "with interruptible():\n"
        "    try:\n        os.kill(os.getpid(), int(sys.argv[1]))\n"
        "    except Interrupted:\n        print('first', flush=True)\n"
        "    os.kill(os.getpid(), int(sys.argv[1]))\n    print('never')\n"
    )
    process = Program(code, str(int(number)))
    assert process.communicate(timeout=60)[0] == "first\n"
    assert process.returncode == -number
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(Interrupted), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_one_of_several_processes_cleans_up_however_often_it_is_told(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """A terminal tells all of them and their launcher, which passes it on."""
    monkeypatch.setenv("RANK", "0")
    code = (
        "import os, signal, sys\nfrom ganctl.training.stopping import *\n"
        "try:\n"
        "    with interruptible():\n"
        "        try:\n            os.kill(os.getpid(), int(sys.argv[1]))\n"
        "        finally:\n"
        "            for number in STOPPING:\n                os.kill(os.getpid(), number)\n"
        "            print('cleaned up')\n"
        "except Interrupted as stopped:\n    sys.exit(128 + stopped.signal_number)\n"
    )
    process = Program(code, str(int(number)))
    assert process.communicate(timeout=60) == ("cleaned up\n", "")
    assert process.returncode == 128 + number


def test_a_signal_while_a_file_is_written_leaves_no_half_of_it(photos: Path) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--run", "r"]) == 0
    code = (
        "import os, signal, sys\nfrom ganctl.sampling import draw\nfrom ganctl.cli.app import main\n"
        "draw._write_arrays = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    process = Program(code, "sample", "r", "-n", "2", "--out", "x.npz")
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (143, "stopped\n")
    assert [path.name for path in Path().iterdir()] == ["r"]


def test_ctrl_c_while_modules_are_imported_is_no_traceback() -> None:
    code = (
        "import os, signal, sys, runpy\n"
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'typer':\n            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder)\nsys.argv = ['ganctl', '--help']\n"
        "runpy.run_module('ganctl', run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("moment", ["run.json", "reals.png", "status.json", "metrics.jsonl"])
def test_a_run_killed_before_its_first_save_is_resumed_from_its_first_step(
    photos: Path, capsys: Capture, moment: str
) -> None:
    """Whenever that was; before there is a run.json there is no run, and `train` begins it."""
    every = ["--set", "train.log_every=1", "--set", "train.checkpoint_every=1000"]
    command = ["train", "--data", str(photos), *TINY, *every]
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom ganctl.cli.app import main\n"
        "replace = Path.replace\n"
        "def replaced(path, target):\n"
        f"    if target.name == {moment!r}:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return replace(path, target)\n"
        "Path.replace = replaced\n"
        "from ganctl.training import loop\n"
        f"if {moment!r} == 'metrics.jsonl':\n"
        "    loop.averaged = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    killed = Program(code, *command, "--run", "r")
    assert killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    if moment == "run.json":
        assert main(["resume", "r"]) == 3
        assert main([*command, "--run", "r"]) == 0
        return
    assert main([*command, "--run", "r"]) == 6
    assert "go on with `ganctl resume r`" in capsys.readouterr().err
    assert main(["resume", "r"]) == 0
    assert (
        "nothing was saved in r yet: it begins again at its first step" in capsys.readouterr().err
    )
    assert main([*command, "--run", "whole"]) == 0

    def rows(run: str) -> list[dict[str, object]]:
        text = (Path(run) / "metrics.jsonl").read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]

    assert rows("r") == rows("whole")
    assert json.loads((Path("r") / "status.json").read_text())["state"] == "done"
    assert not list(Path("r").rglob(".ganctl-*"))
