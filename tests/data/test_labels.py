"""The class of each image, from every kind of source, and what is refused."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganctl.data.labels import Labels, class_names, labels_of
from ganctl.data.packing import decode_some, pack
from ganctl.data.sources import ArraySource, FaceSource, FolderSource, Source, ZipSource
from ganctl.errors import DataError

EXPECTED = [0] * 5 + [1] * 4 + [2] * 3


def labelled(source: Source, attribute: str | None = None) -> Labels:
    names = class_names(source, attribute)
    return labels_of(source, pack(source, 32, None, lambda _done, _total: None), names)


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, prefix + str(file.relative_to(folder)))
    return path


def test_folders_are_classes_in_the_order_of_their_names(clothes: Path) -> None:
    labels = labelled(FolderSource(clothes))
    assert labels.classes == ("boot", "dress", "shirt")
    assert labels.numbers.tolist() == EXPECTED


@pytest.mark.parametrize("prefix", ["", "clothes/", "a/b/"])
def test_a_zips_folders_are_classes_below_what_holds_everything(clothes: Path, prefix: str) -> None:
    labels = labelled(ZipSource(zipped(clothes, prefix)))
    assert labels.classes == ("boot", "dress", "shirt")
    assert labels.numbers.tolist() == EXPECTED


def test_a_file_that_is_left_out_takes_its_label_along(clothes: Path) -> None:
    (clothes / "boot" / "02.png").write_bytes(b"no image")
    labels = labelled(FolderSource(clothes))
    assert labels.numbers.tolist() == EXPECTED[1:]
    source = FolderSource(clothes)
    few = labels_of(source, decode_some(source, 32, None, 6), class_names(source, None))
    assert few.numbers.tolist() == [0, 0, 0, 0, 1, 1]


def test_a_data_sets_own_classes(faces: np.ndarray) -> None:
    labels = labelled(ArraySource(faces, ["frog", "cat", "dog"] * 4, "x"))
    assert labels.classes == ("cat", "dog", "frog")
    assert labels.numbers.tolist() == [2, 0, 1] * 4


def move_deeper(clothes: Path) -> None:
    (clothes.parent / "train").mkdir()
    for folder in list(clothes.iterdir()):
        folder.rename(clothes.parent / "train" / folder.name)
    (clothes.parent / "train").rename(clothes / "train")


def keep_one(clothes: Path) -> None:
    for name in ("dress", "shirt"):
        for file in (clothes / name).iterdir():
            file.unlink()


def add_loose(clothes: Path) -> None:
    (clothes / "boot" / "00.png").rename(clothes / "00.png")


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "too deep": (move_deeper, "one folder too deep, for example train/", "--data .*clothes/train"),
    "one class": (keep_one, "all images have one class, 'boot'", "model.conditional=false"),
    "loose": (add_loose, "1 images in .* lie in no class folder, for example 00.png", "one folder a class"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_layout_without_classes_is_named_with_a_way_out(case: str, clothes: Path) -> None:
    spoil, message, hint = REFUSED[case]
    spoil(clothes)
    with pytest.raises(DataError, match=message) as caught:
        labelled(FolderSource(clothes))
    assert re.search(hint, caught.value.hint or "")


def test_the_drawn_faces_have_no_classes() -> None:
    with pytest.raises(DataError, match="the built-in faces have no classes"):
        labelled(FaceSource(4, 64))


def table(folder: Path, text: str) -> None:
    (folder / "list_attr_celeba.txt").write_text(text)


def celeba_table(values: list[str]) -> str:
    rows = [f"{i:02}.png {value}" for i, value in enumerate(values)]
    return "\n".join([str(len(rows)), "Bald Smiling", *rows]) + "\n"


def test_a_data_set_with_classes_of_its_own_has_no_attribute(faces: np.ndarray) -> None:
    with pytest.raises(DataError, match="x has no attribute 'Smiling'"):
        class_names(ArraySource(faces, ["frog", "cat", "dog"] * 4, "x"), "Smiling")


def test_an_attribute_of_celeba_is_the_class(clothes: Path) -> None:
    values = ["-1  1", "-1 -1"] * 6
    table(clothes.parent, celeba_table(values))
    for source in (FolderSource(clothes), ZipSource(zipped(clothes))):
        labels = labelled(source, "Smiling")
        assert labels.classes == ("Smiling", "not Smiling")
        assert labels.numbers.tolist() == [0, 1] * 6


@pytest.mark.parametrize(
    ("attribute", "text", "message", "hint"),
    [
        ("Smiling", None, "there is no list_attr_celeba.txt", "comes with CelebA"),
        ("Smilling", celeba_table(["1 1"] * 12), "CelebA has no attribute 'Smilling'", "did you mean Smiling"),
        ("Smiling", celeba_table(["1 1"] * 11), "says nothing of 11.png", "CelebA's"),
        ("Smiling", celeba_table(["1 5"] * 12), "says nothing of 00.png", "CelebA's"),
        ("Smiling", celeba_table(["1"] * 12), "is not CelebA's table", "again"),
        ("Smiling", "", "is not CelebA's table", "again"),
        ("Bald", celeba_table(["1 1"] * 12), "all images have one class, 'Bald'", "two classes"),
    ],
)  # fmt: skip
def test_a_bad_attribute_is_named(
    clothes: Path, attribute: str, text: str | None, message: str, hint: str
) -> None:
    if text is not None:
        table(clothes, text)
    with pytest.raises(DataError, match=message) as caught:
        labelled(FolderSource(clothes), attribute)
    assert hint in (caught.value.hint or "")
