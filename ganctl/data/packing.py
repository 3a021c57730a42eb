"""Decoding a source once, with all cores, into one flat file of uint8 pixels that is then mapped.

A pack is a folder in the cache: `images.u8`, the pixels of N images as (N, R, R, 3) bytes, and
`index.json`. Its name is a digest of the source's key and the preparation settings.
"""

import hashlib
import json
import math
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ganctl.cache import cache_folder
from ganctl.data.decoding import fit
from ganctl.data.sources import Source
from ganctl.errors import DataError, StorageError
from ganctl.store.durable import sync, write_text

VERSION = 1  # of the pixels: raise it when decoding, cropping or resizing changes them
CHUNK = 256  # images a worker decodes at a time
ALONE = 1024  # up to this many images, starting workers costs more than it saves
BUILDING = ".building-"  # a pack that is being built; host, process and a random part follow
UNREADABLE_FILES, UNREADABLE_SHARE = 10, 0.1  # tolerated: the larger of the two

Progress = Callable[[int, int], None]  # images done, of how many


@dataclass(frozen=True)
class Skipped:
    """A file that was left out."""

    name: str
    reason: str


@dataclass(frozen=True)
class PackedImages:
    """Prepared images: (N, R, R, 3) uint8, read-only; and what identifies them."""

    images: np.ndarray
    fingerprint: str  # of the pixels, whatever the files are called and wherever they are
    skipped: list[Skipped]
    index: Path | None = None  # the cache's index.json, which lists all that was skipped


def pack(source: Source, resolution: int, crop: int | None, progress: Progress) -> PackedImages:
    """The images of `source` from the cache, or decoded into it now.

    Raises DataError if too many files are unreadable, StorageError if the cache cannot be written.
    """
    settings = f"{VERSION}\0{resolution}\0{crop}\0{source.key()}"
    folder = cache_folder() / "packed" / hashlib.sha256(settings.encode()).hexdigest()[:32]
    known = (folder / "index.json").is_file()
    if not known:
        try:
            _build(source, resolution, crop, folder, progress)
        except OSError as error:
            hint = "GANCTL_CACHE=FOLDER chooses another place"
            raise StorageError(f"cannot write the image cache {folder}: {error}", hint) from error
    return _open(folder, resolution, verify=known)


def decode_some(source: Source, resolution: int, crop: int | None, count: int) -> PackedImages:
    """The first `count` readable images, in memory: nothing is written."""
    readable, skipped = [], []
    for index in range(len(source)):
        image = _prepare(source, index, resolution, crop)
        if isinstance(image, Skipped):
            skipped.append(image)
        else:
            readable.append(image)
        if len(readable) == count:
            break
    if not readable:
        raise DataError(f"none of the {len(source)} images can be read")
    return PackedImages(np.stack(readable), fingerprint="", skipped=skipped)


