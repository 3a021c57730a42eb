"""What a network's attention blocks look at, and what they contribute. Nothing is changed."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganctl.insight.attention_switches import evened, switched_off
from ganctl.models import Discriminator, Generator
from ganctl.models.attention import SelfAttention
from ganctl.runtime import upload
from ganctl.sampling.draw import Point, latents
from ganctl.sampling.pictures import to_uint8

Inputs = tuple[Tensor, Tensor | None]  # latents or images (B, ...), and labels (B,) if conditional

AUTOMATIC = 4  # queries that are chosen in an image if none are named
MAP_VALUES = 2**24  # of attention maps that are held at a time: 64 MiB
MAX_BATCH = 32


class Query(NamedTuple):
    """A place in an image, in pixels from its upper left corner."""

    x: int
    y: int


@dataclass(frozen=True)
class Figures:
    """Means over all images and all N positions of one block's map, whose rows have M weights."""

    network: str  # "g" or "d"
    block: str
    data: str  # "generated" or "real": the images that it was seen at work on
    images: int
    gamma: float
    queries: int  # N
    keys: int  # M
    entropy: float  # of a row, in nats; log M if it is uniform
    entropy_share: float  # of log M
    effective_positions: float  # exp(entropy): the perplexity of a row
    distance: float  # in pixels of the image, between a query and what it attends to
    uniform_distance: float  # the same if all weights were 1 / M
    image_change: float | None  # G: mean |change| of a grey level (0 to 255) by gamma = 0
    image_change_uniform: float | None  # ... and by uniform maps in the place of its own
    score: float | None  # D: mean score
    score_shift: float | None  # D: mean of score minus score with gamma = 0
    score_change: float | None  # D: mean absolute value of that
    score_change_uniform: float | None  # D: the same by uniform maps in the place of its own
    score_spread: float | None  # D: standard deviation of the scores


class Glance(NamedTuple):
    """What one block does with one image."""

    image: np.ndarray  # (R, R, 3) uint8
    queries: list[Query]
    maps: np.ndarray  # (queries, side, side): where each looks, in keys; each sums to 1
    # G: (R, R, 3) uint8, from the same latents with gamma = 0 ...
    without: np.ndarray | None = None
    change: np.ndarray | None = None  # ... and (R, R) fp32, how far that is away, in grey levels
    scores: tuple[float, float] | None = None  # D: with the block, and with gamma = 0


class Report(NamedTuple):
    """What is known of one block."""

    figures: Figures
    glances: list[Glance]  # at the first images
    automatic: bool = False  # whether nobody named the queries


@torch.no_grad()
def inspect_blocks(
    network: Generator | Discriminator,
    batches: Iterable[Inputs],
    *,
    name: str,
    data: str,
    resolution: int,
    queries: Sequence[Query] = (),
    shown: int = 0,
) -> list[Report]:
    """One report for each attention block of `network`, which is in eval mode and stays as it is.

    `name` and `data` are those of Figures. The first `shown` images are kept, with the maps of
    `queries` or, if there are none, of `automatic_queries` for each image and block.
    """
    watches = {
        block: _Watch(module, resolution, queries, shown)
        for block, module in attention_blocks(network).items()
    }
    for inputs in batches:
        with ExitStack() as hooks:
            for watch in watches.values():
                hooks.enter_context(watch.block.register_forward_hook(watch.look))
            output = network(*inputs)
        images = output if output.dim() == 4 else inputs[0]
        for watch in watches.values():
            with switched_off(watch.block):
                without = network(*inputs)
            with evened(watch.block):
                watch.compare(images, output, without, network(*inputs))
    return [watch.report(name, block, data) for block, watch in watches.items()]


def attention_blocks(network: Generator | Discriminator) -> dict[str, SelfAttention]:
    """The attention blocks of a network by name, in the order in which they work."""
    modules = network.named_modules()
    return {name: module for name, module in modules if isinstance(module, SelfAttention)}


def entropy(maps: Tensor) -> Tensor:
    """(..., N, M), rows that sum to 1 -> (..., N): the entropy of each row in nats."""
    return torch.special.entr(maps).sum(-1)


def distances(queries: int, keys: int, resolution: int) -> Tensor:
    """(queries, keys) in pixels of the image, between the centres of what positions stand for.

    Both are the positions of square maps that cover the image. A pooled key stands for its whole
    window: each channel's maximum may come from another place of it.
    """
    return torch.cdist(_centres(queries, resolution), _centres(keys, resolution))


def position(query: Query, positions: int, resolution: int) -> int:
    """Which of the positions of a square map covers `query`."""
    side = math.isqrt(positions)
    return query.y * side // resolution * side + query.x * side // resolution


