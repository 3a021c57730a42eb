"""What share of a preset's time its scores take, by the seconds of a step and of 64 images scored.

No run is made: steps are timed, and how long it takes to draw images and to take the features of
drawn and of real ones, in turns, and from that the time of the preset's whole run and of all its
scores follows. It takes the same whatever the pixels and the weights are, so images are noise and
Inception's weights are random.

python -m benchmarks.share
python -m benchmarks.share --presets faces32 --device cuda --rounds 5
"""

import argparse
import statistics
import sys
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.scores import network, noise
from benchmarks.train_step import session_on_noise, timed
from ganctl.progress import silent
from ganctl.runtime import choose_device
from ganctl.scores.comparison import compare, of_generator
from ganctl.scores.features import BATCH
from ganctl.scores.frechet import Gaussian
from ganctl.scores.protocol import KEPT
from ganctl.scores.statistics import Statistics
from ganctl.settings import presets
from ganctl.training.loop import averaged

SCORED = (  # not ImageNet's, whose steps are of 38 TFLOP
    "sngan-cifar10",
    "sagan-cifar10",
    "sngan-celeba64",
    "sagan-celeba64",
    "celeba64",
    "photos64",
)
THERE_ARE = {"cifar10": 50_000, "celeba": 202_599, "photos": 5000}  # images, of each source


class Share(NamedTuple):
    """Seconds, and how many of each a run has."""

    steps: int
    every: int
    images: int  # of a score
    real_images: int  # measured once, for all scores and the floor
    step: float
    drawn: float  # BATCH images drawn, and their features
    real: float  # the features of BATCH real images
    comparison: float

    @property
    def score(self) -> float:
        """Seconds of one score, once those of real images are known."""
        return self.images / BATCH * self.drawn + self.comparison

    @property
    def of_interval(self) -> float:
        """Seconds of a score as a share of those from one score to the next."""
        return self.score / (self.score + self.every * self.step)

    @property
    def of_run(self) -> float:
        """The same of a whole run, with the real images and their floor."""
        scores = self.steps // self.every + (self.steps % self.every > 0)
        spent = scores * self.score + self.real_images / BATCH * self.real + self.comparison
        return spent / (spent + self.steps * self.step)


def main() -> None:
    """Print a line for each preset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=SCORED)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kept", type=int, default=KEPT, help="features compared one by one")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    threads = torch.get_num_threads()
    title = f"what scores take, {choose_device(chosen.device)}, {threads} threads"
    table = Table(title=f"{title}, {chosen.rounds} rounds")
    for column in (
        "preset", "features", "s a step", "steps between", "s a score", "share", "share of the run",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("preset", "features") else "right")
    for name in chosen.presets:
        share = measured(name, chosen)
        print(name, share, file=sys.stderr)
        table.add_row(
            name, presets.load(name).score.features, f"{share.step:.2f}", f"{share.every:,}",
            f"{share.score:.0f}", f"{share.of_interval:.1%}", f"{share.of_run:.1%}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def measured(name: str, chosen: argparse.Namespace) -> Share:
    """The seconds of one preset, all in turns: medians of the rounds."""
    config = presets.load(name)
    if not config.score.every:
        raise SystemExit(f"{name} has no scores while it trains")
    run, device = session_on_noise(config, chosen.device), choose_device(chosen.device)
    features = network(config.score.features, device)
    pixels, average = noise(BATCH, config.data.resolution), averaged(run.state)
    tasks = {
        "step": run.step,
        "drawn": lambda: of_generator(average, BATCH, features, silent),
        "real": lambda: features.of(pixels),
    }
    seconds: dict[str, list[float]] = {what: [] for what in tasks}
    for number in range(chosen.rounds + 1):  # the first one is to warm up
        for what, task in tasks.items():
            spent = timed(task, device)
            if number:
                seconds[what].append(spent)
    count = config.score.images
    sides = [stand_in(count, min(count, chosen.kept), features.width, seed) for seed in (0, 1)]
    comparison = timed(lambda: compare(*sides), device)
    medians = {what: statistics.median(times) for what, times in seconds.items()}
    real_images = min(2 * count, THERE_ARE.get(config.data.source, 2 * count))
    return Share(
        config.train.steps, config.score.every, count, real_images, **medians, comparison=comparison
    )


def stand_in(count: int, kept: int, width: int, seed: int) -> Statistics:
    """Statistics of `count` images that there are not, with `kept` features."""
    rows = torch.randn(kept, width, generator=torch.Generator().manual_seed(seed))
    return Statistics(count, Gaussian(rows.mean(0).double(), rows.T.cov().double()), rows)


if __name__ == "__main__":
    main()
