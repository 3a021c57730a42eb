"""One case: damage, a command line, and what must hold whatever they are."""

import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from random import Random
from typing import NamedTuple

from ganctl.cli.app import main
from tests.fuzz import world
from tests.fuzz.commands import command
from tests.fuzz.damage import damage

CODES = {0, *range(2, 11), 129, 130, 143}  # that README documents; 1 is for a check that failed
HANGS = 120  # seconds after which a case counts as hanging, on the busiest machine
TRAINING = ("train", "resume")
FAULTS = ("Traceback", "a fault in ganctl itself", "Exception ignored", "cannot use ")


class Outcome(NamedTuple):
    """What a case was, and what came of it."""

    words: list[str]
    damages: list[str]
    code: int
    said: str  # standard error
    seconds: float  # of processor time
    finding: str  # "" if all is well


class _HangError(BaseException):
    """No answer."""


class Adversary:
    """Plays cases in copies of one world, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.original = folder / "original"
        with _listening() as heard:
            world.build(self.original)
        assert "error" not in heard.getvalue(), heard.getvalue()
        # What other tests of this process have started is not the commands' doing.
        self.threads, self.children = threading.active_count(), _children()

    def play(self, seed: int, case: int) -> Outcome:
        """The case `case` of `seed`."""
        chance = Random(f"{seed}/{case}")
        played = Path(tempfile.mkdtemp(dir=self.folder))
        shutil.copytree(self.original, played, symlinks=True, dirs_exist_ok=True)
        opened = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
        try:
            with world.playing_in(played):
                damages = self._damages(chance)
                return self._told(command(chance), damages, played)
        finally:
            _close_others_than(opened)
            shutil.rmtree(played, ignore_errors=True)

    def _damages(self, chance: Random) -> list[str]:
        """What is done to up to three files, in words."""
        Path("loop").symlink_to("loop")
        done = []
        for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
            found = [p for p in sorted(Path().rglob("*")) if p.is_file() and not p.is_symlink()]
            kinds = sorted({path.suffix or path.name for path in found})
            kind = chance.choice(kinds)
            done.append(
                damage(chance.choice([p for p in found if (p.suffix or p.name) == kind]), chance)
            )
        return done

    def _told(self, words: list[str], damages: list[str], played: Path) -> Outcome:
        before = world.files(played)
        begun = time.process_time()
        with _listening() as heard, _not_for_ever():
            try:
                code, finding = main(words), ""
            except _HangError:
                code, finding = -1, "it hangs"
            except BaseException as error:
                code, finding = -1, f"{type(error).__name__}: {error}"
        seconds, said = time.process_time() - begun, heard.getvalue()
        after = world.files(played)
        for word in words:  # a file that was asked for by name may lie where a link leads
            named = os.path.relpath(os.path.realpath(word), played)
            if named.startswith(world.OUTSIDE) and named not in before:
                after.pop(named, None)
        finding = finding or self._wrong(words, code, said, before, after)
        return Outcome(words, damages, code, said, seconds, finding)

    def _wrong(
        self,
        words: list[str],
        code: int,
        said: str,
        before: dict[str, bytes | str],
        after: dict[str, bytes | str],
    ) -> str:
        checked = code == 1 and "check failed" in said
        if code not in CODES and not checked:
            return f"exit {code}"
        if found := next((fault for fault in FAULTS if fault in said), None):
            return f"it said {found!r}"
        if code not in (0, 1) and not re.search(r"^(error: |stopped)", said, re.MULTILINE):
            return f"exit {code} without a word"
        if any(not (letter.isprintable() or letter == "\n") for letter in said):
            return "letters that steer a terminal"
        if self.threads < threading.active_count() or _children() - self.children:
            return "something lives on"
        return _touched(words, before, after)


def _touched(
    words: list[str], before: dict[str, bytes | str], after: dict[str, bytes | str]
) -> str:
    """What changed that must not: outside nothing at all, inside nothing but what a command writes."""
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if strayed := sorted(name for name in changed if name.startswith(world.OUTSIDE)):
        return f"outside {strayed[0]} was touched"
    if halves := sorted(name for name in after if ".ganctl-" in name or ".building-" in name):
        return f"{halves[0]} was left behind" if halves[0] not in before else ""
    run = f"{world.INSIDE}/runs/"
    allowed = tuple(f"{world.INSIDE}/{part}" for part in ("cache/",))
    if set(words) & set(TRAINING):
        allowed += (run, f"{world.INSIDE}/r/")
    if "--force" in words:
        return ""
    lost = sorted(name for name in changed if name in before and not name.startswith(allowed))
    return f"{lost[0]} was changed" if lost else ""


@contextmanager
def _listening() -> Iterator[StringIO]:
    """What is said on standard error, in words and in bytes that no terminal sees."""
    out, heard = StringIO(), StringIO()
    handlers = logging.getLogger().handlers[:]
    with redirect_stdout(out), redirect_stderr(heard), warnings.catch_warnings(action="ignore"):
        try:
            yield heard
        finally:
            logging.getLogger().handlers = handlers


@contextmanager
def _not_for_ever() -> Iterator[None]:
    def hung(number: int, frame: object) -> None:
        raise _HangError

    previous = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANGS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _children() -> set[str]:
    """Processes that this one has started and that still run."""
    paths = Path("/proc/self/task").glob("*/children")
    children = {child for path in paths for child in path.read_text().split()}
    return {child for child in children if "resource_tracker" not in _name(child)}


def _name(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return "resource_tracker"  # it has ended


def _close_others_than(opened: set[str]) -> None:
    """A run's lock is held until its process ends, which here it does not."""
    for name in set(os.listdir("/proc/self/fd")) - opened if opened else ():
        try:
            if "/LOCK" in os.readlink(f"/proc/self/fd/{name}"):
                os.close(int(name))
        except OSError:
            continue
