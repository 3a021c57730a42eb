"""What a user can get wrong, and what can go wrong around a run: one class for each exit code."""

import shlex


def shell_quoted(path: object) -> str:
    """A path as it is typed in a shell, for hints that name a command."""
    return shlex.quote(str(path))


class GanctlError(Exception):
    """One sentence that names the thing, a hint with the next action, and an exit code."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(GanctlError):
    """A setting, preset, name or combination of options that cannot be used."""

    exit_code = 2


class CheckpointError(GanctlError):
    """A checkpoint that is missing, damaged, foreign or does not fit."""

    exit_code = 3


class DataError(GanctlError):
    """Images that are missing, unreadable or not those of the run."""

    exit_code = 4


class StorageError(GanctlError):
    """A file that could not be written."""

    exit_code = 5


class RunBusyError(GanctlError):
    """A run folder that exists already, or that another process is training in."""

    exit_code = 6


class DivergedError(GanctlError):
    """A loss or a weight that is no longer finite."""

    exit_code = 7


class OutOfMemoryError(GanctlError):
    """A training step that does not fit in memory."""

    exit_code = 8


class AlarmError(GanctlError):
    """A run that `health.on_alarm: stop` ended at a failure mode, after a verified save."""

    exit_code = 9


class ProcessError(GanctlError):
    """A run of several processes of which one ended, does not answer, or has gone another way."""

    exit_code = 10


class StoppedError(GanctlError):
    """What a signal ended: a run after a step and a verified save, anything else at once."""

    def __init__(self, message: str, hint: str | None, signal_number: int) -> None:
        super().__init__(message, hint)
        self.exit_code = 128 + signal_number
