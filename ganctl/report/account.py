"""What a run's folder tells without its networks: settings, curves, events."""

import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ganctl.errors import CheckpointError, ConfigError
from ganctl.report.columns import Columns
from ganctl.report.thinning import Curve
from ganctl.settings import presets
from ganctl.settings.config import Config, setting_names, value_of
from ganctl.store import checkpoint, overview
from ganctl.store.contents import Description, described
from ganctl.store.journal import Row
from ganctl.store.overview import Overview
from ganctl.store.runs import Run

SHOWN = ("started", "alarm", "rolled back", "stopped", "failed", "done")
MOST_LETTERS = 500  # of what is said of an event
MOST_MARKS = 200  # of a run on each curve
ROWS = 2000  # of metrics.jsonl that are looked at together
MACHINE = ("threads", "torch", "device", "cpu_capability", "machine")


class Account(NamedTuple):
    """One run."""

    run: Run
    glance: Overview
    config: Config | None  # None: config.yaml cannot be read
    checkpoint: Path | None  # the newest whole one
    saved: Description | None
    version: str  # of the ganctl that wrote it
    curves: dict[str, Curve]  # by figure; with "-" and "+" a spread's lower and upper edge
    scores: Row  # what the newest row with scores says of them; {} without
    scored: Row  # the event of its step; {} without
    best: int | None  # the step of best.pt, if there is one
    events: list[Row]  # those that are shown

    @property
    def name(self) -> str:
        """The folder's."""
        return self.run.name


def account_of(run: Run) -> Account:
    """All of `run` but its pictures; what cannot be read is left out."""
    try:
        config = presets.load(str(run.folder / "config.yaml"))
    except ConfigError:
        config = None
    path, saved, version = None, None, ""
    try:
        path = run.newest_checkpoint()
        metadata = checkpoint.peek(path)
        saved, version = described(metadata, path), str(metadata.get("ganctl", ""))
    except CheckpointError:
        pass  # a run that has saved nothing yet, or nothing whole
    curves, scores = curves_of(run)
    history = run.journal.events()
    scored = _newest(history, "scored") if scores else {}
    if scored.get("step") != scores.get("step"):
        scored = {}
    best = _newest(history, "best").get("step") if (run.folder / "best.pt").exists() else None
    return Account(
        run=run,
        glance=overview.of(run.folder),
        config=config,
        checkpoint=path,
        saved=saved,
        version=version,
        curves=curves,
        scores=scores,
        scored=scored,
        best=best,
        events=[event for event in history if event["event"] in SHOWN],
    )


def _newest(history: Sequence[Row], what: str) -> Row:
    """The last event of a kind; {} if there is none."""
    return next((event for event in reversed(history) if event["event"] == what), {})


def curves_of(run: Run) -> tuple[dict[str, Curve], Row]:
    """The run's figures as thinned curves, and what its newest scored row says of scores."""
    curves: dict[str, Curve] = {}
    scores: Row = {}
    rows = run.journal.each_row()
    while True:
        part = Columns()
        for row in islice(rows, ROWS):
            part.add(row)
        if not part.steps:
            return curves, scores
        steps = np.array(part.steps)
        for name, places, values in part.columns():
            if name not in curves:
                if not np.isfinite(values).any():
                    continue  # a run may have it later
                curves[name] = Curve()
            curves[name].extend(steps[places], values)
        scores = part.newest_scores() or scores


def differences(config: Config, preset: str) -> tuple[str, dict[str, Any]]:
    """The preset that `config` was made of, or else the nearest, and the settings that differ."""
    known = [preset] if preset in presets.names() else presets.names()
    found = {name: _differing(config, presets.load(name)) for name in known}
    nearest = min(found, key=lambda name: len(found[name]))
    return nearest, found[nearest]


def _differing(config: Config, preset: Config) -> dict[str, Any]:
    pairs = {name: (value_of(config, name), value_of(preset, name)) for name in setting_names()}
    return {name: ours for name, (ours, theirs) in pairs.items() if ours != theirs}


def commands(account: Account) -> list[str]:
    """What makes the run again, and what looks at it, as typed in a shell."""
    folder = shlex.quote(str(account.run.folder))
    made = []
    if account.config is not None:
        preset, changed = differences(account.config, account.glance.preset)
        source = changed.pop("data.source", None)
        words = ["ganctl", "train", "--preset", preset]
        words += ["--data", str(source)] if source is not None else []
        for name, value in changed.items():
            words += ["--set", f"{name}={json.dumps(value)}"]
        made.append(shlex.join(words))
    attention = account.config is None or account.config.model.attention.at
    return [
        *made,
        f"ganctl sample {folder} -n 64",
        f"ganctl inspect-sn {folder}",
        *([f"ganctl inspect-attention {folder}"] if attention else []),
    ]


def facts(account: Account) -> list[tuple[str, str]]:
    """What was trained, as a table of names and values."""
    glance, config, saved = account.glance, account.config, account.saved
    of = f" of {glance.steps:,}" if glance.steps is not None else ""
    rows = [("state", f"{glance.state}, step {glance.step:,}{of}")]
    if config is not None:
        preset, changed = differences(config, glance.preset)
        source = Path(changed.pop("data.source", config.data.source)).name
        side = config.data.resolution
        rows += [
            ("preset", preset if glance.preset == preset else f"most like {preset}"),
            ("settings that differ", _listed(changed)),
            (
                "networks",
                f"{config.model.architecture}, width {config.model.width}",
            ),
            ("images", f"{source}, {side} x {side} pixels"),
        ]
    if saved is not None:
        rows += [
            ("number of images", f"{saved.data.n:,}"),
            ("digest of the images", saved.data.fingerprint),
            ("machine", _listed({k: v for k, v in saved.exactness.items() if k in MACHINE})),
            ("ganctl", account.version),
        ]
        if saved.data.classes:
            rows.append(("classes", ", ".join(saved.data.classes)))
    return rows


def sentence(event: Mapping[str, Any]) -> str:
    """What happened, with the evidence that the run wrote down."""
    what = str(event["event"])
    if what == "alarm":
        what = f"alarm: {event.get('name', '')}"
    reason = event.get("evidence") or event.get("reason") or ""
    said = f"{what}: {reason}" if reason else what
    return said if len(said) <= MOST_LETTERS else f"{said[:MOST_LETTERS]} ..."


def marked(events: Sequence[Row]) -> list[Row]:
    """The newest events that are marked on the curves."""
    found = [event for event in events if event["event"] in ("alarm", "rolled back", "failed")]
    return found[-MOST_MARKS:]


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in values.items()) or "none"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
