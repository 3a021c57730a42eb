"""What helps when there are few images: augmentation, LeCam, SAN, relativistic pairing, by score.

Each variant of a preset is trained for as many minutes of processor time with several seeds, on
some images of a folder, and its averaged generator is held against others of that folder by the
Frechet and the kernel distance of EfficientNet-Lite0's features (pip install '.[score]'). The
rates of `photos64` and its self-modulation were found so.

python -m benchmarks.small_data --data avatars/    300 and 6,000 images, and 5,000 others
python -m benchmarks.small_data --data avatars/ --counts 300 --variants unchanged always
python -m benchmarks.small_data --data avatars/ --preset photos64 --counts 300 1500 --minutes 5 30
python -m benchmarks.small_data --steps 50 --minutes 1 --seeds 0     drawn faces, to try it
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.health import AUGMENTED, NOT_NORMALISED, drawn_into
from ganctl import session
from ganctl.data.decoding import fit
from ganctl.data.sources import Source, open_source
from ganctl.runtime import choose_device
from ganctl.sampling import draw as drawing
from ganctl.sampling.pictures import grid, save_png
from ganctl.scores.comparison import LEAST
from ganctl.scores.features import Features, open_features
from ganctl.scores.frechet import Gaussian, Moments, frechet_distance
from ganctl.scores.kid import kid
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.settings.strict_yaml import Value
from ganctl.training.diversity import Diversity
from ganctl.training.loop import averaged
from ganctl.training.memorising import scores_of

REMEDIES: dict[str, dict[str, Value]] = {
    "unchanged": {},
    "adaptive": AUGMENTED,
    "always": {**AUGMENTED, "augment.probability": 1.0},
    "lecam": {"loss.lecam": 0.3},
    "lecam-adaptive": {**AUGMENTED, "loss.lecam": 0.3},
    "san": {"model.san": True},
    "relativistic": {
        **NOT_NORMALISED, "loss.kind": "relativistic", "loss.r1": 0.5, "loss.r2": 0.5,
    },
}  # fmt: skip
RATES: dict[str, dict[str, Value]] = {  # of photos64
    "not-modulated": {"model.self_modulation": False},
    "slower": {"optim.g_lr": 4e-4, "optim.d_lr": 4e-4},
    "slower-not-modulated": {
        "model.self_modulation": False, "optim.g_lr": 4e-4, "optim.d_lr": 4e-4,
    },
    "photos64-at-first": {
        "model.self_modulation": False, "optim.g_lr": 2e-4, "optim.d_lr": 4e-4,
    },
    "small-batches": {"optim.batch_size": 16},
    "slower-d": {"optim.d_lr": 4e-4},
    "shorter-average": {"optim.ema_half_life": 2500},
    "non-saturating": {"loss.kind": "nonsaturating"},
    "r1": {"loss.r1": 0.1},
}  # fmt: skip
VARIANTS = REMEDIES | RATES
BATCH = 100  # images drawn, or looked at, at a time


class Result(NamedTuple):
    """How one run did after some minutes."""

    n: int  # images trained on, with those held out
    minutes: float
    variant: str
    seed: int
    steps: int
    fd: float  # of EfficientNet-Lite0's features
    kid: float
    kid_error: float
    auc: float | None  # of training above held-out images
    p: float | None  # that augmentation was steered to
    diversity: float | None


class Reals(NamedTuple):
    """What generated images are held against."""

    features: torch.Tensor
    gaussian: Gaussian


def main() -> None:
    """Train each variant with each seed and print a table of scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", help="a folder or zip of images; without, drawn faces")
    parser.add_argument("--preset", default="faces32")
    parser.add_argument("--counts", type=int, nargs="+", default=[300, 6000])
    parser.add_argument("--variants", nargs="+", default=list(REMEDIES), choices=VARIANTS)
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[10], help="of processor time, to score after"
    )
    parser.add_argument("--steps", type=int, default=10**6, help="at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="which ones")
    parser.add_argument("--samples", type=int, default=5000, help="images of each side")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=Path, help="a folder for a grid of each run's images")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    device = choose_device(chosen.device)
    features = open_features("lite0", device)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = chosen.data or drawn_into(folder / "all", max(chosen.counts) + chosen.samples)
        base = presets.load(chosen.preset)
        source = open_source(data, base.data.resolution)
        for count in chosen.counts:
            images = folder / str(count)
            others = some_into(images, source, count, chosen.samples, base.data.resolution)
            reals = measured(features, others)
            for seed in chosen.seeds:
                for variant in chosen.variants:
                    changes = {
                        **VARIANTS[variant], "data.source": str(images), "train.seed": seed,
                    }  # fmt: skip
                    name = f"{count}-{variant}-{seed}"
                    for result in trained(replace(base, changes), reals, features, chosen, name):
                        results.append(result._replace(n=count, variant=variant, seed=seed))
                        print(results[-1], file=sys.stderr, flush=True)
    if chosen.json:
        print(json.dumps([result._asdict() for result in results]))
    else:
        report(results, chosen.preset)


