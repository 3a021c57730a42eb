"""`ganctl`: the commands, and how their errors are shown."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import ganctl
from ganctl.cli import (
    export,
    inspect_attention,
    inspect_sn,
    plot,
    presets,
    resume,
    runs,
    sample,
    train,
)
from ganctl.errors import GanctlError, StoppedError

app = typer.Typer(
    help="Train, resume, sample and look inside self-attention GANs.",
    epilog="Start with: ganctl train",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("resume")(resume.resume)
app.command("runs")(runs.runs)
app.command("sample")(sample.sample)
app.command("inspect-sn")(inspect_sn.inspect_sn)
app.command("inspect-attention")(inspect_attention.inspect_attention)
app.command("plot")(plot.plot)
app.command("export")(export.export)
app.command("presets")(presets.presets)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ganctl {ganctl.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. GANCTL_DEBUG=1 lets tracebacks through."""
    logging.basicConfig(handlers=[_Words()], force=True)
    logging.getLogger("ganctl").setLevel(logging.INFO)
    try:
        app(args=arguments, prog_name="ganctl")
    except SystemExit as end:  # typer ends every command so
        return int(end.code or 0)
    except Exception as error:
        if os.environ.get("GANCTL_DEBUG") == "1":
            raise
        return _report(error)
    return 0


class _Words(logging.Handler):
    """What the package has to say, one line each on stderr, beside a live panel."""

    def emit(self, record: logging.LogRecord) -> None:
        from ganctl.cli import show

        warning = record.levelno >= logging.WARNING
        show.note(f"{'warning: ' if warning else ''}{record.getMessage()}")


def _report(error: Exception) -> int:
    """One sentence and a hint on stderr; returns the exit code."""
    from ganctl.cli import show

    if not isinstance(error, GanctlError):
        reason = " ".join(str(error).split())
        show.note(f"error: a fault in ganctl itself: {type(error).__name__}: {reason}")
        show.note("hint: GANCTL_DEBUG=1 shows where; please report it")
        return 1
    asked_for = isinstance(error, StoppedError)
    show.note(error.message if asked_for else f"error: {error.message}")
    if error.hint:
        show.note(f"hint: {error.hint}")
    return error.exit_code


def run() -> None:
    """The console script."""
    sys.exit(main())
