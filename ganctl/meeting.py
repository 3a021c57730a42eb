"""How the processes of a run meet, tell each other words, and notice that one is missing."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from ganctl import errors
from ganctl.errors import ConfigError, GanctlError, ProcessError, StoppedError
from ganctl.processes import TIMEOUT, Place, restarts, timeout
from ganctl.progress import Progress

Answer = TypeVar("Answer")

LONGEST_NAP = 0.05  # seconds between two looks for a word of another process
FAREWELL = 5  # seconds that a process which fails gives the others to read why
GPU_GRACE = 60  # seconds more for GPUs, so that the others' silence is noticed first, and explained
FAILED = "failed"  # the key under which a process that fails says why
LOST = "lost"  # the one under which it says that only others have


class Meeting:
    """The processes of a run, while they are connected."""

    def __init__(
        self, place: Place, store: Store, control: dist.ProcessGroup, patience: float
    ) -> None:
        """`control` is a gloo group of all; `patience` in seconds."""
        self.place, self.control, self.patience = place, control, patience
        self.store = PrefixStore("ganctl", store)
        self._rounds = 0
        self._silent: list[int] = []  # processes that were found to say nothing any more
        self.store.set(f"name/{place.rank}", place.name)

    @classmethod
    def open(cls, place: Place, device: str) -> "Meeting":
        """Wait for all others; ConfigError or ProcessError if that cannot be."""
        patience = timeout()
        limit = timedelta(seconds=patience)
        gpu = torch.device(device) if device.startswith("cuda") else None
        extra = timedelta(seconds=GPU_GRACE if gpu else 0)
        try:
            everyones, _, _ = next(iter(rendezvous("env://", timeout=limit)))
            # torchrun's store outlives the processes that it starts anew, and keeps their words.
            store = PrefixStore(f"start/{restarts()[0]}", everyones)
            with _results_kept_clean():
                dist.init_process_group(
                    "nccl" if gpu else "gloo", store=PrefixStore("groups", store),
                    rank=place.rank, world_size=place.size, timeout=limit + extra, device_id=gpu,
                )  # fmt: skip
                control = dist.new_group(backend="gloo", timeout=limit)
        except (RuntimeError, ValueError) as error:
            raise _not_met(place, error) from error
        assert isinstance(control, dist.ProcessGroup)
        return cls(place, store, control, patience)

    def close(self, error: BaseException | None) -> None:
        """Leave; the first process, in which the others may meet, leaves last.

        `error` is why, if it is not that all is done.
        """
        with suppress(RuntimeError):
            if error is not None:
                key = LOST if self._silent else FAILED
                self.store.compare_set(key, "", json.dumps(_said(error, self.place)))
            self.store.add("left", 1)
            until = time.monotonic() + (self.patience if error is None else FAREWELL)
            while self.place.rank == 0 and time.monotonic() < until:
                if self.store.add("left", 0) >= self.place.size - len(self._silent):
                    break
                time.sleep(0.01)
        if error is None:  # else some of its operations may never end
            dist.destroy_process_group()

    @contextmanager
    def answers(self) -> Iterator[None]:
        """Around what needs an answer of the others: what went wrong, if there is none."""
        started_at = time.monotonic()
        try:
            yield
        except torch.OutOfMemoryError:
            raise  # this process's own
        except RuntimeError as error:
            raise self._why(time.monotonic() - started_at) from error

    def told(self, task: Callable[[], Answer]) -> Answer:
        """The first process runs `task`, and tells the others what it returned or raised."""
        key = self._next("told")
        if self.place.rank == 0:
            try:
                answer = task()
            except GanctlError as error:
                self._tell(key, {"error": _said(error, self.place)})
                raise
            self._tell(key, {"answer": answer})
            return answer
        told: dict[str, Any] = json.loads(self._wait_for(key))
        if "error" in told:
            raise _error(told["error"])
        return cast(Answer, told["answer"])

    def done_by_all(self, task: Callable[[], Answer]) -> Answer:
        """See `distributed.all_do`."""
        key, failed = self._next("done"), torch.tensor(0)
        answer, own = None, None
        try:
            answer = task()
        except GanctlError as error:
            own, failed = error, torch.tensor(self.place.size - self.place.rank)
            self._tell(f"{key}/{self.place.rank}", _said(error, self.place))
        with self.answers():
            dist.all_reduce(failed, dist.ReduceOp.MAX, group=self.control)
        spokesman = self.place.size - int(failed)  # the first one that failed, if one did
        if spokesman < self.place.size:
            if own is not None and spokesman == self.place.rank:
                raise own
            raise _error(json.loads(self._wait_for(f"{key}/{spokesman}")))
        return cast(Answer, answer)

    def by_machines(self, task: Callable[[Progress], Answer], progress: Progress) -> Answer | None:
        """See `distributed.each_machine_does`."""
        key, answer = self._next("machine"), None

        def tell(done: int, total: int) -> None:
            self._tell(f"{key}/now", {"progress": [done, total]})

        def show() -> None:
            with self.answers():
                now = self.store.get(f"{key}/now") if self.store.check([f"{key}/now"]) else b""
            if now:
                progress(*json.loads(now)["progress"])

        def wait_for_all() -> None:
            for rank in range(self.place.size):
                self._wait_for(f"{key}/{rank}", show)

        if self.place.rank == 0:
            answer = task(progress)
        else:
            self._wait_for(f"{key}/0")
            if self.place.local_rank == 0:
                answer = task(tell)
        self._tell(f"{key}/{self.place.rank}", {})
        self.told(wait_for_all)
        return answer

    def check_alike(self, digest: str) -> None:
        """See `distributed.check_alike`."""
        key = self._next("digest")
        self._tell(f"{key}/{self.place.rank}", {"digest": digest})

        def compare() -> None:
            keys = [f"{key}/{rank}" for rank in range(self.place.size)]
            digests = [json.loads(self._wait_for(k))["digest"] for k in keys]
            usual = Counter(digests).most_common(1)[0][0]
            if odd := [rank for rank, each in enumerate(digests) if each != usual]:
                raise ProcessError(
                    f"{self._names(odd)} holds other weights than the others, so nothing is saved",
                    "resume from the newest checkpoint; if it happens again, suspect that GPU's or"
                    " machine's memory",
                )

        self.told(compare)

    def _next(self, kind: str) -> str:
        """A key for what all processes are about to do, which all do in the same order."""
        self._rounds += 1
        return f"{kind}/{self._rounds}"

    def _tell(self, key: str, word: dict[str, Any]) -> None:
        with self.answers():
            self.store.set(key, json.dumps(word))

    def _wait_for(self, key: str, meanwhile: Callable[[], None] | None = None) -> str:
        """The word under `key`, however long it takes, unless a process fails meanwhile."""
        started_at = time.monotonic()
        while True:
            if meanwhile is not None:
                meanwhile()
            with self.answers():
                if self.store.check([key]):
                    return self.store.get(key).decode()
                failed = self.store.check([FAILED]) or self.store.check([LOST])
            if failed:
                raise self._why(0)
            # The store's own waiting writes a warning whenever its time is over.
            time.sleep(min(LONGEST_NAP, (time.monotonic() - started_at) / 20))

    def _why(self, waited: float) -> GanctlError:
        """What another process said when it failed, or else which one says nothing any more."""
        hint = "`ganctl resume` goes on from the newest checkpoint"
        try:
            self.store.set(f"stuck/{self.place.rank}", "")
            # Who has no connection to the lost one notices when those leave that have; the first
            # process, which speaks, stays for that.
            until = time.monotonic() + FAREWELL / (2 if self.place.rank == 0 else 5)
            while True:
                if self.store.check([FAILED]):
                    return _error(json.loads(self.store.get(FAILED).decode()))
                keys = [f"stuck/{other}" for other in range(self.place.size)]
                silent = [other for other, key in enumerate(keys) if not self.store.check([key])]
                if len(silent) <= 1 or time.monotonic() >= until:
                    break
                time.sleep(LONGEST_NAP)
            self._silent = silent
            who = self._names(silent, "or") if silent else "another process"
        except RuntimeError:  # the store is gone, and with it whoever held it
            who = "process 0, or what started them all,"
        late = waited >= 0.9 * self.patience
        what = f"has not answered for {self.patience:g} s" if late else "has ended"
        more = f"; {TIMEOUT}=SECONDS waits longer" if late else ""
        return ProcessError(f"{who} {what}, and a run needs all its processes", hint + more)

    def _names(self, ranks: list[int], junction: str = "and") -> str:
        return f" {junction} ".join(self.store.get(f"name/{rank}").decode() for rank in ranks)


@contextmanager
def _results_kept_clean() -> Iterator[None]:
    """What libraries print meanwhile on standard output is dropped: gloo of torch 2.10 chatters."""
    try:
        out = os.dup(1)
    except OSError:  # it is closed, so there is nothing to keep clean
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(out, 1)
        os.close(out)


def _said(error: BaseException, place: Place) -> dict[str, Any]:
    """`error` in words that another process can raise it from."""
    if (number := getattr(error, "signal_number", None)) and not isinstance(error, GanctlError):
        error = StoppedError("stopped", None, number)
    known = isinstance(error, GanctlError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    return {
        "kind": type(error).__name__,
        "message": message if place.rank == 0 else f"{place.name}: {message}",
        "hint": error.hint if isinstance(error, GanctlError) else None,
        "exit_code": error.exit_code if isinstance(error, GanctlError) else 1,
    }


def _error(said: dict[str, Any]) -> GanctlError:
    """The error that another process spoke of."""
    kind = getattr(errors, said["kind"], GanctlError)
    error: GanctlError = kind.__new__(kind)
    GanctlError.__init__(error, said["message"], said["hint"])
    error.exit_code = said["exit_code"]
    return error


def _not_met(place: Place, error: Exception) -> GanctlError:
    """Why the processes could not meet."""
    where = f"{place.address}:{place.port}"
    if "EADDRINUSE" in str(error):
        hint = "choose another MASTER_PORT, or let `torchrun --standalone` choose one"
        return ConfigError(f"port {place.port} (MASTER_PORT) is in use by another program", hint)
    reason = " ".join(str(error).split("\n")[0].split())
    return ProcessError(
        f"{place.name} did not meet the {place.size - 1} other(s) at {where}: {reason}",
        "see that all are started, and that MASTER_ADDR and MASTER_PORT can be reached from each",
    )
