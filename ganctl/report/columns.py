"""Figures of many rows of metrics.jsonl, column by column: there can be millions of rows."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ganctl.insight.panels import COUNTS, SPREAD, number
from ganctl.store.journal import Row

NUMBERS = {float, int, bool, type(None)}


class Column(NamedTuple):
    """One figure."""

    name: str
    places: np.ndarray  # (n,): which rows tell of it
    values: np.ndarray  # (n,): nan where one says that there is none


class Columns:
    """The rows that were added. They are not kept: a column is made of plain numbers."""

    def __init__(self) -> None:
        self.steps: list[int] = []  # of the rows
        self._told: dict[str, tuple[list[int], list[Any]]] = {}  # places, and what is said there

    def add(self, row: Row) -> None:
        """The next row."""
        place = len(self.steps)
        self.steps.append(row["step"])
        for name, value in row.items():
            try:
                places, values = self._told[name]
            except KeyError:
                places, values = self._told[name] = [], []
            places.append(place)
            values.append(value)

    def newest_scores(self) -> Row:
        """All that the newest scored row says of scores, and its step; {} if none was scored."""
        told = {name: of for name, of in self._told.items() if name.startswith("score")}
        newest = max((places[-1] for places, _ in told.values()), default=None)
        if newest is None:
            return {}
        scores = {name: values[-1] for name, (at, values) in told.items() if at[-1] == newest}
        return {"step": self.steps[newest], **scores}

    def columns(self) -> Iterator[Column]:
        """All figures, attention blocks' by themselves, and the edges of spreads."""
        found = {column.name: column for column in self._figures()}
        yield from found.values()
        for line in SPREAD:
            if line.figure in found:
                _, places, values = found[line.figure]
                spread = np.full(len(self.steps), np.nan)
                if line.spread in found:
                    spread[found[line.spread].places] = found[line.spread].values
                yield Column(f"{line.figure}-", places, values - spread[places])
                yield Column(f"{line.figure}+", places, values + spread[places])

    def _figures(self) -> Iterator[Column]:
        for name, (places, values) in self._told.items():
            kinds = set(map(type, values))
            if name == "gamma" and dict in kinds:
                yield from _gammas(places, values)
            elif kinds <= NUMBERS:
                if name not in COUNTS:
                    yield Column(name, np.array(places), np.array(values, dtype=float))
            elif not kinds <= {str, list}:
                numbers = [number({name: value}, name) for value in values]
                yield Column(name, np.array(places), np.array(numbers))


def _gammas(places: list[int], values: list[Any]) -> Iterator[Column]:
    """Of each attention block."""
    told = [
        (place, value) for place, value in zip(places, values, strict=True) if type(value) is dict
    ]
    for block in dict.fromkeys(block for _, value in told for block in value):
        at = [place for place, value in told if block in value]
        gammas = [number(value, block) for _, value in told if block in value]
        yield Column(f"gamma {block}", np.array(at), np.array(gammas))
