"""A last layer that is a direction: its length, its two losses, and what inspecting says of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import batches_of, given
from torch import Tensor

from ganctl.errors import ConfigError
from ganctl.insight.spectra import layer_spectra, map_sides
from ganctl.models import Discriminator, pieces, san
from ganctl.models.san import direction, directions, split_scores
from ganctl.models.spectral import normalized_weights
from ganctl.settings.config import Config
from ganctl.training import state
from ganctl.training.losses import LOSSES
from ganctl.training.step import scores_to_learn, update_discriminator

CPU = torch.device("cpu")


def discriminator_of(config: Config) -> Discriminator:
    return state.create(config, CPU, 0).discriminator


@pytest.fixture(params=["convnet", "resnet"])
def config(
    request: pytest.FixtureRequest, tiny: Callable[..., Config], tiny_resnet: Callable[..., Config]
) -> Config:
    """Each architecture with a direction."""
    if request.param == "convnet":
        return tiny(model__san=True)
    return tiny_resnet(model__san=True, model__conditional=False)


def test_the_score_is_the_feature_along_a_unit_vector() -> None:
    layer, x = direction(6), torch.randn(4, 6)
    with torch.no_grad():
        layer.parametrizations["weight"].original.mul_(7)  # type: ignore[index,union-attr]
        layer.bias.fill_(0.5)
    (_, raw, norm) = next(directions(layer))
    assert layer.weight.norm().item() == pytest.approx(1)
    assert norm.sigma(raw).item() == pytest.approx(raw.norm().item())
    torch.testing.assert_close(layer(x)[:, 0], x @ (raw[0] / raw.norm()) + 0.5)


def test_both_scores_are_ds_own_up_to_the_bias(config: Config, faces: np.ndarray) -> None:
    discriminator = discriminator_of(config)
    images = batches_of(faces, config).at(0, 4)
    function, directed = split_scores(discriminator, images)
    bias = discriminator.score.bias
    torch.testing.assert_close(function, discriminator(images))
    torch.testing.assert_close(function, directed + (0 if bias is None else bias))


def test_each_loss_teaches_its_own_part(config: Config, faces: np.ndarray) -> None:
    discriminator = discriminator_of(config)
    function, directed = split_scores(discriminator, batches_of(faces, config).at(0, 4))
    ((_, row, _),) = directions(discriminator)
    others = [p for p in discriminator.parameters() if p is not row]
    assert torch.autograd.grad(function.sum(), [row], allow_unused=True, retain_graph=True) == (
        None,
    )
    taught = torch.autograd.grad(function.sum(), others, allow_unused=True)
    assert sum(gradient is not None for gradient in taught) == len(others)
    taught = torch.autograd.grad(directed.square().sum(), [row, *others], allow_unused=True)
    assert taught[0] is not None
    assert taught[0].any()
    assert all(gradient is None for gradient in taught[1:])
    length = (taught[0] * row).sum() / row.norm()
    assert abs(length) < 1e-5 * taught[0].norm()  # only the direction is learnt


def test_ds_loss_is_the_gans_and_the_wasserstein_loss_of_the_direction(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    """The equation, written out for one image of each kind."""
    discriminator = discriminator_of(tiny(model__san=True))
    images = batches_of(faces, tiny()).at(0, 2)
    scores, aside = scores_to_learn(discriminator, images, None)
    assert isinstance(aside, Tensor)
    loss = LOSSES["hinge"].discriminator(*scores.chunk(2)) + aside
    found = torch.autograd.grad(loss, list(discriminator.parameters()))

    h = discriminator.features(images)
    ((_, row, _),) = directions(discriminator)
    omega, bias = row[0] / row.norm(), discriminator.score.bias
    fixed = h @ omega.detach() + bias
    hinge = (1 - fixed[0]).relu() + (1 + fixed[1]).relu()
    wasserstein = (h[1] - h[0]).detach() @ omega
    expected = torch.autograd.grad(hinge + wasserstein, list(discriminator.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_update_moves_the_direction(config: Config, faces: np.ndarray) -> None:
    trained = state.create(config, CPU)
    ((_, row, _),) = directions(trained.discriminator)
    before = row.detach().clone()
    update_discriminator(trained, given(faces, config).d_updates[0], config)
    assert not torch.equal(row, before)


def test_without_it_nothing_is_a_direction(tiny: Callable[..., Config]) -> None:
    assert list(directions(discriminator_of(tiny()))) == []
    assert not san.is_sliced(discriminator_of(tiny()))


def test_spectra_and_bounds_know_its_length(config: Config) -> None:
    """The estimate is exact, the norm in use 1, and so is its part in the chain."""
    discriminator = discriminator_of(config)
    ((name, raw, _),) = directions(discriminator)
    assert name not in {layer for layer, _, _ in normalized_weights(discriminator)}
    sides = map_sides(discriminator, 32)
    layers = {found.layer: found for found in layer_spectra(discriminator, "d", sides)}
    score = layers["score"]
    assert score.normalized
    assert score.sigma_estimate == pytest.approx(raw.norm().item(), rel=1e-5)
    assert score.sigma_in_use == pytest.approx(1, rel=1e-5)
    norms = {layer: found.norm.upper for layer, found in layers.items() if found.norm}
    last = pieces(discriminator, norms, sides)[-1]
    assert last.name.startswith("score")
    assert last.bound == pytest.approx(1, rel=1e-5)


def test_classes_are_refused(tiny_resnet: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"model\.san is for a model without classes"):
        tiny_resnet(model__san=True)
