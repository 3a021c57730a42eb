"""Whether D learns its training images by heart: they and images it never saw, as D scores them.

Karras et al. 2020 (https://arxiv.org/abs/2006.06676, section 3, r_v) compare training and held-out
images so, and steer the probability of augmentation by what D says of training images alone (r_t).
Here the held-out ones steer it, as the zero of D's scores drifts under spectral norm; and as few
images hold out few, whose scores differ by chance, it is raised only by a gap that chance seldom
makes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.distributed import averaged
from ganctl.models.spectral import normalized
from ganctl.runtime import autocast
from ganctl.settings.config import Config
from ganctl.training import ema
from ganctl.training.augment import shown
from ganctl.training.inputs import Trial
from ganctl.training.state import TrainState

TARGET = 0.3  # of `memorising`: augmentation gets stronger if it is clearly above, else weaker
CHANGE = 1 / 16  # of the probability, each time that it is steered


class TrialScores(NamedTuple):
    """What D thinks of images as it is shown them in training, (B,) each."""

    trained_on: Tensor
    held_out: Tensor
    fake: Tensor

    def memorising(self) -> Tensor:
        """(): 0 if D scores held-out images like training images, 1 if like generated ones.

        nan where D does not tell training images from generated ones.
        """
        distance = self._distance()
        return torch.where(distance > 0, self._gap() / distance, torch.nan)

    def auc(self) -> Tensor:
        """(): how often a training image has a higher score than a held-out one; 1/2 by chance."""
        difference = self.trained_on[:, None] - self.held_out
        return (difference > 0).float().mean() + (difference == 0).float().mean() / 2

    def pressure(self) -> Tensor:
        """(): 1 if the gap is above TARGET of the distance by over its standard error, else -1.

        So the fewer images are looked at, the wider the gap must be.
        """
        excess = self._gap() - TARGET * self._distance().clamp(min=0)
        kinds = torch.stack([self.trained_on, self.held_out])  # (2, B)
        error = (kinds.var(1) / kinds.shape[1]).sum().sqrt()
        return torch.where(excess > error, 1.0, -1.0)

    def _gap(self) -> Tensor:
        return self.trained_on.mean() - self.held_out.mean()

    def _distance(self) -> Tensor:
        return self.trained_on.mean() - self.fake.mean()


@torch.no_grad()
def scores_of(state: TrainState, trial: Trial, config: Config) -> TrialScores:
    """D's scores of the images of `trial`, augmented as in training; fakes are the average's.

    Nothing is changed. The average is in eval mode: its batch norm needs no other process's images.
    """
    device, precision = trial.latents.z.device, config.train.precision
    ema.ready(state.generator_ema, state.generator)
    with normalized(state.generator_ema), autocast(device, precision):
        fake = state.generator_ema(*trial.latents).float()
    found = []
    for images, labels, draws in (
        (trial.trained_on.pixels.images(), trial.trained_on.labels, trial.trained_on.draws),
        (trial.held_out.pixels.images(), trial.held_out.labels, trial.held_out.draws),
        (fake, trial.latents.labels, trial.fake_draws),
    ):
        with normalized(state.discriminator), autocast(device, precision):
            seen = shown(images, draws, state, config)
            found.append(state.discriminator(seen, labels).float())
    return TrialScores(*found)


def steer(state: TrainState, trial: Trial, config: Config) -> None:
    """Augment more if D memorises, less if not, after Karras et al. 2020, section 3.1.

    They go by a sign alone; see `TrialScores.pressure`. Several processes look at the same images,
    and take the mean of what each finds, as rounding may differ.
    """
    assert state.augment_p is not None
    pressure = averaged(scores_of(state, trial, config).pressure())
    state.augment_p.add_(CHANGE * pressure).clamp_(0, 1)