def automatic_queries(weights: Tensor, count: int) -> list[int]:
    """`count` rows of one map (N, M) that show most of what it does, each unlike the others.

    First the most focused row, the one of least entropy, and a typical one, of median entropy; then
    each time the row whose distance (total variation) from the nearest of those chosen is largest.
    """
    by_entropy = entropy(weights).argsort(stable=True).tolist()
    chosen = [by_entropy[0], by_entropy[len(by_entropy) // 2]][:count]
    while len(chosen) < count:
        away = [(weights - weights[row]).abs().sum(-1) for row in chosen]
        nearest = torch.stack(away).amin(0)
        nearest[chosen] = -1  # none twice, even if all rows are the same
        chosen.append(int(nearest.argmax()))
    return chosen


def batch_size(attention_at: Sequence[int], pooled: bool) -> int:
    """How many images to look at together: their largest maps hold MAP_VALUES at most."""
    queries = max(attention_at) ** 2
    keys = queries // 4 if pooled else queries
    return min(MAX_BATCH, max(1, MAP_VALUES // (queries * keys)))


def generator_inputs(
    generator: Generator, points: Sequence[Point], size: int, device: torch.device
) -> Iterator[Inputs]:
    """The latents, and classes if conditional, of `points`, `size` at a time."""
    for start in range(0, len(points), size):
        part = points[start : start + size]
        z = latents(generator.latent_dim, [point.seed for point in part], truncation=None)
        labels = None
        if generator.n_classes:
            labels = upload(torch.tensor([point.label for point in part]), device)
        yield upload(z, device), labels


@torch.no_grad()
def generated(generator: Generator, batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """The images that G makes of latents, to be given to D."""
    for z, labels in batches:
        yield generator(z, labels), labels


@dataclass
class _Watch:
    """Sums over images for one block, and what is kept of the first `shown` of them."""

    block: SelfAttention
    resolution: int
    queries: Sequence[Query]
    shown: int
    shape: tuple[int, int] = (0, 0)  # N, M
    images: int = 0
    entropy: float = 0.0
    distance: float = 0.0
    output: float = 0.0  # of the network: images in [-1, 1], or scores
    shift: float = 0.0  # output minus output with gamma = 0 ...
    change: float = 0.0  # ... and the absolute value of that
    change_uniform: float = 0.0  # the same with uniform maps
    squares: float = 0.0  # of the output
    maps: list[tuple[list[Query], np.ndarray]] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=list)

    def look(self, block: Any, arguments: tuple[Tensor], output: Tensor) -> None:
        """A forward hook: measure the maps, and keep those of the queries alone."""
        maps = self.block.attention_map(*arguments)  # (B, N, M)
        self.shape = n, m = maps.shape[1], maps.shape[2]
        self.entropy += entropy(maps).mean(1).sum().item()
        away = distances(n, m, self.resolution).to(maps.device)
        self.distance += (maps.flatten(1) @ away.flatten()).sum().item() / n
        side = math.isqrt(m)
        for weights in maps[: self.shown - len(self.maps)]:
            queries = list(self.queries) or self._automatic(weights)
            rows = weights[[position(query, n, self.resolution) for query in queries]]
            self.maps.append((queries, rows.unflatten(1, (side, side)).cpu().numpy()))

    def compare(self, images: Tensor, output: Tensor, without: Tensor, even: Tensor) -> None:
        """Measure what the network gives, with gamma = 0 and with uniform maps as well."""
        for index in range(min(len(images), self.shown - len(self.glances))):
            one, maps = slice(index, index + 1), self.maps[len(self.glances)]
            image, pair = to_uint8(images[one])[0], (output[one], without[one])
            compared = _scores(*pair) if output.dim() == 1 else _changed_images(*pair)
            self.glances.append(Glance(image, *maps, **compared))
        self.images += len(images)
        output, without, even = (p.reshape(len(images), -1) for p in (output, without, even))
        self.output += output.mean(1).sum().item()
        self.shift += (output - without).mean(1).sum().item()
        self.change += (output - without).abs().mean(1).sum().item()
        self.change_uniform += (output - even).abs().mean(1).sum().item()
        self.squares += output.square().mean(1).sum().item()

    def report(self, network: str, block: str, data: str) -> Report:
        n, m = self.shape
        nats = self.entropy / self.images
        scores = network == "d"
        mean, square = self.output / self.images, self.squares / self.images
        uniform = self.change_uniform / self.images
        figures = Figures(
            network=network,
            block=block,
            data=data,
            images=self.images,
            gamma=self.block.gamma.item(),
            queries=n,
            keys=m,
            entropy=nats,
            entropy_share=nats / math.log(m),
            effective_positions=math.exp(nats),
            distance=self.distance / self.images,
            uniform_distance=distances(n, m, self.resolution).mean().item(),
            image_change=None if scores else 127.5 * self.change / self.images,
            image_change_uniform=None if scores else 127.5 * uniform,
            score=mean if scores else None,
            score_shift=self.shift / self.images if scores else None,
            score_change=self.change / self.images if scores else None,
            score_change_uniform=uniform if scores else None,
            score_spread=math.sqrt(max(0.0, square - mean**2)) if scores else None,
        )
        return Report(figures, self.glances, automatic=not self.queries)

    def _automatic(self, weights: Tensor) -> list[Query]:
        centres = _centres(len(weights), self.resolution).int().tolist()
        return [Query(*centres[row]) for row in automatic_queries(weights, AUTOMATIC)]


def _changed_images(output: Tensor, without: Tensor) -> dict[str, Any]:
    change = 127.5 * (output - without)[0].abs().mean(0)  # over channels
    return {"without": to_uint8(without)[0], "change": change.cpu().numpy()}


def _scores(output: Tensor, without: Tensor) -> dict[str, Any]:
    return {"scores": (output.item(), without.item())}


def _centres(positions: int, resolution: int) -> Tensor:
    """(positions, 2): x and y in pixels of what the positions of a square map stand for."""
    side = math.isqrt(positions)
    along = (torch.arange(side) + 0.5) * (resolution / side)
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)
