"""The Frechet distance against closed forms, torch-fidelity, and numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ganctl.scores.frechet import Gaussian, Moments, frechet_distance


def gaussian_of(features: Tensor, batch: int = 10**9) -> Gaussian:
    moments = Moments(features.shape[1])
    for part in features.split(batch):
        moments.add(part)
    return moments.gaussian()


def some(n: int, width: int, seed: int) -> Tensor:
    """Correlated features far from 0."""
    stream = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=stream)
    return torch.randn(n, width, generator=stream) @ mix + 100


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_moments_are_the_same_however_features_come(batch: int) -> None:
    features = some(200, 5, 0).double()
    found = gaussian_of(features, batch)
    np.testing.assert_allclose(found.mean, features.numpy().mean(axis=0))
    np.testing.assert_allclose(found.covariance, np.cov(features.numpy(), rowvar=False), rtol=1e-9)


def test_moments_of_two_sets_are_those_of_all_of_them() -> None:
    features = some(300, 6, 1).double()
    moments = Moments(6)
    for part in (features[:117], features[117:]):
        moments.add_counted(gaussian_of(part), len(part))
    assert moments.count == 300
    expected = gaussian_of(features)
    torch.testing.assert_close(moments.gaussian().mean, expected.mean)
    torch.testing.assert_close(moments.gaussian().covariance, expected.covariance)


def test_gaussians_with_a_common_basis_have_a_closed_form() -> None:
    """|m - m'|^2 + sum (s - s')^2, s and s' the standard deviations along it."""
    basis, _ = torch.linalg.qr(
        torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    )
    s, t = torch.tensor([3.0, 2.0, 1.0, 0.0]).double(), torch.tensor([1.0, 2.5, 0.0, 4.0]).double()
    mean, other = torch.arange(4).double(), torch.ones(4).double()
    one = Gaussian(mean, basis @ torch.diag(s**2) @ basis.T)
    two = Gaussian(other, basis @ torch.diag(t**2) @ basis.T)
    expected = float((mean - other).square().sum() + (s - t).square().sum())
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(two, one) == pytest.approx(expected, rel=1e-7)


def test_the_distance_to_itself_is_zero_also_with_fewer_features_than_dimensions() -> None:
    few = gaussian_of(some(6, 20, 1))
    scale = float(few.covariance.trace())
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6 * scale)


@pytest.mark.parametrize("n", [12, 300])
def test_it_is_torch_fidelitys(n: int) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    one, other = some(n, 24, 2).double(), some(n, 24, 3).double()
    statistics = [fid.fid_features_to_statistics(features) for features in (one, other)]
    expected = fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_distance(gaussian_of(one), gaussian_of(other)) == pytest.approx(
        expected, rel=1e-5
    )
