"""Curves of any length in a few hundred points that still show every extreme."""

import math
from dataclasses import dataclass

MOST = 500  # spans of a curve at least, once it has so many values; at most twice as many


@dataclass(slots=True)
class _Span:
    """Some values in a row: the least, the largest, and whether one was not finite."""

    low: float = math.inf
    low_step: int = 0
    high: float = -math.inf
    high_step: int = 0
    gap_step: int | None = None  # the last step without a finite value


class Curve:
    """Values by step, thinned on the way: memory does not grow with them."""

    def __init__(self) -> None:
        self._spans: list[_Span] = []
        self._each = 1  # values in a span
        self._room = 0  # that the last span still has for values

    def add(self, step: int, value: float) -> None:
        """The next value; one that is not finite is a gap."""
        if not self._room:
            if len(self._spans) == 2 * MOST:
                self._halve()
            self._spans.append(_Span())
            self._room = self._each
        self._room -= 1
        span = self._spans[-1]
        if not math.isfinite(value):
            span.gap_step = step
            return
        if value < span.low:
            span.low, span.low_step = value, step
        if value > span.high:
            span.high, span.high_step = value, step

    def points(self) -> list[tuple[int, float | None]]:
        """Steps and values in order; None where the curve is interrupted."""
        found: list[tuple[int, float | None]] = []
        for span in self._spans:
            kept: dict[int, float | None] = {}
            if span.low <= span.high:
                kept = {span.low_step: span.low, span.high_step: span.high}
            if span.gap_step is not None:
                kept[span.gap_step] = None
            found += sorted(kept.items())
        return found

    def _halve(self) -> None:
        """Two spans become one."""
        pairs = zip(self._spans[::2], self._spans[1::2], strict=True)
        self._spans = [_joined(*pair) for pair in pairs]
        self._each *= 2


def _joined(one: _Span, other: _Span) -> _Span:
    low = min(one, other, key=lambda span: span.low)
    high = max(one, other, key=lambda span: span.high)
    gaps = [span.gap_step for span in (one, other) if span.gap_step is not None]
    return _Span(low.low, low.low_step, high.high, high.high_step, max(gaps, default=None))
