"""Decoding a source once into one flat file of uint8 pixels, which batches are then read from.

A pack is a folder in the cache: `images.u8`, the pixels of N images as (N, R, R, 3) bytes, and
`index.json`. Its name is a digest of the source's key and the preparation settings.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ganctl.cache import cache_folder
from ganctl.data.chunks import Preparation, Skipped, decode_chunks
from ganctl.data.sources import Source
from ganctl.data.stored import ImageArray, StoredImages
from ganctl.errors import DataError, StorageError
from ganctl.progress import Progress
from ganctl.store.durable import sync, write_text

VERSION = 1  # of the pixels: raise it when decoding, cropping or resizing changes them
BUILDING = ".building-"  # a pack that is being built; host, process and a random part follow
UNREADABLE_FILES, UNREADABLE_SHARE = 10, 0.1  # tolerated: the larger of the two


@dataclass(frozen=True)
class PackedImages:
    """Prepared images: (N, R, R, 3) uint8, read-only; and what identifies them."""

    images: ImageArray
    fingerprint: str  # of the pixels, whatever the files are called and wherever they are
    skipped: list[Skipped]
    index: Path | None = None  # the cache's index.json, which lists all that was skipped


def pack(source: Source, resolution: int, crop: int | None, progress: Progress) -> PackedImages:
    """The images of `source` from the cache, or decoded into it now.

    Raises DataError if too many files are unreadable, StorageError if the cache cannot be written.
    """
    folder = _folder(source, resolution, crop)
    packed_before = (folder / "index.json").is_file()
    if not packed_before:
        try:
            _build(Preparation(source, resolution, crop), folder, progress)
        except OSError as error:
            hint = "GANCTL_CACHE=FOLDER chooses another place"
            raise StorageError(f"cannot write the image cache {folder}: {error}", hint) from error
    return _open(folder, resolution, verify=packed_before)


def opened(source: Source, resolution: int, crop: int | None) -> PackedImages:
    """The same images, if another process of this machine has just had them from `pack`."""
    return _open(_folder(source, resolution, crop), resolution, verify=False)


def decode_some(source: Source, resolution: int, crop: int | None, count: int) -> PackedImages:
    """The first `count` readable images, in memory: nothing is written."""
    preparation = Preparation(source, resolution, crop)
    readable, skipped = [], []
    for index in range(len(source)):
        image = preparation.image(index)
        if isinstance(image, Skipped):
            skipped.append(image)
        else:
            readable.append(image)
        if len(readable) == count:
            break
    if not readable:
        raise DataError(f"none of the {len(source):,} images can be read")
    return PackedImages(np.stack(readable), fingerprint="", skipped=skipped)


def _folder(source: Source, resolution: int, crop: int | None) -> Path:
    settings = f"{VERSION}\0{resolution}\0{crop}\0{source.key()}"
    return cache_folder() / "packed" / hashlib.sha256(settings.encode()).hexdigest()[:32]


def _build(preparation: Preparation, folder: Path, progress: Progress) -> None:
    """Write the pack under a temporary name, then rename it: a pack is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    prefix = f"{BUILDING}{platform.node()}-{os.getpid()}-"
    building = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        pixels = building / "images.u8"
        fingerprint, skipped = _decode_all(preparation, pixels, progress)
        _check_skipped(skipped, len(preparation.source))
        sync(pixels)
        index = {
            "n": len(preparation.source) - len(skipped),
            "fingerprint": fingerprint,
            "skipped": [asdict(entry) for entry in skipped],
        }
        write_text(building / "index.json", json.dumps(index, indent=1))
        sync(building)
        try:
            building.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
        sync(folder.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _decode_all(
    preparation: Preparation, pixels: Path, progress: Progress
) -> tuple[str, list[Skipped]]:
    """Fill `pixels` with the images that can be read; returns its fingerprint and the rest.

    Chunks are digested, and moved down over images left out, while the next ones are decoded.
    """
    total, image_bytes = len(preparation.source), preparation.image_bytes()
    digest, skipped, kept = hashlib.sha256(), list[Skipped](), 0
    with (
        pixels.open("w+b", buffering=0) as file,  # workers write to it meanwhile
        contextlib.closing(decode_chunks(preparation, pixels)) as chunks,
    ):
        for chunk in chunks:
            file.seek(chunk.images.start * image_bytes)
            content = np.frombuffer(file.read(len(chunk.images) * image_bytes), dtype=np.uint8)
            readable = [index not in chunk.skipped for index in chunk.images]
            images = content.reshape(len(chunk.images), image_bytes)[readable]
            digest.update(images.data)
            if kept + len(images) != chunk.images.stop:
                file.seek(kept * image_bytes)
                file.write(images.data)
            kept += len(images)
            skipped += [chunk.skipped[index] for index in sorted(chunk.skipped)]
            progress(chunk.images.stop, total)
        file.truncate(kept * image_bytes)
    return digest.hexdigest(), skipped


def _open(folder: Path, resolution: int, *, verify: bool) -> PackedImages:
    try:
        index = json.loads((folder / "index.json").read_text())
        skipped = [Skipped(**entry) for entry in index["skipped"]]
        shape = (index["n"], resolution, resolution, 3)
        pixels = folder / "images.u8"
        whole = pixels.stat().st_size == math.prod(shape)
        if not whole or (verify and _fingerprint(pixels) != index["fingerprint"]):
            raise ValueError("images.u8 is not what index.json says")
        return PackedImages(
            StoredImages(pixels, shape), index["fingerprint"], skipped, folder / "index.json"
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the image cache {folder} is damaged: {error}", hint="delete that folder and try again"
        ) from error


def _sweep(packs: Path) -> None:
    """Delete the half-built packs of processes that ran on this machine and have ended."""
    for path in packs.glob(f"{BUILDING}*"):
        host, *owner = path.name.removeprefix(BUILDING).rsplit("-", 2)
        if host == platform.node() and owner[0].isdigit() and not _alive(int(owner[0])):
            shutil.rmtree(path, ignore_errors=True)


def _fingerprint(pixels: Path) -> str:
    """The same digest as `_decode_all` takes, of a whole file."""
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


def _check_skipped(skipped: list[Skipped], total: int) -> None:
    tolerated = max(UNREADABLE_FILES, UNREADABLE_SHARE * total)
    if len(skipped) > tolerated or len(skipped) == total:
        examples = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        raise DataError(
            f"{len(skipped):,} of {total:,} images cannot be read ({examples})",
            hint="remove or replace the damaged files; a few would be left out without an error",
        )
