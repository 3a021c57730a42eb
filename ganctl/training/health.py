"""How a run is doing: cheap figures, and the two diseases of a GAN told from them in words.

Nothing here changes a run: what is measured is detached, random streams and batch norm are left
alone, and a diagnosis is a function of rows of metrics.jsonl.
"""

import copy
import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from ganctl.data.batches import Batches
from ganctl.models import Generator
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import autocast
from ganctl.settings.config import Config
from ganctl.store.journal import Row
from ganctl.training.losses import LOSSES
from ganctl.training.noise import noise

MARGIN = 1  # of the hinge loss: D learns nothing from a real score above it, a fake one below -it
DRIFT_ITERATIONS = 5

PROBES = 64  # images whose diversity is measured ...
PROBE_BATCH = 16  # ... drawn so many at a time
LAYOUT = 8  # they are averaged to 8 x 8 first

COLLAPSED = 0.15  # diversity below which images are too alike: six kinds among 64 drawn faces
SEPARATED = 0.99  # share of real and of fake images outside the margins at which D has won
WILD = 2.0  # spread of D(real) that no D needs: the hinge margins are so far apart
UNCHALLENGED = 0.02  # the same for a loss without margins: its share of what guessing has
TRAVEL = 0.12  # how far Adam may have moved each of G's weights before early oddities are over
FORGOTTEN = 10  # updates in units of 1 / momentum after which batch norm has forgotten its start


def score_figures(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """(6,): means of D(real) and D(fake), their spreads, shares of them outside the hinge margins.

    A spread is the standard deviation. Outside is above 1 for real and below -1 for fake images.
    """
    figures = (
        real_scores.mean(), fake_scores.mean(),
        real_scores.std(correction=0), fake_scores.std(correction=0),
        (real_scores > MARGIN).float().mean(), (fake_scores < -MARGIN).float().mean(),
    )  # fmt: skip
    return torch.stack(figures)


def gradient_norm(network: nn.Module, scaler: torch.amp.GradScaler) -> Tensor:
    """(1,): the norm of all gradients of `network` together, without fp16's scale.

    Not finite in a step that `scaler` is about to skip.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return (norm / scaler.scale(torch.ones_like(norm)))[None]


@torch.no_grad()
def sigma_drift(networks: Iterable[nn.Module]) -> float | None:
    """How far five more power iterations, which are not kept, would move an estimate of sigma.

    The largest |sigma after / sigma now - 1| of the normalised weights: by about so much the norm
    in use is above 1. It is a lower bound, as iterations converge from below. None without weights.
    """
    drifts = []
    for network in networks:
        for _, weight, norm in normalized_weights(network):
            ahead = copy.deepcopy(norm)
            for _ in range(DRIFT_ITERATIONS):
                ahead.iterate(weight)
            drifts.append((ahead.sigma(weight) / norm.sigma(weight) - 1).abs())
    return rounded(torch.stack(drifts).max().item()) if drifts else None


class Diversity:
    """How varied the images from fixed noise are: 1 is as varied as real ones, 0 is all alike.

    It compares Vendi scores (Friedman and Dieng 2023, https://arxiv.org/abs/2210.02410, definition
    3.1), the exponential of the entropy of the eigenvalues of a similarity matrix: the number of
    images in a batch that differ. n images that are k images repeated score at most k, so it falls
    when all are alike and as well when a few modes are repeated, where a mean distance hardly
    moves; it needs no network. Two images are as similar as exp(-d^2 / 2 w^2), d their distance
    after averaging to 8 x 8 pixels (modes differ in layout and colour; detail and noise must not
    pass for variety), w half the median distance of real images that differ.
    """

    def __init__(self, config: Config, batches: Batches, n_classes: int) -> None:
        """The real images are the first of the run's stream; noise has a stream of its own."""
        count = min(PROBES, len(batches.images))
        self.config = config
        self.given = noise(config, n_classes, count, batches.device, "health")
        real = layout(batches.at(0, count))
        distances = torch.pdist(real)
        distances = distances[distances > 0]  # repeated images must not make it 0
        self.width = distances.median().item() / 2 if len(distances) else 0.0
        self.real_score = vendi_score(real, self.width) if self.width else 1.0

    @torch.no_grad()
    def of(self, average: Generator) -> float | None:
        """Of the averaged generator, which samples come from and which is always in eval mode.

        None if the real images are all alike, or an image is not finite.
        """
        if not self.width:
            return None
        parts = [self.given.z.split(PROBE_BATCH)]
        if self.given.labels is not None:
            parts.append(self.given.labels.split(PROBE_BATCH))
        drawn = []
        for part in zip(*parts, strict=True):
            with autocast(part[0].device, self.config.train.precision):
                drawn.append(layout(average(*part)))
        images = torch.cat(drawn)
        if not images.isfinite().all():
            return None
        return round((vendi_score(images, self.width) - 1) / (self.real_score - 1), 4)


def layout(images: Tensor) -> Tensor:
    """(B, 3, R, R) -> (B, 192) float64 on the CPU: averaged to 8 x 8 pixels."""
    return adaptive_avg_pool2d(images.float(), LAYOUT).flatten(1).cpu().double()


def vendi_score(points: Tensor, width: float) -> float:
    """From 1, all points alike, to B, all far from each other; points: (B, D)."""
    similarity = torch.exp(-torch.cdist(points, points).square() / (2 * width**2))
    shares = torch.linalg.eigvalsh(similarity / len(points)).clamp(min=0)
    return math.exp(torch.special.entr(shares).sum().item())


@dataclass(frozen=True)
class Diagnosis:
    """A disease, what it is told from, and what to try."""

    name: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}"


