"""How a run is doing: the failure modes of a GAN, recognised by its figures, in words.

Nothing here changes a run: a diagnosis is a function of rows of metrics.jsonl.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, NamedTuple

import torch

from ganctl.settings.config import Config
from ganctl.training.losses import LOSSES
from ganctl.training.metrics import MARGIN

COLLAPSED = 0.15  # diversity below which images are too alike: six kinds among 64 drawn faces
SEPARATED = 0.99  # share of real and of fake images outside the margins at which D has won
WILD = 2.0  # spread of D(real) that no D needs: the hinge margins are so far apart
FOOLED = 1.0  # spreads of its scores by which a D that is too weak puts fake images above real ones
EXPLODED = 1000  # spread of scores, or distance between real and fake ones, that no D needs
TENFOLD = 10  # growth within a window at which a tenth of that is enough
UNBOUNDED = {  # losses that fall for ever if D's scores grow, and the penalty that prevents it
    "wasserstein": "--set loss.gradient_penalty=10",
    "relativistic": "--set loss.r1=0.5 --set loss.r2=0.5",
}
FEW, MANY = 0.3, 1.5  # diversity below and above which there is a word, though no alarm
UNCHALLENGED = 0.02  # share of what guessing has that D's loss typically is when it has won ...
HICCUP = 0.1  # ... and what it may come to now and then
COLLAPSES = {  # figures: of which images, as varied as which real ones, and what else to begin with
    "diversity": (
        "images from fixed noise", "real ones",
        "a lower optim.g_lr, more optim.d_steps_per_g, a larger optim.batch_size,"
        " model.d_spectral_norm: true or loss.r1",
    ),
    "class_diversity": (
        "images of one class from different noise", "real ones of that class",
        "fewer, larger classes, model.conditional: false, a lower optim.g_lr or a larger"
        " optim.batch_size",
    ),
}  # fmt: skip
# How often D scores a training image above an unseen one; by chance 0.5. Where only 16 are held
# out, a mean of six looks is as high once in 200 times though nothing was learned by heart.
MEMORISED = 0.7


@dataclass(frozen=True)
class Diagnosis:
    """A failure mode, its evidence, and what to try."""

    name: str
    evidence: str
    advice: str
    alarming: bool = True  # else a word, which ends no run

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}"


def diagnose(rows: Sequence[Mapping[str, Any]], loss: str, window: int) -> list[Diagnosis]:
    """What the rows of the last `window` steps say, if each of them says it.

    The first `window` steps of a run, and rows without a figure, say nothing. D overpowers if it
    has won, which under the hinge loss the margins show and under the non-saturating one the loss
    (`loss` is the kind), or if its steps are so large that it runs wild. A Wasserstein critic is
    meant to be as good as it can (Arjovsky et al. 2017, section 3): it does not overpower.
    """
    if not rows or (now := rows[-1]["step"]) < 2 * window or rows[0]["step"] > now - window:
        return []
    recent = [row for row in rows if row["step"] > now - window]
    weak = _too_weak(recent)  # then images are all alike, too
    found = (
        weak or _collapse(recent, "diversity") or _collapse(recent, "class_diversity"),
        _explodes(recent) or _overpowers(recent, loss),
        _memorises(recent),
        None if weak else _odd_diversity(recent),
    )
    return [diagnosis for diagnosis in found if diagnosis]


def _too_weak(rows: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """D does not follow G: it takes generated images for more real than real ones are.

    How far its scores lie apart says nothing. Adam's steps are as large whatever a gradient is
    multiplied by (Kingma and Ba 2015, section 2.1), so G learns as well from thousandths.
    """
    leads = [_lead_of_fakes(row) for row in rows]
    if not all(lead >= FOOLED for lead in leads):
        return None
    since, least = f"since step {rows[0]['step']:,} D has", min(leads)
    lead = f"scored generated images above real ones, by at least {least:.1f} times the spread"
    alike = "given all real images one score, and all generated ones one that is no lower"
    evidence = f"{lead} of its scores" if least < math.inf else alike
    return Diagnosis(
        "discriminator too weak",
        f"{since} {evidence}: G learns nothing from it",
        "start again with a higher optim.d_lr, more optim.d_steps_per_g, or less loss.r1 and"
        " loss.gradient_penalty",
    )


def _lead_of_fakes(row: Mapping[str, Any]) -> float:
    """How far D scores fake images above real ones, in spreads of its scores.

    Without spread it is inf, or -inf if they are below; nan if the row does not have the figures.
    """
    scores = _scores(row)
    if scores is None:
        return math.nan
    spread = max(scores.real_spread, scores.fake_spread)
    lead = scores.fake - scores.real
    return lead / spread if spread > 0 else math.copysign(math.inf, lead)


def _collapse(rows: Sequence[Mapping[str, Any]], figure: str) -> Diagnosis | None:
    """Images are all alike, by `figure`: one of COLLAPSES."""
    diversity = _figures(rows, figure)
    if not diversity or max(diversity) >= COLLAPSED:
        return None
    images, real, advice = COLLAPSES[figure]
    return Diagnosis(
        "mode collapse",
        f"since step {rows[0]['step']:,} {images} have been at most {max(diversity):.2f} times as"
        f" varied as {real}",
        f"go back to a checkpoint from before, or start again with {advice}",
    )


def _odd_diversity(rows: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """A word where images are less varied than they should be, or more than real ones are."""
    diversity = _figures(rows, "diversity")
    if diversity and COLLAPSED <= max(diversity) < FEW:
        return Diagnosis(
            "low diversity",
            f"since step {rows[0]['step']:,} images from fixed noise have been at most"
            f" {max(diversity):.2f} times as varied as real ones",
            "early in a run that passes; later try a larger optim.batch_size or a lower optim.g_lr",
            alarming=False,
        )
    if diversity and min(diversity) > MANY:
        return Diagnosis(
            "images are too varied",
            f"since step {rows[0]['step']:,} images from fixed noise have been at least"
            f" {min(diversity):.2f} times as varied as real ones",
            "G does not draw such images yet: look at the newest preview, and wait, or start again"
            " with a higher optim.g_lr or a lower optim.d_lr",
            alarming=False,
        )
    return None


def _explodes(rows: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """D's scores grow without end, under any loss."""
    sizes = [size_of_scores(row) for row in rows]
    grows = sizes[-1] >= TENFOLD * sizes[0]
    if not all(size >= (EXPLODED / TENFOLD if grows else EXPLODED) for size in sizes):
        return None
    return Diagnosis(
        "scores explode",
        f"since step {rows[0]['step']:,} D's scores have lain {min(sizes):,.0f} to"
        f" {max(sizes):,.0f} apart: nothing bounds D",
        "go back to a checkpoint from before, or start again with model.d_spectral_norm: true,"
        " loss.gradient_penalty: 10 for a Wasserstein loss or loss.r1 for others, or a lower"
        " optim.d_lr",
    )


