"""One run in several processes: what they compute together, and how they agree.

All of it goes over torch's own engine: NCCL between GPUs, gloo between CPUs. Decisions take a gloo
group of their own, which never waits for a GPU, and words the store in which processes meet. Alone,
as almost all runs are, a process gets back what it gives, and nothing is copied or waited for.

Batches are those of the whole run. Each process computes an equal share of every part of a batch,
so that means over shares, averaged over processes, are the means over the batch.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganctl.errors import ConfigError
from ganctl.meeting import Meeting
from ganctl.processes import Place, launched, place
from ganctl.progress import Progress

Answer = TypeVar("Answer")
Part = TypeVar("Part")

PARENT_SECONDS = 0.5  # between two looks whether what started this process is still there

_meeting: Meeting | None = None  # None: this process is alone


def rank() -> int:
    """This process's number, from 0."""
    return 0 if _meeting is None else _meeting.place.rank


def size() -> int:
    """How many processes there are."""
    return 1 if _meeting is None else _meeting.place.size


def is_first() -> bool:
    """Whether this is the process that writes and speaks for all."""
    return rank() == 0


@contextmanager
def joined(device_name: str) -> Iterator[str]:
    """While entered, this process is one of those that the environment tells of.

    Gives the name of this process's own device. An error that leaves it is told to all the others.
    """
    global _meeting
    where = place()
    if launched():
        _watch_parent()
    if where.size == 1:
        yield device_name
        return
    device = _own_device(device_name, where)
    _meeting = meeting = Meeting.open(where, device)
    error: BaseException | None = None
    try:
        yield device
    except BaseException as raised:
        error = raised
        raise
    finally:
        meeting.close(error)
        _meeting = None


def share(first: int, count: int) -> tuple[int, int]:
    """Of samples `first` to `first + count` the first that is this process's, and how many are."""
    each = count // size()
    return first + rank() * each, each


def check_shares(batch_size: int, parts: int, *, fixed: bool = False) -> None:
    """ConfigError unless each of `parts` equal parts of a batch has equal shares for all.

    `fixed`: no other batch can be asked for.
    """
    if batch_size % (parts * size()) == 0:
        return
    whole = batch_size // parts
    possible = [n for n in range(1, whole + 1) if whole % n == 0]
    below = batch_size // (parts * size()) * parts * size()
    near = [str(batch) for batch in (below, below + parts * size()) if batch > 0]
    other = "" if fixed else f", or with {size()} of them --batch-size {' or '.join(near)}"
    raise ConfigError(
        f"{size()} processes cannot share {whole} images, which is a batch of {batch_size} in"
        f" {parts} part(s)",
        f"possible are {', '.join(map(str, possible[-8:]))} processes{other}",
    )


@torch.no_grad()
def average_gradients(network: nn.Module, *figures: Tensor) -> tuple[Tensor, ...]:
    """Average the gradients of `network` over all processes, in one reduction.

    `figures` travel with them and come back the same everywhere: a () is averaged, a (K, B) is
    joined to (K, N * B) by the N processes.
    """
    if _meeting is None:
        return figures
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    seats = torch.zeros(size(), sum(f.numel() for f in figures)).to(gradients[0])
    seats[rank()] = torch.cat([figure.flatten() for figure in figures])
    flat = torch.cat([*(g.flatten() for g in gradients), seats.flatten()])
    with _meeting.answers():
        dist.all_reduce(flat)
    parts = flat.split([*(g.numel() for g in gradients), seats.numel()])
    means = [p.view_as(g) for p, g in zip(parts, gradients, strict=False)]
    torch._foreach_div_(means, size())
    torch._foreach_copy_(gradients, means)
    told = parts[-1].view(size(), -1).split([figure.numel() for figure in figures], dim=1)
    return tuple(_joined(each, f) for each, f in zip(told, figures, strict=True))


def _joined(each: Tensor, like: Tensor) -> Tensor:
    """(N, K * B), a row a process -> (K, N * B); the mean if a process has one figure ()."""
    if like.dim() == 0:
        return each.mean()
    return each.unflatten(1, like.shape).transpose(0, 1).flatten(1)


def gathered(tensor: Tensor) -> Tensor:
    """(N, *shape): `tensor` of each of the N processes; without a gradient."""
    if _meeting is None:
        return tensor[None]
    everywhere = tensor.new_empty(size(), *tensor.shape)
    with _meeting.answers():
        dist.all_gather(list(everywhere.unbind()), tensor.contiguous())
    return everywhere


