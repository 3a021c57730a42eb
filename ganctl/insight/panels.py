"""Which figures of metrics.jsonl are shown together, and on which axis, in all pictures of runs."""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal, NamedTuple

from ganctl.store.journal import Row

Scale = Literal["linear", "log", "symlog"]  # symlog: logarithmic on both sides of zero

MOST_GAMMAS = 12  # panels for attention blocks
MOST_OTHERS = 24  # panels of figures that this module does not know
AWAY = 100  # a figure runs away if it comes to so many times its median
COUNTS = {"step", "images"}  # figures that only say when


class Line(NamedTuple):
    """One figure, as it is called in a row, and how it is shown."""

    figure: str
    label: str = ""  # what it is called where a panel has several
    spread: str = ""  # the figure that is drawn as a band around it


class Panel(NamedTuple):
    """Figures that share an axis."""

    title: str
    lines: tuple[Line, ...]
    logarithmic: bool = False
    share: bool = False  # from 0 to 1
    alarm: str = ""  # the failure mode that shows in it


OVERPOWERS, COLLAPSE, MEMORISES = "discriminator overpowers", "mode collapse", "D memorises"
FAILURE_MODES = (
    OVERPOWERS, COLLAPSE, MEMORISES, "discriminator too weak", "low diversity",
    "images are too varied", "scores explode",
)  # fmt: skip
SCORES = (
    Line("real_score", "D(real)", "real_spread"),
    Line("fake_score", "D(fake)", "fake_spread"),
)
OUTSIDE = (Line("real_outside", "D(real) > 1"), Line("fake_outside", "D(fake) < -1"))
QUALITY = (
    Line("score_precision", "precision"),
    Line("score_recall", "recall"),
    Line("score_coverage", "coverage"),
)
PANELS = (
    Panel("D's loss", (Line("d_loss"),), alarm=OVERPOWERS),
    Panel("G's loss", (Line("g_loss"),)),
    Panel("diversity (real images: 1)", (Line("diversity"),), alarm=COLLAPSE),
    Panel("kernel distance (KID) and error", (Line("score_kid", spread="score_kid_error"),)),
    Panel("Frechet distance", (Line("score_fd"),)),
    Panel("precision, recall, coverage", QUALITY, share=True),
    Panel("density (real images: 1)", (Line("score_density"),)),
    Panel("D(real) and D(fake), mean and spread", SCORES),
    Panel("share outside the margins", OUTSIDE, share=True, alarm=OVERPOWERS),
    Panel("images/s", (Line("images_per_second"),)),
    Panel("norm of D's gradient", (Line("d_gradient"),), logarithmic=True),
    Panel("norm of G's gradient", (Line("g_gradient"),), logarithmic=True),
    Panel("largest sigma of a raw weight", (Line("sigma_max"),)),
    Panel("sigma drift", (Line("sigma_drift"),), logarithmic=True),
    Panel("training above held-out images (AUC)", (Line("memorising_auc"),), alarm=MEMORISES),
    Panel("memorising (1: held-out images like fake)", (Line("memorising"),)),
    Panel("probability of augmentation", (Line("augment_p"),), share=True),
)


SPREAD = tuple(line for panel in PANELS for line in panel.lines if line.spread)


def number(row: Row, name: str) -> float:
    """A figure of `row`, "gamma BLOCK" being a block's; nan if it is absent or no number."""
    value = row.get(name)
    if name.startswith("gamma "):
        gammas = row.get("gamma")
        value = gammas.get(name.removeprefix("gamma ")) if isinstance(gammas, dict) else None
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def has(row: Row, name: str) -> bool:
    """Whether `row` says of a figure that it has a value or none: scores are in few rows."""
    if name.startswith("gamma "):
        gammas = row.get("gamma")
        return isinstance(gammas, dict) and name.removeprefix("gamma ") in gammas
    return name in row


def names_in(row: Row) -> set[str]:
    """What `number` can be asked for: the figures of a row that are numbers and finite."""
    blocks = row.get("gamma")
    names = {*row, *(f"gamma {block}" for block in (blocks if isinstance(blocks, dict) else ()))}
    return {name for name in names - COUNTS if math.isfinite(number(row, name))}


def panels_with(names: Iterable[str]) -> list[Panel]:
    """The panels of the figures `names`: those that are known, attention blocks', all others."""
    there = dict.fromkeys(names)
    known = {part for p in PANELS for line in p.lines for part in (line.figure, line.spread)}
    panels = []
    for panel in PANELS:
        if lines := tuple(line for line in panel.lines if line.figure in there):
            panels.append(panel._replace(lines=lines))
    gammas = [name for name in there if name.startswith("gamma ")][:MOST_GAMMAS]
    panels += [Panel(f"gamma of {n.removeprefix('gamma ')}", (Line(n),)) for n in gammas]
    others = [name for name in there if name not in known and not name.startswith("gamma ")]
    shown = [Panel(name.replace("_", " "), (Line(name),)) for name in others]
    return [*panels, *shown[:MOST_OTHERS]]


def scale_of(panel: Panel, values: Sequence[float]) -> Scale:
    """The axis that shows the finite `values` of a panel: logarithmic where they run away."""
    sizes = [abs(value) for value in values if math.isfinite(value)]
    if not sizes or panel.share:
        return "linear"
    positive = min(value for value in values if math.isfinite(value)) > 0
    if panel.logarithmic and any(sizes):
        return "log"
    if max(sizes) <= AWAY * median(sizes) or median(sizes) == 0:
        return "linear"
    return "log" if positive else "symlog"
