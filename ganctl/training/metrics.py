"""What is measured on the way: by each step on the device, and by each log interval in a row."""

import copy
import math
import time
from collections import deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, NotRequired, TypedDict, TypeVar

import torch
from torch import Tensor, nn

from ganctl.models.attention import SelfAttention
from ganctl.models.spectral import NormalizedWeight, iterate, normalized_weights
from ganctl.runtime import synchronize
from ganctl.settings.config import Config
from ganctl.training.state import TrainState

MARGIN = 1  # of the hinge loss: D learns nothing from a real score above it, a fake one below -it
DRIFT_ITERATIONS = 5


Value = TypeVar("Value", Tensor, float)  # measured on the device, then read


class DMetrics(NamedTuple, Generic[Value]):
    """Of one update of D, each (), detached."""

    loss: Value
    real_score: Value  # mean of D(real)
    fake_score: Value
    real_spread: Value  # standard deviation of D(real)
    fake_spread: Value
    real_outside: Value  # share of D(real) above the hinge loss' margin, 1
    fake_outside: Value  # share of D(fake) below the other one, -1
    gradient: Value  # norm of D's gradient


class GMetrics(NamedTuple, Generic[Value]):
    """Of one update of G, each (), detached."""

    loss: Value
    gradient: Value  # norm of G's gradient


class StepMetrics(NamedTuple, Generic[Value]):
    """Of one training step."""

    d: DMetrics[Value]
    g: GMetrics[Value]


# What a step's figures are called in a row, in their order.
FIGURES = (
    "d_loss", "real_score", "fake_score", "real_spread", "fake_spread", "real_outside",
    "fake_outside", "d_gradient", "g_loss", "g_gradient",
)  # fmt: skip


class Row(TypedDict):
    """One line of metrics.jsonl: means over the steps since the line before.

    None stands for a figure that the run does not have, or that is not finite.
    """

    step: int
    images: int  # real ones that D has seen
    images_per_second: float
    d_loss: float
    real_score: float
    fake_score: float
    real_spread: float | None
    fake_spread: float | None
    real_outside: float | None  # of the hinge loss only
    fake_outside: float | None
    d_gradient: float | None
    g_loss: float
    g_gradient: float | None
    gamma: dict[str, float]  # of each attention block: {"g.stages.1.attention": 0.02}
    sigma_max: float | None  # the largest estimated singular value of a raw weight
    sigma_drift: float | None
    diversity: float | None
    class_diversity: float | None  # within classes, of conditional models
    memorising: float | None  # 0: D scores held-out images like training images, 1: like fake ones
    memorising_auc: (
        float | None
    )  # how often a training image has a higher score than a held-out one
    augment_p: float | None  # probability of adaptive augmentation
    alarms: list[str]  # names of the failure modes that last
    score_fd: NotRequired[float]  # of steps at which the run is scored, as are the others
    score_kid: NotRequired[float]
    score_kid_error: NotRequired[float]
    score_precision: NotRequired[float]
    score_recall: NotRequired[float]
    score_density: NotRequired[float]
    score_coverage: NotRequired[float]
    score_protocol: NotRequired[str]


def d_metrics(
    loss: Tensor, real_scores: Tensor, fake_scores: Tensor, gradient: Tensor
) -> DMetrics[Tensor]:
    """The metrics of an update of D from its loss, all its scores (B,), and its gradient's norm."""
    return DMetrics(
        loss=loss,
        real_score=real_scores.mean(),
        fake_score=fake_scores.mean(),
        real_spread=real_scores.std(correction=0),
        fake_spread=fake_scores.std(correction=0),
        real_outside=(real_scores > MARGIN).float().mean(),
        fake_outside=(fake_scores < -MARGIN).float().mean(),
        gradient=gradient,
    )


