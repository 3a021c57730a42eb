"""`ganctl train`."""

from pathlib import Path
from typing import Annotated

import typer

from ganctl.cli import launching
from ganctl.errors import ConfigError
from ganctl.processes import launched, restarts

DEFAULT_PRESET = "faces32"


def train(
    context: typer.Context,
    preset: Annotated[
        str, typer.Option(help="A preset's name (see `ganctl presets`) or a .yaml file.")
    ] = DEFAULT_PRESET,
    data: Annotated[
        str | None,
        typer.Option(metavar="WHERE", help="A folder, a zip, or faces, celeba, cifar10."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run's folder.  (default: runs/PRESET-NNN, or of your own images"
            " runs/IMAGES-PRESET-NNN)",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the generator.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in one update.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all randomness in the run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ..., or mps.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, tf32, bf16 or fp16.")] = None,
    processes: Annotated[str | None, typer.Option(metavar="N", help=launching.HELP)] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard",
            help="Write TensorBoard's files into the run as well."
            " Needs it: pip install tensorboard",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few real steps, report, and write nothing.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="With --dry-run: all settings, too.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="With --dry-run: the report as JSON.")
    ] = False,
) -> None:
    """Train a GAN: on the built-in faces, or on your own images.

    \b
    ganctl train
    ganctl train --preset celeba64 --data img_align_celeba.zip
    ganctl train --data photos/ --set optim.g_lr=2e-4
    ganctl train --preset photos64 --data photos/ --dry-run
    ganctl train --preset sagan-imagenet128 --data imagenet/train --processes all
    """
    from ganctl import busy
    from ganctl.settings import presets

    if json and not dry_run:
        raise ConfigError("--json needs --dry-run", "a training run writes metrics.jsonl by itself")
    if verbose and not dry_run:
        hint = "a run's settings are in its config.yaml"
        raise ConfigError("--verbose needs --dry-run", hint)
    shorthands = {
        "data.source": data, "train.steps": steps, "optim.batch_size": batch_size,
        "train.seed": seed, "train.precision": precision,
    }  # fmt: skip
    given = {name: value for name, value in shorthands.items() if value is not None}
    config = presets.load(preset, settings or [], given)
    if dry_run and (processes or launched()):
        hint = "leave out --processes, or --dry-run"
        raise ConfigError("--dry-run measures one process", hint)
    # Of several processes each would take the others for other programs.
    remark = None if launched() else busy.prepare()
    if (code := launching.shared(context.obj, processes, remark)) is not None:
        raise typer.Exit(code)
    named = context.get_parameter_source("preset")

    if dry_run:
        from ganctl.cli.dry_run import print_dry_run

        print_dry_run(config, device, remark, as_json=json, verbose=verbose)
    else:
        from ganctl.cli import training
        from ganctl.store import runs

        started_before, most = restarts()
        if most and run is None:
            raise ConfigError(
                "with --max-restarts a run must be named, to go on with it",
                "add --run DIR",
            )
        if started_before and run is not None and (run / "run.json").exists():
            training.resume(runs.find(run), device, steps, tensorboard, data, remark)
            return
        training.start(
            config, device, run, preset, tensorboard, remark,
            preset_named=named is None or named.name != "DEFAULT",
        )  # fmt: skip
