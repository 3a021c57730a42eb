"""What `train` and `resume` have in common: device, data, watching, the end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganctl.cli import event_files, show
from ganctl.cli.event_files import EventFiles
from ganctl.data.batches import Batches
from ganctl.data.labels import Labels, labels_of
from ganctl.data.packing import PackedImages, pack
from ganctl.data.sources import NAMED, Source, open_source
from ganctl.errors import (
    AlarmError,
    CheckpointError,
    ConfigError,
    DataError,
    GanctlError,
    OutOfMemoryError,
    StoppedError,
    shell_quoted,
)
from ganctl.runtime import choose_device, choose_precision, fingerprint, prepare
from ganctl.settings import presets
from ganctl.settings.config import Config, replace, setting_names, value_of
from ganctl.store import checkpoint, runs
from ganctl.store.runs import Run
from ganctl.training import state
from ganctl.training.previews import PREVIEWS, save_reals
from ganctl.training.state import TrainState
from ganctl.training.stopping import StopRequest
from ganctl.training.train import train

FREE_SETTINGS = {  # may be edited in config.yaml between two starts of a run
    "train.log_every", "train.preview_every", "train.checkpoint_every", "train.checkpoint_minutes",
    "train.keep_checkpoints", "train.keep_every", "train.rollbacks", "train.steps",
    "health.on_alarm",
}  # fmt: skip
SHOWN_SKIPPED = 5  # unreadable files named on the terminal; the cache's index lists all


def start(
    config: Config, device_name: str, folder: Path | None, title: str, tensorboard: bool = False
) -> None:
    """Train a new run from its first step."""
    runs.check_free(folder)
    _check_apart(folder or runs.ROOT, config.data.source)
    if tensorboard:
        event_files.need_tensorboard()
    device = choose_device(device_name)
    prepare(device)
    config = settle(config, device)
    packed, labels = load_images(config)
    with out_of_memory_explained(config):
        trained = state.create(config, device, len(labels.classes))
    run = runs.create(folder, title, config)
    save_reals(packed.images[:PREVIEWS], run)
    _train(trained, config, run, packed, labels, device, tensorboard)


def _check_apart(folder: Path, source: str) -> None:
    """ConfigError if a run's own pictures would be among the images it is trained on."""
    images = Path(source).expanduser()
    if (
        source not in NAMED
        and images.is_dir()
        and folder.resolve().is_relative_to(images.resolve())
    ):
        hint = "choose another --run, or move the images to a folder of their own"
        raise ConfigError(f"{folder} would be inside the folder of images, {source}", hint)


def resume(run: Run, device_name: str, steps: int | None, tensorboard: bool = False) -> None:
    """Go on from the newest whole checkpoint of `run`, to `steps` if given."""
    if tensorboard:
        event_files.need_tensorboard()
    run.lock()
    run.sweep()
    path = run.newest_checkpoint()
    payload, metadata = checkpoint.read(path)
    saved = state.described(metadata, path)
    settings = _with_edits(saved.config, run.folder / "config.yaml")
    if steps is not None:
        settings = replace(settings, {"train.steps": steps})
    step = saved.step
    if step >= settings.train.steps:
        show.note(f"{run.folder} is finished at step {step:,}")
        decay = settings.optim.lr_decay
        if (most := min(2 * step, decay[1] if decay else 2 * step)) > step:
            show.note(f"hint: ganctl resume {shell_quoted(run.folder)} --steps {most} trains on")
        return
    device = choose_device(device_name)
    prepare(device)
    choose_precision(settings.train.precision, device)  # refuses what this device cannot do
    packed, labels = load_images(settings)
    now = describe_data(settings, packed, labels)
    if any(now[name] != getattr(saved.data, name) for name in ("fingerprint", "classes", "labels")):
        raise DataError(
            f"the images at {settings.data.source} are not those that {run.folder} was trained on",
            hint="restore them, or start another run on the new ones with `ganctl train`",
        )
    for name, value in fingerprint(device).items():
        before = saved.exactness.get(name)
        if before != value:
            show.note(f"note: not bit-exact with the run so far: {name} was {before}, is {value}")
    state.check_size(payload, saved, path)
    with out_of_memory_explained(settings):
        trained = state.create(settings, device, len(labels.classes))
        trained.load(payload, path)
    if trained.step != step:
        raise CheckpointError(f"{path} contradicts itself: it is of step {trained.step} and {step}")
    run.write_config(settings)
    run.journal.cut_metrics(step)
    show.note(f"going on with {run.folder} from step {step:,}")
    _train(trained, settings, run, packed, labels, device, tensorboard)


