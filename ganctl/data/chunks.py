"""Decoding all images of a source into one file of pixels, chunk by chunk, on all cores.

Every image has its place in the file, so that processes may finish their chunks in any order.
"""

import contextlib
import signal
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import ModuleType

import numpy as np

from ganctl.busy import own_cores
from ganctl.data.decoding import fit
from ganctl.data.sources import ArraySource, Source
from ganctl.errors import DataError

CHUNK = 64  # images that a worker decodes between two messages
ALONE = 1024  # up to this many images, starting workers costs more than it saves
DEAF_TO = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # workers; they end with their parent
AHEAD = 2  # chunks that a worker has been given and not yet finished, so that it never waits


@dataclass(frozen=True)
class Skipped:
    """A file that was left out."""

    name: str
    reason: str


@dataclass(frozen=True)
class Preparation:
    """The images of `source`, each to be cropped and resized as `decoding.fit` does."""

    source: Source
    resolution: int
    crop: int | None

    def image(self, index: int) -> np.ndarray | Skipped:
        """(resolution, resolution, 3) uint8, or why there is none."""
        try:
            return fit(self.source.read(index), self.resolution, self.crop)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's parsers raise nearly anything for damaged files
            reason = " ".join(str(error).split()) or type(error).__name__
            return Skipped(self.source.name(index), reason[:200])

    def image_bytes(self) -> int:
        """The size of one prepared image."""
        return self.resolution**2 * 3


@dataclass(frozen=True)
class Chunk:
    """Images that were decoded together and are now in the file."""

    images: range  # their indices
    skipped: dict[int, Skipped]  # those of them that cannot be read; they are zeros in the file


def decode_chunks(preparation: Preparation, pixels: Path) -> Generator[Chunk, None, None]:
    """Write every image of the source at its place in the file `pixels`, which exists.

    Chunks are yielded in order, each once it is there. Closing the generator ends the workers.
    """
    total = len(preparation.source)
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    workers = min(len(own_cores()), len(chunks))
    in_memory = isinstance(preparation.source, ArraySource)  # costs more to send than to prepare
    if workers == 1 or total <= ALONE or in_memory:
        for chunk in chunks:
            yield _decode(preparation, pixels, chunk)
        return
    yield from _decode_in_workers(preparation, pixels, chunks, workers)


def _decode_in_workers(
    preparation: Preparation, pixels: Path, chunks: list[range], count: int
) -> Iterator[Chunk]:
    """The same chunks in the same order, each from whichever of `count` workers was free for it."""
    with contextlib.ExitStack() as at_end:
        connections = [_start_worker(at_end) for _ in range(count)]
        unsent = iter(chunks)
        with _workers_must_live():
            job = ForkingPickler.dumps((preparation, pixels))  # once: a source may be large
            for connection in connections:
                connection.send_bytes(job)
            for connection in connections * AHEAD:
                _send_next(unsent, connection)
        finished: dict[int, Chunk] = {}  # by their first images
        for images in chunks:
            while images.start not in finished:
                ready = wait(connections)
                for connection in (each for each in connections if each in ready):
                    with _workers_must_live():
                        answer = connection.recv()
                        _send_next(unsent, connection)
                    if isinstance(answer, Exception):
                        raise answer
                    finished[answer.images.start] = answer
            yield finished.pop(images.start)


def _send_next(unsent: Iterator[range], connection: Connection) -> None:
    """Give a worker the next chunk, if there is one."""
    for images in islice(unsent, 1):
        connection.send(images)


def _start_worker(at_end: contextlib.ExitStack) -> Connection:
    """This end of the pipe to a new worker, which is killed when `at_end` closes."""
    # spawn: a forked child of a process that has run torch could hang in its thread pools.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    at_end.enter_context(ours)
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    at_end.callback(_end, process)  # before it starts: a signal may come right after that
    with theirs, _for_workers_only():
        process.start()
    return ours


def _end(process: SpawnProcess) -> None:
    if process.pid is not None:
        process.kill()
        process.join()


@contextlib.contextmanager
def _for_workers_only() -> Iterator[None]:
    """What a process that is started inside inherits: no signals, and nothing of the main script.

    Ctrl-C reaches every process of a terminal, a scheduler's TERM every process of a job: the
    parent acts on it. A started process would run the main script again, to have what it defines;
    but it may be a script that packs images.
    """
    script = sys.modules["__main__"]
    resource_tracker.ensure_running()  # starting it would let signals through again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF_TO)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextlib.contextmanager
def _workers_must_live() -> Iterator[None]:
    """DataError if the pipe to a worker turns out to be broken."""
    try:
        yield
    except (EOFError, OSError) as error:
        hint = "look at the system's log: it may have been killed for want of memory"
        raise DataError("a process that was decoding images died", hint) from error


def _work(connection: Connection) -> None:
    """Decode the chunks that come through the pipe, until the parent closes it or is dead."""
    with contextlib.suppress(EOFError, ConnectionError):
        preparation, pixels = connection.recv()
        while True:
            chunk = connection.recv()
            answer: Chunk | Exception
            try:
                answer = _decode(preparation, pixels, chunk)
            except (MemoryError, OSError) as error:
                answer = error
            connection.send(answer)


def _decode(preparation: Preparation, pixels: Path, images: range) -> Chunk:
    """Decode one chunk and write it at its place."""
    skipped = {}
    empty = bytes(preparation.image_bytes())
    decoded = []
    for index in images:
        image = preparation.image(index)
        if isinstance(image, Skipped):
            skipped[index] = image
        decoded.append(empty if isinstance(image, Skipped) else image.tobytes())
    with pixels.open("r+b") as file:
        file.seek(images.start * preparation.image_bytes())
        file.write(b"".join(decoded))
    return Chunk(images, skipped)