def some_into(folder: Path, source: Source, count: int, others: int, resolution: int) -> np.ndarray:
    """Put `count` images of `source`, spread over it, into `folder`; returns up to `others` more.

    (K, H, W, 3) uint8.
    """
    folder.mkdir()
    total = len(source)
    taken = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
    for number in taken.tolist():
        source.read(number).save(folder / f"{number:06}.png")
    left = np.setdiff1d(np.arange(total), taken)
    if len(left) < LEAST:
        raise SystemExit(f"of {total:,} images {len(left):,} others are left, and {LEAST} needed")
    picked = np.random.default_rng(0).permutation(left)[:others]
    return np.stack([fit(source.read(number), resolution, None) for number in picked.tolist()])


def measured(features: Features, images: np.ndarray) -> Reals:
    """Features of (N, H, W, 3) uint8, and the normal distribution that stands for them."""
    found = torch.cat(
        [features.of(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    )
    moments = Moments(features.width)
    moments.add(found)
    return Reals(found, moments.gaussian())


def trained(
    config: Config, reals: Reals, features: Features, chosen: argparse.Namespace, name: str
) -> Iterator[Result]:
    """One run, scored whenever it has had some minutes, and when its steps are over."""
    run = session.new(config, chosen.device)
    trained_for = 0.0
    for minutes in sorted(chosen.minutes):
        started_at = time.process_time() - trained_for
        while trained_for < 60 * minutes and run.state.step < chosen.steps:
            run.step()
            trained_for = time.process_time() - started_at
        result = scored(run, reals, features, chosen, f"{name}-{minutes:g}")
        yield result._replace(minutes=minutes)
        if run.state.step >= chosen.steps:
            return


def scored(
    run: session.Session,
    reals: Reals,
    features: Features,
    chosen: argparse.Namespace,
    name: str,
) -> Result:
    """How far the averaged generator's images are from `reals`; nothing of the run is changed."""
    average = averaged(run.state)
    points = [drawing.Point(number) for number in range(chosen.samples)]
    drawn = drawing.draw(average, points, batch_size=BATCH, device=run.device)
    images = np.concatenate([batch.images for batch in drawn])
    if chosen.pictures:
        chosen.pictures.mkdir(parents=True, exist_ok=True)
        save_png(grid(images[:64]), chosen.pictures / f"{name}.png")
    fakes = measured(features, images)
    distance = kid(reals.features, fakes.features)
    auc, varied = looked_at(run)
    p = run.state.augment_p
    return Result(
        0, 0, "", 0, run.state.step,
        round(frechet_distance(reals.gaussian, fakes.gaussian), 2),
        round(distance.value, 5), round(distance.error, 5), auc,
        None if p is None else p.item(), varied,
    )  # fmt: skip


def looked_at(run: session.Session) -> tuple[float | None, float | None]:
    """The AUC between training and held-out images, and the diversity."""
    diversity = Diversity(run.config, run.inputs.batches, run.inputs.n_classes)
    varied = diversity.of(averaged(run.state))
    if (trial := run.inputs.trial_after(run.state.step)) is None:
        return None, varied
    return round(scores_of(run.state, trial, run.config).auc().item(), 3), varied


def report(results: list[Result], preset: str) -> None:
    """Means over the seeds, from the least to the largest; ratios to the first variant's."""
    first = results[0].variant
    table = Table(title=f"{preset}: means over seeds (least to largest); FD of EfficientNet-Lite0")
    for column in (
        "images", "minutes", "variant", "steps", "FD", f"FD / {first}", "KID", "AUC", "p",
        "diversity",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column == "variant" else "right")
    kinds = dict.fromkeys((result.n, result.minutes, result.variant) for result in results)
    for count, minutes, variant in sorted(kinds, key=lambda kind: kind[:2]):
        rows = [r for r in results if (r.n, r.minutes, r.variant) == (count, minutes, variant)]
        those = [r.fd for r in results if (r.n, r.minutes, r.variant) == (count, minutes, first)]
        fds = [r.fd for r in rows]
        ratio = f"{statistics.mean(fds) / statistics.mean(those):.2f}" if those else "-"
        table.add_row(
            f"{count:,}", f"{minutes:g}", variant, f"{statistics.mean(r.steps for r in rows):,.0f}",
            f"{statistics.mean(fds):.1f} ({min(fds):.1f}-{max(fds):.1f})", ratio,
            f"{statistics.mean(r.kid for r in rows):.4f}",
            mean([r.auc for r in rows]), mean([r.p for r in rows]),
            mean([r.diversity for r in rows]),
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def mean(values: list[float | None]) -> str:
    """Of those that are there, for the table."""
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.2f}" if known else "-"


if __name__ == "__main__":
    main()
