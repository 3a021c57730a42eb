"""A run in a few figures, to put it beside others: settings, time, scores, health."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ganctl.insight.panels import number
from ganctl.settings import presets
from ganctl.settings.config import Config, setting_names, value_of
from ganctl.settings.strict_yaml import Value
from ganctl.store.journal import Row
from ganctl.store.runs import Run

FIGURES = ("fd", "kid", "kid_error", "precision", "recall", "density", "coverage")


class Outline(NamedTuple):
    """One run."""

    name: str
    config: Config
    step: int
    images: int  # real ones that D has seen
    seconds: float  # of training, without scores
    diversity: float  # the newest; nan without one
    alarms: list[str]  # failure modes that it has shown
    scores: dict[str, list[Row]]  # its scored rows, by the protocol they were measured with


def outline(run: Run) -> Outline:
    """What the files of `run` say; ConfigError if its config.yaml cannot be read."""
    rows = run.journal.rows()
    scores: dict[str, list[Row]] = {}
    for row in rows:
        if math.isfinite(number(row, "score_kid")) and math.isfinite(number(row, "score_fd")):
            scores.setdefault(str(row.get("score_protocol")), []).append(row)
    alarms = dict.fromkeys(alarm for row in rows for alarm in row["alarms"])
    last = rows[-1] if rows else {}
    return Outline(
        name=run.name,
        config=presets.load(str(run.folder / "config.yaml")),
        step=last.get("step", 0),
        images=int(_known(number(last, "images"))),
        seconds=_seconds(rows),
        diversity=number(last, "diversity"),
        alarms=list(alarms),
        scores=scores,
    )


def differing(outlines: Sequence[Outline]) -> list[tuple[str, list[Value]]]:
    """The settings that are not the same in all runs, and their values in each."""
    values = [
        (name, [value_of(each.config, name) for each in outlines]) for name in setting_names()
    ]
    return [(name, found) for name, found in values if any(v != found[0] for v in found)]


def protocols(outlines: Sequence[Outline]) -> list[str]:
    """How scores of any of the runs were measured."""
    return list(dict.fromkeys(protocol for each in outlines for protocol in each.scores))


def best(rows: Sequence[Row]) -> Row:
    """The one with the lowest kernel distance."""
    return min(rows, key=lambda row: number(row, "score_kid"))


def _seconds(rows: Sequence[Row]) -> float:
    """From what each row says of the steps since the one before."""
    total, seen = 0.0, 0.0
    for row in rows:
        images, speed = _known(number(row, "images")), number(row, "images_per_second")
        total += (images - seen) / speed if speed > 0 and images > seen else 0.0
        seen = images
    return total


def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0
