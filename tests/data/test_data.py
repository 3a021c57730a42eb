"""From files to packed pixels: every mode and orientation, damage, archives, the cache."""

import io
import os
import platform
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from ganctl.cache import cache_folder
from ganctl.data import downloads, packing
from ganctl.data.decoding import decode, fit
from ganctl.data.faces import describe, draw_face
from ganctl.data.packing import PackedImages, pack
from ganctl.data.sources import ArraySource, FaceSource, FolderSource, ZipSource, open_source
from ganctl.errors import DataError, StorageError

RED = (255, 0, 0)


def ignore(done: int, total: int) -> None:
    pass


def packed(where: str | Path, crop: int | None = None) -> PackedImages:
    return pack(open_source(str(where), 32), 32, crop, ignore)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    file.seek(0)
    return file


def images_by_mode() -> dict[str, tuple[io.BytesIO, tuple[int, int, int]]]:
    """One-coloured files in every mode, and the RGB colour each must give."""
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    sixteen = Image.fromarray(np.full((4, 4), 0x8034, dtype=np.uint16))
    return {
        "RGB": (encoded(Image.new("RGB", (4, 4), RED)), RED),
        "L": (encoded(Image.new("L", (4, 4), 90)), (90, 90, 90)),
        "1": (encoded(Image.new("1", (4, 4), 1)), (255, 255, 255)),
        "LA clear": (encoded(Image.new("LA", (4, 4), (90, 0))), (255, 255, 255)),
        "LA solid": (encoded(Image.new("LA", (4, 4), (90, 255))), (90, 90, 90)),
        "RGBA clear": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), (255, 255, 255)),
        "RGBA half": (encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128))), (255, 127, 127)),
        "P": (encoded(palette), RED),
        "P clear": (encoded(palette, transparency=1), (255, 255, 255)),
        "RGB with one clear colour": (
            encoded(Image.new("RGB", (4, 4), RED), transparency=RED), (255, 255, 255),
        ),
        "CMYK": (encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100), (254, 0, 0)),
        "16 bit": (encoded(sixteen), (0x80, 0x80, 0x80)),
        "WEBP": (encoded(Image.new("RGB", (4, 4), RED), "WEBP", lossless=True), RED),
        "BMP": (encoded(Image.new("RGB", (4, 4), RED), "BMP"), RED),
    }  # fmt: skip


