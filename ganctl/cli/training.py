"""What `train` and `resume` show: how a run goes, and where everything is in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganctl import distributed, resuming, session
from ganctl.cli import event_files, show, watching
from ganctl.cli.event_files import EventFiles
from ganctl.cli.outputs import name_part
from ganctl.data.held_out import ENOUGH
from ganctl.data.sources import NAMED, found
from ganctl.errors import StoppedError, shell_quoted
from ganctl.session import Session
from ganctl.settings import presets
from ganctl.settings.config import Config
from ganctl.store.runs import Run
from ganctl.training.stopping import Interrupted

FEW = 5_000  # images below which another preset is proposed


def start(
    config: Config,
    device_name: str,
    folder: Path | None,
    preset: str,
    tensorboard: bool,
    remark: str | None = None,
    *,
    preset_named: bool = True,
) -> None:
    """Train a new run of `preset`, which the user may have named, from its first step.

    `remark` is said when it begins.
    """
    if tensorboard:
        event_files.need_tensorboard()
    with distributed.joined(device_name) as device:
        with _starting("nothing was saved"), show.ProgressBar("preparing images") as progress:
            begun, run = session.start(
                config, device, folder, run_title(preset, config), progress, Path(preset).stem
            )
        if not preset_named:
            _propose_photos64(begun)
        _train(begun, run, tensorboard, remark)


def _propose_photos64(begun: Session) -> None:
    """A line on the preset for few images, for those who have few and named no preset."""
    count, where = len(begun.images.packed.images), begun.config.data.source
    if where in NAMED or not ENOUGH <= count < FEW or not distributed.is_first():
        return
    better = f"ganctl train --preset photos64 --data {shell_quoted(where)}"
    show.note(f"hint: a preset for {count:,} images, at 64 x 64 with augmentation: {better}")


def resume(
    run: Run,
    device_name: str,
    steps: int | None,
    tensorboard: bool,
    data: str | None,
    remark: str | None = None,
) -> None:
    """Go on from the newest whole checkpoint of `run`, to `steps` and with images at `data`.

    `remark` is said when it begins.
    """
    if tensorboard:
        event_files.need_tensorboard()
    with distributed.joined(device_name) as device:
        with (
            _starting(f"{run.folder} has what it had"),
            show.ProgressBar("preparing images") as progress,
        ):
            resumed = resuming.resume(run, device, steps, progress, data)
        if resumed is not None:
            _train(resumed, run, tensorboard, remark)


@contextmanager
def _starting(saved: str) -> Iterator[None]:
    """StoppedError that says what is `saved`, if a signal comes before the first step."""
    try:
        yield
    except Interrupted as error:
        message = f"stopped before the first step: {saved}"
        raise StoppedError(message, None, error.signal_number) from None


def run_title(preset: str, config: Config) -> str:
    """What a run's name begins with: its preset, and before it the images if they are one's own.

    Also a named data set that is not the preset's.
    """
    source = config.data.source
    title = name_part(Path(preset).stem)
    if source == presets.load(preset).data.source and source in NAMED:
        return title
    images = None if source in NAMED else found(source)
    what = Path(source).name if images is None else images.resolve().name
    if images is not None and images.is_file():
        what = images.resolve().stem
    return f"{name_part(what) or 'images'}-{title}"


def _computed_by(device: str) -> str:
    count = distributed.size()
    return device if count == 1 else f"{count} processes on {device}"


def _train(begun: Session, run: Run, tensorboard: bool, remark: str | None) -> None:
    if not distributed.is_first():
        session.train_run(begun, run, watching.NoWatcher())
        return
    train, labels = begun.config.train, begun.images.labels
    classes = f" of {len(labels.classes):,} classes" if labels.classes else ""
    where = _computed_by(begun.device.type)
    if remark:
        show.note(remark)
    show.note(
        f"{run.folder}: {len(begun.images.packed.images):,} images{classes}, {where},"
        f" {train.precision}, {train.steps:,} steps"
    )
    shown = watching.watcher(str(run.folder), begun.state.step, train.steps, train.checkpoint_every)
    watcher = EventFiles(shown, run.folder, begun.state.step) if tensorboard else shown
    with watcher:
        session.train_run(begun, run, watcher)
    preview = run.samples / f"{begun.state.step:09}.png"
    show.note(f"done. The last preview is {preview}" if preview.is_file() else "done.")
    show.note(f"next: ganctl sample {shell_quoted(run.folder / 'ckpt.pt')} -n 64")
    show.result(str(run.folder / "ckpt.pt"))
