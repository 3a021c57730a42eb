"""The promise: a run that was interrupted, or watched, ends in the same bytes."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, Silent, inputs_of
from warm import GANCTL, Program

from ganctl.cli.app import main
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run
from ganctl.training import state
from ganctl.training.loop import train
from ganctl.training.stopping import StopRequest

CPU = torch.device("cpu")
TINY = [
    "--set", "model.width=8", "--set", "model.latent_dim=8", "--set", "train.log_every=3",
    "--set", "train.preview_every=3", "--batch-size", "4", "--precision", "fp32",
]  # fmt: skip


def sections(path: Path) -> dict[str, object]:
    """Digests of every section: networks, average, optimizers, scalers, step."""
    _, metadata = checkpoint.read(path)
    found = metadata["sections"]
    assert set(found) == set(state.TrainState.__dataclass_fields__)
    return dict(found)


def trained(run: Run, config: Config, faces: np.ndarray, resume: bool = False) -> dict[str, object]:
    """Train `run` to the end in this process, from its newest checkpoint if `resume`."""
    current = state.create(config, CPU, N_CLASSES)
    if resume:
        path = run.newest_checkpoint()
        current.load(checkpoint.read(path)[0], path)
    train(current, inputs_of(faces, config), config, run, {}, Silent(), StopRequest())
    return sections(run.newest_checkpoint())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss__kind": "wasserstein", "loss__gradient_penalty": 10.0, "optim__d_steps_per_g": 2},
        {"loss__kind": "nonsaturating", "loss__r1": 1.0, "data__flip": True, "data__dequantize": True},
        {"optim__grad_accumulation": 2, "train__precision": "bf16"},
        {"train__precision": "fp16"},
        {"train__deterministic": True},
    ],
)  # fmt: skip
def test_interrupted_equals_uninterrupted(
    tiny: Callable[..., Config], faces: np.ndarray, changes: dict[str, object]
) -> None:
    """Three interruptions, with epochs of 12 images ending in between."""
    whole = runs.create(Path("whole"), "x", tiny())
    parts = runs.create(Path("parts"), "x", tiny())
    expected = trained(whole, tiny(**changes, train__steps=6, train__checkpoint_every=6), faces)
    trained(parts, tiny(**changes, train__steps=1), faces)
    for steps in (3, 4, 6):
        result = trained(parts, tiny(**changes, train__steps=steps), faces, resume=True)
    assert result == expected


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__conditional": False, "optim__lr_decay": [2, 10]},
        {"optim__g_batch_multiple": 2, "optim__grad_accumulation": 2, "train__precision": "bf16"},
        {"loss__kind": "wasserstein", "loss__gradient_penalty": 10.0, "optim__d_steps_per_g": 2},
    ],
)  # fmt: skip
def test_interrupted_equals_uninterrupted_with_classes_too(
    tiny_resnet: Callable[..., Config], faces: np.ndarray, changes: dict[str, object]
) -> None:
    """The residual pair: labels, falling rates, larger batches for G."""
    whole = runs.create(Path("whole"), "x", tiny_resnet())
    parts = runs.create(Path("parts"), "x", tiny_resnet())
    settings = {**changes, "train__steps": 6, "train__checkpoint_every": 6}
    expected = trained(whole, tiny_resnet(**settings), faces)
    trained(parts, tiny_resnet(**{**changes, "train__steps": 3}), faces)
    for steps in (4, 6):
        again = tiny_resnet(**{**changes, "train__steps": steps})
        result = trained(parts, again, faces, resume=True)
    assert result == expected


def rows_of(run: Run) -> list[dict[str, object]]:
    return [
        {k: v for k, v in row.items() if k != "images_per_second"} for row in run.journal.rows()
    ]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_rows_are_of_the_same_steps_however_often_a_run_was_interrupted(
    tiny: Callable[..., Config], faces: np.ndarray, precision: str
) -> None:
    """Between two rows, at one, and twice between two."""
    config = {"train__log_every": 5, "train__checkpoint_every": 100, "train__precision": precision}
    whole, parts = (runs.create(Path(name), "x", tiny()) for name in ("whole", "parts"))
    trained(whole, tiny(**config, train__steps=15), faces)
    trained(parts, tiny(**config, train__steps=3), faces)
    for steps in (5, 7, 8, 15):
        saved = checkpoint.peek(parts.newest_checkpoint())["step"]
        parts.journal.cut_metrics(saved, 5)
        trained(parts, tiny(**config, train__steps=steps), faces, resume=True)
    assert rows_of(parts) == rows_of(whole)
    assert [row["step"] for row in rows_of(whole)] == [5, 10, 15]


def test_a_forgotten_section_would_be_noticed(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above can fail: without the optimizer's state the bytes differ."""
    whole = runs.create(Path("whole"), "x", tiny())
    parts = runs.create(Path("parts"), "x", tiny())
    expected = trained(whole, tiny(train__steps=4), faces)
    trained(parts, tiny(train__steps=2), faces)
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda *_: None)
    result = trained(parts, tiny(train__steps=4), faces, resume=True)
    assert {name for name in result if result[name] != expected[name]} > {"g_optimizer"}