def diagnose(rows: Sequence[Row], loss: str, window: int) -> list[Diagnosis]:
    """What the rows of the last `window` steps say, if each of them says it.

    The first `window` steps of a run, and rows without a figure, say nothing. D overpowers if it
    has won, which under the hinge loss the margins tell and under the non-saturating one the loss
    (`loss` is the kind), or if its steps are so large that it runs wild. A Wasserstein critic is
    meant to be as good as it can (Arjovsky et al. 2017, section 3): of it only collapse is told.
    """
    if not rows or (now := rows[-1]["step"]) < 2 * window or rows[0]["step"] > now - window:
        return []
    recent = [row for row in rows if row["step"] > now - window]
    found = (_collapse(recent), _overpowers(recent, loss))
    return [diagnosis for diagnosis in found if diagnosis]


def _collapse(rows: Sequence[Row]) -> Diagnosis | None:
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


def _overpowers(rows: Sequence[Row], loss: str) -> Diagnosis | None:
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


def _separated(rows: Sequence[Row]) -> str | None:
    """D has won under the hinge loss: both kinds of images are beyond its margins."""
    real, fake = _figures(rows, "real_outside"), _figures(rows, "fake_outside")
    if not real or not fake or min(real + fake) < SEPARATED:
        return None
    return (
        f"D(real) > {MARGIN} for at least {100 * min(real):.1f} % of the real images and"
        f" D(fake) < -{MARGIN} for {100 * min(fake):.1f} % of the fake ones, so D has nothing to"
        " learn"
    )


def _unchallenged(rows: Sequence[Row], blind: float) -> str | None:
    """D has won under a loss without margins: hardly any loss is left."""
    losses = _figures(rows, "d_loss")
    if not losses or max(losses) >= UNCHALLENGED * blind:
        return None
    return f"D's loss has been at most {max(losses):.3f}; guessing has {blind:.2f}"


def _overshoots(rows: Sequence[Row], blind: float) -> str | None:
    """D's steps are too large for it to win: its scores are huge, and more wrong than guesses."""
    losses, spreads = _figures(rows, "d_loss"), _figures(rows, "real_spread")
    if not losses or not spreads or min(spreads) < WILD or median(losses) < blind:
        return None
    return (
        f"D(real) has had a spread of at least {min(spreads):.1f}, yet D's loss, typically"
        f" {median(losses):.1f}, is above that of guessing, {blind:.1f}: D moves faster than"
        " anything can follow"
    )


def _figures(rows: Sequence[Row], name: str) -> list[float]:
    """The figure in all rows; [] if one of them lacks it."""
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float)] if None not in values else []


def window_of(config: Config) -> int:
    """Steps at a run's start that say nothing, and for which a sign must last from then on.

    Adam moves a weight by about its rate a step, so a run with a lower rate needs longer; and
    averaged generators mean nothing until the statistics of batch norm are those of real batches.
    """
    model = config.model
    momentum = model.batch_norm_momentum if model.architecture == "resnet" else 0.1
    return math.ceil(max(TRAVEL / config.optim.g_lr, FORGOTTEN / momentum))


def rounded(value: float) -> float | None:
    """To four digits that count; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


class Checkup:
    """Completes rows of metrics.jsonl as they are made, and notices when a disease begins.

    All it remembers are the rows of the last window, which a resumed run reads back. A row that a
    stop cut short has no say; the first after it is the mean of fewer steps than an uninterrupted
    run's, which is the only difference that a stop makes.
    """

    def __init__(
        self, config: Config, batches: Batches, n_classes: int, rows: Iterable[Row]
    ) -> None:
        """`rows` are those that the run has written so far."""
        self.config, self.window = config, window_of(config)
        self.diversity = Diversity(config, batches, n_classes)
        self._rows: deque[Row] = deque()
        for row in rows:
            self._remember(row)
        self._names = {diagnosis.name for diagnosis in self._diagnose()}

    def complete(self, row: Row, average: Generator) -> list[Diagnosis]:
        """Add diversity and alarms, the diseases that last, to `row`; returns those that begin."""
        row["diversity"] = self.diversity.of(average)
        self._remember(row)
        found = self._diagnose()
        begun = [diagnosis for diagnosis in found if diagnosis.name not in self._names]
        self._names = {diagnosis.name for diagnosis in found}
        row["alarms"] = [diagnosis.name for diagnosis in found]
        return begun

    def _remember(self, row: Row) -> None:
        if row["step"] % self.config.train.log_every:
            return
        self._rows.append(row)
        while len(self._rows) > 1 and self._rows[1]["step"] <= row["step"] - self.window:
            self._rows.popleft()

    def _diagnose(self) -> list[Diagnosis]:
        return diagnose(self._rows, self.config.loss.kind, self.window)
