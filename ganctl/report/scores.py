"""The newest scores of a run beside the floor, and how they were measured."""

import math
from collections.abc import Mapping
from typing import Any

from ganctl.insight.panels import number
from ganctl.report.account import Account
from ganctl.scores.protocol import distance_name, floor_words, kernel_name
from ganctl.webpage import text

SHARES = ("precision", "recall", "density", "coverage")


def table(account: Account) -> str:
    """A line for each figure, as HTML; nothing of a run that was not scored."""
    scores, floor = account.scores, account.scored.get("floor")
    if not scores:
        return ""
    protocol = str(scores.get("score_protocol", ""))
    features = protocol.partition(":")[0]
    real = floor if isinstance(floor, dict) else {}
    own = {name.removeprefix("score_"): value for name, value in scores.items()}
    lines = [_line(distance_name(features), _value(own, "fd"), _value(real, "fd"))]
    lines.append(_line(kernel_name(features), _kernel(own), _kernel(real)))
    lines += [_line(name, _value(own, name), _value(real, name)) for name in SHARES]
    names = ("", "generated", "real: the floor")
    head = "".join(f"<th class='{'number' if name else 'name'}'>{name}</th>" for name in names)
    said = [protocol, _floor_words(account.scored)]
    if account.best is not None:
        said.append(f"best.pt has step {account.best:,}.")
    words = "".join(f"<p class='faint'>{text(sentence)}</p>" for sentence in said)
    body = f"<div class='wide' tabindex='0'><table><tr>{head}</tr>{''.join(lines)}</table></div>"
    return f"<h3>Scores at step {scores['step']:,}</h3>{body}{words}"


def _line(name: str, generated: str, real: str) -> str:
    cells = f"<td class='number'>{text(generated)}</td><td class='number'>{text(real)}</td>"
    return f"<tr><th scope='row'>{text(name)}</th>{cells}</tr>"


def _value(figures: Mapping[str, Any], name: str) -> str:
    value = number(dict(figures), name)
    return f"{value:.4g}" if math.isfinite(value) else "-"


def _kernel(figures: Mapping[str, Any]) -> str:
    """With its standard error."""
    value, error = _value(figures, "kid"), _value(figures, "kid_error")
    return value if error == "-" else f"{value} \u00b1 {error}"


def _floor_words(scored: Mapping[str, Any]) -> str:
    """What the floor is of; a run of an older ganctl did not measure it."""
    if "floor" not in scored:
        return "The floor was not measured by this run; `ganctl score` measures it."
    floor, protocol = scored["floor"], scored.get("protocol")
    sizes = [
        number(of, name) if isinstance(of, dict) else math.nan
        for of, name in ((protocol, "real_images"), (floor, "images"))
    ]
    images = int(sizes[1]) if math.isfinite(sizes[1]) else None
    return floor_words(int(sizes[0]) if math.isfinite(sizes[0]) else 0, images)
