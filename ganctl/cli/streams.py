"""Standard streams that nobody may read, and that may be on a disk which is full or gone.

Whoever writes to them: our own results and words, or Typer's help and mistakes.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from ganctl.errors import StorageError


class Stream:
    """A standard stream, whatever `sys` has in its place when it is written to.

    Where nobody reads any more nothing is written any more. StorageError if `results` are lost on
    a disk that is full or gone; a log that cannot be written ends no run.
    """

    def __init__(self, name: str, descriptor: int, *, results: bool) -> None:
        self._name, self._descriptor, self._results = name, descriptor, results

    def write(self, text: str) -> int:
        self._do(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._do(lambda stream: stream.flush())

    def isatty(self) -> bool:
        stream = self._stream()
        return stream is not None and stream.isatty()

    def _stream(self) -> IO[str] | None:
        """None if it was closed before we came."""
        stream = getattr(sys, self._name)
        # While a live panel is shown.
        return cast("IO[str] | None", getattr(stream, "rich_proxied_file", stream))

    def _do(self, task: Callable[[IO[str]], object]) -> None:
        stream = self._stream()
        if stream is None:
            return
        try:
            task(stream)
        except OSError as error:
            # What is still in the stream's buffer must not fail again when Python ends.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
            if self._results and not isinstance(error, BrokenPipeError):
                raise StorageError(f"cannot write the results: {error.strerror}") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)


class _Guard(Stream):
    """The same, around the stream that is in `sys` when it is made."""

    def __init__(self, name: str, descriptor: int, *, results: bool) -> None:
        super().__init__(name, descriptor, results=results)
        self._guarded: IO[str] | None = getattr(sys, name)

    def _stream(self) -> IO[str] | None:
        return self._guarded

    @property
    def encoding(self) -> str:
        return getattr(self._guarded, "encoding", None) or "utf-8"


stdout = cast(IO[str], Stream("stdout", 1, results=True))
stderr = cast(IO[str], Stream("stderr", 2, results=False))


@contextmanager
def guarded() -> Iterator[None]:
    """While entered, whatever is printed goes through the streams described above."""
    before = sys.stdout, sys.stderr
    sys.stdout = cast(Any, _Guard("stdout", 1, results=True))
    sys.stderr = cast(Any, _Guard("stderr", 2, results=False))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
