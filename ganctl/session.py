"""From settings to a run that is trained, stopped and resumed: what every command shares.

session = new(presets.load("faces32"), "cpu")
metrics = session.step()
"""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganctl.data.images import Images
from ganctl.data.packing import Progress
from ganctl.distributed import check_shares, first_does
from ganctl.errors import (
    AlarmError,
    CheckpointError,
    ConfigError,
    GanctlError,
    StoppedError,
    shell_quoted,
)
from ganctl.models.swaps import Swaps
from ganctl.processes import launched
from ganctl.runtime import choose_device, choose_precision, fingerprint, prepare
from ganctl.scores.features import settled as features_settled
from ganctl.settings import overrides
from ganctl.settings.config import Config, replace, value_of
from ganctl.store import checkpoint, runs, sharing
from ganctl.store.contents import Description, check_size, described
from ganctl.store.runs import Run
from ganctl.training import oddities, places, state
from ganctl.training.diagnosis import forewarning
from ganctl.training.inputs import Inputs
from ganctl.training.loop import Watcher, train
from ganctl.training.memory import out_of_memory_explained
from ganctl.training.metrics import StepMetrics
from ganctl.training.opening import open_images, say_duplicates
from ganctl.training.previews import PREVIEWS, save_reals
from ganctl.training.state import STREAMS, TrainState
from ganctl.training.step import train_step
from ganctl.training.stopping import StopRequest

log = logging.getLogger("ganctl")


def silent(done: int, total: int) -> None:
    """Progress that nobody is shown."""


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
    return _assembled(config, device, images)


def _assembled(
    config: Config, device: torch.device, images: Images, swapped: Swaps | None = None
) -> Session:
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
    runs.check_free(folder)
    places.check_apart(folder or runs.ROOT, source)


def _create(session: Session, folder: Path | None, title: str, preset: str) -> Run:
    run = runs.create(folder, title, session.config, preset)
    save_reals(session.images.packed.images[:PREVIEWS], run)
    return run


def resume(
    run: Run,
    device_name: str,
    steps: int | None,
    progress: Progress = silent,
    data: str | None = None,
) -> Session | None:
    """The session of the newest whole checkpoint of `run`, to train to `steps` if given.

    `data` is where its images are now, if they were moved. None, after a word, if the run is
    finished.
    """
    newest, settings = first_does(partial(_locked, run, steps, data))
    path = Path(newest)
    payload, metadata = checkpoint.read(path)
    saved, config = described(metadata, path), Config.model_validate(settings)
    if saved.step == config.train.steps:
        _say_finished(run, saved)
        return None
    device = choose_device(device_name)
    _check_precision(run, config, device)
    check_shares(config.optim.batch_size, config.optim.grad_accumulation)
    places.check_there(run, config)
    images = open_images(config, progress)
    places.check_same(images.identity(config), saved, run, config)
    images.held_out = places.held_out(saved, path)
    check_size(payload, saved, path)
    session = _assembled(config, device, images, _swapped(saved, device))
    _note_differences(saved, session)
    if config.data.source != saved.config.data.source:
        log.info("the same images, now taken from %s", config.data.source)
    session.state.load(payload, path)
    if session.state.step != saved.step:
        found = f"it is of step {session.state.step} and {saved.step}"
        raise CheckpointError(f"{path} contradicts itself: {found}")
    first_does(partial(_begin_again, run, config, saved.step))
    log.info("going on with %s from step %s", run.folder, f"{saved.step:,}")
    return session


def _locked(run: Run, steps: int | None, data: str | None) -> list[Any]:
    """Lock `run`; its newest whole checkpoint, and the settings to go on with."""
    run.lock()
    run.sweep()
    path = run.newest_checkpoint()
    saved = described(checkpoint.peek(path), path)
    config = overrides.with_edits(saved.config, run.folder / "config.yaml")
    if steps is not None:
        config = replace(config, {"train.steps": steps})
    where = config.data.source if data is None else data
    config = replace(config, {"data.source": places.absolute(where)})
    if saved.step > config.train.steps:
        hint = f"steps count from the start: ganctl resume {shell_quoted(run.folder)} --steps N"
        raise ConfigError(
            f"{run.folder} is at step {saved.step:,} already, beyond train.steps"
            f" {config.train.steps:,}",
            f"{hint}, with N above {saved.step}",
        )
    return [str(path), config.model_dump()]


def _begin_again(run: Run, config: Config, step: int) -> None:
    run.write_config(config)
    run.journal.cut_metrics(step)


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
        telling = oddities.SaysHowOften(watcher, len(session.inputs.batches))
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
    source = places.absolute(config.data.source)  # so that `resume` works from anywhere
    precision = choose_precision(config.train.precision, device)
    features = config.score.features
    if config.score.every:
        features = features_settled(features)
    settled = {"data.source": source, "train.precision": precision, "score.features": features}
    return replace(config, settled)


def _check_precision(run: Run, config: Config, device: torch.device) -> None:
    """ConfigError if the device cannot compute as the run does, which is fixed."""
    precision = config.train.precision
    try:
        choose_precision(precision, device)
    except ConfigError as error:
        hint = "resume it on a GPU: --device cuda"
        raise ConfigError(f"{run.folder} computes in {precision}: {error.message}", hint) from None


def _swapped(saved: Description, device: torch.device) -> Swaps | None:
    """What the run's networks computed with, if it is known and for this kind of device."""
    same = saved.exactness.get("device") == fingerprint(device)["device"]
    return Swaps.recorded(saved.exactness) if same and "convolution" in saved.exactness else None


def _note_differences(saved: Description, session: Session) -> None:
    """Say why what is to come is not, byte for byte, what an uninterrupted run would do."""
    before: dict[str, object] = {"processes": 1, **saved.exactness}
    now: dict[str, object] = dict(state.exactness(session.state, session.device))
    for name in overrides.NOTED:
        before[name], now[name] = value_of(saved.config, name), value_of(session.config, name)
    if saved.streams != STREAMS:
        log.warning("the run was begun by another ganctl: its random numbers differ from here on")
    for name, value in now.items():
        if before.get(name, value) != value:
            was = f"{name} was {before[name]}, is {value}"
            log.info("note: not bit-exact with the run so far: %s", was)


def _say_finished(run: Run, saved: Description) -> None:
    log.info("%s is finished at step %s", run.folder, f"{saved.step:,}")
    decay = saved.config.optim.lr_decay
    most = min(2 * saved.step, decay[1] if decay else 2 * saved.step)
    if most > saved.step:
        log.info("hint: ganctl resume %s --steps %d trains on", shell_quoted(run.folder), most)
