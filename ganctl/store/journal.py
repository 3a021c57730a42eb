"""What a run writes down beside its checkpoints: figures, history, status.

Resuming needs none of it, so it cannot end a run: a line that cannot be written is lost, with a
warning.
"""

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ganctl.errors import StorageError
from ganctl.store import identity
from ganctl.store.durable import appended, open_regular, read_bytes, write_text

MAX_BYTES = 2**30  # of metrics.jsonl: more than a run of a million rows has
TAIL = 256 * 1024  # bytes of it that hold its last rows
MAX_LINE = 2**20  # bytes of one row
MOST_EVENTS = 100_000
MOST_DIGITS = 300  # of a whole number
LARGEST = 2**62  # number of a step

log = logging.getLogger("ganctl")

Row = dict[str, Any]  # one line of a .jsonl file, as it is read back


class Journal:
    """Writes and reads metrics.jsonl, history.jsonl and status.json of one run."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.folder, self.run_id = folder, run_id
        self.alarms: list[str] = []  # failure modes that the run shows now; part of its status, as
        self.scores: dict[str, dict[str, Any]] = {}  # are its newest "score" and its "best" one
        self._unwritten: set[str] = set()  # files whose last line was lost

    def measure(self, row: Mapping[str, object]) -> None:
        """Add `row`, which has a "step", to metrics.jsonl."""
        self._append("metrics.jsonl", row)

    def record(self, event: str, step: int, **facts: object) -> None:
        """Add an event to history.jsonl: started, saved, alarm, rolled back, stopped, ..."""
        self._append("history.jsonl", {"event": event, "step": step, "time": now(), **facts})

    def rows(self) -> list[Row]:
        """The rows of metrics.jsonl but torn ones; none, with a warning, if it cannot be read."""
        path = self.folder / "metrics.jsonl"
        try:
            return [row for _, row in _rows(_lines(path))] if path.exists() else []
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror or error)
            return []

    def each_row(self) -> Iterator[Row]:
        """The same one by one, without holding them, of a file of any size."""
        return self._each("metrics.jsonl")

    def events(self) -> list[Row]:
        """What history.jsonl says happened; each has an "event" and a "step"."""
        found = islice(self._each("history.jsonl"), MOST_EVENTS)
        return [row for row in found if isinstance(row.get("event"), str)]

    def _each(self, name: str) -> Iterator[Row]:
        path = self.folder / name
        try:
            if path.exists():
                with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
                    lines = iter(lambda: file.readline(MAX_LINE), b"")
                    yield from (row for _, row in _rows(lines))
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror or error)

    def last_row(self) -> Row | None:
        """The newest row of metrics.jsonl; of a file of any size only its end is read."""
        try:
            descriptor = open_regular(self.folder / "metrics.jsonl", os.O_RDONLY)
            with os.fdopen(descriptor, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                lines = file.read(TAIL).splitlines()
        except OSError:
            return None
        return next((row for _, row in _rows(reversed(lines))), None)

    def cut_metrics(self, step: int, every: int = 1) -> None:
        """Delete the rows after `step`, which a resumed run is about to write again.

        That of `step` as well if it is of no `every`-th step: then a stop cut it short.
        """
        first_gone = step if step % every else step + 1
        path = self.folder / "metrics.jsonl"
        try:
            if path.exists():
                rows = [line for line, row in _rows(_lines(path)) if row["step"] < first_gone]
                identity.check(self.folder, self.run_id)
                write_text(path, "".join(f"{row}\n" for row in rows), self.run_id)
        except (OSError, StorageError) as error:
            log.warning("%s cannot be rewritten: %s", path, _reason(error))

    def set_status(self, state: str, step: int, reason: str = "", exit_code: int = 0) -> None:
        """Replace status.json; `state` is running, done, stopped or failed."""
        status = {
            "state": state, "step": step, "reason": reason, "exit_code": exit_code,
            "alarms": self.alarms, **self.scores, "pid": os.getpid(), "time": now(),
        }  # fmt: skip
        path = self.folder / "status.json"
        try:
            identity.check(self.folder, self.run_id)
            write_text(path, json.dumps(status) + "\n", self.run_id)
        except (OSError, StorageError) as error:
            log.warning("%s cannot be written: %s", path, _reason(error))

    def _append(self, name: str, row: Mapping[str, object]) -> None:
        try:
            identity.check(self.folder, self.run_id)
            with appended(self.folder / name) as file:
                line = f"{json.dumps(row)}\n".encode()
                file.write(line if _ends_a_line(file) else b"\n" + line)
            self._unwritten.discard(name)
        except (OSError, StorageError) as error:
            if name not in self._unwritten:
                log.warning("%s cannot be written: %s", self.folder / name, _reason(error))
            self._unwritten.add(name)


def now() -> str:
    """The time in UTC, for people to read: no decision depends on it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ends_a_line(file: IO[bytes]) -> bool:
    """Whether `file` is empty or ends with a whole line."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _reason(error: OSError | StorageError) -> str:
    return error.message if isinstance(error, StorageError) else error.strerror or str(error)


def _lines(path: Path) -> list[bytes]:
    return read_bytes(path, MAX_BYTES).splitlines()


def _rows(lines: Iterable[bytes]) -> Iterator[tuple[str, Row]]:
    """Lines of metrics.jsonl and what they say, without those that a kill or full disk tore.

    Figures of blocks are a dict of them. There can be millions of lines.
    """
    for line in lines:
        try:
            text = line.decode()
            row = _DECODER.decode(text)
            step = int(row["step"])
            for name in [name for name, value in row.items() if type(value) is dict]:
                row[name] = {n: of for n, of in row[name].items() if not isinstance(of, dict)}
            alarms = [name for name in _list(row.get("alarms")) if isinstance(name, str)]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if 0 <= step < LARGEST:
            row["step"], row["alarms"] = step, alarms
            yield text, row


def _whole(digits: str) -> int | float:
    """A whole number; not a number if no program can compute with it."""
    return int(digits) if len(digits) <= MOST_DIGITS else math.nan


_DECODER = json.JSONDecoder(parse_int=_whole)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
