"""What `train` and `resume` show: how a run goes, and where everything is in the end."""

from pathlib import Path

from ganctl import session
from ganctl.cli import event_files, show
from ganctl.cli.event_files import EventFiles
from ganctl.errors import shell_quoted
from ganctl.session import Session
from ganctl.settings.config import Config
from ganctl.store.runs import Run


def start(
    config: Config, device_name: str, folder: Path | None, title: str, tensorboard: bool
) -> None:
    """Train a new run from its first step."""
    if tensorboard:
        event_files.need_tensorboard()
    with show.ProgressBar("preparing images") as progress:
        begun, run = session.start(config, device_name, folder, title, progress)
    _train(begun, run, tensorboard)


def resume(
    run: Run, device_name: str, steps: int | None, tensorboard: bool, data: str | None
) -> None:
    """Go on from the newest whole checkpoint of `run`, to `steps` and with images at `data`."""
    if tensorboard:
        event_files.need_tensorboard()
    with show.ProgressBar("preparing images") as progress:
        resumed = session.resume(run, device_name, steps, progress, data)
    if resumed is not None:
        _train(resumed, run, tensorboard)


def _train(begun: Session, run: Run, tensorboard: bool) -> None:
    train, labels = begun.config.train, begun.images.labels
    classes = f" of {len(labels.classes):,} classes" if labels.classes else ""
    show.note(
        f"{run.folder}: {len(begun.images.packed.images):,} images{classes}, {begun.device.type},"
        f" {train.precision}, {train.steps:,} steps"
    )
    shown = show.watcher(str(run.folder), begun.state.step, train.steps, train.checkpoint_every)
    watcher = EventFiles(shown, run.folder, begun.state.step) if tensorboard else shown
    with watcher:
        session.train_run(begun, run, watcher)
    show.note(f"done. The last preview is {run.samples / f'{begun.state.step:09}.png'}")
    show.note(f"next: ganctl sample {shell_quoted(run.folder / 'ckpt.pt')} -n 64")
    show.result(str(run.folder / "ckpt.pt"))
