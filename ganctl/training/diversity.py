"""How varied a generator's images are, against real ones."""

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganctl.data.batches import Batches
from ganctl.models import Generator
from ganctl.models.spectral import normalized
from ganctl.runtime import autocast, upload
from ganctl.settings.config import Config
from ganctl.training.inputs import latents

PROBES = 64  # images whose diversity is measured ...
PROBE_BATCH = 16  # ... drawn so many at a time
LAYOUT = 8  # they are averaged to 8 x 8 first


class Diversity:
    """How varied the images from fixed noise are: 1 is as varied as real ones, 0 is all alike.

    It compares Vendi scores (Friedman and Dieng 2023, https://arxiv.org/abs/2210.02410, definition
    3.1), the exponential of the entropy of the eigenvalues of a similarity matrix: the number of
    images in a batch that differ. n images that are k images repeated score at most k, so it falls
    when all are alike and as well when a few modes are repeated, where a mean distance hardly
    moves; it needs no network. Two images are as similar as exp(-d^2 / 2 w^2), d their distance
    after averaging to 8 x 8 pixels (modes differ in layout and colour; detail and noise must not
    pass for variety), w half the median distance of real images that differ.
    """

    def __init__(self, config: Config, batches: Batches, n_classes: int) -> None:
        """The real images are the first of the run's stream; noise has a stream of its own."""
        count = min(PROBES, len(batches))
        self.config = config
        self.latents = latents(config, n_classes, "health", 0, count)
        self.device = batches.device
        real = layout(batches.at(0, count))
        distances = torch.pdist(real)
        distances = distances[distances > 0]  # repeated images must not make it 0
        self.width = distances.median().item() / 2 if len(distances) else 0.0
        self.real_score = vendi_score(real, self.width) if self.width else 1.0

    @torch.no_grad()
    def of(self, average: Generator) -> float | None:
        """Of the averaged generator, which samples come from and which is always in eval mode.

        None if the real images are all alike, or an image is not finite.
        """
        if not self.width:
            return None
        parts = [self.latents.z.split(PROBE_BATCH)]
        if self.latents.labels is not None:
            parts.append(self.latents.labels.split(PROBE_BATCH))
        drawn = []
        for part in zip(*parts, strict=True):
            given = (upload(tensor, self.device) for tensor in part)
            with normalized(average), autocast(self.device, self.config.train.precision):
                drawn.append(layout(average(*given)))
        images = torch.cat(drawn)
        if not images.isfinite().all():
            return None
        return round((vendi_score(images, self.width) - 1) / (self.real_score - 1), 4)


def layout(images: Tensor) -> Tensor:
    """(B, 3, R, R) -> (B, 192) float64 on the CPU: averaged to 8 x 8 pixels."""
    return adaptive_avg_pool2d(images.float(), LAYOUT).flatten(1).cpu().double()


def vendi_score(points: Tensor, width: float) -> float:
    """From 1, all points alike, to B, all far from each other; points: (B, D)."""
    similarity = torch.exp(-torch.cdist(points, points).square() / (2 * width**2))
    shares = torch.linalg.eigvalsh(similarity / len(points)).clamp(min=0)
    return math.exp(torch.special.entr(shares).sum().item())
