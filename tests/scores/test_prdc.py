"""Precision, recall, density, coverage: by hand, by loops from the papers, and torch-fidelity's."""

import pytest
import torch
from torch import Tensor

from ganctl.scores import prdc as module
from ganctl.scores.prdc import K_MANIFOLD, K_SUPPORT, Prdc, prdc


def points(n: int, seed: int, width: int = 4) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def by_loops(real: Tensor, fake: Tensor) -> Prdc:
    """The papers' sums as they are written."""

    def radius(points: Tensor, i: int, k: int) -> float:
        others = [float((points[i] - p).norm()) for j, p in enumerate(points) if j != i]
        return sorted(others)[k - 1]

    def inside(x: Tensor, points: Tensor, k: int) -> int:
        return sum(float((x - p).norm()) < radius(points, i, k) for i, p in enumerate(points))

    covered = [
        any(float((x - y).norm()) < radius(real, i, K_MANIFOLD) for y in fake)
        for i, x in enumerate(real)
    ]
    return Prdc(
        precision=sum(inside(y, real, K_SUPPORT) > 0 for y in fake) / len(fake),
        recall=sum(inside(x, fake, K_SUPPORT) > 0 for x in real) / len(real),
        density=sum(inside(y, real, K_MANIFOLD) for y in fake) / (K_MANIFOLD * len(fake)),
        coverage=sum(covered) / len(real),
    )


@pytest.mark.parametrize("chunk", [5, 1024])
def test_it_is_what_the_papers_say(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    real, fake = points(19, 0), 0.7 * points(23, 1) + 0.5
    assert prdc(real, fake) == pytest.approx(by_loops(real, fake))


def test_it_is_torch_fidelitys() -> None:
    theirs = pytest.importorskip(
        "torch_fidelity.metric_prc", reason="torch-fidelity is not installed"
    )
    real, fake = points(200, 2), points(150, 3) + 0.5
    found = prdc(real, fake)
    expected = theirs.prc_features_to_metric(fake, real, prc_neighborhood=K_SUPPORT, verbose=False)
    assert (found.precision, found.recall) == pytest.approx(
        (expected["precision"], expected["recall"])
    )


def test_one_mode_of_two_covers_half() -> None:
    real = torch.cat([points(100, 4), points(100, 5) + 100])
    fake = points(200, 6)
    found = prdc(real, fake)
    assert found.precision > 0.7
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    assert found.recall < 0.55


def test_a_single_outlier_raises_precision_but_hardly_density() -> None:
    """What density was made for: the ball of a real outlier holds whatever lies anywhere."""
    real = torch.cat([points(100, 7), torch.full((1, 4), 50.0)])
    fake = 10 * points(100, 8)
    found = prdc(real, fake)
    assert found.precision > 4 * found.density


def test_images_far_from_zero_are_compared_as_those_near_it() -> None:
    """Distances are differences of large products otherwise."""
    real, fake = points(60, 9), points(60, 10)
    assert prdc(real + 1000, fake + 1000) == pytest.approx(prdc(real, fake), abs=0.02)
