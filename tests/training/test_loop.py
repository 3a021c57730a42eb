"""The order of events around the steps: what is published, roll-backs, when a save is due."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silent, given, inputs_of

from ganctl.errors import DivergedError
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.store.retention import was_sane
from ganctl.store.runs import Run
from ganctl.training import loop, state
from ganctl.training.metrics import DMetrics, GMetrics, Meter, StepMetrics
from ganctl.training.saving import Saver, newest_sane
from ganctl.training.state import TrainState
from ganctl.training.step import train_step
from ganctl.training.stopping import StopRequest

CPU = torch.device("cpu")


@pytest.mark.parametrize("where", ["generator", "d_optimizer"])
def test_a_value_that_is_not_finite_is_never_published(
    tiny: Callable[..., Config], faces: np.ndarray, where: str
) -> None:
    config = tiny()
    run, trained = runs.create(Path("run"), "x", config), state.create(config, CPU)
    train_step(trained, given(faces, config), config)
    with torch.no_grad():
        if where == "generator":
            next(trained.generator.parameters())[0] = math.nan
        else:
            trained.d_optimizer.state_dict()["state"][0]["exp_avg"][0] = math.inf
    message = f"by step 1: {where}.*; there is no checkpoint"
    with pytest.raises(DivergedError, match=message) as caught:
        Saver(run, config, CPU, {}).save(trained, must=False)
    assert "ganctl resume" not in str(caught.value.hint)  # there is nothing to go back to
    assert not list(run.checkpoints.iterdir())


def poisoned_at(step: int, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first `times` that training comes to `step`, a weight of G is not a number any more."""
    left = [times]
    honest = loop.train_step

    def poisoned(current: TrainState, *rest: Any) -> StepMetrics[torch.Tensor]:
        metrics = honest(current, *rest)
        if current.step == step and left[0] > 0:
            left[0] -= 1
            with torch.no_grad():
                current.generator.to_rgb.bias.fill_(math.nan)
            metrics = metrics._replace(d=metrics.d._replace(loss=metrics.d.loss * math.nan))
        return metrics

    monkeypatch.setattr(loop, "train_step", poisoned)


