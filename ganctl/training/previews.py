"""The pictures that a run writes while it trains."""

import logging

import numpy as np
import torch

from ganctl.errors import StorageError
from ganctl.models import Generator
from ganctl.models.spectral import normalized
from ganctl.runtime import upload
from ganctl.sampling.pictures import enlarged, grid, save_png, to_uint8
from ganctl.settings.config import Config
from ganctl.store.runs import Run
from ganctl.training.inputs import Latents, latents

PREVIEWS = 64  # images in a preview grid ...
PREVIEW_BATCH = 16  # ... drawn so many at a time
ROWS, COLUMNS = 10, 8  # with classes: at most so many of them, and images of each

log = logging.getLogger("ganctl")


@torch.no_grad()
def save_preview(
    average: Generator, config: Config, run: Run, step: int, device: torch.device
) -> None:
    """A grid of the same latents each time, through the averaged generator.

    With classes a row is a class and a column a latent vector.
    """
    n_classes = average.n_classes
    z = latents(config, 0, "preview", 0, PREVIEWS).z
    parts = [Latents(upload(part, device), None) for part in z.split(PREVIEW_BATCH)]
    if n_classes > 0:
        row = upload(z[:COLUMNS], device)
        shown = torch.linspace(0, n_classes - 1, min(n_classes, ROWS)).round().long()
        parts = [Latents(row, upload(label.repeat(COLUMNS), device)) for label in shown]
    with normalized(average):
        images = [to_uint8(average(*part)) for part in parts]
    _save(np.concatenate(images), run, f"{step:09}.png")


def save_reals(images: np.ndarray, run: Run) -> None:
    """A grid of real images (B, H, W, 3) uint8, for comparison."""
    _save(images, run, "reals.png")


def _save(images: np.ndarray, run: Run, name: str) -> None:
    columns = COLUMNS if len(images) % COLUMNS == 0 else None
    try:
        run.check_place()
        save_png(enlarged(grid(images, columns)), run.samples / name, run.run_id)
    except OSError as error:  # losing a picture must not end a run
        log.warning("the picture %s was not written: %s", name, error.strerror)
    except StorageError as error:
        log.warning("the picture %s was not written: %s", name, error.message)