@pytest.mark.parametrize("mode", images_by_mode())
def test_every_mode_becomes_rgb_with_transparency_on_white(mode: str) -> None:
    file, colour = images_by_mode()[mode]
    image = decode(file)
    assert (image.mode, image.size) == ("RGB", (4, 4))
    assert np.abs(np.asarray(image).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (16, 8), "white")
    upright.paste(RED, (0, 0, 8, 4))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = upright if stored is None else upright.transpose(stored)
    assert np.array_equal(decode(encoded(image, exif=exif)), upright)


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(side: int) -> None:
    """Above our limit, above Pillow's warning and above its error."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(DataError, match="pixels"):
        decode(file)


def test_fit_takes_the_centre_square_and_resizes_with_antialiasing() -> None:
    image = Image.effect_noise((178, 218), 80).convert("RGB")
    expected = image.crop((0, 20, 178, 198)).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(fit(image, 64, 178), expected)
    assert np.array_equal(fit(image, 64, None), expected)
    smaller = image.crop((35, 55, 143, 163)).resize((64, 64), Image.Resampling.BILINEAR)
    assert np.array_equal(fit(image, 64, 108), smaller)
    assert np.array_equal(fit(image.crop((0, 0, 64, 64)), 64, None), image.crop((0, 0, 64, 64)))


def test_a_folder_is_packed_in_the_order_of_its_paths(photos: Path) -> None:
    result = packed(photos)
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    expected = [fit(Image.open(photos / name).convert("RGB"), 32, None) for name in names]
    assert np.array_equal(result.images, np.stack(expected))
    assert not result.skipped


def test_a_zip_gives_the_same_pixels_as_the_folder_it_was_made_of(photos: Path) -> None:
    archive = photos.parent / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in photos.rglob("*.png"):
            file.write(path, path.relative_to(photos))
        file.writestr("__MACOSX/._01.png", b"not an image")
        file.writestr("readme.txt", "hello")
    assert packed(archive).fingerprint == packed(photos).fingerprint


def test_a_second_start_decodes_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packed(photos)

    def never(*arguments: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(packing, "_build", never)
    assert np.array_equal(packed(photos).images, first.images)


def test_a_changed_folder_or_setting_makes_a_new_pack(photos: Path) -> None:
    first = packed(photos)
    assert packed(photos, crop=20).fingerprint != first.fingerprint
    draw_face(99, 40).save(photos / "99.png")
    grown = packed(photos)
    assert len(grown.images) == 13
    draw_face(98, 40).save(photos / "99.png")
    os.utime(photos / "99.png", ns=(1, 1))
    assert packed(photos).fingerprint not in (first.fingerprint, grown.fingerprint)


def test_damaged_files_are_left_out_and_listed_with_the_reason(photos: Path) -> None:
    good = packed(photos)
    whole = (photos / "01.png").read_bytes()
    (photos / "05-empty.png").write_bytes(b"")
    (photos / "05-text.jpg").write_text("hello")
    (photos / "05-cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (8, 8)).save(photos / "05.gif")
    (photos / "05.gif").rename(photos / "05-gif.png")
    result = packed(photos)
    names = ["05-cut.png", "05-empty.png", "05-gif.png", "05-text.jpg"]
    assert [entry.name for entry in result.skipped] == names
    assert all(entry.reason for entry in result.skipped)
    assert result.fingerprint == good.fingerprint


def test_too_many_damaged_files_are_an_error(photos: Path) -> None:
    for i in range(11):
        (photos / f"broken{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"11 of 23 images cannot be read \(broken0.png: "):
        packed(photos)
    assert not list(Path(os.environ["GANCTL_CACHE"]).rglob("images.u8"))


def test_what_was_found_instead_of_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"there are no images in .*found 1 x .txt"):
        open_source(str(tmp_path), 32)
    with pytest.raises(DataError, match="no such file or folder") as caught:
        open_source("celeb", 32)
    assert caught.value.hint == "did you mean celeba?"
    (tmp_path / "page.zip").write_text("<html>quota exceeded</html>")
    with pytest.raises(DataError, match="is not a zip archive"):
        open_source(str(tmp_path / "page.zip"), 32)


def bad_zip(tmp_path: Path, name: str, content: bytes = b"x", mode: int = 0) -> Path:
    path = tmp_path / "bad.zip"
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    member.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "mode", "reason"),
    [
        ("../evil.png", b"x", 0, "leads out"),
        ("/etc/evil.png", b"x", 0, "leads out"),
        ("link.png", b"/etc/passwd", 0o120777, "is a link"),
        ("bomb.png", bytes(1_000_000), 0, "inflates too much"),
    ],
)
def test_hostile_archives_are_refused(
    tmp_path: Path, name: str, content: bytes, mode: int, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        ZipSource(bad_zip(tmp_path, name, content, mode))


def test_a_member_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        file.writestr("a.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.png", b"2")
    with pytest.raises(DataError, match="twice"):
        ZipSource(tmp_path / "twice.zip")


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos.parent / "file").write_text("")
    monkeypatch.setenv("GANCTL_CACHE", str(photos.parent / "file" / "below"))
    with pytest.raises(StorageError, match="cannot write the image cache"):
        packed(photos)


def test_faces_are_a_function_of_their_number_and_symmetric_in_their_parts() -> None:
    assert np.array_equal(draw_face(5, 64), draw_face(5, 64))
    assert not np.array_equal(draw_face(5, 64), draw_face(6, 64))
    for index in range(40):
        image = np.asarray(draw_face(index, 100))
        face = describe(index)
        assert tuple(image[46, 38]) == tuple(image[46, 62]) == face.eyes


def test_arrays_and_faces_are_sources_too(faces: np.ndarray) -> None:
    assert np.array_equal(
        pack(ArraySource(faces, ["a"] * len(faces), "x"), 32, None, ignore).images, faces
    )
    assert len(pack(FaceSource(20, 64), 32, None, ignore).images) == 20


def test_key_of_a_folder_follows_its_files(photos: Path) -> None:
    before = FolderSource(photos).key()
    assert FolderSource(photos).key() == before
    (photos / "01.png").rename(photos / "renamed.png")
    assert FolderSource(photos).key() != before


@pytest.mark.parametrize("damage", ["index", "keys", "cut", "longer", "gone", "zeros", "a bit"])
def test_a_damaged_cache_is_said_and_not_trained_on(photos: Path, damage: str) -> None:
    source = open_source(str(photos), 16)
    index = pack(source, 16, None, ignore).index
    assert index is not None
    pixels = index.with_name("images.u8")
    if damage in ("index", "keys"):
        index.write_text("{" if damage == "index" else "{}")
    elif damage == "gone":
        pixels.unlink()
    else:
        content = pixels.read_bytes()
        pixels.write_bytes(
            {
                "cut": content[:-1], "longer": content + b"x", "zeros": bytes(len(content)),
                "a bit": bytes([content[0] ^ 1]) + content[1:],
            }[damage]
        )  # fmt: skip
    with pytest.raises(DataError, match=r"the image cache .* is damaged"):
        pack(source, 16, None, ignore)


@pytest.mark.parametrize("damage", ["cut", "unreadable"])
def test_a_cache_that_is_damaged_while_it_is_read_is_an_error_and_no_death(
    photos: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = packed(photos)
    assert result.index is not None
    if damage == "cut":
        os.truncate(result.index.with_name("images.u8"), 32 * 32 * 3 * 5 + 7)
    else:
        monkeypatch.setattr(os, "pread", lambda *_: os.read(-1, 1))
    with pytest.raises(DataError, match=r"was cut short|cannot be read: Bad file descriptor"):
        result.images[[7, 2]]


def test_stored_images_are_indexed_as_an_array_is(photos: Path) -> None:
    images = packed(photos).images
    array = np.asarray(images)
    assert (len(images), images.shape) == (12, array.shape)
    for which in (
        5,
        (slice(2, 9), slice(4, None, 8)),
        (3, 1),
        [3, 3, 0],
        np.array([5, 1]),
        slice(2, 9, 3),
        slice(-2, None),
        np.arange(12) % 2 == 0,
        [],
    ):
        assert np.array_equal(images[which], array[which])


def test_what_a_killed_process_left_half_packed_is_swept(photos: Path) -> None:
    packs = cache_folder() / "packed"
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = platform.node()
    left = packs / f".building-{host}-{child.pid}-abc"
    others = [
        packs / f".building-{host}-{os.getpid()}-abc", packs / f".building-gpu-{child.pid}-abc",
        packs / f".building-{host}-{child.pid}-{os.getpid()}-abc", packs / ".building-x",
    ]  # fmt: skip
    for folder in (left, *others):
        folder.mkdir(parents=True)
    pack(open_source(str(photos), 16), 16, None, ignore)
    assert not left.exists()
    assert all(folder.exists() for folder in others)


def test_damaged_exif_data_do_not_cost_the_image() -> None:
    """Every byte of them changed once, and cut anywhere."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "x"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExposureTime] = 0.5
    good = encoded(Image.new("RGB", (4, 8), RED), "JPEG", exif=exif).getvalue()
    start, end = good.index(b"Exif"), good.index(b"Exif") + len(exif.tobytes())
    for position in range(start, end):
        for value in (0, 1, 0x7F, 0xFF):
            changed = bytearray(good)
            changed[position] = value
            assert decode(io.BytesIO(changed)).size in ((4, 8), (8, 4))


def test_celeba_that_was_unpacked_in_part_is_not_taken_for_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "CELEBA_FILES", 3)
    folder = cache_folder() / "downloads" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for number in range(3):
        draw_face(number, 32).save(folder / f"{number}.png")
    assert downloads.celeba() == folder
    (folder / "0.png").unlink()
    with pytest.raises(DataError, match=r"CelebA has 3 images, but .* 2") as caught:
        downloads.celeba()
    assert caught.value.hint is not None and "delete" in caught.value.hint
