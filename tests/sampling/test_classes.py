"""Classes as a user meets them, from folders of images to images of a chosen class."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganctl.cli.app import main
from ganctl.cli.points import parse_classes
from ganctl.data.faces import draw_face
from ganctl.errors import ConfigError
from ganctl.sampling.draw import Batch, Point, write
from ganctl.sampling.pictures import grid
from ganctl.store import checkpoint

TINY = [
    "--preset", "sagan-cifar10", "--set", "model.width=8", "--set", "model.latent_dim=8",
    "--set", "optim.d_steps_per_g=1", "--set", "train.checkpoint_every=1",
    "--batch-size", "4", "--precision", "fp32",
]  # fmt: skip
Capture = pytest.CaptureFixture[str]
NAMES = ["boot", "dress", "shirt"]


@pytest.fixture
def run(clothes: Path, trained: Callable[..., None]) -> Path:
    """A finished tiny conditional run in ./run."""
    trained("--data", str(clothes), *TINY, "--steps", "2", "--run", "run")
    return Path("run")


def drawn(*options: str) -> dict[str, np.ndarray]:
    """The arrays that `ganctl sample run --out x.npz` writes."""
    assert main(["sample", "run", "--out", "x.npz", "--force", *options]) == 0
    with np.load("x.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_classes_are_in_the_checkpoint_and_the_images_no_longer_needed(
    run: Path, clothes: Path
) -> None:
    for path in clothes.rglob("*.png"):
        path.unlink()
    arrays = drawn("--seeds", "4,9")
    assert arrays["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert arrays["seeds"].tolist() == [4, 9] * 3
    assert len({image.tobytes() for image in arrays["images"]}) == 6


def test_a_class_is_chosen_by_name_or_number(run: Path) -> None:
    every = drawn("--seeds", "0-1")["images"]
    by_name = drawn("--class", "shirt,boot", "--seeds", "0-1")
    assert by_name["labels"].tolist() == [2, 2, 0, 0]
    assert np.array_equal(by_name["images"], every[[4, 5, 0, 1]])
    assert np.array_equal(drawn("--class", "1-2", "-n", "4")["images"], every[2:])


def test_a_grid_has_one_row_a_class_with_the_same_seeds(run: Path) -> None:
    assert main(["sample", "run", "-n", "15", "--out", "x.png", "--scale", "1"]) == 0
    images = drawn("--seeds", "0-4")["images"]
    assert np.array_equal(np.asarray(Image.open("x.png")), grid(images, columns=5))
    assert np.asarray(Image.open("x.png")).shape[:2] == (3 * 32, 5 * 32)
    preview = np.asarray(Image.open("run/samples/000000002.png"))
    assert preview.shape == (3 * 32 * 2, 8 * 32 * 2, 3)  # enlarged: 512 pixels wide


@pytest.mark.parametrize("out", ["x.zip", "folder"])
def test_images_that_would_get_one_name_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    for repeated in (["--seeds", "3,3"], ["--seeds", "3", "--class", "1,1"]):
        assert main(["sample", "run", *repeated, "--out", out]) == 2
        assert f"seed 3 is there twice, and images in {out}" in capsys.readouterr().err
        assert not Path(out).exists()
    assert main(["sample", "run", "--seeds", "3,3", "--out", "x.npz"]) == 0


def test_so_many_images_are_drawn_as_are_asked_for(run: Path) -> None:
    """Of all classes together; a row of the grid is a class all the same, with gaps."""
    three, seven = drawn("-n", "3"), drawn("-n", "7")
    assert three["labels"].tolist() == [0, 1, 2]
    assert seven["labels"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert seven["seeds"].tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert drawn("-n", "2")["labels"].tolist() == [0, 1]
    assert len(drawn()["images"]) == 66  # nothing asked for: full rows
    assert main(["sample", "run", "-n", "7", "--out", "x.png", "--scale", "1"]) == 0
    cells = np.asarray(Image.open("x.png")).reshape(3, 32, 3, 32, 3).swapaxes(1, 2)
    assert np.array_equal(cells[1, 1], seven["images"][4])
    assert np.array_equal(cells[2, 0], seven["images"][5])
    assert (cells[1, 2] == 255).all() and (cells[2, 2] == 255).all()


def test_files_lie_in_a_folder_for_each_class(run: Path) -> None:
    assert main(["sample", "run", "-n", "6", "--out", "x.zip"]) == 0
    with zipfile.ZipFile("x.zip") as archive:
        assert sorted(archive.namelist()) == [
            f"{number:03}-{name}/seed-{seed:09}.png"
            for number, name in enumerate(NAMES)
            for seed in (0, 1)
        ]


def test_a_hostile_name_of_a_class_stays_inside_the_folder(tmp_path: Path) -> None:
    classes = ["../../up", "/etc", "a\x00b\n", ""]
    points = [Point(number, number) for number in range(4)]
    images = np.stack([np.asarray(draw_face(number, 32)) for number in range(4)])
    write([Batch(points, images)], 4, tmp_path / "out", None, classes)
    made = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert made == [
        "out/000--up/seed-000000000.png", "out/001--etc/seed-000000001.png",
        "out/002-a-b-/seed-000000002.png", "out/003-/seed-000000003.png",
    ]  # fmt: skip


def test_the_way_goes_through_the_chosen_classes(run: Path, capsys: Capture) -> None:
    way = ["sample", "run", "--class", "dress,boot", "--interpolate", "3"]
    assert main([*way, "--seeds", "5,5", "--out", "x.png"]) == 0
    row = np.asarray(Image.open("x.png"))
    assert row.shape == (32 * 6, 3 * 32 * 6, 3)
    row = row[::6, ::6]
    first = drawn("--class", "dress", "--seeds", "5")["images"][0]
    assert np.abs(row[:, :32].astype(int) - first).max() <= 1
    assert main([*way, "--seeds", "5,6", "--out", "x.gif"]) == 0
    with Image.open("x.gif") as film:
        assert film.n_frames == 3  # type: ignore[attr-defined]
    capsys.readouterr()
    assert main(way) == 0
    name = capsys.readouterr().out.strip()
    assert name == "run-step2-seeds0-4-class-dress,boot-interpolate3.png"


def test_inspect_sn_sees_the_table_of_the_projection_and_not_those_of_batch_norm(
    run: Path, capsys: Capture
) -> None:
    assert main(["inspect-sn", "run", "--json"]) == 0
    layers = {
        f"{x['network']}.{x['layer']}": x for x in json.loads(capsys.readouterr().out)["layers"]
    }
    assert layers["d.projection"]["shape"] == [3, 8]
    assert layers["d.projection"]["normalized"]
    assert not [name for name in layers if "norm1" in name or "scale" in name]


MISTAKES = [
    (["sample", "run", "--class", "dres"], 2, "there is no class 'dres'", "did you mean dress?"),
    (["sample", "run", "--class", "x"], 2, "there is no class 'x'", "boot, dress, shirt"),
    (["sample", "run", "--class", "1-3"], 2, "there is no class 3", "0 to 2: boot, dress, shirt"),
    (["sample", "run", "--class", ","], 2, "there is no class ''", "boot, dress, shirt"),
    (["sample", "run", "--interpolate", "0"], 2, "--interpolate is 0", ""),
    (["sample", "run", "--interpolate", "4", "-n", "1"], 2, "--interpolate needs two seeds", "--seeds 0-4"),
    (["train", *TINY, "--data", "faces"], 4, "the built-in faces have no classes", "conditional=false"),
    (["train", *TINY, "--data", "{clothes}/boot"], 4, "5 images in", "one folder a class"),
    (["train", *TINY, "--data", "{clothes}/.."], 4, "the images in", "perhaps --data"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "code", "message", "hint"), MISTAKES, ids=lambda v: str(v)[:40]
)
def test_a_mistake_with_classes_gets_one_sentence_and_a_hint(
    run: Path, clothes: Path, capsys: Capture, command: list[str], code: int, message: str, hint: str
) -> None:  # fmt: skip
    if command[-1].endswith("/.."):  # a folder with nothing but the folder of classes
        (clothes.parent / "upper").mkdir()
        clothes = clothes.rename(clothes.parent / "upper" / "clothes")
    capsys.readouterr()
    assert main([part.replace("{clothes}", str(clothes)) for part in command]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith(("error", "hint"))]
    assert lines[0].startswith(f"error: {message}")
    assert hint in "".join(lines[1:])
    assert not Path("runs").exists()


def test_resume_refuses_images_whose_classes_have_changed(
    run: Path, clothes: Path, capsys: Capture
) -> None:
    (clothes / "boot").rename(clothes / "boots")
    assert main(["resume", "run", "--steps", "3"]) == 4
    assert "are not those that run was trained on" in capsys.readouterr().err
    (clothes / "boots").rename(clothes / "boot")
    assert main(["resume", "run", "--steps", "3"]) == 0


def test_resume_refuses_one_image_that_moved_to_another_class(
    run: Path, clothes: Path, capsys: Capture
) -> None:
    """The pixels and their order stay the same, so only the classes can tell."""
    last = sorted((clothes / "boot").iterdir())[-1]
    last.rename(clothes / "dress" / "00.png")
    assert main(["resume", "run", "--steps", "3"]) == 4
    assert "are not those that run was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "x.pt: its model is conditional, but it names no classes"),
        (["a"] * 100_000, "x.pt: generator has"),
        (NAMES[:2], "x.pt: generator.blocks.0.norm1.scale.weight is torch.float32 (3, 16), not"),
        ([1, 2, 3], "x.pt: its metadata is bad at data.classes.0"),
    ],
)
def test_a_file_that_lies_about_its_classes_is_refused(
    run: Path, capsys: Capture, classes: list[object], message: str
) -> None:
    payload, metadata = checkpoint.read(run / "checkpoints" / "step-000000002.pt")
    del payload["metadata"]
    metadata["data"]["classes"] = classes
    with Path("x.pt").open("x+b") as file:
        checkpoint._write_archive(file, payload, metadata)
    assert main(["sample", "x.pt"]) == 3
    assert f"error: {message}" in capsys.readouterr().err


def test_classes_by_name_and_number() -> None:
    assert parse_classes(None, NAMES) == [0, 1, 2]
    assert parse_classes("shirt, 0,1-2", NAMES) == [2, 0, 1, 2]
    assert parse_classes("7", ["6", "7", "8"]) == [1]  # a name, if one is spelt like a number
    assert parse_classes(None, []) == [None]
    with pytest.raises(ConfigError, match="know no classes"):
        parse_classes("dress", [])
