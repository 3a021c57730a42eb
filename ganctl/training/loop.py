"""The order of events around the training steps."""

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch

from ganctl.distributed import Agreement, first_does
from ganctl.errors import (
    AlarmError,
    DivergedError,
    GanctlError,
    StoppedError,
    shell_quoted,
)
from ganctl.models import Generator
from ganctl.settings.config import Config
from ganctl.store import checkpoint
from ganctl.store.journal import Journal
from ganctl.store.runs import Run
from ganctl.training import ema
from ganctl.training.checkup import Checkup
from ganctl.training.diagnosis import Diagnosis, is_sane
from ganctl.training.inputs import Inputs, ahead
from ganctl.training.metrics import Meter, Row
from ganctl.training.previews import save_preview
from ganctl.training.saving import Saver, newest_sane
from ganctl.training.scorekeeping import Measured, Scorekeeper
from ganctl.training.state import TrainState
from ganctl.training.step import train_step
from ganctl.training.stopping import StopRequest

SMALLEST_SCALE = 2.0**-10  # of fp16 gradients: it is halved at each overflow, from 65,536

log = logging.getLogger("ganctl")


class Finding(TypedDict):
    """What follows from a look at a run; plain JSON, as all processes are told."""

    alarm: list[Any] | None  # the fields of a Diagnosis that is to end the run
    best: bool  # it scored better than before: a checkpoint to keep


class Watcher(Protocol):
    """Whoever follows a run's progress; it cannot change the run."""

    def stepped(self, step: int) -> None: ...

    def measured(self, row: Mapping[str, Any]) -> None: ...

    def saved(self, step: int, path: str) -> None: ...


