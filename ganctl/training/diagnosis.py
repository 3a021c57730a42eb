"""How a run is doing: the failure modes of a GAN, recognised by its figures, in words.

Nothing here changes a run: a diagnosis is a function of rows of metrics.jsonl.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import torch

from ganctl.models import Generator
from ganctl.settings.config import Config
from ganctl.training.diversity import Diversity
from ganctl.training.inputs import Inputs
from ganctl.training.losses import LOSSES
from ganctl.training.memorising import scores_of
from ganctl.training.metrics import MARGIN, Row, rounded
from ganctl.training.state import TrainState

COLLAPSED = 0.15  # diversity below which images are too alike: six kinds among 64 drawn faces
SEPARATED = 0.99  # share of real and of fake images outside the margins at which D has won
WILD = 2.0  # spread of D(real) that no D needs: the hinge margins are so far apart
UNCHALLENGED = 0.02  # the same for a loss without margins: its share of what guessing has
MEMORISED = 0.75  # how often D scores a training image above an unseen one; by chance 0.5
TRAVEL = 0.12  # how far Adam may have moved each of G's weights before early oddities are over
FORGOTTEN = 10  # updates in units of 1 / momentum after which batch norm has forgotten its start


@dataclass(frozen=True)
class Diagnosis:
    """A failure mode, its evidence, and what to try."""

    name: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}"


def diagnose(rows: Sequence[Mapping[str, Any]], loss: str, window: int) -> list[Diagnosis]:
    """What the rows of the last `window` steps say, if each of them says it.

    The first `window` steps of a run, and rows without a figure, say nothing. D overpowers if it
    has won, which under the hinge loss the margins show and under the non-saturating one the loss
    (`loss` is the kind), or if its steps are so large that it runs wild. A Wasserstein critic is
    meant to be as good as it can (Arjovsky et al. 2017, section 3): only its collapse is reported.
    """
    if not rows or (now := rows[-1]["step"]) < 2 * window or rows[0]["step"] > now - window:
        return []
    recent = [row for row in rows if row["step"] > now - window]
    found = (_collapse(recent), _overpowers(recent, loss), _memorises(recent))
    return [diagnosis for diagnosis in found if diagnosis]


def _collapse(rows: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    diversity = _figures(rows, "diversity")
    if not diversity or max(diversity) >= COLLAPSED:
        return None
    return Diagnosis(
        "mode collapse",
        f"since step {rows[0]['step']:,} images from fixed noise have been at most"
        f" {max(diversity):.2f} times as varied as real ones",
        "go back to a checkpoint from before, or start again with a lower optim.g_lr, more"
        " optim.d_steps_per_g, a larger optim.batch_size, model.d_spectral_norm: true or loss.r1",
    )


def _overpowers(rows: Sequence[Mapping[str, Any]], loss: str) -> Diagnosis | None:
    blind = LOSSES[loss].discriminator(torch.zeros(1), torch.zeros(1)).item()
    if blind == 0:
        return None
    evidence = _separated(rows) if loss == "hinge" else _unchallenged(rows, blind)
    evidence = evidence or _overshoots(rows, blind)
    if evidence is None:
        return None
    return Diagnosis(
        "discriminator overpowers",
        f"since step {rows[0]['step']:,} {evidence}",
        "start again with model.d_spectral_norm: true, a lower optim.d_lr, fewer"
        " optim.d_steps_per_g, loss.r1, or more images (data.flip: true doubles them)",
    )


def _separated(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """D has won under the hinge loss: both kinds of images are beyond its margins."""
    real, fake = _figures(rows, "real_outside"), _figures(rows, "fake_outside")
    if not real or not fake or min(real + fake) < SEPARATED:
        return None
    return (
        f"D(real) > {MARGIN} for at least {100 * min(real):.1f} % of the real images and"
        f" D(fake) < -{MARGIN} for {100 * min(fake):.1f} % of the fake ones, so D has nothing to"
        " learn"
    )


def _unchallenged(rows: Sequence[Mapping[str, Any]], blind: float) -> str | None:
    """D has won under a loss without margins: hardly any loss is left."""
    losses = _figures(rows, "d_loss")
    if not losses or max(losses) >= UNCHALLENGED * blind:
        return None
    return f"D's loss has been at most {max(losses):.3f}; guessing has {blind:.2f}"


def _overshoots(rows: Sequence[Mapping[str, Any]], blind: float) -> str | None:
    """D's steps are too large for it to win: its scores are huge, and more wrong than guesses."""
    losses, spreads = _figures(rows, "d_loss"), _figures(rows, "real_spread")
    if not losses or not spreads or min(spreads) < WILD or median(losses) < blind:
        return None
    return (
        f"D(real) has had a spread of at least {min(spreads):.1f}, yet D's loss, typically"
        f" {median(losses):.1f}, is above that of guessing, {blind:.1f}: D moves faster than"
        " anything can follow"
    )


