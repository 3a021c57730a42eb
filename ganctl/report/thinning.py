"""Curves of any length in a few hundred points that still show every extreme."""

from typing import NamedTuple

import numpy as np

MOST = 500  # spans of a curve at least, once it has so many values; at most twice as many
NEVER = -1  # the step of what a span does not have


class _Spans(NamedTuple):
    """Some spans of values in a row, (n,) each: where the least, the largest, and a gap are."""

    low: np.ndarray
    low_step: np.ndarray
    high: np.ndarray
    high_step: np.ndarray
    gap_step: np.ndarray  # of the last value that was not finite


class Curve:
    """Values by step, thinned on the way: memory does not grow with them."""

    def __init__(self) -> None:
        self._each = 1  # values in a span
        self._spans = _spans(np.empty((0, 1), dtype=np.int64), np.empty((0, 1)))
        self._steps = np.empty(0, dtype=np.int64)  # of the last values, too few for a span
        self._values = np.empty(0)

    def extend(self, steps: np.ndarray, values: np.ndarray) -> None:
        """The next values, (n,) both; one that is not finite is a gap."""
        self._steps = np.concatenate([self._steps, steps])
        self._values = np.concatenate([self._values, values])
        while whole := len(self._values) // self._each:
            if len(self._spans.low) == 2 * MOST:
                self._halve()
                continue
            count = min(whole, 2 * MOST - len(self._spans.low))
            used = count * self._each
            made = _spans(*(x[:used].reshape(count, -1) for x in (self._steps, self._values)))
            self._spans = _Spans(*map(np.concatenate, zip(self._spans, made, strict=True)))
            self._steps, self._values = self._steps[used:], self._values[used:]

    def points(self) -> list[tuple[int, float | None]]:
        """Steps and values in order; None where the curve is interrupted."""
        parts = [self._spans]
        if len(self._values):
            parts.append(_spans(self._steps[None], self._values[None]))
        found: list[tuple[int, float | None]] = []
        for part in parts:
            for low, low_step, high, high_step, gap in zip(
                *(x.tolist() for x in part), strict=True
            ):
                kept: dict[int, float | None] = {}
                if low <= high:
                    kept = {low_step: low, high_step: high}
                if gap != NEVER:
                    kept[gap] = None
                found += sorted(kept.items())
        return found

    def _halve(self) -> None:
        """Two spans become one."""
        spans = _Spans(*(x.reshape(MOST, 2) for x in self._spans))
        low, high = spans.low.argmin(1), spans.high.argmax(1)
        self._spans = _Spans(
            _chosen(spans.low, low),
            _chosen(spans.low_step, low),
            _chosen(spans.high, high),
            _chosen(spans.high_step, high),
            spans.gap_step.max(1),
        )
        self._each *= 2


def _spans(steps: np.ndarray, values: np.ndarray) -> _Spans:
    """(spans, values of each) both; of equal values the first one counts."""
    finite = np.isfinite(values)
    least, most = np.where(finite, values, np.inf), np.where(finite, values, -np.inf)
    low, high = least.argmin(1), most.argmax(1)
    return _Spans(
        _chosen(least, low),
        _chosen(steps, low),
        _chosen(most, high),
        _chosen(steps, high),
        np.where(finite, NEVER, steps).max(1),
    )


def _chosen(table: np.ndarray, column: np.ndarray) -> np.ndarray:
    """(n, m), (n,) -> (n,): of each row what is in its column."""
    return table[np.arange(len(table)), column]
