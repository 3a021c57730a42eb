"""What a case is played in: a run, images and files of other programs, and what must not change."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ganctl.cli.app import main
from ganctl.data.faces import draw_face

TINY = [
    "--set", "model.width=8", "--set", "model.latent_dim=4", "--batch-size", "2", "--precision", "fp32",
    "--device", "cpu",
]  # fmt: skip
OUTSIDE = "outside"  # beside the folder that commands run in: nothing in it ever changes
INSIDE = "inside"


def build(folder: Path) -> None:
    """Make the world: `inside` it the files that cases damage, `outside` what they must not."""
    inside, outside = folder / INSIDE, folder / OUTSIDE
    for made in (inside / "photos" / "a", inside / "photos" / "b", outside / "run" / "checkpoints"):
        made.mkdir(parents=True)
    for i in range(6):
        draw_face(i, 40).save(inside / "photos" / "ab"[i % 2] / f"{i}.png")
    with playing_in(folder):
        command = ["train", "--data", "photos", *TINY, "--set", "train.log_every=1"]
        saved = [*command, "--set", "train.checkpoint_every=1", "--steps", "2"]
        assert main([*saved, "--run", "runs/one"]) == 0
        shutil.copy("runs/one/checkpoints/step-000000002.pt", "x.pt")
        assert main(["export", "runs/one", "--to", "safetensors", "--out", "x.safetensors"]) == 0
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 2))
        torch.save(layers.state_dict(), "other.pth")
        with zipfile.ZipFile("photos.zip", "w") as archive:
            for path in sorted(Path("photos").rglob("*.png")):
                archive.write(path)
        shutil.copy("runs/one/config.yaml", "mine.yaml")
    (outside / "victim").write_text("not ganctl's\n")
    (outside / "run" / "run.json").write_text('{"id": "victim", "order": 1}\n')


@contextmanager
def playing_in(folder: Path) -> Iterator[None]:
    """Inside the world, with a cache of its own and no other settings of the environment."""
    before, here = dict(os.environ), Path.cwd()
    os.environ["GANCTL_CACHE"] = str((folder / INSIDE / "cache").absolute())
    os.environ["HOME"] = str((folder / INSIDE / "home").absolute())
    os.environ.pop("GANCTL_DEBUG", None)
    os.chdir(folder / INSIDE)
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def files(folder: Path) -> dict[str, bytes | str]:
    """All that is below `folder`: the bytes of files, where links lead, and what else there is."""
    found: dict[str, bytes | str] = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            key = str(path.relative_to(folder))
            if path.is_symlink():
                found[key] = f"a link to {os.readlink(path)}"
            elif path.is_file():
                found[key] = path.read_bytes()
            elif not path.is_dir():
                found[key] = "no regular file"
    return found
