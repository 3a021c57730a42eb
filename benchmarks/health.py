"""Which alarm a run raises, and when: healthy runs none, runs harmed on purpose theirs.

python -m benchmarks.health                       all of them, 800 steps each
python -m benchmarks.health --steps 2000 --cases seed-0 seed-1 seed-2
python -m benchmarks.health --rows DIR            and keep each run's metrics.jsonl there
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from ganctl import session
from ganctl.data.faces import draw_face
from ganctl.settings import presets
from ganctl.settings.config import replace
from ganctl.settings.strict_yaml import Value
from ganctl.store import runs
from ganctl.store.journal import Row
from ganctl.training.loop import train
from ganctl.training.state import TrainState
from ganctl.training.stopping import StopRequest


def constant_noise(trained: TrainState) -> None:
    """Whatever the latents, both generators are given ones."""
    for generator in (trained.generator, trained.generator_ema):
        generator.register_forward_pre_hook(
            lambda _, given: (torch.ones_like(given[0]), *given[1:])
        )


def frozen_discriminator(trained: TrainState) -> None:
    """D stays as it was drawn."""
    trained.d_optimizer.param_groups[0]["lr"] = 0.0


def frozen_generator(trained: TrainState) -> None:
    """G stays as it was drawn."""
    trained.g_optimizer.param_groups[0]["lr"] = 0.0


def unharmed(_: TrainState) -> None:
    """A healthy run."""


class Case(NamedTuple):
    """One run."""

    preset: str
    changes: dict[str, Value]
    harm: Callable[[TrainState], None] = unharmed
    few: int = 0  # images in a folder instead of the preset's; 0: the preset's


NOT_NORMALISED: dict[str, Value] = {"model.g_spectral_norm": False, "model.d_spectral_norm": False}
AUGMENTED: dict[str, Value] = {
    "augment.policy": ["colour", "translation", "cutout"], "augment.probability": "adaptive",
}  # fmt: skip
SMALL_SNGAN: dict[str, Value] = {
    "data.source": "faces", "model.width": 32, "optim.batch_size": 32, "train.log_every": 50,
}  # fmt: skip
CASES = {
    "seed-0": Case("faces32", {"train.seed": 0}),
    "seed-1": Case("faces32", {"train.seed": 1}),
    "seed-2": Case("faces32", {"train.seed": 2}),
    "no-spectral-norm": Case(
        "faces32",
        {**NOT_NORMALISED, "optim.d_lr": 8e-3},
    ),
    "constant-noise": Case("faces32", {}, constant_noise),
    "frozen-d": Case("faces32", {}, frozen_discriminator),
    "frozen-g": Case("faces32", {}, frozen_generator),
    "non-saturating": Case("faces32", {"loss.kind": "nonsaturating"}),
    "non-saturating-no-spectral-norm": Case(
        "faces32",
        {**NOT_NORMALISED, "optim.d_lr": 8e-3, "loss.kind": "nonsaturating"},
    ),
    "wasserstein": Case("faces32", {"loss.kind": "wasserstein"}),
    "five-d-steps-residual": Case("sngan-cifar10", SMALL_SNGAN),
    "low-rates": Case(
        "faces32", {"optim.g_lr": 1e-4, "optim.d_lr": 4e-4, "optim.batch_size": 64}
    ),
    "non-saturating-frozen-g": Case("faces32", {"loss.kind": "nonsaturating"}, frozen_generator),
    "exploding-wasserstein": Case("faces32", {**NOT_NORMALISED, "loss.kind": "wasserstein"}),
    "weak-d": Case("faces32", {"optim.d_lr": 1e-6}),
    "a-hundred": Case("faces32", {}, few=100),
    "a-hundred-augmented": Case("faces32", AUGMENTED, few=100),
    "relativistic": Case(
        "faces32",
        {**NOT_NORMALISED, "loss.kind": "relativistic", "loss.r1": 0.5, "loss.r2": 0.5},
    ),
    "san": Case("faces32", {"model.san": True}),
    "lecam": Case("faces32", {"loss.lecam": 0.3}),
}  # fmt: skip


def main() -> None:
    """Train each case and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    results = {}
    for name in chosen.cases:
        started_at = time.perf_counter()
        rows = rows_of(CASES[name], chosen.steps, chosen.device)
        print(f"{name}: {time.perf_counter() - started_at:.0f} s", file=sys.stderr)
        if chosen.rows:
            chosen.rows.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (chosen.rows / f"{name}.jsonl").write_text(text)
        results[name] = summary(rows)
    if chosen.json:
        print(json.dumps({"steps": chosen.steps, "runs": results}))
        return
    table = Table(title=f"{chosen.steps} steps; figures are means of the last five rows")
    for column in ("run", *next(iter(results.values()))):
        run = column == "run"
        table.add_column(column, justify="left" if run else "right", no_wrap=run)
    for name, cells in results.items():
        table.add_row(name, *(str(cell) for cell in cells.values()))
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def rows_of(case: Case, steps: int, device_name: str) -> list[Row]:
    """What the run writes into metrics.jsonl."""
    changes = {**case.changes, "train.steps": steps, "train.checkpoint_every": steps}
    with tempfile.TemporaryDirectory() as folder:
        if case.few:
            changes["data.source"] = drawn_into(Path(folder) / "images", case.few)
        config = replace(presets.load(case.preset), changes)
        trained = session.new(config, device_name)
        case.harm(trained.state)
        run = runs.create(Path(folder) / "run", "health", trained.config)
        train(trained.state, trained.inputs, trained.config, run, {}, Silent(), StopRequest())
        return run.journal.rows()


def drawn_into(folder: Path, count: int) -> str:
    """A folder of drawn faces."""
    folder.mkdir()
    for number in range(count):
        draw_face(number, 64).save(folder / f"{number:05}.png")
    return str(folder)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The step of each failure mode's first alarm, and how the run stood at its end."""
    modes = dict.fromkeys(mode for row in rows for mode in row["alarms"])
    first = {mode: next(row["step"] for row in rows if mode in row["alarms"]) for mode in modes}
    names = ("d_loss", "real_outside", "fake_outside", "d_gradient", "g_gradient")
    return {
        "alarms": ", ".join(f"{mode} {step:,}" for mode, step in first.items()) or "none",
        **{name: mean(rows[-5:], name) for name in ("diversity", *names, "sigma_drift")},
    }


def mean(rows: Sequence[Row], name: str) -> str:
    """Of the rows that have the figure, for the table."""
    values = [row[name] for row in rows if row[name] is not None]
    return f"{sum(values) / len(values):.3g}" if values else "-"


class Silent:
    """A watcher that shows nothing."""

    def stepped(self, step: int) -> None: ...

    def measured(self, row: Mapping[str, Any]) -> None: ...

    def saved(self, step: int, path: str) -> None: ...


if __name__ == "__main__":
    main()