def size_of_scores(row: Mapping[str, Any]) -> float:
    """How far D's scores lie apart: the largest spread, or distance of real from fake ones.

    nan where the row does not have the figures. What is added to all scores counts for nothing.
    """
    scores = _scores(row)
    if scores is None:
        return math.nan
    return max(scores.real_spread, scores.fake_spread, abs(scores.real - scores.fake))


class _Scores(NamedTuple):
    """D's, of the images of a row: means and standard deviations."""

    real: float
    fake: float
    real_spread: float
    fake_spread: float


def _scores(row: Mapping[str, Any]) -> _Scores | None:
    found = [row.get(name) for name in ("real_score", "fake_score", "real_spread", "fake_spread")]
    numbers = [float(value) for value in found if isinstance(value, int | float)]
    return _Scores(*numbers) if len(numbers) == len(found) else None


def is_sane(row: Mapping[str, Any]) -> bool:
    """Whether D's scores are of a size that a run can go on from."""
    return not size_of_scores(row) >= EXPLODED


def blind_loss(loss: str) -> float:
    """D's loss where it gives all images the same score."""
    return LOSSES[loss].discriminator(torch.zeros(1), torch.zeros(1)).item()


def forewarning(config: Config) -> str | None:
    """What is likely to fail in a run before its first step, and what to do, if anything is."""
    loss = config.loss
    penalised = loss.gradient_penalty > 0 or loss.r1 > 0 or loss.r2 > 0
    if config.model.d_spectral_norm or penalised or loss.kind not in UNBOUNDED:
        return None
    return (
        f"nothing bounds D under the {loss.kind} loss, so its scores will grow without end; add"
        f" --set model.d_spectral_norm=true or {UNBOUNDED[loss.kind]}"
    )


def _overpowers(rows: Sequence[Mapping[str, Any]], loss: str) -> Diagnosis | None:
    blind = blind_loss(loss)
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
    if not losses or median(losses) >= UNCHALLENGED * blind or max(losses) >= HICCUP * blind:
        return None
    return (
        f"D's loss has been at most {max(losses):.3f}, typically {median(losses):.3f}; guessing has"
        f" {blind:.2f}"
    )


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
        "G comes to draw variations of the images trained on: go on while previews get better, and"
        " keep the checkpoint that you like best (scores are best for copies, so they do not tell),"
        " or start again with augmentation (augment.policy: [colour, translation, cutout] and"
        " augment.probability: adaptive), data.flip: true, or more images",
    )


def _figures(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """The figure in all rows; [] if one of them lacks it."""
    values = [row.get(name) for row in rows]
    return [float(v) for v in values if isinstance(v, int | float)] if None not in values else []
