"""How varied a generator's images are, against real ones."""

import math
from statistics import mean

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ganctl.data.batches import Batches, Pixels
from ganctl.models import Generator
from ganctl.models.spectral import normalized
from ganctl.runtime import autocast, upload
from ganctl.settings.config import Config
from ganctl.training.inputs import Latents, latents

PROBES = 64  # images whose diversity is measured ...
PROBE_BATCH = 16  # ... drawn so many at a time
CLASSES, OF_CLASS = 4, 16  # classes whose own diversity is measured, and images of each
LAYOUT = 8  # they are averaged to 8 x 8 first


class Yardstick:
    """Real images that others are compared with."""

    def __init__(self, real: Tensor) -> None:
        """real: (B, 3, R, R) in [-1, 1], at least two."""
        points = layout(real)
        distances = torch.pdist(points)
        distances = distances[distances > 0]  # repeated images must not make it 0
        self.width = distances.median().item() / 2 if len(distances) else 0.0
        self.real_score = vendi_score(points, self.width) if self.width else 1.0

    def compared(self, points: Tensor) -> float:
        """How varied as many images, points of `layout`, are: 1 as the real ones, 0 all alike."""
        return (vendi_score(points, self.width) - 1) / (self.real_score - 1)


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
        self.yardstick = Yardstick(batches.at(0, count))

    @torch.no_grad()
    def of(self, average: Generator) -> float | None:
        """Of the averaged generator, which samples come from and which is always in eval mode.

        None if the real images are all alike, or an image is not finite.
        """
        if not self.yardstick.width:
            return None
        points = drawn(average, self.latents, self.config, self.device)
        return None if points is None else round(self.yardstick.compared(points), 4)


class ClassDiversity:
    """How varied images of one class are, against real ones of that class: the mean over classes.

    A conditional generator may draw one image a class, which together are as varied as classes are.
    """

    def __init__(self, config: Config, batches: Batches) -> None:
        """Of at most CLASSES classes, spread over all, that have OF_CLASS images to learn from."""
        self.config, self.device = config, batches.device
        self.yardsticks: dict[int, Yardstick] = {}
        if batches.labels is None:
            return
        labels = batches.labels[batches.numbers]
        known = np.flatnonzero(np.bincount(labels) >= OF_CLASS)
        places = np.linspace(0, len(known) - 1, min(CLASSES, len(known))).round().astype(int)
        for label in known[places].tolist():
            numbers = batches.numbers[labels == label][:OF_CLASS]
            real = Pixels(torch.from_numpy(batches.images[numbers]), None, None).images()
            if (yardstick := Yardstick(real)).width:
                self.yardsticks[label] = yardstick

    @torch.no_grad()
    def of(self, average: Generator) -> float | None:
        """Of the averaged generator; None without classes, or if an image is not finite."""
        z = latents(self.config, 0, "health", 0, OF_CLASS).z
        found = []
        for label, yardstick in self.yardsticks.items():
            given = Latents(z, torch.full((OF_CLASS,), label))
            if (points := drawn(average, given, self.config, self.device)) is None:
                return None
            found.append(yardstick.compared(points))
        return round(mean(found), 4) if found else None


def drawn(
    average: Generator, given: Latents, config: Config, device: torch.device
) -> Tensor | None:
    """(B, 192): points of `layout` of the images that `given` make; None if one is not finite."""
    parts = [tensor.split(PROBE_BATCH) for tensor in given if tensor is not None]
    found = []
    for part in zip(*parts, strict=True):
        sent = (upload(tensor, device) for tensor in part)
        with normalized(average), autocast(device, config.train.precision):
            found.append(layout(average(*sent)))
    points = torch.cat(found)
    return points if points.isfinite().all() else None


def layout(images: Tensor) -> Tensor:
    """(B, 3, R, R) -> (B, 192) float64 on the CPU: averaged to 8 x 8 pixels."""
    return adaptive_avg_pool2d(images.float(), LAYOUT).flatten(1).cpu().double()


def vendi_score(points: Tensor, width: float) -> float:
    """From 1, all points alike, to B, all far from each other; points: (B, D)."""
    similarity = torch.exp(-torch.cdist(points, points).square() / (2 * width**2))
    shares = torch.linalg.eigvalsh(similarity / len(points)).clamp(min=0)
    return math.exp(torch.special.entr(shares).sum().item())
