"""What the script of a report draws: plain values that say which lines share which axis."""

import math
from collections.abc import Sequence
from typing import Any

from ganctl.insight.panels import Line, Panel, Scale, panels_with, scale_of
from ganctl.report import account
from ganctl.report.account import Account

STYLES = ("solid:", "broken:", "dotted:")  # of the lines of a panel
DIGITS = 5  # of a value on a curve


def panels_of(accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """What the script draws: a panel for figures that belong together, all runs in each."""
    names = dict.fromkeys(name for each in accounts for name in each.curves)
    figures = [name for name in names if name[-1:] not in ("+", "-")]
    return [_panel(panel, accounts) for panel in panels_with(figures)]


def _panel(panel: Panel, accounts: Sequence[Account]) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    for number, each in enumerate(accounts):
        for place, line in enumerate(panel.lines):
            shared = {"run": number, "style": place, "name": _name(line, each, accounts)}
            for edge in ("", "-", "+") if line.spread else ("",):
                curve = each.curves.get(line.figure + edge)
                points = [] if curve is None else curve.points()
                if any(value is not None for _, value in points):
                    rounded = [(step, rounded_value(value)) for step, value in points]
                    lines.append({**shared, "edge": bool(edge), "points": rounded})
    values = [value for line in lines for _, value in line["points"] if value is not None]
    scale: Scale = scale_of(panel, values)
    named = zip(STYLES, panel.lines, strict=False)
    key = (
        ", ".join(f"{style} {line.label}" for style, line in named) if len(panel.lines) > 1 else ""
    )
    return {
        "title": panel.title, "key": key, "scale": scale, "share": panel.share, "along": "step",
        "marked": True, "lines": lines,
    }  # fmt: skip


def _name(line: Line, each: Account, accounts: Sequence[Account]) -> str:
    """What a line is called where a value is read out."""
    return " ".join(part for part in (each.name if len(accounts) > 1 else "", line.label) if part)


def rounded_value(value: float | None) -> float | None:
    """`value` to a few digits, which is all that a picture shows."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def marks_of(accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """What is marked on the curves' axis: alarms, roll-backs, failures."""
    return [
        {"run": number, "step": event["step"], "words": account.sentence(event)}
        for number, each in enumerate(accounts)
        for event in account.marked(each.events)
    ]