def trained_in(run: Run, config: Config, faces: np.ndarray) -> TrainState:
    current = state.create(config, CPU)
    inputs = inputs_of(faces, config)
    loop.train(current, inputs, config, run, {}, Silent(), StopRequest())
    return current


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_first_bad_tensor(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(train__steps=9, train__checkpoint_every=2, train__log_every=1)
    run = runs.create(Path("run"), "x", config)
    poisoned_at(5, 1, monkeypatch)
    message = (
        "diverged by step 5: d_loss is nan .the first bad tensor is generator.to_rgb.bias.;"
        " the newest whole checkpoint is step-000000004.pt"
    )
    with pytest.raises(DivergedError, match=message) as caught:
        trained_in(run, config, faces)
    assert run.newest_checkpoint().name == "step-000000004.pt"
    hint = str(caught.value.hint)
    assert "raise train.rollbacks in run/config.yaml (it is 0)" in hint
    assert "type `ganctl resume run`, which goes back" in hint


@pytest.mark.parametrize(
    ("network", "figure"), [("d", "gradient"), ("g", "gradient"), ("g", "loss")]
)
def test_a_gradient_that_is_not_finite_ends_the_run_in_that_step(
    network: str,
    figure: str,
    tiny: Callable[..., Config],
    faces: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a row nor a save is due before step 9."""
    config = tiny(train__steps=9, train__checkpoint_every=2, train__log_every=9)
    run, honest = runs.create(Path("run"), "x", config), loop.train_step

    def poisoned(current: TrainState, *rest: Any) -> StepMetrics[torch.Tensor]:
        metrics = honest(current, *rest)
        if current.step != 5:
            return metrics
        part = getattr(metrics, network)._replace(**{figure: torch.tensor(math.inf)})
        return metrics._replace(**{network: part})

    monkeypatch.setattr(loop, "train_step", poisoned)
    with pytest.raises(DivergedError, match=f"diverged by step 5: {network}_{figure} is inf;"):
        trained_in(run, config, faces)
    assert run.newest_checkpoint().name == "step-000000004.pt"


def test_a_run_goes_back_past_checkpoints_whose_scores_had_exploded(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are whole, and are kept, but are not called good."""
    config = tiny(
        train__steps=7, train__checkpoint_every=1, train__log_every=1, train__keep_checkpoints=9,
        train__preview_every=9, train__rollbacks=1,
    )  # fmt: skip
    run = runs.create(Path("run"), "x", config)
    monkeypatch.setattr(loop, "is_sane", lambda row: row["step"] != 5)
    poisoned_at(6, 1, monkeypatch)
    assert trained_in(run, config, faces).rollbacks == 1
    events = [json.loads(row) for row in (run.folder / "history.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "rolled back"] == [4]
    monkeypatch.setattr(loop, "is_sane", lambda row: False)
    assert (run.checkpoints / "step-000000005.abandoned").is_file()
    assert not list(run.checkpoints.glob("*.damaged"))
    mad = runs.create(Path("mad"), "x", config)
    poisoned_at(3, 1, monkeypatch)
    with pytest.raises(DivergedError, match="there is no checkpoint"):
        trained_in(mad, config, faces)
    assert newest_sane(mad) is None
    assert mad.newest_checkpoint().name == "step-000000002.pt"


def test_on_a_gpu_the_step_before_the_last_is_looked_at(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    """So that it is not waited for; the meta device stands in for one, and has no values."""
    config = tiny()
    trained = state.create(config, CPU)
    meter = Meter(config, trained)
    for _ in range(2):
        meter.add(train_step(trained, given(faces, config), config))
        assert meter.bad_figure() is None
        meter._unread.clear()
    meta = [torch.zeros((), device="meta")] * 10
    meter._total = torch.zeros(10, device="meta")
    meter.add(StepMetrics(DMetrics(*meta[:8]), GMetrics(*meta[8:])))
    assert meter.bad_figure() is None
    assert len(meter._unread) == 1


def test_a_row_is_not_made_of_figures_that_are_not_finite(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    """Where it waits, as each row does, the last step is looked at too, and so are the sums."""
    config = tiny()
    trained = state.create(config, CPU)
    meter = Meter(config, trained)
    metrics = train_step(trained, given(faces, config), config)
    meter.add(metrics)
    assert meter.bad_figure(wait=True) is None
    meter.add(metrics._replace(d=metrics.d._replace(fake_spread=torch.tensor(math.nan))))
    assert meter.bad_figure(wait=True) == "fake_spread is nan"
    trained.measured.zero_()
    for _ in range(2):
        meter.add(metrics._replace(g=metrics.g._replace(loss=torch.tensor(3e38))))
        assert meter.bad_figure() is None
    assert meter.bad_figure(wait=True) == "g_loss is inf"


def test_a_run_may_roll_back_and_go_on_with_other_noise(
    tiny: Callable[..., Config],
    faces: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = tiny(train__steps=9, train__checkpoint_every=2, train__log_every=1, train__rollbacks=2)
    well = trained_in(runs.create(Path("well"), "x", config), config, faces)
    run = runs.create(Path("run"), "x", config)
    poisoned_at(5, 2, monkeypatch)
    current = trained_in(run, config, faces)
    assert (current.step, current.rollbacks, well.rollbacks) == (9, 2, 0)
    assert caplog.text.count("rolled back to step 4") == 2
    assert not torch.equal(current.generator.to_rgb.bias, well.generator.to_rgb.bias)
    rows = [
        json.loads(row)["step"] for row in (run.folder / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == list(range(1, 10))
    poisoned_at(5, 3, monkeypatch)
    with pytest.raises(DivergedError):
        trained_in(runs.create(Path("third"), "x", config), config, faces)


def test_after_a_roll_back_the_run_goes_on_from_there_and_from_nowhere_else(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps 3 and 4 were saved with exploded scores; a stop at once would come before them."""
    config = tiny(
        train__steps=4, train__checkpoint_every=1, train__log_every=1, train__keep_checkpoints=9
    )
    run = runs.create(Path("run"), "x", config)
    monkeypatch.setattr(loop, "is_sane", lambda row: row["step"] < 3)
    current = trained_in(run, config, faces)
    foreign = runs.create(Path("foreign"), "x", config)
    Saver(foreign, config, CPU, {}).save(current, must=True)
    strange = run.checkpoints / "step-000000009.pt"
    foreign.newest_checkpoint().rename(strange)
    loop.roll_back(current, run, DivergedError("a loss is nan"))
    assert strange.exists()  # it is another run's
    assert current.step == 2
    assert run.newest_checkpoint().name == "step-000000002.pt"
    assert [path.name for path in sorted(run.checkpoints.glob("*.abandoned"))] == [
        "step-000000003.abandoned", "step-000000004.abandoned",
    ]  # fmt: skip


def test_whether_scores_are_sane_is_known_from_the_checkpoint_that_a_run_goes_on_from(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from rows, of which there may be none before the next save."""
    config = tiny(train__steps=2, train__checkpoint_every=1, train__log_every=1)
    run = runs.create(Path("run"), "x", config)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "is_sane", lambda row: row["step"] < 2)
        current = trained_in(run, config, faces)
    seldom = tiny(train__steps=4, train__checkpoint_every=1, train__log_every=4)
    loop.train(current, inputs_of(faces, seldom), seldom, run, {}, Silent(), StopRequest())
    saved = [run.checkpoints / f"step-{step:09}.pt" for step in (2, 3, 4)]
    assert [was_sane(path) for path in saved] == [False, False, True]


def test_a_roll_back_is_exact_and_survives_resuming(
    tiny: Callable[..., Config], faces: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rolled back at 5 to 4 and on to 9, in one go and with a stop at 6."""
    changes: dict[str, Any] = {
        "train__checkpoint_every": 2, "train__log_every": 1, "train__rollbacks": 1,
    }  # fmt: skip
    results = []
    for name, steps in (("whole", [9]), ("parts", [6, 9])):
        run = runs.create(Path(name), "x", tiny())
        poisoned_at(5, 1, monkeypatch)
        for last in steps:
            config = tiny(**changes, train__steps=last)
            current = state.create(config, CPU)
            if last != steps[0]:
                path = run.newest_checkpoint()
                current.load(checkpoint.read(path)[0], path)
            inputs = inputs_of(faces, config)
            loop.train(current, inputs, config, run, {}, Silent(), StopRequest())
        results.append(checkpoint.read(run.newest_checkpoint())[1]["sections"])
    assert results[0] == results[1]


def test_a_save_is_due_by_steps_and_by_minutes(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of a clock that cannot be set."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: -1e9)
    config = tiny(train__checkpoint_every=10, train__checkpoint_minutes=2.0)
    run = runs.create(Path("run"), "x", config)
    saver = Saver(run, config, CPU, {})
    assert [step for step in range(1, 31) if saver.due(step)] == [10, 20, 30]
    now[0] += 119
    assert not saver.overdue()
    now[0] += 1
    assert saver.overdue()
    assert not saver.overdue()  # several processes save a step later, and not twice
    now[0] += 120
    assert saver.overdue()
    assert saver.save(state.create(config, CPU), must=False)
    assert not saver.overdue()
    never = Saver(run, tiny(train__checkpoint_minutes=0.0, train__checkpoint_every=10), CPU, {})
    now[0] += 1e9
    assert not never.overdue()


@pytest.mark.parametrize("log", [1, 3, 9])
def test_how_often_it_is_logged_does_not_end_an_fp16_run(
    tiny: Callable[..., Config], faces: np.ndarray, log: int
) -> None:
    """The scaler's first steps overflow and are skipped, which is its way to find a scale."""
    config = tiny(train__precision="fp16", train__steps=9, train__log_every=log)
    run = runs.create(Path("run"), "x", config)
    trained = state.create(config, CPU)
    for scaler in ("d_scaler", "g_scaler"):
        setattr(trained, scaler, torch.amp.GradScaler("cpu", init_scale=2.0**40))
    loop.train(trained, inputs_of(faces, config), config, run, {}, Silent(), StopRequest())
    assert trained.step == 9
    assert trained.d_scaler.get_scale() < 2.0**40


def test_fp16_that_overflows_at_every_scale_has_diverged(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    config = tiny(train__precision="fp16", train__steps=9, train__log_every=1)
    trained = state.create(config, CPU)
    trained.d_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-11)
    run = runs.create(Path("run"), "x", config)
    with pytest.raises(DivergedError, match="D's gradient overflows even at a scale of"):
        loop.train(trained, inputs_of(faces, config), config, run, {}, Silent(), StopRequest())
