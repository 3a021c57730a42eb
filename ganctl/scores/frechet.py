"""The Frechet distance between two sets of features, in fp64."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution that stands for a set of features."""

    mean: Tensor  # (D,) float64
    covariance: Tensor  # (D, D) float64

    @cached_property
    def root(self) -> Tensor:
        """(D, D): the symmetric root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


class Moments:
    """Mean and covariance of features that come in batches and are not kept.

    Batches are merged as by Chan, Golub and LeVeque 1979 (Stanford STAN-CS-79-773), around their
    own means: nothing is lost to large sums.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self._mean = torch.zeros(width, dtype=torch.float64)  # (D,)
        self._scatter = torch.zeros(width, width, dtype=torch.float64)  # (D, D), around the mean

    def add(self, features: Tensor) -> None:
        """Count features (B, D) in."""
        batch = features.double()
        mean = batch.mean(dim=0)
        centred = batch - mean
        self._scatter.addmm_(centred.mT, centred)
        self._move(mean, len(batch))

    def add_counted(self, gaussian: Gaussian, count: int) -> None:
        """Count in `count` features, two or more, of which only the distribution is known."""
        self._scatter += gaussian.covariance * (count - 1)
        self._move(gaussian.mean, count)

    def _move(self, mean: Tensor, count: int) -> None:
        """To the mean with `count` features more, whose scatter around their own is in already."""
        total, step = self.count + count, mean - self._mean
        self._scatter.addr_(step, step, alpha=self.count * count / total)
        self._mean += step * (count / total)
        self.count = total

    def gaussian(self) -> Gaussian:
        """The distribution of what was counted, two features or more; its covariance unbiased."""
        return Gaussian(self._mean.clone(), self._scatter / (self.count - 1))


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), 0 if both are equal (Heusel et al. 2017, eq. 6).

    The trace of the root is the sum of the roots of the eigenvalues of S S', which are those of the
    symmetric R S' R with R R = S: real, and below 0 by no more than rounding, also where there are
    fewer features than dimensions and a general root of S S' would come out complex.
    """
    eigenvalues = torch.linalg.eigvalsh(one.root @ other.covariance @ one.root)
    of_means = (one.mean - other.mean).square().sum()
    of_spreads = one.covariance.trace() + other.covariance.trace()
    distance = of_means + of_spreads - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return float(distance.clamp(min=0))  # of equal ones rounding may leave less
