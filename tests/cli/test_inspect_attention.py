"""`ganctl inspect-attention` as a user types it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganctl.cli.app import main
from ganctl.data.faces import draw_face
from ganctl.insight.attention_sheet import CAPTION, GAP, HEADER, HEADING, LABELS, LEGEND, MARGIN
from ganctl.store import checkpoint

TINY = [
    "--set", "model.width=8", "--set", "model.latent_dim=8", "--batch-size", "4", "--precision", "fp32",
    "--steps", "1", "--set", "optim.d_steps_per_g=1",
]  # fmt: skip
FIGURES = {
    "network", "block", "data", "images", "gamma", "queries", "keys", "entropy", "entropy_share",
    "effective_positions", "distance", "uniform_distance", "image_change", "score", "score_shift", "score_change",
    "image_change_uniform", "score_change_uniform", "score_spread", "verdict",
}  # fmt: skip
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of an unconditional convnet, a conditional resnet and one without attention."""
    folder = tmp_path_factory.mktemp("made")
    for i in range(12):
        place = folder / "clothes" / ("boot", "dress", "shirt")[i % 3]
        place.mkdir(parents=True, exist_ok=True)
        draw_face(i, 40).save(place / f"{i:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANCTL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        train = ["train", "--data", "clothes", *TINY]
        assert main([*train, "--run", "run"]) == 0
        assert main([*train, "--preset", "sagan-cifar10", "--run", "classes"]) == 0
        assert main([*train, "--set", "model.attention.at=[]", "--run", "none"]) == 0
    shutil.rmtree(folder / "cache")
    return folder


@pytest.fixture
def here(made: Path, capsys: Capture) -> None:
    """Copies of the runs and images in the current folder."""
    shutil.copytree(made, ".", dirs_exist_ok=True, symlinks=True)
    capsys.readouterr()


def tree(folder: str) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def size_of(columns: int, *rows: int) -> tuple[int, int]:
    """Width and height of a picture with so many rows in each section."""
    width = 2 * MARGIN + LABELS + columns * (160 + GAP) - GAP
    return width, sum(
        MARGIN + HEADING + LEGEND + HEADER + n * (160 + CAPTION) for n in rows
    ) + MARGIN


@pytest.mark.usefixtures("here")
def test_a_picture_and_a_table_and_nothing_changed(capsys: Capture) -> None:
    before = tree("run")
    assert main(["inspect-attention", "run", "-n", "8", "--data", "clothes"]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[-1] == "run-step1-attention-n8-dataclothes.png"
    for words in (
        "g.stages.1.attention",
        "d.stages.0.attention",
        "real",
        "of 64",
        "of max",
        "px",
        "score",
        "of 255",
    ):
        assert words in out
    with Image.open("run-step1-attention-n8-dataclothes.png") as picture:
        picture.load()
        assert picture.size == size_of(7, 6, 6, 6)
    assert tree("run") == before


@pytest.mark.usefixtures("here")
def test_json_is_one_object_with_each_block_and_the_picture(capsys: Capture) -> None:
    command = [
        "inspect-attention",
        "run",
        "-n",
        "5",
        "--rows",
        "2",
        "--data",
        "clothes",
        "--json",
        "--out",
        "x.png",
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"checkpoint", "step", "picture", "blocks"}
    assert (found["step"], found["picture"]) == (1, "x.png")
    seen = [(block["network"], block["data"], block["images"]) for block in found["blocks"]]
    assert seen == [("g", "generated", 5), ("d", "generated", 5), ("d", "real", 5)]
    for block in found["blocks"]:
        assert set(block) == FIGURES
        assert (block["queries"], block["keys"]) == (256, 64)
        assert 0 < block["entropy_share"] <= 1.0001
        assert (block["score"] is None) == (block["network"] == "g")
        assert (block["image_change"] is None) == (block["network"] == "d")
    with Image.open("x.png") as picture:
        assert picture.size == size_of(7, 2, 2, 2)


@pytest.mark.usefixtures("here")
def test_named_queries_and_raw_weights(capsys: Capture) -> None:
    base = [
        "inspect-attention",
        "run",
        "--network",
        "g",
        "--seeds",
        "3,5",
        "--query",
        "1,2",
        "--query",
        "31, 0",
    ]
    assert main([*base, "--json"]) == 0
    averaged = json.loads(capsys.readouterr().out)
    assert averaged["picture"] == "run-step1-attention-networkg-seeds3,5-query1,2-31,-0.png"
    assert averaged["blocks"][0]["images"] == 2
    with Image.open(averaged["picture"]) as picture:
        assert picture.size == size_of(5, 2)
    assert main([*base, "--json", "--raw"]) == 0
    raw = json.loads(capsys.readouterr().out)
    assert raw["picture"].endswith("-raw.png")
    assert raw["blocks"] != averaged["blocks"]


@pytest.mark.usefixtures("here")
def test_classes_are_taken_in_turn_by_name_or_number(capsys: Capture) -> None:
    scores = []
    for chosen in ("shirt,0", "2,boot", "0,2", "0-2"):
        command = ["inspect-attention", "classes", "--network", "d", "--class", chosen, "-n", "4"]
        assert main([*command, "--json"]) == 0
        (block,) = json.loads(capsys.readouterr().out)["blocks"]
        assert block["images"] == 4
        scores.append(block["score"])
    assert scores[0] == scores[1]
    assert len(set(scores)) == 3


@pytest.mark.usefixtures("here")
def test_real_images_have_the_numbers_of_the_checkpoints_classes(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Without boots a dress is still class 1, and a shirt class 2."""
    from ganctl.insight import attention_maps

    given: list[torch.Tensor] = []
    original = attention_maps.inspect_blocks

    def recorded(network: object, batches: object, **options: object) -> object:
        parts = list(batches)  # type: ignore[call-overload]
        given.extend(labels for _, labels in parts if options["data"] == "real")
        return original(network, parts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention_maps, "inspect_blocks", recorded)
    shutil.rmtree("clothes/boot")
    assert (
        main(["inspect-attention", "classes", "--network", "d", "-n", "9", "--data", "clothes"])
        == 0
    )
    assert sorted(torch.cat(given).tolist()) == [1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.usefixtures("here")
def test_an_image_is_enough_though_the_run_was_augmented() -> None:
    """A run with adaptive augmentation needs some to hold out; a look at D does not."""
    Path("many").mkdir()
    for number in range(64):
        draw_face(number, 32).save(f"many/{number}.png")
    options = ["--set", "augment.policy=[colour]", "--run", "augmented"]
    assert main(["train", "--data", "many", *TINY, *options]) == 0
    for path in sorted(Path("clothes/boot").iterdir())[1:]:
        path.unlink()
    look = ["inspect-attention", "augmented", "--network", "d", "--data", "clothes/boot"]
    assert main(look) == 0


MISTAKES = [
    (["run", "--query", "5"], 2, "--query '5' is not x,y", "--query 12,20"),
    (["run", "--query", "32,3"], 2, "--query 32,3 is outside of the images of 32 x 32 pixels", "0 to 31"),
    (["run", "--query", "3,99"], 2, "--query 3,99 is outside", "0 to 31"),
    (["run", "--query=-1,3"], 2, "--query '-1,3' is not x,y", ""),
    (["run", *["--query", "1,1"] * 9], 2, "--query is given 9 times, but at most 8 fit", ""),
    (["run", "--network", "x"], 2, "--network is 'x'", ""),
    (["run", "--network", "g", "--data", "clothes"], 2, "--data is for D, but --network is g", "leave one"),
    (["run", "-n", "0"], 2, "-n is 0", ""),
    (["run", "--rows", "0"], 2, "--rows is 0", ""),
    (["run", "--rows", "65"], 2, "--rows is 65", ""),
    (["run", "--seeds", "x"], 2, "--seeds 'x' is not a list", ""),
    (["run", "--class", "dress"], 2, "--class: this checkpoint's networks know no classes", ""),
    (["classes", "--class", "dres"], 2, "there is no class 'dres'", "did you mean dress?"),
    (["classes", "--class", "3"], 2, "there is no class 3", "0 to 2"),
    (["none"], 2, "there is no attention block in either network of none/", "model.attention.at"),
    (["none", "--network", "d"], 2, "there is no attention block in D of none/", "model.attention.at"),
    (["run", "--out", "x.jpg"], 2, "the picture is a PNG file, but --out is x.jpg", "--out x.png"),
    (["run", "--out", "here.png"], 2, "here.png exists", "--force"),
    (["run", "--out", "no/x.png"], 5, "cannot write no/x.png: there is no folder no", ""),
    (["run", "--data", "nowhere"], 4, "there are no images at nowhere", "a folder, a zip"),
    (["classes", "--data", "clothes/boot"], 4, "4 images in clothes/boot lie in no class folder", ""),
    (["classes", "--data", "shoes"], 4, "shoes has a class 'sandal'", "boot, dress, shirt"),
    (["nowhere"], 3, "there is no run nowhere", ""),
]  # fmt: skip


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("options", "code", "message", "hint"), MISTAKES, ids=lambda v: str(v)[:40]
)
def test_a_mistake_gets_one_sentence_and_its_exit_code_and_writes_nothing(
    capsys: Capture, options: list[str], code: int, message: str, hint: str
) -> None:
    Path("here.png").write_bytes(b"mine")
    shutil.copytree("clothes/dress", "shoes/dress")
    shutil.copytree("clothes/boot", "shoes/sandal")
    before = tree(".")
    assert main(["inspect-attention", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith(("looking", "preparing"))]
    assert re.fullmatch(rf"error: {re.escape(message)}.*", lines[0])
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert hint in "".join(lines[1:])
    assert tree(".") == before


@pytest.mark.usefixtures("here")
def test_force_replaces_the_picture_and_a_bare_checkpoint_is_enough() -> None:
    Path("here.png").write_bytes(b"mine")
    shutil.copy("run/ckpt.pt", "alone.pt")
    for name in ("run", "clothes"):
        shutil.rmtree(name)
    assert main(["inspect-attention", "alone.pt", "-n", "1", "--out", "here.png", "--force"]) == 0
    with Image.open("here.png") as picture:
        assert picture.size == size_of(7, 1, 1)
    checkpoint.verify(Path("alone.pt"))


@pytest.mark.usefixtures("here")
def test_figures_that_are_not_finite_are_refused(capsys: Capture) -> None:
    """A weight of all zeros is finite, but divided by its norm it is not."""
    path = Path("zeros.pt")
    payload, metadata = checkpoint.read(Path("run/ckpt.pt"))
    payload["discriminator"]["stages.0.attention.key.parametrizations.weight.original"].zero_()
    del metadata["format"]
    checkpoint.write(path, payload, metadata)
    assert main(["inspect-attention", "zeros.pt"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "error: zeros.pt: d.stages.0.attention computes values that are not finite" in err
    assert not list(Path().glob("*.png"))