def train(
    state: TrainState,
    inputs: Inputs,
    config: Config,
    run: Run,
    data: dict[str, Any],
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    """Train to config.train.steps, writing metrics, previews and checkpoints into `run`.

    Raises StoppedError after a signal, AlarmError at a failure mode if config.health.on_alarm is
    stop, DivergedError at a value that is not finite once config.train.rollbacks are used up, and
    StorageError if checkpoints cannot be saved; what was saved before is untouched.
    """
    saver = Saver(run, config, inputs.batches.device, data)
    keeper = Scorekeeper(config, inputs.batches, run, stop)
    keeper.open()
    while state.step < config.train.steps:
        saver.sane = run.was_sane_at(state.step)
        try:
            _train_on(state, inputs, config, saver, keeper, watcher, stop)
        except DivergedError as error:
            if state.rollbacks >= config.train.rollbacks:
                raise
            roll_back(state, run, error)


def _train_on(
    state: TrainState,
    inputs: Inputs,
    config: Config,
    saver: Saver,
    keeper: Scorekeeper,
    watcher: Watcher,
    stop: StopRequest,
) -> None:
    every, last_step, device = config.train, config.train.steps, inputs.batches.device
    agreement, meter = Agreement(), Meter(config, state)
    checkup = Checkup(config, inputs, saver.run.journal.rows())
    with closing(ahead(inputs, range(state.step, last_step), state.rollbacks)) as prepared:
        for given in prepared:
            meter.add(train_step(state, given, config))
            check(meter, state, saver)
            watcher.stepped(state.step)
            found: Finding = {"alarm": None, "best": False}
            # Wishes are read once, as a signal may come while we save.
            asked_to_save = stop.take_save_request() or saver.overdue()
            stopped_by, due = agreement.of(stop.signal_number or 0, asked_to_save)
            ending = state.step == last_step or stopped_by > 0
            if ending or state.step % every.log_every == 0:
                check(meter, state, saver, wait=True)
                row = meter.read(device)
                measured = score(row, state, keeper, meter)
                found = first_does(
                    partial(examine, row, measured, state, checkup, saver, keeper, watcher)
                )
                ending = ending or found["alarm"] is not None
            if ending or state.step % every.preview_every == 0:
                first_does(partial(_preview, state, config, saver.run, device))
            due = due or ending or saver.due(state.step) or found["best"]
            if due and (path := saver.save(state, must=ending)):
                watcher.saved(state.step, path)
                if found["best"]:
                    first_does(partial(keeper.publish, path))
            if found["alarm"] is not None or (ending and state.step < last_step):
                raise _ended(state.step, last_step, stopped_by, found["alarm"], saver.run)


def averaged(state: TrainState) -> Generator:
    """The averaged generator, ready for use."""
    ema.ready(state.generator_ema, state.generator)
    return state.generator_ema


def _preview(state: TrainState, config: Config, run: Run, device: torch.device) -> None:
    save_preview(averaged(state), config, run, state.step, device)


def _ended(
    step: int, last_step: int, stopped_by: int, alarm: list[Any] | None, run: Run
) -> GanctlError:
    """Why the run does not simply go on: a signal before its last step, or else an alarm."""
    again = f"ganctl resume {shell_quoted(run.folder)}"
    if stopped_by and step < last_step:
        message = f"stopped and saved at step {step:,}"
        return StoppedError(message, f"go on with: {again}", stopped_by)
    assert alarm is not None
    diagnosis = Diagnosis(*alarm)
    hint = diagnosis.advice
    if step < last_step:
        hint += f"; `{again}` goes on all the same"
    return AlarmError(f"stopped and saved at step {step:,}, {diagnosis}", hint)


def check(meter: Meter, state: TrainState, saver: Saver, *, wait: bool = False) -> None:
    """DivergedError if a step's figure is not finite, or fp16 overflows however small its scale is.

    A GPU is waited for only with `wait`; see `Meter.bad_figure`.
    """
    if bad := meter.bad_figure(wait=wait):
        raise saver.diverged(bad, state.step, state.payload())
    if wait:
        check_scale(state, saver)


def score(row: Row | None, state: TrainState, keeper: Scorekeeper, meter: Meter) -> Measured | None:
    """How good the averaged generator's images are, if that is due; also added to `row`.

    The time that it takes, also in vain, is not counted as training.
    """
    if row is None or not first_does(partial(keeper.due, state.step)):
        return None
    measured = keeper.measure(averaged(state), row)
    meter.restart()
    return measured


def examine(
    row: Row | None, measured: Measured | None, state: TrainState, checkup: Checkup, saver: Saver,
    keeper: Scorekeeper, watcher: Watcher,
) -> Finding:  # fmt: skip
    """Write down how the run does; what follows from it."""
    if row is None:
        return {"alarm": None, "best": False}
    begun = checkup.complete(row, state, averaged(state))
    report(row, begun, saver.run.journal, watcher)
    saver.sane = is_sane(row)
    serious = [found for found in begun if found.alarming]
    ends = serious and saver.config.health.on_alarm == "stop"
    saver.score = measured.metadata() if measured is not None else None
    return {
        "alarm": list(asdict(serious[0]).values()) if ends else None,
        "best": measured is not None and keeper.is_best(measured),
    }


def report(row: Row, begun: list[Diagnosis], journal: Journal, watcher: Watcher) -> None:
    """Write `row` down and show it, with a word on each failure mode that begins with it."""
    journal.measure(row)
    watcher.measured(row)
    for found in begun:
        facts = {"name": found.name, "evidence": found.evidence, "advice": found.advice}
        log.log(logging.WARNING if found.alarming else logging.INFO, "%s; %s", found, found.advice)
        journal.record("alarm" if found.alarming else "word", row["step"], **facts)
    if row["alarms"] != journal.alarms:
        journal.alarms = row["alarms"]
        journal.set_status("running", row["step"])


def check_scale(state: TrainState, saver: Saver) -> None:
    """DivergedError if fp16 overflows however small its scale gets."""
    for name, scaler in (("D", state.d_scaler), ("G", state.g_scaler)):
        if scaler.is_enabled() and scaler.get_scale() < SMALLEST_SCALE:
            what = f"{name}'s gradient overflows even at a scale of {scaler.get_scale():g}"
            raise saver.diverged(what, state.step, state.payload())


def roll_back(state: TrainState, run: Run, error: DivergedError) -> None:
    """Take `state` back to the newest good checkpoint, to go on from there with other latents.

    Raises `error` itself if there is nothing to go back to.
    """
    newest = first_does(partial(_newest, run))
    if newest is None:
        raise error
    path = Path(newest)
    payload, _ = checkpoint.read(path)
    rollbacks = state.rollbacks
    state.load(payload, path)
    state.rollbacks = rollbacks + 1
    first_does(partial(_note_roll_back, state.step, run, error))


def _newest(run: Run) -> str | None:
    path = newest_sane(run)
    return None if path is None else str(path)


def _note_roll_back(step: int, run: Run, error: DivergedError) -> None:
    run.set_aside_after(step)
    run.journal.cut_metrics(step)
    run.journal.record("rolled back", step, reason=error.message)
    log.warning("%s; rolled back to step %d", error.message, step)