def _memorises(rows: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """D tells the images that it is trained on from those that it never saw."""
    aucs = _figures(rows, "memorising_auc")
    if not aucs or (typical := mean(aucs)) < MEMORISED:
        return None
    return Diagnosis(
        "D memorises",
        f"since step {rows[0]['step']:,} D has scored a training image above an image held out from"
        f" training in {100 * typical:.0f} % of all pairs; 50 % is no difference",
        "what G learns from it gets worse from here on: use the best checkpoint so far, or start"
        " again with augmentation (augment.policy: [colour, translation, cutout] and"
        " augment.probability: adaptive), data.flip: true, or more images",
    )


def _figures(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The figure in all rows; [] if one of them lacks it."""
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float)] if None not in values else []


def window_of(config: Config) -> int:
    """Steps at a run's start that say nothing, and for which a sign must last from then on.

    Adam moves a weight by about its rate a step, so a run with a lower rate needs longer; and
    averaged generators mean nothing until the statistics of batch norm are those of real batches.
    """
    momentum = config.model.batch_norm_momentum
    return math.ceil(max(TRAVEL / config.optim.g_lr, FORGOTTEN / momentum))


class Checkup:
    """Completes rows of metrics.jsonl as they are made, and notices when a failure mode begins.

    All it remembers are the rows of the last window, which a resumed run reads back. A row that a
    stop cut short has no say; the first after it is the mean of fewer steps than an uninterrupted
    run's, which is the only difference that a stop makes.
    """

    def __init__(self, config: Config, inputs: Inputs, rows: Iterable[Mapping[str, Any]]) -> None:
        """`rows` are those that the run has written so far."""
        self.config, self.inputs, self.window = config, inputs, window_of(config)
        self.diversity = Diversity(config, inputs.batches, inputs.n_classes)
        self._rows: deque[Mapping[str, Any]] = deque()
        for row in rows:
            self._remember(row)
        self._names = {diagnosis.name for diagnosis in self._diagnose()}

    def complete(self, row: Row, state: TrainState, average: Generator) -> list[Diagnosis]:
        """Add how G and D do and alarms, which are what lasts, to `row`; returns what begins."""
        row["diversity"] = self.diversity.of(average)
        if (trial := self.inputs.trial_after(state.step)) is not None:
            scores = scores_of(state, trial, self.config)
            row["memorising"] = rounded(scores.memorising().item())
            row["memorising_auc"] = rounded(scores.auc().item())
        self._remember(row)
        found = self._diagnose()
        begun = [diagnosis for diagnosis in found if diagnosis.name not in self._names]
        self._names = {diagnosis.name for diagnosis in found}
        row["alarms"] = [diagnosis.name for diagnosis in found]
        return begun

    def _remember(self, row: Mapping[str, Any]) -> None:
        if row["step"] % self.config.train.log_every:
            return
        self._rows.append(row)
        while len(self._rows) > 1 and self._rows[1]["step"] <= row["step"] - self.window:
            self._rows.popleft()

    def _diagnose(self) -> list[Diagnosis]:
        return diagnose(self._rows, self.config.loss.kind, self.window)
