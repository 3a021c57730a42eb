"""What the newest checkpoint of a run shows: images, where attention looks, what weights do."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ganctl.errors import ConfigError
from ganctl.export.network import EXACT, GRID_COLUMNS, Exported, examples
from ganctl.insight import attention_views, snapshots
from ganctl.insight.attention_maps import Figures
from ganctl.insight.attention_sheet import attention_sheet
from ganctl.insight.snapshots import Snapshot
from ganctl.progress import Progress
from ganctl.sampling.draw import classes_in_turn, draw
from ganctl.sampling.interpolate import interpolate
from ganctl.sampling.pictures import grid
from ganctl.store.contents import load_networks

WAY_SEEDS, WAY_STEPS = 5, 8  # an interpolation: four ways of eight images
WATCHED, WATCHED_ROWS = 16, 3  # images that attention is measured on, and drawn with
MAPS_UP_TO = 1_000_000  # weights of a network whose convolutions are also bounded as maps


class Inside(NamedTuple):
    """One checkpoint, looked at."""

    step: int
    weights: dict[str, int]  # numbers of them in G and D
    samples: np.ndarray  # (H, W, 3) uint8: a grid
    way: np.ndarray  # the same: from seed to seed
    sheet: np.ndarray | None  # where attention looks; None without attention
    attention: list[Figures]
    layers: Snapshot


def look(path: Path, progress: Progress) -> Inside:
    """The averaged generator and the discriminator of `path`; CheckpointError if it is bad.

    `progress` counts the parts. Nothing is changed.
    """
    networks, saved = load_networks(path)
    exported = Exported(networks.generator_ema, "generator_ema", saved)
    both = {"g": networks.generator_ema, "d": networks.discriminator}
    weights = {name: sum(p.numel() for p in net.parameters()) for name, net in both.items()}
    device = torch.device("cpu")
    points = examples(exported)
    drawn = draw(exported.generator, points, batch_size=16, device=device, precision=EXACT)
    samples = grid(np.concatenate([batch.images for batch in drawn]), GRID_COLUMNS)
    progress(1, 4)
    labels: list[int | None] = list(range(len(exported.classes))) or [None]
    stops = classes_in_turn(range(WAY_SEEDS), labels)
    rows = interpolate(exported.generator, stops, WAY_STEPS, device=device, precision=EXACT)
    way = grid(np.concatenate(list(rows)), WAY_STEPS)
    progress(2, 4)
    sheet, figures = _attention(path, labels)
    progress(3, 4)
    layers = snapshots.of_checkpoint(
        path,
        ("g", "d"),
        averaged=False,
        as_maps=max(weights.values()) <= MAPS_UP_TO,
        progress=lambda done, total: None,
    )
    progress(4, 4)
    return Inside(saved.step, weights, samples, way, sheet, figures, layers)


def _attention(path: Path, labels: list[int | None]) -> tuple[np.ndarray | None, list[Figures]]:
    """The sheet of `inspect-attention`, shorter; None without attention blocks."""
    device = torch.device("cpu")
    try:
        subject = attention_views.open_checkpoint(path, ("g", "d"), raw=False, device=device)
    except ConfigError:
        return None, []
    points = classes_in_turn(range(WATCHED), labels)
    views = attention_views.generated_views(subject, points, WATCHED_ROWS)
    found = attention_views.look(
        subject, views, queries=(), shown=WATCHED_ROWS, progress=lambda done, total: None
    )
    return attention_sheet(found.reports, found.row_names), found.figures
