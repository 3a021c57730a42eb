"""What stands in for the library's operations where it pays, and whether it pays here.

Networks are plain as they are made. `choose` says what is faster on a device, `apply` puts it in;
a copy of a network keeps it. Bits depend on the choice, so it is a plain record that a checkpoint
can hold, and what has to be measured is measured once a machine.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import nn

from ganctl.cache import cache_folder
from ganctl.errors import StorageError
from ganctl.models import pooling, winograd
from ganctl.models.attention import SelfAttention, chunked_attention, plain_attention
from ganctl.models.layers import (
    Conv2d,
    Convolve,
    LeakyReLUPool,
    PooledConv2d,
    UpsampleConv2d,
    plain_convolution,
    plain_leaky_relu_pool,
    plain_window_means,
)
from ganctl.runtime import Precision

PLAIN, WINOGRAD, CHUNKED, OWN_BACKWARD = "plain", "winograd", "chunked", "own backward"
GAIN = 0.9  # what Winograd's convolution may take of the library's time, to be worth its rounding
ROUNDS = 3  # of both in turns; the least time of each counts
LAYERS = ((128, 256, 5), (256, 256, 3))  # C_in, C_out, k: of `celeba64`'s D and `sagan-cifar10`'s
CPU_NAMES = {
    "vendor_id", "cpu family", "model", "model name", "cache size", "CPU implementer", "CPU part",
}  # fmt: skip


class Swaps(NamedTuple):
    """What each kind of operation is computed with."""

    convolution: str = PLAIN  # or WINOGRAD
    attention: str = PLAIN  # or CHUNKED
    pooling: str = PLAIN  # or OWN_BACKWARD

    @classmethod
    def recorded(cls, record: Mapping[str, object]) -> Self:
        """Of `_asdict()`, or of what another version wrote: plain where it is not known here."""
        known = {"convolution": WINOGRAD, "attention": CHUNKED, "pooling": OWN_BACKWARD}
        return cls(**{name: swap for name, swap in known.items() if record.get(name) == swap})


def choose(device: torch.device, precision: Precision, *networks: nn.Module) -> Swaps:
    """What is faster for `networks` there; the same on one machine every time.

    The first time that a network has layers for Winograd's convolution, that takes half a second.
    """
    if device.type != "cpu":
        return Swaps()
    if precision != "fp32":
        return Swaps(attention=CHUNKED, pooling=OWN_BACKWARD)
    worth = any(winograd.worth(shape) for network in networks for shape in _kernels(network))
    return Swaps(WINOGRAD if worth and winograd_pays() else PLAIN, pooling=OWN_BACKWARD)


def found_in(*networks: nn.Module) -> Swaps:
    """What `networks` compute with."""
    used = {
        getattr(module, name, None)
        for network in networks
        for module in network.modules()
        for name in ("convolve", "attend", "window_means", "activate_and_pool")
    }
    own = used & {pooling.window_means, pooling.leaky_relu_pool}
    return Swaps(
        WINOGRAD if winograd.convolve in used else PLAIN,
        CHUNKED if chunked_attention in used else PLAIN,
        OWN_BACKWARD if own else PLAIN,
    )


def apply(swaps: Swaps, *networks: nn.Module) -> None:
    """Let `networks` compute with `swaps`, from now on; `Swaps()` makes them plain again."""
    own = swaps.pooling == OWN_BACKWARD
    convolve: Convolve = winograd.convolve if swaps.convolution == WINOGRAD else plain_convolution
    for module in (module for network in networks for module in network.modules()):
        if isinstance(module, Conv2d | UpsampleConv2d):
            module.convolve = convolve
        if isinstance(module, UpsampleConv2d | PooledConv2d):
            module.window_means = pooling.window_means if own else plain_window_means
        if isinstance(module, LeakyReLUPool):
            module.activate_and_pool = pooling.leaky_relu_pool if own else plain_leaky_relu_pool
        if isinstance(module, SelfAttention):
            chunked = swaps.attention == CHUNKED
            module.attend = chunked_attention if chunked else plain_attention


def winograd_pays() -> bool:
    """Whether Winograd's convolution is faster than the library's on this machine.

    Measured once and kept in the cache folder; where nothing can be kept, for this process.
    """
    try:
        folder = cache_folder() / "winograd"
    except StorageError:
        folder = Path(os.devnull)  # in which nothing can be kept
    return _remembered(_machine(), folder)


@lru_cache
def _remembered(machine: str, folder: Path) -> bool:
    path = folder / f"{hashlib.blake2b(machine.encode(), digest_size=8).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        if isinstance(pays := json.loads(path.read_text())["pays"], bool):
            return pays
    ratio = measured_ratio()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        text = json.dumps({"machine": machine, "ratio": ratio, "pays": ratio <= GAIN})
        temporary.write_text(text)
        temporary.replace(path)
    return ratio <= GAIN


@torch.enable_grad()
def measured_ratio() -> float:
    """What Winograd's convolution takes of the library's time, forward and backward.

    In processor time of one thread, so that it does not depend on what else the machine is doing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        operations = (winograd.convolve, plain_convolution)
        rounds = [[_seconds(convolve) for convolve in operations] for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    ours, plain = (min(times) for times in zip(*rounds, strict=True))
    return ours / plain


def _seconds(convolve: Convolve) -> float:
    total = 0.0
    for c_in, c_out, kernel in LAYERS:
        x = torch.ones(4, c_in, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
        weight = torch.ones(c_out, c_in, kernel, kernel, requires_grad=True)
        started_at = time.thread_time()
        y = convolve(x, weight, None)
        torch.autograd.grad(y, (x, weight), y.detach())
        total += time.thread_time() - started_at
    return total


def _machine() -> str:
    """What the answer depends on: the processor, and the library."""
    lines = [platform.machine(), platform.processor()]
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        pairs = [line.split(":", 1) for line in first.splitlines() if ":" in line]
        lines += [value.strip() for name, value in pairs if name.strip() in CPU_NAMES]
    capability = torch.backends.cpu.get_cpu_capability()
    return " / ".join([*lines, capability, f"torch {torch.__version__}"])


def _kernels(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """Shapes of the weights that the network's layers convolve with."""
    for module in network.modules():
        if isinstance(module, Conv2d):
            yield (module.out_channels, module.in_channels, *module.kernel_size)
        elif isinstance(module, UpsampleConv2d) and module.kernel_size == (5, 5):
            yield (4 * module.out_channels, module.in_channels, 3, 3)
