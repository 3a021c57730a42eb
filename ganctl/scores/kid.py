"""The kernel distance (KID) between two sets of features, with its standard error."""

from typing import NamedTuple

import torch
from torch import Tensor

from ganctl.runtime import random_stream

GROUPS = 20  # that one after the other is left out, to see how much chance there is in the estimate
LEAST = 2 * GROUPS  # features of a set, so that a group has two


class Kid(NamedTuple):
    """An estimate that is right on average, whatever the number of features, and may be below 0."""

    value: float
    error: float  # its standard error


def kid(real: Tensor, fake: Tensor) -> Kid:
    """The squared distance of two sets (N, D), (M, D): the unbiased one of Binkowski et al. 2018.

    (https://arxiv.org/abs/1801.01401, section 4; kernel (x'y / D + 1)^3.) All pairs of features
    count, where others take the mean over small random subsets: the same on average, with less
    chance in it. The error is the jackknife's with a group left out (Kott 2001, Journal of Official
    Statistics 17): it counts the chance in both sets, which the spread over subsets that overlap
    does not.
    """
    sets = [_groups(features) for features in (real, fake)]
    sums = [_kernel_sums(*pair) for pair in ((sets[0], sets[0]), (sets[1], sets[1]), tuple(sets))]
    same = [_diagonal_sums(groups) for groups in sets]
    counts = [torch.tensor([len(group) for group in groups]).double() for groups in sets]
    everything = torch.ones(GROUPS, dtype=torch.float64)
    without = [_estimate(sums, same, counts, kept) for kept in 1 - torch.eye(GROUPS).double()]
    spread = torch.stack(without).var(correction=0) * (GROUPS - 1)
    return Kid(float(_estimate(sums, same, counts, everything)), float(spread.sqrt()))


def _groups(features: Tensor) -> list[Tensor]:
    """The features in GROUPS parts, at random: their order may have a meaning."""
    order = torch.randperm(len(features), generator=random_stream(0, "kid groups", len(features)))
    return list(features[order].float().tensor_split(GROUPS))


def _kernel_sums(rows: list[Tensor], columns: list[Tensor]) -> Tensor:
    """(GROUPS, GROUPS): sums of the kernel over all pairs of two groups."""
    every, sizes = torch.cat(columns), [len(column) for column in columns]
    sums = [_kernel(row @ every.mT, row).sum(dim=0).split(sizes) for row in rows]
    return torch.stack([torch.stack([part.sum() for part in parts]) for parts in sums])


def _diagonal_sums(groups: list[Tensor]) -> Tensor:
    """(GROUPS,): sums of the kernel of each feature with itself."""
    return torch.stack([_kernel(group.square().sum(dim=1), group).sum() for group in groups])


def _kernel(products: Tensor, features: Tensor) -> Tensor:
    scaled = products.double() / features.shape[1] + 1
    return scaled * scaled * scaled


def _estimate(sums: list[Tensor], same: list[Tensor], counts: list[Tensor], kept: Tensor) -> Tensor:
    """(): from the groups of both sets where `kept` (GROUPS,) is 1."""
    n, m = (kept @ count for count in counts)
    within = [
        (kept @ total @ kept - kept @ diagonal) / (size * (size - 1))
        for total, diagonal, size in zip(sums[:2], same, (n, m), strict=True)
    ]
    return within[0] + within[1] - 2 * (kept @ sums[2] @ kept) / (n * m)
