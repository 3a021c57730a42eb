"""Where images come from: a folder, a zip read in place, a named data set, or drawn faces.

Nothing here imports torch, so that the processes which decode images start quickly.
"""

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image

from ganctl.data import downloads
from ganctl.data.decoding import SUFFIXES, decode
from ganctl.data.faces import draw_face
from ganctl.errors import DataError

NAMED = ("faces", "celeba", "cifar10")
N_FACES = 20_000
OTHER_PICTURES = (".heic", ".heif", ".avif", ".tif", ".tiff", ".gif")  # which are not read
MAX_MEMBER_BYTES = 256 * 1024**2
MAX_RATIO = 200  # of a zip member's size to its compressed size; images hardly compress


class Source(Protocol):
    """Images in a fixed order. Must be picklable: other processes read from it."""

    def __len__(self) -> int: ...

    def key(self) -> str:
        """Changes when the images do; cheap to compute."""
        ...

    def name(self, index: int) -> str:
        """What to call an image in messages."""
        ...

    def read(self, index: int) -> Image.Image:
        """The image as RGB; a damaged one raises OSError, ValueError, SyntaxError or DataError."""
        ...


def open_source(where: str, resolution: int) -> Source:
    """The source that `--data WHERE` names; DataError says what was found instead."""
    match where:
        case "faces":
            return FaceSource(N_FACES, size=4 * resolution)
        case "celeba":
            return FolderSource(downloads.celeba())
        case "cifar10":
            return ArraySource(*downloads.cifar10(), "cifar10")
    path = found(where)
    if path is not None and path.is_dir():
        return FolderSource(path)
    if path is not None and path.is_file():
        return ZipSource(path)
    close = get_close_matches(where, NAMED, n=1)
    hint = f"did you mean {close[0]}?" if close else f"give a folder, a zip, or {', '.join(NAMED)}"
    raise DataError(f"there are no images at {where}: no such file or folder", hint)


def fetch(where: str) -> None:
    """Download the data set that `where` names, if it names one and that is not there yet."""
    if where == "celeba":
        downloads.celeba()
    elif where == "cifar10":
        downloads.cifar10()


def first_size(source: Source) -> tuple[int, int]:
    """Width and height of the first image that can be read; DataError if none can."""
    for index in range(len(source)):
        try:
            return source.read(index).size
        except MemoryError:
            raise
        except Exception:  # Pillow's parsers raise nearly anything for damaged files
            continue
    raise DataError(f"none of the {len(source):,} images can be read")


def found(where: str) -> Path | None:
    """The file or folder that `where` names, if there is one; ~ and ~NAME are homes."""
    # It may be too long for any file, lie in the home of nobody, or lead back to itself.
    with suppress(OSError, RuntimeError, ValueError):
        path = Path(where).expanduser()
        return path if path.exists() else None
    return None


