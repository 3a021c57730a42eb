"""What attention and spectral norm do for `faces32`: the article's two claims, measured.

Each variant is trained with several seeds on as many images, and its averaged generator is held
against the drawn faces. Figures need no downloaded network; each is also given for drawn faces
that were not trained on, which is as good as it gets.

python -m benchmarks.ablation                      three variants, three seeds, 2,000 steps each
python -m benchmarks.ablation --steps 500 --seeds 2 --pictures DIR
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ganctl import runtime, session
from ganctl.data.decoding import fit
from ganctl.data.sources import N_FACES, FaceSource
from ganctl.sampling import draw as drawing
from ganctl.sampling.pictures import grid, save_png
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value
from ganctl.training.diversity import layout, vendi_score
from ganctl.training.loop import averaged

VARIANTS: dict[str, dict[str, Value]] = {
    "attention and spectral norm": {},
    "no attention": {"model.attention": {"at": [], "scaled": True, "pooled": True}},
    "no spectral norm": {"model.g_spectral_norm": False, "model.d_spectral_norm": False},
}
SIDE = 32
COUNT = 2000  # images of each side that are compared
# Places of drawn faces in fractions of the side, from the left; their partners are mirrored.
EYES = [(0.38, 0.46)]
HAIR = [(0.27, 0.28), (0.18, 0.60)]  # the temple, and where long hair and curls hang
PATCH, PATCHES, DIRECTIONS = 7, 32, 256  # of the sliced Wasserstein distance
Figures = dict[str, float]


def main() -> None:
    """Train every variant with every seed and print a table of means and spreads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=Path, help="a folder for a grid of each run's images")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    real, others = (drawn_faces(first, COUNT) for first in (N_FACES, N_FACES + COUNT))
    results = {"drawn faces": [figures(others, real)]}
    for seed in range(chosen.seeds):
        for name, changes in VARIANTS.items():
            started_at = time.perf_counter()
            images = trained_images(changes, seed, chosen.steps, chosen.device)
            seconds = time.perf_counter() - started_at
            results.setdefault(name, []).append(figures(images, real))
            print(f"{name}, seed {seed}, {seconds:.0f} s: {results[name][-1]}", file=sys.stderr)
            if chosen.pictures:
                chosen.pictures.mkdir(parents=True, exist_ok=True)
                path = chosen.pictures / f"{name.replace(' ', '-')}-{seed}.png"
                save_png(grid(images[:64]), path)
    if chosen.json:
        print(json.dumps({"steps": chosen.steps, "figures": results}))
    else:
        report(f"faces32, {chosen.steps:,} steps, {chosen.seeds} seeds", results)


def report(title: str, results: dict[str, list[Figures]]) -> None:
    """Means over the seeds, and from the least to the largest."""
    table = Table(title=title)
    names = list(results["drawn faces"][0])
    for column in ("variant", *names):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant, rows in results.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            spread = f" ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        table.add_row(variant, *cells)
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def drawn_faces(first: int, count: int) -> np.ndarray:
    """(count, 32, 32, 3) uint8, drawn and reduced as those that are trained on."""
    source = FaceSource(first + count, size=4 * SIDE)
    return np.stack([fit(source.read(i), SIDE, None) for i in range(first, first + count)])


def trained_images(
    changes: dict[str, Value], seed: int, steps: int, device_name: str
) -> np.ndarray:
    """(COUNT, 32, 32, 3) uint8: what the averaged generator draws after so many steps."""
    config = replace(presets.load("faces32"), {**changes, "train.seed": seed, "train.steps": steps})
    trained = session.new(config, device_name)
    for _ in range(steps):
        trained.step()
    average = averaged(trained.state)
    points = [drawing.Point(number) for number in range(COUNT)]
    drawn = drawing.draw(average, points, batch_size=100, device=trained.device)
    return np.concatenate([batch.images for batch in drawn])


def figures(images: np.ndarray, real: np.ndarray) -> Figures:
    """What is measured of (N, 32, 32, 3) uint8 images, against as many real ones."""
    ours, theirs = tensor(images), tensor(real)
    distances = {
        f"patches {size} px": 1000 * sliced_wasserstein(detail(ours, size), detail(theirs, size))
        for size in (32, 16, 8)
    }
    return {
        "eyes differ": asymmetry(images, EYES),
        "hair differs": asymmetry(images, HAIR),
        "diversity": diversity(ours, theirs),
        **distances,
    }


def tensor(images: np.ndarray) -> Tensor:
    """(N, 3, R, R) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def asymmetry(images: np.ndarray, places: list[tuple[float, float]]) -> float:
    """How much a place differs from its mirror image, compared with that of another face.

    0: always one colour; 1: left and right know nothing of each other.
    """
    size = images.shape[1]
    same, other = 0.0, 0.0
    for x, y in places:
        left, right = (colours(part, x * size, y * size) for part in (images, images[:, :, ::-1]))
        same += float(np.abs(left - right).mean())
        other += float(np.abs(left - np.roll(right, 1, axis=0)).mean())
    return same / other


def colours(images: np.ndarray, x: float, y: float) -> np.ndarray:
    """(N, 3): the mean colour of the 2 x 2 pixels around a place."""
    column, row = round(x) - 1, round(y) - 1
    mean: np.ndarray = images[:, row : row + 2, column : column + 2].astype(float).mean((1, 2))
    return mean


def diversity(ours: Tensor, theirs: Tensor) -> float:
    """Vendi score (see ganctl/training/diversity.py) of 500 images over that of 500 real ones."""
    real, made = layout(theirs[:500]), layout(ours[:500])
    width = torch.pdist(real).median().item() / 2
    return (vendi_score(made, width) - 1) / (vendi_score(real, width) - 1)


def detail(images: Tensor, size: int) -> Tensor:
    """One level of a Laplacian pyramid: what is seen at `size` and no more at half of it."""
    at_size = avg_pool2d(images, images.shape[-1] // size)
    return at_size - interpolate(avg_pool2d(at_size, 2), scale_factor=2, mode="bilinear")


def sliced_wasserstein(ours: Tensor, theirs: Tensor) -> float:
    """Between 7 x 7 patches (Karras et al. 2018, https://arxiv.org/abs/1710.10196, section 5).

    The mean over directions of the distance between sorted projections. Patches of both sides are
    normalised by the real ones' mean and deviation of each channel.
    """
    stream = runtime.random_stream(0, "ablation")
    size = ours.shape[-1] - PATCH + 1
    corners = torch.randint(size, (PATCHES, 2), generator=stream)
    windows = [(slice(int(r), int(r) + PATCH), slice(int(c), int(c) + PATCH)) for r, c in corners]
    cut = [torch.cat([side[:, :, r, c] for r, c in windows]) for side in (ours, theirs)]
    mean, deviation = cut[1].mean((0, 2, 3), True), cut[1].std((0, 2, 3), keepdim=True)
    flat = [((side - mean) / deviation).flatten(1) for side in cut]
    directions = torch.randn(flat[0].shape[1], DIRECTIONS, generator=stream)
    directions /= directions.norm(dim=0)
    projected = [(side @ directions).sort(dim=0).values for side in flat]
    return float((projected[0] - projected[1]).abs().mean())


if __name__ == "__main__":
    main()
