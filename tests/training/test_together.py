"""Several processes that train one run compute the function of one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, inputs_of
from crew import together
from torch import Tensor

from ganctl import distributed
from ganctl.settings.config import Config
from ganctl.store.contents import tensors_in
from ganctl.training import inputs, memorising, state
from ganctl.training.memorising import TrialScores
from ganctl.training.step import train_step

STEPS = 10


def trained(config: Config, images: np.ndarray, exact: bool) -> dict[str, Tensor]:
    """All tensors of a state after ten steps, and the last metrics; `exact`: in double precision."""
    patch = pytest.MonkeyPatch()
    if exact:
        sent = inputs.upload
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(
            inputs,
            "upload",
            lambda t, d: sent(t, d).double() if t.is_floating_point() else sent(t, d),
        )
    try:
        current = state.create(config, torch.device("cpu"), N_CLASSES)
        if exact:
            for network in (current.generator, current.discriminator, current.generator_ema):
                network.double()
        given = inputs_of(images, config)
        for step in range(STEPS):
            metrics = train_step(current, given.of(step), config)
    finally:
        patch.undo()
    figures = {"metrics": torch.stack([*metrics.d, *metrics.g])}
    return dict(tensors_in(current.payload())) | figures


def shared(configs: Sequence[Config], images: np.ndarray, exact: bool) -> list[dict[str, Tensor]]:
    for config in configs:
        distributed.check_shares(config.optim.batch_size, config.optim.grad_accumulation)
    return [trained(config, images, exact) for config in configs]


PENALISED = {"loss__kind": "wasserstein", "loss__gradient_penalty": 10.0, "optim__d_steps_per_g": 2}
AUGMENTED = {
    "augment__policy": ["colour", "translation", "cutout"], "augment__probability": 0.7, "model__san": True,
    "loss__kind": "relativistic", "loss__r1": 0.5, "loss__r2": 0.5,
}  # fmt: skip
IN_PARTS = {"optim__grad_accumulation": 2, "data__flip": True, "data__dequantize": True}


@pytest.mark.parametrize(
    ("size", "cases"),
    [
        (2, [("tiny", PENALISED), ("tiny", AUGMENTED), ("tiny_resnet", {"optim__g_batch_multiple": 2, "loss__r1": 1.0})]),
        (4, [("tiny", IN_PARTS), ("tiny_resnet", {})]),
    ],
)  # fmt: skip
def test_more_processes_are_the_same_run(
    request: pytest.FixtureRequest,
    faces: np.ndarray,
    size: int,
    cases: Sequence[tuple[str, Mapping[str, Any]]],
) -> None:
    configs = [
        request.getfixturevalue(family)(**{"optim__batch_size": 8, **changes})
        for family, changes in cases
    ]
    expected = shared(configs, faces, exact=True)
    assert expected[0]["generator.to_rgb.bias"].dtype == torch.float64
    for each in together(size, shared, configs, faces, True):
        for case, alone, found in zip(cases, expected, each, strict=True):
            assert found.keys() == alone.keys()
            for name, tensor in alone.items():
                told = f"{name} of {case}"
                torch.testing.assert_close(found[name], tensor, rtol=1e-10, atol=1e-10, msg=told)


def test_the_same_number_of_processes_gives_the_same_bytes(
    tiny: Callable[..., Config], faces: np.ndarray
) -> None:
    """In all of them, and each time."""
    config = tiny(train__precision="bf16")
    each = together(2, shared, [config, config], faces, False)
    first, *others = [tensors for process in each for tensors in process]
    assert len(others) == 3
    for other in others:
        assert all(torch.equal(other[name], first[name]) for name in first)


def steered(config: Config) -> float:
    """p after processes that see D memorise in the first one alone."""
    current = state.create(config, torch.device("cpu"))
    assert current.augment_p is not None
    current.augment_p.fill_(0.5)
    high, low = torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -1.0])
    found = TrialScores(high, low if distributed.is_first() else high, low)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorising, "scores_of", lambda *_: found)
        memorising.steer(current, None, config)  # type: ignore[arg-type]
    return current.augment_p.item()


def test_processes_that_disagree_on_memorising_take_the_mean(
    tiny: Callable[..., Config],
) -> None:
    """Else they would augment with different probabilities from then on."""
    config = tiny(augment__policy=["colour"], augment__probability="adaptive")
    assert together(2, steered, config) == [0.5, 0.5]
