"""The two data sets that torchvision can download, and the way out when it cannot."""

import contextlib
import os
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

import numpy as np

from ganctl.cache import cache_folder
from ganctl.errors import DataError, shell_quoted

CELEBA_FILES = 202_599

Downloaded = TypeVar("Downloaded")


def celeba() -> Path:
    """The folder of CelebA's 202,599 aligned 178 x 218 JPEG files, downloaded if need be.

    DataError if there are fewer, as when it was ended while it unpacked them.
    """
    root = cache_folder() / "downloads"
    folder = root / "celeba" / "img_align_celeba"
    if not folder.is_dir():
        from torchvision.datasets import CelebA

        hint = (
            "get img_align_celeba.zip with a browser, from the CelebA page of the Multimedia"
            " Laboratory (CUHK), and give it: --data img_align_celeba.zip"
        )
        _download(lambda: CelebA(root, split="all", download=True), "CelebA", hint)
    if (found := len(os.listdir(folder))) < CELEBA_FILES:
        hint = f"unpacking it was cut short: delete {shell_quoted(folder)}, and run this again"
        raise DataError(f"CelebA has {CELEBA_FILES:,} images, but {folder} {found:,}", hint)
    return folder


def cifar10() -> tuple[np.ndarray, list[str]]:
    """CIFAR-10's training images, (50000, 32, 32, 3) uint8, and the name of each one's class.

    Downloaded if need be.
    """
    from torchvision.datasets import CIFAR10

    root = cache_folder() / "downloads"
    hint = f"put cifar-10-python.tar.gz into {root}, or give a folder of images: --data FOLDER"
    data = _download(lambda: CIFAR10(root, download=True), "CIFAR-10", hint)
    return np.asarray(data.data), [data.classes[target] for target in data.targets]


def _download(fetch: Callable[[], Downloaded], title: str, hint: str) -> Downloaded:
    """What `fetch` returns, its chatter on stderr; torchvision's errors become one sentence."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return fetch()
    except (OSError, RuntimeError, ImportError, ValueError, HTTPException) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise DataError(f"{title} could not be downloaded: {reason}", hint) from error
