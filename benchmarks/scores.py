"""How long a score takes: features of 1,000 images, and each figure from features that are there.

Times are of the processor, so that what else a machine does costs little: seconds on one core.
Inception has random weights here, which take as long as FID's and need no download.

python -m benchmarks.scores                  lite0 and Inception, 256 images a round
python -m benchmarks.scores --features lite0 --images 64 --rounds 1
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ganctl.runtime import prepare
from ganctl.scores import features, kid, prdc
from ganctl.scores.features import Features, open_features
from ganctl.scores.frechet import Moments, frechet_distance

CPU = torch.device("cpu")


def main() -> None:
    """Print a line for each thing that is timed, with its median and its least and largest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--features", nargs="+", choices=features.NAMES, default=features.NAMES)
    parser.add_argument("--images", type=int, default=256, help="in one round")
    parser.add_argument("--kept", type=int, default=2000, help="features of each side")
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    prepare(CPU)
    opened = {name: network(name, CPU) for name in chosen.features}
    seconds: dict[str, list[float]] = {}
    for _ in range(chosen.rounds):
        for name, features_of in opened.items():
            levels = noise(chosen.images, chosen.side)
            spent = 1000 / chosen.images * _timed(lambda: _measure(features_of, levels))  # noqa: B023
            seconds.setdefault(f"{name}: features of 1,000 images", []).append(spent)
        for what, task in _figures(chosen.kept, opened).items():
            seconds.setdefault(what, []).append(_timed(task))
    table = Table(title=f"seconds of one core, {chosen.side} px, {chosen.rounds} rounds")
    for column in ("what", "median", "from", "to"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, values in seconds.items():
        numbers = (statistics.median(values), min(values), max(values))
        table.add_row(what, *(f"{number:.2f}" for number in numbers))
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def network(name: str, device: torch.device) -> Features:
    """Of one of the names of `open_features`; Inception with random weights."""
    if name == "lite0":
        return open_features(name, device)
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    class Random(theirs.FeatureExtractorInceptionV3):  # type: ignore[misc]
        """Keeps the weights that it was made with."""

        def load_state_dict(self, *_: object) -> None:
            pass

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "none.pth"
        torch.save({}, path)
        inception = Random("random", ["2048"], str(path)).to(
            device, memory_format=torch.channels_last
        )
    return Features("Inception", "", "", 2048, lambda images: inception(images)[0], device)


def noise(n: int, side: int) -> np.ndarray:
    """(n, side, side, 3) uint8: random pixels."""
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def _measure(opened: Features, levels: np.ndarray) -> None:
    """Features and moments, in batches as a score has them."""
    moments = Moments(opened.width)
    for start in range(0, len(levels), features.BATCH):
        moments.add(opened.of(levels[start : start + features.BATCH]))


def _figures(n: int, opened: dict[str, Features]) -> dict[str, Callable[[], object]]:
    """What is computed of `n` features of each side, of each width that networks have."""
    tasks: dict[str, Callable[[], object]] = {}
    for name, one_of in opened.items():
        sides = torch.randn(2, n, one_of.width, generator=torch.Generator().manual_seed(0))
        gaussians = []
        for side in sides:
            moments = Moments(one_of.width)
            moments.add(side)
            gaussians.append(moments.gaussian())
        one, other = sides
        tasks[f"{name}: Frechet distance"] = lambda pair=gaussians: frechet_distance(*pair)  # type: ignore[misc]
        tasks[f"{name}: KID of {n:,}"] = lambda a=one, b=other: kid.kid(a, b)  # type: ignore[misc]
        tasks[f"{name}: precision to coverage of {n:,}"] = lambda a=one, b=other: prdc.prdc(a, b)  # type: ignore[misc]
    return tasks


def _timed(task: Callable[[], object]) -> float:
    started_at = time.process_time()
    task()
    return time.process_time() - started_at


if __name__ == "__main__":
    main()