def _build(
    source: Source, resolution: int, crop: int | None, folder: Path, progress: Progress
) -> None:
    """Write the pack under a temporary name, then rename it: a pack is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    prefix = f"{BUILDING}{platform.node()}-{os.getpid()}-"
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        pixels = building / "images.u8"
        skipped = _decode_all(source, resolution, crop, pixels, progress)
        n = len(source) - len(skipped)
        _check_skipped([skipped[index] for index in sorted(skipped)], len(source))
        _close_gaps(pixels, set(skipped), len(source), resolution**2 * 3)
        index = {
            "n": n,
            "fingerprint": _fingerprint(pixels),
            "skipped": [asdict(skipped[index]) for index in sorted(skipped)],
        }
        sync(pixels)
        write_text(building / "index.json", json.dumps(index, indent=1))
        sync(building)
        if not folder.exists():
            building.rename(folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _open(folder: Path, resolution: int, *, verify: bool) -> PackedImages:
    try:
        index = json.loads((folder / "index.json").read_text())
        skipped = [Skipped(**entry) for entry in index["skipped"]]
        shape = (index["n"], resolution, resolution, 3)
        pixels = folder / "images.u8"
        whole = pixels.stat().st_size == math.prod(shape)
        if not whole or (verify and _fingerprint(pixels) != index["fingerprint"]):
            raise ValueError("images.u8 is not what index.json says")
        images = np.memmap(pixels, dtype=np.uint8, mode="r", shape=shape)
        return PackedImages(images, index["fingerprint"], skipped, folder / "index.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the image cache {folder} is damaged: {error}", hint="delete that folder and try again"
        ) from error


def _sweep(packs: Path) -> None:
    """Delete what processes of this machine that are no more left half-built."""
    for path in packs.glob(f"{BUILDING}*"):
        host, *owner = path.name.removeprefix(BUILDING).rsplit("-", 2)
        if host == platform.node() and owner[0].isdigit() and not _alive(int(owner[0])):
            shutil.rmtree(path, ignore_errors=True)


def _fingerprint(pixels: Path) -> str:
    with pixels.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _decode_all(
    source: Source, resolution: int, crop: int | None, pixels: Path, progress: Progress
) -> dict[int, Skipped]:
    """Write image i at its place in `pixels` for every i; returns what could not be read."""
    total = len(source)
    with pixels.open("wb") as file:
        os.truncate(file.fileno(), total * resolution**2 * 3)
    chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
    workers = min(os.cpu_count() or 1, len(chunks))
    skipped: dict[int, Skipped] = {}
    done = 0
    if workers == 1 or total <= ALONE:
        for chunk in chunks:
            skipped |= _decode_chunk(source, resolution, crop, pixels, chunk)
            done += len(chunk)
            progress(done, total)
        return skipped
    # spawn: a forked child of a process that has run torch could hang in its thread pools.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _ignore_interrupts)
    try:
        arguments = (source, resolution, crop, pixels)
        futures = {pool.submit(_decode_chunk, *arguments, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            skipped |= future.result()
            done += len(futures[future])
            progress(done, total)
    except BrokenProcessPool as error:
        hint = "look at the system's log: it may have been killed for want of memory"
        raise DataError("a process that was decoding images died", hint) from error
    finally:
        pool.shutdown(cancel_futures=True)
    return skipped


def _decode_chunk(
    source: Source, resolution: int, crop: int | None, pixels: Path, chunk: range
) -> dict[int, Skipped]:
    skipped = {}
    with pixels.open("r+b") as file:
        for index in chunk:
            image = _prepare(source, index, resolution, crop)
            if isinstance(image, Skipped):
                skipped[index] = image
            else:
                file.seek(index * image.nbytes)
                file.write(image.tobytes())
    return skipped


def _prepare(source: Source, index: int, resolution: int, crop: int | None) -> np.ndarray | Skipped:
    """(resolution, resolution, 3) uint8, or why there is none."""
    try:
        return fit(source.read(index), resolution, crop)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise nearly anything for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        return Skipped(source.name(index), reason[:200])


def _check_skipped(skipped: list[Skipped], total: int) -> None:
    tolerated = max(UNREADABLE_FILES, UNREADABLE_SHARE * total)
    if len(skipped) > tolerated or len(skipped) == total:
        examples = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        raise DataError(
            f"{len(skipped)} of {total} images cannot be read ({examples})",
            hint="remove or replace the damaged files; a few are left out by themselves",
        )


def _close_gaps(pixels: Path, skipped: set[int], total: int, size: int) -> None:
    """Move images down over the places of those left out, and cut the file to what remains."""
    if not skipped:
        return
    with pixels.open("r+b") as file:
        kept = 0
        for index in range(total):
            if index in skipped:
                continue
            if index != kept:
                file.seek(index * size)
                image = file.read(size)
                file.seek(kept * size)
                file.write(image)
            kept += 1
        file.truncate(kept * size)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of the terminal; only the first is to act on it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
