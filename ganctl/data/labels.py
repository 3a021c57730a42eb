"""The class of each image: its folder, its data set's own, or one of CelebA's attributes."""

import hashlib
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import numpy as np

from ganctl.data.packing import PackedImages
from ganctl.data.sources import ArraySource, FolderSource, Source, ZipSource
from ganctl.errors import DataError

UNCONDITIONAL = "or train without classes: --set model.conditional=false"
ATTRIBUTES = "list_attr_celeba.txt"  # CelebA's table, as its authors call it


@dataclass(frozen=True)
class Labels:
    """Which class each of N images has."""

    classes: tuple[str, ...]  # their names, in the order of their numbers
    numbers: np.ndarray  # (N,) int64, each from 0 to len(classes) - 1

    def fingerprint(self) -> str:
        """Changes when the class of an image does."""
        return hashlib.sha256(self.numbers.tobytes()).hexdigest()


def labels_of(source: Source, packed: PackedImages, names: list[str]) -> Labels:
    """The classes of the images of `packed`, which come from `source` and have `class_names`."""
    left_out = {entry.name for entry in packed.skipped}
    kept = [name for i, name in enumerate(names) if source.name(i) not in left_out]
    classes = tuple(sorted(set(names)))
    number = {name: index for index, name in enumerate(classes)}
    numbers = np.array([number[name] for name in kept[: len(packed.images)]], dtype=np.int64)
    return Labels(classes, numbers)


def class_names(source: Source, attribute: str | None) -> list[str]:
    """The name of each image's class, in the order of `source`.

    DataError if images have none, or all the same.
    """
    names = _class_names(source, attribute)
    if len(set(names)) == 1:
        hint = f"a conditional model needs two classes or more; {UNCONDITIONAL}"
        raise DataError(f"all images have one class, {names[0]!r}", hint)
    return names


def _class_names(source: Source, attribute: str | None) -> list[str]:
    if isinstance(source, ArraySource):
        if attribute is not None:
            hint = "leave it out: --set data.attribute=null"
            raise DataError(f"{source.title} has no attribute {attribute!r}, but classes", hint)
        return source.classes
    if not isinstance(source, FolderSource | ZipSource):
        hint = f"give a folder with one folder a class, or cifar10; {UNCONDITIONAL}"
        raise DataError("the built-in faces have no classes", hint)
    where = source.folder if isinstance(source, FolderSource) else source.path
    names = [source.name(index) for index in range(len(source))]
    if attribute is not None:
        return _attribute(names, where, attribute)
    return _folders(names, where)


def _folders(names: list[str], where: Path) -> list[str]:
    """The folder right below `where` that holds each image."""
    parts = [PurePosixPath(name).parts for name in names]
    if where.is_file():  # archives often hold one folder with all the rest
        while len({path[0] for path in parts}) == 1 and all(len(path) > 2 for path in parts):
            parts = [path[1:] for path in parts]
    layout = "a conditional model needs one folder a class, with its images right in it"
    if all(len(path) > 2 for path in parts):
        first = parts[0][0]
        deeper = f"--data {where / first}" if where.is_dir() else f"an archive of {first}"
        raise DataError(
            f"the images in {where} lie one folder too deep, for example {names[0]}",
            hint=f"{layout}: perhaps {deeper}; {UNCONDITIONAL}",
        )
    loose = [name for name, path in zip(names, parts, strict=True) if len(path) == 1]
    if loose:
        raise DataError(
            f"{len(loose):,} images in {where} lie in no class folder, for example {loose[0]}",
            hint=f"{layout}; {UNCONDITIONAL}",
        )
    return [path[0] for path in parts]


def _attribute(names: list[str], where: Path, attribute: str) -> list[str]:
    """`attribute` or `not attribute`, by the table beside the images."""
    places = [folder / ATTRIBUTES for folder in (where, where.parent, where.parent.parent)]
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        hint = "it comes with CelebA; put it beside the images"
        raise DataError(f"there is no {ATTRIBUTES} in {where} or beside it", hint)
    try:
        _, header, *rows = table.read_text().splitlines()
        attributes = header.split()
        if attribute not in attributes:
            close = get_close_matches(attribute, attributes, n=1)
            hint = f"did you mean {close[0]}?" if close else f"CelebA has {', '.join(attributes)}"
            raise DataError(f"CelebA has no attribute {attribute!r}", hint)
        column = attributes.index(attribute) + 1
        values = {row.split()[0]: row.split()[column] for row in rows if row.strip()}
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{table} is not CelebA's table of attributes", "get it again") from error
    files = [PurePosixPath(name).name for name in names]
    missing = [file for file in files if values.get(file) not in ("1", "-1")]
    if missing:
        raise DataError(
            f"{table} says nothing of {missing[0]}", f"it must be CelebA's; {UNCONDITIONAL}"
        )
    return [attribute if values[file] == "1" else f"not {attribute}" for file in files]
