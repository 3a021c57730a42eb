"""`ganctl`: the commands, and how their errors are shown."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import ganctl
from ganctl import processes
from ganctl.cli import (
    compare,
    export,
    inspect_attention,
    inspect_sn,
    mistakes,
    plot,
    presets,
    report,
    resume,
    runs,
    sample,
    score,
    streams,
    train,
)
from ganctl.errors import ConfigError, GanctlError, OutOfMemoryError, StoppedError, StorageError
from ganctl.training.stopping import Interrupted, interruptible

MOST_SAID = 2000  # letters of a message, which may name something from a file


def _without_types_of_flags(params: Any) -> Any:
    """Options as the help shows them: no `<bool>` for those that take no value."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> Any:
        return _without_types_of_flags(super().get_params(ctx))


class _Commands(TyperGroup):
    def get_params(self, ctx: Any) -> Any:
        return _without_types_of_flags(super().get_params(ctx))


app = typer.Typer(
    cls=_Commands,
    help="Train, resume, sample and look inside self-attention GANs.",
    epilog="Start with: ganctl train",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=_Command)(train.train)
app.command("resume", cls=_Command)(resume.resume)
app.command("runs", cls=_Command)(runs.runs)
app.command("sample", cls=_Command)(sample.sample)
app.command("score", cls=_Command)(score.score)
app.command("inspect-sn", cls=_Command)(inspect_sn.inspect_sn)
app.command("inspect-attention", cls=_Command)(inspect_attention.inspect_attention)
app.command("plot", cls=_Command)(plot.plot)
app.command("compare", cls=_Command)(compare.compare)
app.command("report", cls=_Command)(report.report)
app.command("export", cls=_Command)(export.export)
app.command("presets", cls=_Command)(presets.presets)


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
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    with streams.guarded():
        try:
            with interruptible():
                return _run(words)
        except Interrupted as stopped:
            return _report(StoppedError("stopped", None, stopped.signal_number))
        except Exception as error:
            if hasattr(error, "format_message"):
                names = [str(command.name) for command in app.registered_commands]
                return _report(mistakes.explained(error, words, names))
            if os.environ.get("GANCTL_DEBUG") == "1":
                raise
            return _report(error)


def _run(words: Sequence[str]) -> int:
    if processes.place().rank:
        _leave_talking_to_the_first()
    mistakes.check_words(words)
    # The parser's own errors are raised here, and the code of typer.Exit is returned.
    code = app(args=words, prog_name="ganctl", standalone_mode=False, obj=words) or 0
    sys.stdout.flush()  # here, where it is an error if that fails
    return code


def _leave_talking_to_the_first() -> None:
    """Of several processes that run a command one speaks, and of torch's words there are none."""
    from ganctl.cli import show

    show.console.quiet = True
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


class _Words(logging.Handler):
    """What the package has to say, one line each on stderr, beside a live panel."""

    def emit(self, record: logging.LogRecord) -> None:
        from ganctl.cli import show

        warning = record.levelno >= logging.WARNING
        show.note(f"{'warning: ' if warning else ''}{record.getMessage()}")


def _report(error: Exception) -> int:
    """One sentence and a hint on stderr; returns the exit code."""
    from ganctl.cli import show

    known = error if isinstance(error, GanctlError) else _explained(error)
    show.console.quiet = not _speaks()
    asked_for = isinstance(known, StoppedError)
    long = len(known.message) > MOST_SAID
    message = f"{known.message[:MOST_SAID]}..." if long else known.message
    show.note(message if asked_for else f"error: {message}")
    if known.hint:
        show.note(f"hint: {known.hint}")
    return known.exit_code


def _speaks() -> bool:
    """Whether this process says what goes wrong: the first one, and one on each other machine."""
    try:
        where = processes.place()
    except ConfigError:
        return True
    return where.rank == 0 or (where.local_rank == 0 and where.local_size < where.size)


def _explained(error: Exception) -> GanctlError:
    """What has no words of its own: full memory, whatever the system says of a file, and faults."""
    if isinstance(error, MemoryError) or ("torch" in sys.modules and _is_full(error)):
        return OutOfMemoryError("out of memory", "end other programs, or use another --device")
    if isinstance(error, OSError) and error.filename is not None:
        return StorageError(f"cannot use {error.filename}: {error.strerror}")
    reason = " ".join(str(error).split())
    said = f"a fault in ganctl itself: {type(error).__name__}: {reason}"
    return GanctlError(said, "GANCTL_DEBUG=1 shows where; please report it")


def _is_full(error: Exception) -> bool:
    from ganctl.training.memory import is_full

    return is_full(error)
