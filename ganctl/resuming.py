"""Going on with a run from its newest whole checkpoint, or from its first step if it has none."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ganctl.distributed import check_shares, first_does
from ganctl.errors import CheckpointError, ConfigError, shell_quoted
from ganctl.models.swaps import Swaps
from ganctl.progress import Progress, silent
from ganctl.runtime import choose_device, choose_precision, fingerprint
from ganctl.session import Session, assembled, located, new
from ganctl.settings import overrides, presets
from ganctl.settings.config import Config, replace, value_of
from ganctl.store import checkpoint
from ganctl.store.contents import Description, check_size, described
from ganctl.store.runs import Run
from ganctl.training import places, state
from ganctl.training.opening import open_images
from ganctl.training.previews import PREVIEWS, save_reals
from ganctl.training.state import STREAMS

log = logging.getLogger("ganctl")


def resume(
    run: Run,
    device_name: str,
    steps: int | None,
    progress: Progress = silent,
    data: str | None = None,
) -> Session | None:
    """The session of the newest whole checkpoint of `run`, to train to `steps` if given.

    Of a run that ended before its first save, the session before the first step. `data` is where
    its images are now, if they were moved. None, after a word, if the run is finished.
    """
    newest, settings = first_does(partial(_locked, run, steps, data))
    config = Config.model_validate(settings)
    if newest is None:
        return _from_the_start(run, config, device_name, progress)
    with _of_use(run, Path(newest)):
        return _go_on(run, Path(newest), config, device_name, progress)


@contextmanager
def _of_use(run: Run, path: Path) -> Iterator[None]:
    """A hint if `path`, though it is whole, is of no use; nothing was changed then."""
    try:
        yield
    except CheckpointError as error:
        away = f"move {shell_quoted(path)} away, and `ganctl resume {shell_quoted(run.folder)}`"
        raise CheckpointError(error.message, f"{away} takes what was before it") from error


def _from_the_start(run: Run, config: Config, device_name: str, progress: Progress) -> Session:
    """The session of `run` before its first step."""
    check_shares(config.optim.batch_size, config.optim.grad_accumulation, fixed=True)
    places.check_there(run, config)
    session = new(config, device_name, progress=progress)

    def begin() -> None:
        _begin_again(run, session.config, 0, 1)
        save_reals(session.images.packed.images[:PREVIEWS], run)

    first_does(begin)
    log.info("nothing was saved in %s yet: it begins again at its first step", run.folder)
    return session


def _go_on(
    run: Run, path: Path, config: Config, device_name: str, progress: Progress
) -> Session | None:
    """The session of the checkpoint `path` of `run`; None if the run is finished."""
    payload, metadata = checkpoint.read(path)
    saved = described(metadata, path)
    if saved.step == config.train.steps:
        _say_finished(run, saved)
        return None
    device = choose_device(device_name)
    _check_precision(run, config, device)
    check_shares(config.optim.batch_size, config.optim.grad_accumulation, fixed=True)
    places.check_there(run, config)
    images = open_images(config, progress)
    places.check_same(images.identity(config), saved, run, config)
    images.held_out = places.held_out(saved, path)
    check_size(payload, saved, path)
    session = assembled(config, device, images, _swapped(saved, device))
    _note_differences(saved, session)
    if config.data.source != saved.config.data.source:
        log.info("the same images, now taken from %s", config.data.source)
    session.state.load(payload, path)
    if session.state.step != saved.step:
        found = f"it is of step {session.state.step} and {saved.step}"
        raise CheckpointError(f"{path} contradicts itself: {found}")
    first_does(partial(_begin_again, run, config, saved.step, saved.config.train.log_every))
    log.info("going on with %s from step %s", run.folder, f"{saved.step:,}")
    return session


def _locked(run: Run, steps: int | None, data: str | None) -> list[Any]:
    """Lock `run`; its newest whole checkpoint, None without any, and the settings to go on with."""
    run.lock()
    run.sweep()
    path = run.newest_checkpoint() if run.has_checkpoints() else None
    if path is None:
        step, config = 0, presets.load(str(run.folder / "config.yaml"))
    else:
        with _of_use(run, path):
            saved = described(checkpoint.peek(path), path)
        step, config = saved.step, overrides.with_edits(saved.config, run.folder / "config.yaml")
    if steps is not None:
        config = replace(config, {"train.steps": steps})
    where = config.data.source if data is None else data
    config = located(replace(config, {"data.source": where}))
    if step > config.train.steps:
        hint = f"steps count from the start: ganctl resume {shell_quoted(run.folder)} --steps N"
        raise ConfigError(
            f"{run.folder} is at step {step:,} already, beyond train.steps {config.train.steps:,}",
            f"{hint}, with N above {step}",
        )
    return [path and str(path), config.model_dump()]


def _begin_again(run: Run, config: Config, step: int, logged_every: int) -> None:
    run.write_config(config)
    run.journal.cut_metrics(step, logged_every)


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