def _train(
    trained: TrainState,
    config: Config,
    run: Run,
    packed: PackedImages,
    labels: Labels,
    device: torch.device,
    tensorboard: bool,
) -> None:
    """Train to the end or to a signal, and say where everything is."""
    classes = f" of {len(labels.classes):,} classes" if labels.classes else ""
    show.note(
        f"{run.folder}: {len(packed.images):,} images{classes}, {device.type},"
        f" {config.train.precision}, {config.train.steps:,} steps"
    )
    data = describe_data(config, packed, labels)
    shown = show.watcher(
        str(run.folder), trained.step, config.train.steps, config.train.checkpoint_every
    )
    watcher = EventFiles(shown, run.folder, trained.step) if tensorboard else shown
    batches = make_batches(packed, labels, config, device)
    run.journal.set_status("running", trained.step)
    run.journal.record("started", trained.step, pid=os.getpid(), steps=config.train.steps)
    try:
        with StopRequest() as stop, watcher, out_of_memory_explained(config):
            train(trained, batches, config, run, data, watcher, stop)
    except Exception as error:
        outcome = "stopped" if isinstance(error, StoppedError | AlarmError) else "failed"
        code = error.exit_code if isinstance(error, GanctlError) else 1
        run.journal.set_status(outcome, trained.step, str(error), code)
        run.journal.record(outcome, trained.step, reason=str(error))
        raise
    run.journal.set_status("done", trained.step)
    run.journal.record("done", trained.step)
    show.note(f"done. The last preview is {run.samples / f'{trained.step:09}.png'}")
    show.note(f"next: ganctl sample {shell_quoted(run.folder / 'ckpt.pt')} -n 64")
    show.result(str(run.folder / "ckpt.pt"))


def _with_edits(saved: Config, file: Path) -> Config:
    """`saved` with what was edited in the run's config.yaml since; ConfigError if that is fixed.

    What is computed is fixed for the whole run. When to log, preview, save and end is not.
    """
    if not file.exists():
        return saved
    edited = presets.load(str(file))
    changes = {}
    for name in setting_names():
        old, new = value_of(saved, name), value_of(edited, name)
        if old == new:
            continue
        if name not in FREE_SETTINGS:
            raise ConfigError(
                f"{file}: {name} is {new!r}, but the run was trained with {old!r}",
                hint=f"undo that, or start another run: ganctl train --preset {shell_quoted(file)}",
            )
        changes[name] = new
    return replace(saved, changes)


def settle(config: Config, device: torch.device) -> Config:
    """`config` with what depends on this machine made definite: precision and path."""
    source = config.data.source
    if source not in NAMED and Path(source).expanduser().exists():
        source = str(Path(source).expanduser().resolve())  # so that `resume` works from anywhere
    precision = choose_precision(config.train.precision, device)
    return replace(config, {"data.source": source, "train.precision": precision})


def describe_data(config: Config, packed: PackedImages, labels: Labels) -> dict[str, Any]:
    """What a checkpoint says of the images it was trained on."""
    return {
        "source": config.data.source,
        "n": len(packed.images),
        "fingerprint": packed.fingerprint,
        "classes": list(labels.classes),
        "labels": labels.fingerprint() if labels.classes else "",
    }


def make_batches(
    packed: PackedImages, labels: Labels, config: Config, device: torch.device
) -> Batches:
    """The stream of real images that `config` describes."""
    return Batches(
        packed.images,
        labels=labels.numbers if labels.classes else None,
        seed=config.train.seed,
        flip=config.data.flip,
        dequantize=config.data.dequantize,
        device=device,
    )


@contextmanager
def out_of_memory_explained(config: Config) -> Iterator[None]:
    """Turn torch's ways of saying that memory is full into one."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        batch, parts = config.optim.batch_size, config.optim.grad_accumulation
        raise OutOfMemoryError(
            f"out of memory with batches of {batch} in {parts} part(s) of {batch // parts} images",
            hint=f"--set optim.grad_accumulation={2 * parts} needs about half",
        ) from error


def load_labels(source: Source, packed: PackedImages, config: Config) -> Labels:
    """The classes of the images of `packed`; none for an unconditional model."""
    if not config.model.conditional:
        return Labels((), np.empty(0, dtype=np.int64))
    return labels_of(source, packed, config.data.attribute)


def load_images(config: Config) -> tuple[PackedImages, Labels]:
    """The packed images and their classes, and a word on those that were left out."""
    source = open_source(config.data.source, config.data.resolution)
    with show.ProgressBar("preparing images") as progress:
        packed = pack(source, config.data.resolution, config.data.crop, progress)
    if packed.skipped:
        show.note(f"warning: {len(packed.skipped)} of {len(source)} files were left out:")
        for entry in packed.skipped[:SHOWN_SKIPPED]:
            show.note(f"  {entry.name}: {entry.reason}")
        if len(packed.skipped) > SHOWN_SKIPPED:
            show.note(f"  ... all are listed in {packed.index}")
    return packed, load_labels(source, packed, config)