def test_watching_does_not_change_a_run(tiny: Callable[..., Config], faces: np.ndarray) -> None:
    results = []
    for log, preview, save in ((1, 1, 1), (2, 3, 4), (100, 100, 100)):
        run = runs.create(Path(f"run-{log}"), "x", tiny())
        config = tiny(
            train__steps=6, train__log_every=log, train__preview_every=preview,
            train__checkpoint_every=save,
        )  # fmt: skip
        results.append(trained(run, config, faces))
        results[-1].pop("measured")  # since the last row, which is another one
    assert results[0] == results[1] == results[2]


def test_a_hang_up_that_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.signal_number == signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


def wait_for(condition: Callable[[], bool], process: Program) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_kill_9_between_saves_loses_nothing_that_was_saved(photos: Path) -> None:
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=5"]
    assert main(["train", *common, "--steps", "40", "--run", "whole"]) == 0
    process = Program(GANCTL, "train", *common, "--steps", "40", "--run", "killed")
    wait_for((Path("killed") / "checkpoints" / "step-000000010.pt").exists, process)
    process.kill()
    process.communicate()
    saved = runs.find(Path("killed")).newest_checkpoint()
    assert not (Path("killed") / "checkpoints" / "step-000000040.pt").exists()
    assert saved.name >= "step-000000010.pt"
    assert main(["resume", "killed"]) == 0
    last = Path("checkpoints") / "step-000000040.pt"
    assert sections(Path("killed") / last) == sections(Path("whole") / last)
    rows = [
        [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in
         (Path(run) / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "killed")
    ]  # fmt: skip
    assert rows[0] == rows[1]


@pytest.mark.parametrize("damage", ["delete", "flip"])
def test_a_lost_newest_checkpoint_costs_steps_but_not_exactness(photos: Path, damage: str) -> None:
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=4", "--steps", "8"]
    for run in ("whole", "hurt"):
        assert main(["train", *common, "--run", run]) == 0
    newest = Path("hurt") / "checkpoints" / "step-000000008.pt"
    if damage == "delete":
        newest.unlink()
    else:
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    assert main(["resume", "hurt"]) == 0
    assert sections(newest) == sections(Path("whole") / "checkpoints" / newest.name)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_at_a_step_saves_and_says_how_to_go_on(
    photos: Path, number: signal.Signals
) -> None:
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=100000"]
    process = Program(GANCTL, "train", *common, "--steps", "100000", "--run", "stopped")
    wait_for((Path("stopped") / "metrics.jsonl").exists, process)
    os.kill(process.pid, number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number, messages
    assert "\nstopped and saved at step" in messages
    assert "hint: go on with: ganctl resume stopped" in messages
    run = runs.find(Path("stopped"))
    step = checkpoint.read(run.newest_checkpoint())[1]["step"]
    status = json.loads((run.folder / "status.json").read_text())
    assert (status["state"], status["step"]) == ("stopped", step)
    assert main(["resume", "stopped", "--steps", str(step + 2)]) == 0
    assert checkpoint.read(run.newest_checkpoint())[1]["step"] == step + 2


def test_usr1_saves_and_goes_on(photos: Path) -> None:
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=100000"]
    process = Program(GANCTL, "train", *common, "--steps", "100000", "--run", "asked")
    wait_for((Path("asked") / "metrics.jsonl").exists, process)

    def events() -> list[tuple[str, int]]:
        rows = (Path("asked") / "history.jsonl").read_text().splitlines()
        return [(row["event"], row["step"]) for row in map(json.loads, rows)]

    for count in (2, 3):
        os.kill(process.pid, signal.SIGUSR1)
        wait_for(lambda: len(events()) == count, process)  # noqa: B023
    process.kill()
    process.communicate()
    assert [event for event, _ in events()] == ["started", "saved", "saved"]
    step = checkpoint.read(runs.find(Path("asked")).newest_checkpoint())[1]["step"]
    assert step == events()[-1][1]


def test_a_second_signal_ends_at_once_and_loses_nothing_saved(photos: Path) -> None:
    """The second comes while the step after the first is under way."""
    first = Program(GANCTL, "train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r")
    assert first.communicate()[1].endswith("-n 64\n")
    script = (
        "import os, signal; from ganctl.training import loop; from ganctl.cli.app import main\n"
        "def step(*_):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); os.kill(os.getpid(), signal.SIGTERM)\n"
        "loop.train_step = step; main(['resume', 'r', '--steps', '9'])"
    )
    assert Program(script).wait() == -signal.SIGTERM
    assert main(["resume", "r", "--steps", "3"]) == 0


def test_images_that_vanish_while_training_do_not_stop_it(photos: Path) -> None:
    """They were packed before the first step, and the pack stays open."""
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=100000"]
    process = Program(GANCTL, "train", *common, "--steps", "60", "--run", "r")
    wait_for((Path("r") / "metrics.jsonl").exists, process)
    shutil.rmtree(photos)
    shutil.rmtree(os.environ["GANCTL_CACHE"])
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 0, messages
    assert main(["resume", "r", "--steps", "61"]) == 4


def test_a_cache_that_is_cut_short_while_training_is_a_sentence_and_a_status(photos: Path) -> None:
    """Not a death by signal: each image that a step needs is read when it is needed."""
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=100000"]
    process = Program(GANCTL, "train", *common, "--steps", "100000", "--run", "r")
    wait_for((Path("r") / "metrics.jsonl").exists, process)
    for path in Path(os.environ["GANCTL_CACHE"]).rglob("images.u8"):
        os.truncate(path, 0)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 4, messages
    assert "was cut short\nhint: delete that folder; the images are prepared anew then" in messages
    status = json.loads((Path("r") / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 4)


def test_history_and_status_tell_what_happened(photos: Path) -> None:
    common = ["--data", str(photos), *TINY, "--set", "train.checkpoint_every=2"]
    assert main(["train", *common, "--steps", "4", "--run", "r"]) == 0
    assert main(["resume", "r", "--steps", "5"]) == 0
    rows = [json.loads(row) for row in (Path("r") / "history.jsonl").read_text().splitlines()]
    assert [(row["event"], row["step"]) for row in rows] == [
        ("started", 0), ("saved", 2), ("saved", 4), ("done", 4),
        ("started", 4), ("saved", 5), ("done", 5),
    ]  # fmt: skip
    status = json.loads((Path("r") / "status.json").read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("done", 5, 0)


def test_resume_refuses_other_images(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--steps", "1", "--run", "r"]) == 0
    (photos / "01.png").unlink()
    assert main(["resume", "r", "--steps", "2"]) == 4
    assert "are not those that r was trained on" in capsys.readouterr().err


def test_resume_says_when_it_cannot_be_bit_exact(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--steps", "1", "--run", "r"]) == 0
    torch.set_num_threads(2)
    try:
        assert main(["resume", "r", "--steps", "2"]) == 0
    finally:
        torch.set_num_threads(1)
    assert "not bit-exact with the run so far: threads was 1, is 2" in capsys.readouterr().err


def test_a_run_whose_random_numbers_were_others_goes_on_with_a_word(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "warning: the run was begun by another ganctl: its random numbers differ from here on"
    with monkeypatch.context() as before:
        before.setattr(state, "STREAMS", 1)
        assert main(["train", "--data", str(photos), *TINY, "--steps", "1", "--run", "r"]) == 0
    assert main(["resume", "r", "--steps", "2"]) == 0
    assert word in capsys.readouterr().err
    assert main(["resume", "r", "--steps", "3"]) == 0
    assert word not in capsys.readouterr().err


@pytest.mark.parametrize(("zero_from", "hint"), [(2, None), (3, 3), (9, 4)])
def test_a_finished_run_is_not_told_to_go_beyond_its_rates(
    photos: Path, capsys: pytest.CaptureFixture[str], zero_from: int, hint: int | None
) -> None:
    decay = ["--set", f"optim.lr_decay=[1,{zero_from}]"]
    assert main(["train", "--data", str(photos), *TINY, *decay, "--steps", "2", "--run", "r"]) == 0
    capsys.readouterr()
    assert main(["resume", "r"]) == 0
    err = capsys.readouterr().err
    if hint is None:
        assert "hint" not in err
    else:
        assert f"hint: ganctl resume r --steps {hint} trains on" in err
        assert main(["resume", "r", "--steps", str(hint)]) == 0


def test_a_finished_run_says_so(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--steps", "2", "--run", "r"]) == 0
    before = (Path("r") / "metrics.jsonl").read_bytes()
    assert main(["resume", "r"]) == 0
    assert "r is finished at step 2" in capsys.readouterr().err
    assert (Path("r") / "metrics.jsonl").read_bytes() == before
