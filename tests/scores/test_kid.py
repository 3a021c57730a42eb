"""The kernel distance: unbiased, its error right, and torch-fidelity's."""

import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from ganctl.scores.kid import kid


def normal(n: int, seed: int, shift: float = 0.0, width: int = 8) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_it_is_the_mean_over_pairs_by_loops() -> None:
    """Binkowski et al. 2018, eq. 4 and the kernel below it, as written."""
    real, fake = normal(41, 0, width=3), normal(45, 1, 0.5, width=3)

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    def within(points: Tensor) -> float:
        n = len(points)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        return sum(kernel(points[i], points[j]) for i, j in pairs) / (n * (n - 1))

    between = sum(kernel(x, y) for x in real for y in fake) / (len(real) * len(fake))
    assert kid(real, fake).value == pytest.approx(
        within(real) + within(fake) - 2 * between, rel=1e-5
    )


def test_it_is_torch_fidelitys() -> None:
    theirs = pytest.importorskip(
        "torch_fidelity.metric_kid", reason="torch-fidelity is not installed"
    )
    real, fake = normal(100, 2, width=32), normal(100, 3, 0.1, width=32)
    expected = theirs.kid_features_to_metric(
        real.double(), fake.double(), kid_subsets=1, kid_subset_size=100, verbose=False, rng_seed=0,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1,
    )  # fmt: skip
    assert kid(real, fake).value == pytest.approx(
        expected["kernel_inception_distance_mean"], rel=1e-4
    )


@pytest.mark.parametrize(("shift", "most"), [(0.0, 2.0), (0.3, 1.5)])
def test_the_error_is_how_far_estimates_lie_apart(shift: float, most: float) -> None:
    """By repetition. Between equal distributions the jackknife errs to the safe side."""
    found = [kid(normal(100, 2 * seed), normal(100, 2 * seed + 1, shift)) for seed in range(60)]
    spread = statistics.stdev(each.value for each in found)
    told = statistics.fmean(each.error for each in found)
    assert 0.8 * spread < told < most * spread


def test_two_halves_of_one_distribution_are_near_zero_on_average() -> None:
    found = [kid(normal(80, 2 * seed), normal(80, 2 * seed + 1)) for seed in range(40)]
    spread = statistics.stdev(each.value for each in found) / np.sqrt(len(found))
    assert abs(statistics.fmean(each.value for each in found)) < 3 * spread
    assert any(each.value < 0 for each in found)  # unbiased, so it must be


def test_it_draws_the_same_each_time() -> None:
    real, fake = normal(90, 5), normal(70, 6)
    torch.manual_seed(1)
    before = kid(real, fake)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert kid(real, fake) == before
    assert torch.equal(torch.get_rng_state(), state)
