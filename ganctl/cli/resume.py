"""`ganctl resume`."""

from pathlib import Path
from typing import Annotated

import typer

from ganctl.cli import launching
from ganctl.processes import launched


def resume(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="A run's folder.  (default: the newest under runs/)")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Train to this step instead of the run's last one.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="Where the run's images are now, if they were moved."),
    ] = None,
    processes: Annotated[str | None, typer.Option(metavar="N", help=launching.HELP)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write TensorBoard's files into the run as well."
            " Needs it: pip install tensorboard",
        ),
    ] = False,
) -> None:
    """Go on with a run from its newest good checkpoint, exactly as if it had never stopped.

    \b
    ganctl resume
    ganctl resume runs/celeba64-001
    ganctl resume runs/faces32-001 --steps 10000
    ganctl resume runs/photos-faces32-001 --data elsewhere/photos.zip
    """
    from ganctl import busy

    # Of several processes each would take the others for other programs.
    remark = None if launched() else busy.prepare()
    if (code := launching.shared(context.obj, processes, remark)) is not None:
        raise typer.Exit(code)

    from ganctl.cli import training
    from ganctl.store import runs

    training.resume(runs.find(run), device, steps, tensorboard, data, remark)