def gradient_norm(network: nn.Module, scaler: torch.amp.GradScaler) -> Tensor:
    """(): the norm of all gradients of `network` together, without fp16's scale.

    Not finite in a step that `scaler` is about to skip.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm / scaler.scale(torch.ones_like(norm)) if scaler.is_enabled() else norm


class Meter:
    """Means of the metrics since the last row; the device is waited for only when they are read.

    The sums are a part of the state, so that a row is the mean of the same steps however often the
    run was interrupted in between.
    """

    def __init__(self, config: Config, state: TrainState) -> None:
        self.config, self.state = config, state
        # In fp16 a step may overflow, and is then skipped: it is left out of the means as well.
        self._skips = config.train.precision == "fp16"
        self._unread: deque[Tensor] = deque()  # figures of steps that were not looked at yet
        self._begin()

    def add(self, metrics: StepMetrics[Tensor]) -> None:
        """Count one step."""
        figures = torch.stack([*metrics.d, *metrics.g])
        self._unread.append(figures)
        figures = torch.cat([figures, figures.new_ones(1)])
        if self._skips:
            figures = torch.where(figures.isfinite().all(), figures, 0)
        self.state.measured += figures

    def bad_figure(self, *, wait: bool = False) -> str | None:
        """Which loss, score or gradient's norm of the last step is not finite, and what it is.

        A GPU is not waited for without `wait`: there it is the step before the last. In fp16 such
        steps are skipped, and say nothing.
        """
        kept = 0 if wait or (self._unread and self._unread[-1].device.type == "cpu") else 1
        while len(self._unread) > kept:
            figures = self._unread.popleft()
            if not self._skips and (bad := _first_bad(figures)):
                return bad
        return _first_bad(self.state.measured[:-1]) if wait else None  # sums may overflow

    def read(self, device: torch.device) -> Row | None:
        """One row for metrics.jsonl, without what a checkup completes; and start afresh.

        If that is because the run ends before its next row, do not: its next start completes it.
        None as long as all steps were skipped: then there is nothing to tell yet.
        """
        state, optim = self.state, self.config.optim
        synchronize(device)
        if not state.measured[-1]:
            return None
        seconds = time.perf_counter() - self._started_at
        images = optim.batch_size * optim.d_steps_per_g
        means = (state.measured[:-1] / state.measured[-1]).tolist()
        d = DMetrics[float](*means[: len(DMetrics._fields)])
        g = GMetrics[float](*means[len(DMetrics._fields) :])
        hinge = self.config.loss.kind == "hinge"
        row = Row(
            step=state.step,
            images=state.step * images,
            images_per_second=round((state.step - self._step) * images / seconds, 2),
            d_loss=round(d.loss, 5),
            real_score=round(d.real_score, 5),
            fake_score=round(d.fake_score, 5),
            real_spread=rounded(d.real_spread),
            fake_spread=rounded(d.fake_spread),
            real_outside=rounded(d.real_outside) if hinge else None,
            fake_outside=rounded(d.fake_outside) if hinge else None,
            d_gradient=rounded(d.gradient),
            g_loss=round(g.loss, 5),
            g_gradient=rounded(g.gradient),
            gamma=gammas(state),
            sigma_max=largest_sigma(state),
            sigma_drift=sigma_drift((state.generator, state.discriminator)),
            diversity=None,
            class_diversity=None,
            memorising=None,
            memorising_auc=None,
            augment_p=None if state.augment_p is None else rounded(state.augment_p.item()),
            alarms=[],
        )
        if state.step % self.config.train.log_every == 0:
            state.measured.zero_()
            self._begin()
        return row

    def restart(self) -> None:
        """Begin to count time now: what was done since the last row is no training."""
        self._started_at = time.perf_counter()

    def _begin(self) -> None:
        self._step, self._started_at = self.state.step, time.perf_counter()


def _first_bad(figures: Tensor) -> str | None:
    """The name and value of the first of a step's figures, (10,), that is not finite."""
    if figures.isfinite().all():
        return None
    pairs = zip(FIGURES, figures.tolist(), strict=True)
    return next(f"{name} is {value}" for name, value in pairs if not math.isfinite(value))


def gammas(state: TrainState) -> dict[str, float]:
    """gamma of each attention block, for example {"g.stages.1.attention": 0.02}."""
    return {
        f"{prefix}.{name}": round(module.gamma.item(), 5)
        for prefix, network in (("g", state.generator), ("d", state.discriminator))
        for name, module in network.named_modules()
        if isinstance(module, SelfAttention)
    }


@torch.no_grad()
def largest_sigma(state: TrainState) -> float | None:
    """The largest estimated singular value of a raw weight in either network."""
    networks = (state.generator, state.discriminator)
    weights = [weight for network in networks for weight in normalized_weights(network)]
    if not weights:
        return None
    return round(torch.stack([norm.sigma(raw) for _, raw, norm in weights]).max().item(), 5)


@torch.no_grad()
def sigma_drift(networks: Iterable[nn.Module]) -> float | None:
    """How far five more power iterations, which are not kept, would move an estimate of sigma.

    The largest |sigma after / sigma now - 1| of the normalised weights: by about so much the norm
    in use is above 1. It is a lower bound, as iterations converge from below. None without weights.
    """
    now = [weight for network in networks for weight in normalized_weights(network)]
    if not now:
        return None
    later = [NormalizedWeight(name, raw, copy.deepcopy(norm)) for name, raw, norm in now]
    iterate(later, DRIFT_ITERATIONS)
    before, after = (torch.stack([n.sigma(raw) for _, raw, n in found]) for found in (now, later))
    return rounded((after / before - 1).abs().max().item())


def rounded(value: float) -> float | None:
    """To four digits that count; None if it is not finite."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
