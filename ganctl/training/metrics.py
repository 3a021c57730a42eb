"""What a run's metrics.jsonl says of each log interval."""

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ganctl.models.attention import SelfAttention
from ganctl.models.spectral import normalized_weights
from ganctl.runtime import synchronize
from ganctl.settings.config import Config
from ganctl.store.journal import Row
from ganctl.training.health import rounded, sigma_drift
from ganctl.training.state import TrainState

D_METRICS = (
    "d_loss", "real_score", "fake_score", "real_spread", "fake_spread", "real_outside",
    "fake_outside", "d_gradient",
)  # fmt: skip
G_METRICS = ("g_loss", "g_gradient")
METRICS = D_METRICS + G_METRICS  # what each training step measures
FINITE = ("d_loss", "g_loss", "real_score", "fake_score")  # of a run that has not diverged
MARGINS = ("real_outside", "fake_outside")  # that only the hinge loss has


@dataclass
class Meter:
    """Means of the metrics since they were last read; the device is waited for only then."""

    step: int
    started_at: float = field(default_factory=time.perf_counter)
    total: Tensor | None = None

    def add(self, metrics: Tensor) -> None:
        self.total = metrics if self.total is None else self.total + metrics

    def read(self, state: TrainState, config: Config, device: torch.device) -> Row:
        """One row for metrics.jsonl, and start afresh."""
        assert self.total is not None
        steps = state.step - self.step
        synchronize(device)
        seconds = time.perf_counter() - self.started_at
        means = (self.total / steps).tolist()
        images = config.optim.batch_size * config.optim.d_steps_per_g
        row: Row = {
            "step": state.step,
            "images": state.step * images,
            "images_per_second": round(steps * images / seconds, 2),
            **{
                name: round(value, 5) if name in FINITE else rounded(value)
                for name, value in zip(METRICS, means, strict=True)
            },
            "gamma": gammas(state),
            "sigma_max": largest_sigma(state),
            "sigma_drift": sigma_drift((state.generator, state.discriminator)),
        }
        if config.loss.kind != "hinge":
            row.update(dict.fromkeys(MARGINS))
        self.step, self.started_at, self.total = state.step, time.perf_counter(), None
        return row


def gammas(state: TrainState) -> dict[str, float]:
    """gamma of each attention block, for example {"g.stages.1.attention": 0.02}."""
    return {
        f"{prefix}.{name}": round(module.gamma.item(), 5)
        for prefix, network in (("g", state.generator), ("d", state.discriminator))
        for name, module in network.named_modules()
        if isinstance(module, SelfAttention)
    }


def largest_sigma(state: TrainState) -> float | None:
    """The largest estimated singular value of a raw weight in either network."""
    networks = (state.generator, state.discriminator)
    weights = [weight for network in networks for weight in normalized_weights(network)]
    if not weights:
        return None
    with torch.no_grad():
        return round(torch.stack([norm.sigma(raw) for _, raw, norm in weights]).max().item(), 5)