def averaged(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes; without a gradient."""
    if _meeting is None:
        return tensor
    total = tensor.clone()
    with _meeting.answers():
        dist.all_reduce(total)
    return total / size()


def brought(array: np.ndarray) -> list[np.ndarray]:
    """The arrays of all processes, of equal shapes and types, at the first one; elsewhere []."""
    if _meeting is None:
        return [array]
    own = torch.from_numpy(np.ascontiguousarray(array))
    places = [torch.empty_like(own) for _ in range(size())] if is_first() else None
    with _meeting.answers():
        dist.gather(own, places, group=_meeting.control)
    return [] if places is None else [each.numpy() for each in places]


def in_turns(
    parts: Sequence[Part],
    work: Callable[[Sequence[Part]], Iterator[np.ndarray]],
    progress: Progress | None = None,
) -> Iterator[tuple[Part, np.ndarray]]:
    """Each of `parts` and what `work` makes of it, in order, at the first process; elsewhere none.

    The processes take the parts in turns, and each gives `work` its own. All arrays must be of one
    shape and type. A GanctlError of one process, also of its `progress`, is raised in all.
    """
    turns = [parts[start : start + size()] for start in range(0, len(parts), size())]
    # In the last turn some may work in vain.
    own = work([turn[min(rank(), len(turn) - 1)] for turn in turns])

    done = 0

    def next_one() -> np.ndarray:
        nonlocal done
        made, done = next(own), min(done + size(), len(parts))
        if progress is not None:
            progress(done, len(parts))
        return made

    for turn in turns:
        yield from zip(turn, brought(all_do(next_one)), strict=False)


class Agreement:
    """Makes what one process wishes the decision of all, and never waits for a GPU.

    What is wished for at step n is reduced while the processes go on, and holds from n + 1; alone
    it holds at once.
    """

    def __init__(self) -> None:
        self._under_way: tuple[dist.Work, Tensor] | None = None

    def of(self, *wishes: int) -> list[int]:
        """The largest of each of the processes' wishes, of the call before; 0 is none."""
        if _meeting is None:
            return list(wishes)
        before, decided = self._under_way, torch.tensor(wishes)
        with _meeting.answers():
            work = dist.all_reduce(
                decided, dist.ReduceOp.MAX, group=_meeting.control, async_op=True
            )
            assert work is not None
            self._under_way = work, decided
            if before is None:
                return [0] * len(wishes)
            before[0].wait()
        return before[1].tolist()


def first_does(task: Callable[[], Answer]) -> Answer:
    """What `task` returns, which is plain JSON; only the first process runs it, the others wait.

    A GanctlError of it is raised in all. However long it takes, nobody runs out of patience.
    """
    return task() if _meeting is None else _meeting.told(task)


def all_do(task: Callable[[], Answer]) -> Answer:
    """What `task` returns in this process, once all have done it.

    A GanctlError of one is raised in all.
    """
    return task() if _meeting is None else _meeting.done_by_all(task)


def each_machine_does(task: Callable[[Progress], Answer], progress: Progress) -> Answer | None:
    """Run `task` once on each machine, first on that of the first process, then on the others.

    Everybody waits until all have done it; `progress` shows whoever is at work. None where another
    process of the same machine has done it.
    """
    return task(progress) if _meeting is None else _meeting.by_machines(task, progress)


def check_alike(digest: Callable[[], str]) -> None:
    """ProcessError, in all processes, names those whose `digest()` is not that of the others."""
    if _meeting is not None:
        _meeting.check_alike(digest())


def _own_device(name: str, where: Place) -> str:
    """The device of this process; ConfigError if there are fewer than processes."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ConfigError(
            f"--device {name} is for one process, not for {where.size}",
            "use --device auto, cuda or cpu: with cuda each process takes a GPU of its own",
        )
    if name == "cpu":
        return name
    if (count := torch.cuda.device_count()) < where.local_size:
        raise ConfigError(
            f"{where.local_size} processes on {socket.gethostname()} share {count} GPU(s)",
            "start one process a GPU, or use --device cpu",
        )
    torch.cuda.set_device(where.local_rank)
    return f"cuda:{where.local_rank}"


def _watch_parent() -> None:
    """If what started this process is killed, ask it to stop as a scheduler would."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        with suppress(OSError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()
