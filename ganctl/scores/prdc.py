"""Precision, recall, density and coverage: how good, and how varied, by nearest neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

K_SUPPORT = 3  # neighbours of precision and recall (Kynkaanniemi et al. 2019, section 2)
K_MANIFOLD = 5  # of density and coverage (Naeem et al. 2020, section 4)
LEAST = K_MANIFOLD + 1  # features of a set
CHUNK = 1024  # features whose distances to all others are looked at together


class Prdc(NamedTuple):
    """Shares, but for the density, which is 1 for real images and may be more."""

    precision: float  # of generated images among real ones
    recall: float  # of real images among generated ones
    density: float  # how many real images' neighbourhoods a generated one lies in, by their number
    coverage: float  # of real images with a generated one in their neighbourhood


def prdc(real: Tensor, fake: Tensor) -> Prdc:
    """Of features (N, D) and (M, D), which are compared within balls around each of them.

    A ball reaches to the k-th nearest other one of the same set. Precision and recall
    (https://arxiv.org/abs/1904.06991, eq. 1 and 2) ask for any ball of the other set; density and
    coverage (https://arxiv.org/abs/2002.09797, eq. 3 and 4) for balls of real images only, so that
    a generated image far from all others counts for nothing.
    """
    centre = real.double().mean(dim=0)  # small numbers: distances are taken from products
    real, fake = ((features.double() - centre).float() for features in (real, fake))
    radii = _radii(real)
    fake_radii = _radii(fake)[:, 0]
    within_support = torch.zeros(len(fake), dtype=torch.bool)
    within_manifold = torch.zeros(len(fake), dtype=torch.int64)
    recalled, covered = [], []
    for rows, distances in _distances(real, fake):
        within_support |= (distances < radii[rows, 0, None]).any(dim=0)
        inside = distances < radii[rows, 1, None]
        within_manifold += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((distances < fake_radii).any(dim=1))
    return Prdc(
        precision=_share(within_support),
        recall=_share(torch.cat(recalled)),
        density=float(within_manifold.double().mean()) / K_MANIFOLD,
        coverage=_share(torch.cat(covered)),
    )


def _radii(features: Tensor) -> Tensor:
    """(N, 2): the distances to the K_SUPPORT-th and K_MANIFOLD-th nearest other one."""
    nearest = [  # each is its own nearest
        distances.topk(K_MANIFOLD + 1, largest=False).values
        for _, distances in _distances(features, features)
    ]
    return torch.cat(nearest)[:, [K_SUPPORT, K_MANIFOLD]]


def _distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which rows, and their distances to all columns: (CHUNK, M)."""
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        yield chunk, torch.cdist(rows[chunk], columns)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())
