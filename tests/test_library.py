"""ganctl from Python: the README's example, and names that import nothing before they are used."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ganctl
from ganctl import session
from ganctl.cli.app import main
from ganctl.settings.config import Config
from tests.cli.test_cli import TINY


def test_a_model_draws_the_images_of_the_command(photos: Path) -> None:
    assert main(["train", "--data", str(photos), *TINY, "--run", "r"]) == 0
    assert main(["sample", "r", "--seeds", "3,5", "--out", "drawn"]) == 0
    model = ganctl.load("r")
    images = model.draw([3, 5])
    assert images.shape == (2, 3, 32, 32)
    assert images.abs().max() <= 1
    for image, seed in zip(images, (3, 5), strict=True):
        saved = np.asarray(Image.open(f"drawn/seed-{seed:09}.png")).transpose(2, 0, 1)
        assert np.abs((image.numpy() + 1) * 127.5 - saved).max() <= 0.51
    assert model.step == 2
    assert model.score(images).shape == (2,)
    for seeds in ([], [-1]):
        with pytest.raises(ValueError, match="seeds must be"):
            model.draw(seeds)
    assert not torch.equal(ganctl.load("r/ckpt.pt", raw=True).draw([3]), images[:1])


def test_a_conditional_model_is_given_labels_and_no_other_is(clothes: Path, photos: Path) -> None:
    small = ["--set", "model.width=8", "--batch-size", "4", "--steps", "1"]
    conditional = ["--preset", "sngan-cifar10-cond", "--set", "optim.lr_decay=null"]
    assert main(["train", *conditional, "--data", str(clothes), *small, "--run", "c"]) == 0
    assert main(["train", "--data", str(photos), *TINY, "--run", "u"]) == 0
    model = ganctl.load("c")
    assert model.classes == ["boot", "dress", "shirt"]
    assert model.draw([1, 1], labels=[0, 2]).shape == (2, 3, 32, 32)
    with pytest.raises(ValueError, match="needs labels"):
        model.draw([1])
    with pytest.raises(ValueError, match="takes no labels"):
        ganctl.load("u").draw([1], labels=[0])


def test_a_session_takes_steps_and_writes_nothing(
    photos: Path, tiny: Callable[..., Config]
) -> None:
    begun = ganctl.new(tiny(data__source=str(photos)), "cpu")
    losses = [begun.step().d.loss.item() for _ in range(3)]
    assert begun.state.step == 3
    assert len(set(losses)) == 3
    assert not list(Path.cwd().iterdir())


def test_importing_ganctl_imports_no_torch_and_unknown_names_are_errors() -> None:
    code = (
        "import sys, ganctl; print('torch' in sys.modules, hasattr(ganctl, 'trian'), ganctl.preset)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False <function load")


def test_a_file_of_features_is_found_from_any_folder(tiny: Callable[..., Config]) -> None:
    Path("weights.pt").write_bytes(b"")
    config = tiny(score__every=2, score__features="weights.pt")
    assert session.located(config).score.features == str(Path("weights.pt").resolve())
    unscored = tiny(score__every=0, score__features="weights.pt")
    assert session.located(unscored).score.features == "weights.pt"
