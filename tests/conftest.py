"""What tests share: one thread, a cache of their own, tiny networks, a few real files."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from ganctl.cli.app import main
from ganctl.data.batches import Batches
from ganctl.data.faces import draw_face
from ganctl.models import spectral
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.settings.strict_yaml import Value
from ganctl.training.inputs import Inputs, StepInputs
from tests.browser import Browser, program

pytest_plugins = ["tests.scores.stand_ins"]  # fixtures of that room
torch.set_num_threads(1)  # many small tests are faster so, and bytes do not depend on the machine

TINY: dict[str, Value] = {
    "model.width": 8, "model.latent_dim": 8, "optim.batch_size": 4, "train.precision": "fp32",
    "train.steps": 4, "train.log_every": 2, "train.preview_every": 4, "train.checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, at the same place for all tests of a process: `trained` needs it there."""
    folder = tmp_path_factory.getbasetemp() / "test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own cache and current folder; children use one thread as well."""
    monkeypatch.setenv("GANCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("GANCTL_DEBUG", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """A small faces32 configuration; keyword `optim__d_steps_per_g=2` changes a setting."""

    def make(**changes: Value) -> Config:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return replace(presets.load("faces32"), {**TINY, **named})

    return make


N_CLASSES = 3  # of the images that `batches_of` gives to a conditional model


@pytest.fixture
def tiny_resnet() -> Callable[..., Config]:
    """A small sagan-cifar10 configuration: residual, conditional, with attention."""

    def make(**changes: Value) -> Config:
        named = {name.replace("__", "."): value for name, value in changes.items()}
        return replace(presets.load("sagan-cifar10"), {**TINY, "optim.d_steps_per_g": 1, **named})

    return make


@pytest.fixture
def faces() -> np.ndarray:
    """(12, 32, 32, 3) uint8: small drawn faces."""
    return np.stack([np.asarray(draw_face(i, 32)) for i in range(12)])


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    """A folder of three classes, with 5, 4 and 3 small PNG files."""
    folder = tmp_path / "clothes"
    for i in range(12):
        name = ("boot", "dress", "shirt")[0 if i < 5 else 1 if i < 9 else 2]
        (folder / name).mkdir(parents=True, exist_ok=True)
        draw_face(i, 40).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 12 small PNG files, some of them one level down."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(12):
        draw_face(i, 40).save(folder / ("more" if i % 3 == 0 else ".") / f"{i:02}.png")
    return folder


@pytest.fixture
def without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are made of tensors that have none: power iterations at their start are in vain."""
    monkeypatch.setattr(spectral, "START_ITERATIONS", 1)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what `trained` has made."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def trained(tmp_path: Path, kept: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """`ganctl train` with some arguments, for tests of what comes afterwards.

    It trains once with the same arguments in the same folder, and later copies what it left there.
    """

    def train(*arguments: str) -> None:
        digest = hashlib.sha256(repr(arguments).encode())
        for path in sorted(tmp_path.rglob("*")):
            digest.update(repr((path, path.read_bytes() if path.is_file() else "")).encode())
        copy = kept / digest.hexdigest()
        if copy.exists():
            here = Path.cwd()
            shutil.rmtree(tmp_path)
            shutil.copytree(copy, tmp_path, symlinks=True)
            os.chdir(here)
        else:
            assert main(["train", *arguments]) == 0
            shutil.copytree(tmp_path, copy, symlinks=True)
        capsys.readouterr()

    return train


def batches_of(images: np.ndarray, config: Config, device: str = "cpu") -> Batches:
    """The stream of real images that `config` describes."""
    labels = np.arange(len(images)) % N_CLASSES if config.model.conditional else None
    return Batches(
        images, labels=labels, seed=config.train.seed, flip=config.data.flip, dequantize=config.data.dequantize,
        device=torch.device(device),
    )  # fmt: skip


def inputs_of(images: np.ndarray, config: Config, device: str = "cpu") -> Inputs:
    """The inputs of every step of a run on these images."""
    classes = N_CLASSES if config.model.conditional else 0
    return Inputs(config, batches_of(images, config, device), classes)


def given(images: np.ndarray, config: Config, step: int = 0, device: str = "cpu") -> StepInputs:
    """The inputs of one step."""
    return inputs_of(images, config, device).of(step)


class Silent:
    """A watcher that shows nothing."""

    def stepped(self, step: int) -> None: ...

    def measured(self, row: Mapping[str, object]) -> None: ...

    def saved(self, step: int, path: str) -> None: ...


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; the tests that need one are skipped where there is none."""
    path = program()
    if path is None:
        pytest.skip("there is no Chromium")
    made = Browser(path, tmp_path_factory.mktemp("browser"))
    yield made
    made.close()
