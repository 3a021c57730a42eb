"""Where and in which arithmetic a run computes, and where its random numbers come from."""

import ctypes
import hashlib
import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ganctl.errors import ConfigError

# Spelled out again in settings/sections.py, which must not import torch.
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names of glibc's malloc.h

BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # Intel and AMD, Intel, ARM
DEVICES = ("auto", "cpu", "cuda", "mps")  # or one of several GPUs: cuda:1
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # products of numbers rounded to 10 bits of fraction, summed in fp32
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """The device called `name`; auto is the first of CUDA, MPS and CPU that is there."""
    kind, _, index = name.partition(":")
    numbered = re.fullmatch(r"cuda:\d{1,3}", name)
    if not numbered and name not in DEVICES:
        hint = f"use {', '.join(DEVICES)}, or cuda:N for one of several GPUs"
        raise ConfigError(f"there is no device {name!r}", hint)
    counts = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        return torch.device(next((kind for kind, count in counts.items() if count), "cpu"))
    if counts.get(kind) == 0:
        raise ConfigError(f"this machine has no {kind} device", hint="use --device auto or cpu")
    if index and int(index) >= counts[kind]:
        hint = f"its devices are cuda:0 to cuda:{counts[kind] - 1}"
        raise ConfigError(f"this machine has no {name} device", hint)
    return torch.device(name)


def choose_precision(name: str, device: torch.device) -> Precision:
    """auto made definite: bf16 where the device computes faster in it, else fp32."""
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 is not for CPUs", hint="use --precision auto, bf16 or fp32")
    if name == "tf32" and device.type != "cuda":
        hint = "use --precision auto, bf16 or fp32"
        raise ConfigError("tf32 is for NVIDIA's GPUs", hint)
    for precision in DTYPES:
        if name == precision:
            return precision
    if name != "auto":
        hint = f"use auto, {', '.join(DTYPES)}"
        raise ConfigError(f"there is no precision {name!r}", hint)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Run convolutions and matrix products in `precision`; weights and losses stay fp32."""
    if DTYPES[precision] == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the precision of the operands, whatever surrounds it."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device has none
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def prepare(
    device: torch.device, precision: Precision = "fp32", *, deterministic: bool = False
) -> None:
    """Settings of the device that hold for the whole process; fp32 is not rounded to tf32.

    `deterministic` forbids operations that add in an order of their own, and the search for the
    fastest convolution: then a GPU repeats its bytes.
    """
    if torch.are_deterministic_algorithms_enabled() != deterministic:  # setting it takes seconds
        torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS needs for that
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.benchmark = not deterministic
    elif device.type == "cpu":
        _keep_freed_memory()


@contextmanager
def without_tf32() -> Iterator[None]:
    """While entered, fp32 is not rounded to tf32, whatever `prepare` allowed."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on the device, without making the host wait for the copy."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def random_stream(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A generator that is a pure function of its arguments, on the CPU for every device.

    All noise, order and initial weights come from such streams, so an interrupted run draws what
    an uninterrupted one would, and looking at a run draws nothing from it.
    """
    name = f"{seed}/{purpose}/{'/'.join(map(str, position))}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def random_words(seed: int, purpose: str, first: int, count: int, width: int) -> np.ndarray:
    """(count, width) uint64: rows `first` and following of an endless table of random words.

    The table is a pure function of seed and purpose, and each of its rows can be had at once: row i
    is the same however many rows are asked for together. (Philox, a generator that counts: Salmon
    et al. 2011, https://doi.org/10.1145/2063384.2063405. It makes four words at a time, so a row
    begins at a multiple of four.)
    """
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    blocks = -(-width // 4)
    words = np.random.Philox(key=int.from_bytes(digest, "little"), counter=first * blocks)
    return words.random_raw(count * blocks * 4).reshape(count, blocks * 4)[:, :width]


def random_uniform(seed: int, purpose: str, first: int, count: int, width: int) -> np.ndarray:
    """(count, width) float64 in [0, 1), from the rows of `random_words`."""
    return (random_words(seed, purpose, first, count, width) >> 11) * 2.0**-53


def random_normal(seed: int, purpose: str, first: int, count: int, width: int) -> np.ndarray:
    """(count, width) fp32, standard normal: Box and Muller's transform of `random_uniform`."""
    pairs = random_uniform(seed, purpose, first, count, 2 * -(-width // 2))
    radius, angle = np.sqrt(-2 * np.log1p(-pairs[:, ::2])), 2 * np.pi * pairs[:, 1::2]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return normal[:, :width].astype(np.float32)


def fingerprint(device: torch.device) -> dict[str, str | int]:
    """What the bytes of a result depend on besides configuration and data."""
    return {
        "torch": str(torch.__version__),  # a plain string, as a checkpoint needs
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: the most this process has held, on the GPU if it has one, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if os.name != "posix":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def synchronize(device: torch.device) -> None:
    """Wait for what the device has been given to do, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, instead of returning them to the system.

    Every step frees and asks for the same blocks; fetching them anew means clearing each page
    first, which took a tenth of an fp32 step. Other C libraries than glibc do as they do.
    """
    library = ctypes.CDLL(None)
    if platform.libc_ver()[0] == "glibc":
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 itself: without such instructions bf16 is slower.

    Known from the processor's flags (Linux; elsewhere the answer is no), because a measurement
    depends on what else the machine is doing.
    """
    try:
        flags = cpuinfo.read_text().split()
    except OSError:
        return False
    return not BF16_FLAGS.isdisjoint(flags)
