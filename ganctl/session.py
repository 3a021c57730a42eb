"""From settings to a run that is trained, stopped and resumed: what every command shares.

session = new(presets.load("faces32"), "cpu")
metrics = session.step()
"""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ganctl.data.images import Images
from ganctl.distributed import check_shares, first_does
from ganctl.errors import (
    AlarmError,
    GanctlError,
    StoppedError,
)
from ganctl.models.swaps import Swaps
from ganctl.processes import launched
from ganctl.progress import Progress, silent
from ganctl.runtime import choose_device, choose_precision, prepare
from ganctl.scores.features import settled as features_settled
from ganctl.settings.config import Config, replace
from ganctl.store import free_place, runs, sharing
from ganctl.store.runs import Run
from ganctl.training import oddities, places, state
from ganctl.training.diagnosis import forewarning
from ganctl.training.inputs import Inputs
from ganctl.training.loop import Watcher, train
from ganctl.training.memory import out_of_memory_explained
from ganctl.training.metrics import StepMetrics
from ganctl.training.opening import open_images, say_duplicates
from ganctl.training.previews import PREVIEWS, save_reals
from ganctl.training.state import TrainState
from ganctl.training.step import train_step
from ganctl.training.stopping import StopRequest

log = logging.getLogger("ganctl")


@dataclass
class Session:
    """One experiment on one device, between two steps."""

    config: Config  # settled: nothing in it depends on the machine any more
    device: torch.device
    images: Images
    state: TrainState
    inputs: Inputs

    def step(self) -> StepMetrics[Tensor]:
        """Take one training step; its metrics stay on the device. OutOfMemoryError says a hint."""
        with out_of_memory_explained(self.config):
            given = self.inputs.of(self.state.step, self.state.rollbacks)
            return train_step(self.state, given, self.config)


def new(
    config: Config,
    device_name: str = "auto",
    images: Images | None = None,
    progress: Progress = silent,
) -> Session:
    """A session before its first step, of which nothing is written.

    `images` are opened if they are not given; preparing them may take a while, see `progress`.
    """
    device = choose_device(device_name)
    settled = first_does(lambda: settle(config, device).model_dump())
    config = Config.model_validate(settled)
    check_shares(config.optim.batch_size, config.optim.grad_accumulation)
    if images is None:
        images = open_images(config, progress)
        first_does(partial(say_duplicates, images, config))
        first_does(partial(oddities.say, images, config))
    if warning := forewarning(config):
        log.warning("%s", warning)
    return assembled(config, device, images)


def assembled(
    config: Config, device: torch.device, images: Images, swapped: Swaps | None = None
) -> Session:
    """A session before its first step, of images that are there; see `state.create`."""
    n_classes = len(images.labels.classes)
    prepare(device, config.train.precision, deterministic=config.train.deterministic)
    with out_of_memory_explained(config):
        made = state.create(config, device, n_classes, swapped)
    unseen = images.unseen(config, device)
    inputs = Inputs(config, images.batches(config, device), n_classes, unseen)
    return Session(config, device, images, made, inputs)


def start(
    config: Config,
    device_name: str,
    folder: Path | None,
    title: str,
    progress: Progress = silent,
    preset: str = "",
) -> tuple[Session, Run]:
    """A new session, and a new run in `folder`, or in the next free runs/<title>-NNN."""
    first_does(partial(_check_place, folder, config.data.source))
    session = new(config, device_name, progress=progress)
    return session, sharing.opened(partial(_create, session, folder, title, preset))


def _check_place(folder: Path | None, source: str) -> None:
    free_place.check(folder)
    free_place.check_writable(folder or runs.ROOT)
    places.check_apart(folder or runs.ROOT, source)


def _create(session: Session, folder: Path | None, title: str, preset: str) -> Run:
    run = runs.create(folder, title, session.config, preset)
    save_reals(session.images.packed.images[:PREVIEWS], run)
    return run


def train_run(session: Session, run: Run, watcher: Watcher) -> None:
    """Train to the last step or to a signal, and keep the run's status and history.

    Raises what `loop.train` raises, and OutOfMemoryError.
    """
    progress, config = session.state, session.config
    identity = session.images.identity(config)
    sharing.note(
        run, "running", progress.step, event="started", pid=os.getpid(), steps=config.train.steps
    )

    def ended_at_once(number: int) -> None:
        run.journal.set_status("stopped", progress.step, "a second signal", 128 + number)

    telling = watcher
    if not config.augment.policy:  # else what it says is done already
        telling = oddities.SaysHowOften(
            watcher, len(session.inputs.batches), len(session.images.held_out) > 0
        )
    try:
        stop_request = StopRequest(ended_at_once, patient=launched())
        with stop_request as stop, out_of_memory_explained(config, run):
            train(progress, session.inputs, config, run, identity, telling, stop)
    except Exception as error:
        outcome = "stopped" if isinstance(error, StoppedError | AlarmError) else "failed"
        code = error.exit_code if isinstance(error, GanctlError) else 1
        sharing.note(run, outcome, progress.step, code, reason=str(error))
        raise
    sharing.note(run, "done", progress.step)


def settle(config: Config, device: torch.device) -> Config:
    """`config` with what depends on this machine made definite: precision and paths."""
    precision = choose_precision(config.train.precision, device)
    return replace(located(config), {"train.precision": precision})


def located(config: Config) -> Config:
    """`config` with absolute paths, so that `resume` works from anywhere."""
    found = {"data.source": places.absolute(config.data.source)}
    if config.score.every:
        found["score.features"] = features_settled(config.score.features)
    return replace(config, found)
