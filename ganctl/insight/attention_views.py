"""The attention blocks of a checkpoint, seen at work on generated and on real images."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ganctl.data.batches import Batches
from ganctl.errors import CheckpointError, ConfigError
from ganctl.insight import attention_maps
from ganctl.insight.attention_maps import Figures, Inputs, Query, Report
from ganctl.models import Discriminator, Generator
from ganctl.sampling.draw import Point
from ganctl.store.contents import Description, load_networks


class Subject(NamedTuple):
    """A checkpoint's networks in eval mode on one device, and which of them are looked at."""

    path: Path
    saved: Description
    generator: Generator
    discriminator: Discriminator | None  # None: it is not looked at
    names: Sequence[str]  # "g" or "d", of those that are looked at
    device: torch.device

    @property
    def classes(self) -> list[str]:
        """The names of the networks' classes; [] if they are not conditional."""
        return self.saved.data.classes if self.generator.n_classes else []

    @property
    def batch_size(self) -> int:
        """How many images are looked at together."""
        attention = self.saved.config.model.attention
        return attention_maps.batch_size(attention.at, attention.pooled)

    def network(self, name: str) -> Generator | Discriminator:
        """G for "g", D for "d"."""
        if name == "g":
            return self.generator
        assert self.discriminator is not None
        return self.discriminator


class View(NamedTuple):
    """A network, and the images that it is seen at work on."""

    network: str
    data: str  # "generated" or "real"
    images: int
    inputs: Iterator[Inputs]
    row_names: list[str]  # of the first ones, with a line break between name and class


class Findings(NamedTuple):
    """One report for each block and view, and the names of the images that it shows."""

    reports: list[Report]
    row_names: list[list[str]]

    @property
    def figures(self) -> list[Figures]:
        """Those of all reports."""
        return [report.figures for report in self.reports]


def open_checkpoint(
    path: Path, names: Sequence[str], *, raw: bool, device: torch.device
) -> Subject:
    """The checkpoint `path`, to look at the networks `names`; ConfigError if none has attention.

    `raw` takes the live generator instead of its average.
    """
    networks, saved = load_networks(path)
    names = networks.those_of(names)
    generator = networks.generator if raw else networks.generator_ema
    subject = Subject(
        path=path,
        saved=saved,
        generator=generator.to(device),
        discriminator=networks.discriminator.to(device) if "d" in names else None,
        names=names,
        device=device,
    )
    if not any(attention_maps.attention_blocks(subject.network(name)) for name in names):
        which = names[0].upper() if len(names) == 1 else "either network"
        hint = "model.attention.at says which map sizes get a block when a run is started"
        raise ConfigError(f"there is no attention block in {which} of {path}", hint)
    return subject


def generated_views(subject: Subject, points: Sequence[Point], shown: int) -> list[View]:
    """Each network at the images of `points`, of which the first `shown` get a name."""
    names = [_row_name("seed", *point, subject.classes) for point in points[:shown]]
    views = []
    for name in subject.names:
        inputs = attention_maps.generator_inputs(
            subject.generator, points, subject.batch_size, subject.device
        )
        if name == "d":
            inputs = attention_maps.generated(subject.generator, inputs)
        views.append(View(name, "generated", len(points), inputs, names))
    return views


def real_view(subject: Subject, batches: Batches, n: int, shown: int) -> View:
    """D at the first n images of the stream, each once; the first `shown` get a name.

    Their labels, if D is conditional, are those of the checkpoint's classes.
    """
    count = min(n, len(batches))

    def inputs() -> Iterator[Inputs]:
        for start in range(0, count, subject.batch_size):
            part = (start, min(subject.batch_size, count - start))
            yield batches.at(*part), batches.labels_at(*part)

    labels = batches.labels_at(0, min(shown, count))
    classes = [None] * min(shown, count) if labels is None else labels.tolist()
    names = [
        _row_name("real", number, label, subject.classes) for number, label in enumerate(classes, 1)
    ]
    return View("d", "real", count, inputs(), names)


def look(
    subject: Subject,
    views: Sequence[View],
    *,
    queries: Sequence[Query],
    shown: int,
    progress: Callable[[int, int], None],
) -> Findings:
    """What each block does in each view; CheckpointError if it is not finite.

    `queries` and `shown` are those of `inspect_blocks`; `progress` counts images.
    """
    total = sum(view.images for view in views)
    done = 0

    def counted(batches: Iterator[Inputs]) -> Iterator[Inputs]:
        nonlocal done
        for images, labels in batches:
            yield images, labels
            done += len(images)
            progress(done, total)

    findings = Findings([], [])
    for view in views:
        reports = attention_maps.inspect_blocks(
            subject.network(view.network),
            counted(view.inputs),
            name=view.network,
            data=view.data,
            resolution=subject.saved.config.data.resolution,
            queries=queries,
            shown=shown,
        )
        findings.reports.extend(reports)
        findings.row_names.extend([view.row_names] * len(reports))
    for figures in findings.figures:
        _check_finite(figures, subject.path)
    return findings


def _check_finite(figures: Figures, path: Path) -> None:
    effect = figures.image_change if figures.score_change is None else figures.score_change
    if not math.isfinite(figures.entropy + (effect or 0)):
        name = f"{figures.network}.{figures.block}"
        raise CheckpointError(f"{path}: {name} computes values that are not finite")


def _row_name(kind: str, number: int, label: int | None, classes: Sequence[str]) -> str:
    return f"{kind} {number}" if label is None else f"{kind} {number}\n{classes[label]}"