class FolderSource:
    """All images below a folder, however deeply nested, in the order of their paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(_files_below(folder, ""))
        self.files = [file for file in files if _is_image(file[0])]
        if not self.files:
            raise _no_images(str(folder), [name for name, _, _ in files])
        self.others = _kinds(name for name, _, _ in files if not _is_image(name))

    def __len__(self) -> int:
        return len(self.files)

    def key(self) -> str:
        """Of names, sizes and times of change: a changed folder is a new source."""
        return _digest(f"{name}\0{size}\0{changed}" for name, size, changed in self.files)

    def name(self, index: int) -> str:
        return self.files[index][0]

    def read(self, index: int) -> Image.Image:
        with (self.folder / self.name(index)).open("rb") as file:
            return decode(file)


class ZipSource:
    """All images in a zip archive, which is read in place and never extracted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not zipfile.is_zipfile(path):
            hint = "give a folder of images or a .zip; a failed download is often a web page"
            raise DataError(f"{path} is not a zip archive", hint)
        try:
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise DataError(f"{path} is a damaged zip archive: {error}") from error
        self.members = sorted(
            (member.filename, member.CRC, member.file_size)
            for member in members
            if _is_image(member.filename) and not member.is_dir()
        )
        self.others = _kinds(m.filename for m in members if not _is_image(m.filename))
        for member in members:
            _check_member(member, path)
        repeated = [n for n, count in Counter(m.filename for m in members).items() if count > 1]
        if repeated:
            raise DataError(f"{path} holds {repeated[0]!r} twice", "make the archive again")
        if not self.members:
            raise _no_images(str(path), [member.filename for member in members])
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.members)

    def key(self) -> str:
        return _digest(f"{name}\0{crc}\0{size}" for name, crc, size in self.members)

    def name(self, index: int) -> str:
        return self.members[index][0]

    def read(self, index: int) -> Image.Image:
        try:
            with self._archive().open(self.name(index)) as file:
                return decode(file)
        except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter: odd compression
            raise DataError(str(error)) from error

    def _archive(self) -> zipfile.ZipFile:
        """Opened anew in each process: two processes must not share one file position."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.path))
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None}


class ArraySource:
    """Images that are already in memory: (N, H, W, 3) uint8."""

    def __init__(self, images: np.ndarray, classes: list[str], title: str) -> None:
        self.images = images
        self.classes = classes  # the name of each image's class
        self.title = title

    def __len__(self) -> int:
        return len(self.images)

    def key(self) -> str:
        return hashlib.sha256(self.images.tobytes()).hexdigest()

    def name(self, index: int) -> str:
        return f"{self.title} {index}"

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])


class FaceSource:
    """The first `count` built-in faces, drawn at size x size."""

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count

    def key(self) -> str:
        """Of a few drawn faces, so that a change in how they are drawn is a new source."""
        drawn = b"".join(draw_face(index, self.size).tobytes() for index in range(32))
        return _digest([f"{self.count}\0{self.size}\0{hashlib.sha256(drawn).hexdigest()}"])

    def name(self, index: int) -> str:
        return f"face {index}"

    def read(self, index: int) -> Image.Image:
        return draw_face(index, self.size)


def _files_below(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    """(path below the folder, bytes, time of change in ns); links to folders are not followed."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from _files_below(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.is_file():
                    status = entry.stat()
                    yield prefix + entry.name, status.st_size, status.st_mtime_ns
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse what no honest archive of images holds."""
    name = PurePosixPath(member.filename)
    reasons = {
        "it leads out of the archive": name.is_absolute() or ".." in name.parts,
        "its name has a backslash": "\\" in member.orig_filename,
        "it is encrypted": bool(member.flag_bits & 1),
        "it is a link": stat.S_ISLNK(member.external_attr >> 16),
        "it is too large": member.file_size > MAX_MEMBER_BYTES,
        "it inflates too much": member.file_size > MAX_RATIO * max(member.compress_size, 1024),
    }
    for reason, refused in reasons.items():
        if refused:
            raise DataError(f"{path}: refused the member {member.filename!r}: {reason}")


def _no_images(where: str, names: list[str]) -> DataError:
    suffixes, looked_for = _kinds(names), " ".join(SUFFIXES)
    found = ", ".join(f"{count} x {suffix}" for suffix, count in suffixes.most_common(4))
    hint = "give the folder or zip that holds the images, at any depth"
    if pictures := [suffix for suffix in suffixes if suffix in OTHER_PICTURES]:
        hint = f"convert the {' and '.join(pictures)} files to PNG or JPEG"
    return DataError(
        f"there are no images in {where} (looked for {looked_for}; found {found or 'no files'})",
        hint,
    )


def _kinds(names: Iterable[str]) -> Counter[str]:
    """How many files there are of each suffix, in small letters."""
    return Counter(PurePosixPath(name).suffix.lower() or "no suffix" for name in names)


def _digest(lines: Iterator[str] | list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
