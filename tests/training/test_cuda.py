"""On a GPU, where there is one: the numbers of the CPU, and the same bytes twice."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, given

from ganctl import runtime
from ganctl.models import build_networks
from ganctl.runtime import random_stream
from ganctl.sampling.draw import Point, draw
from ganctl.settings.config import Config
from ganctl.store.checkpoint import digest_of
from ganctl.training import state
from ganctl.training.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def after_steps(config: Config, faces: np.ndarray, device: torch.device) -> dict[str, object]:
    runtime.prepare(device, config.train.precision, deterministic=config.train.deterministic)
    trained = state.create(config, device, N_CLASSES)
    for step in range(3):
        train_step(trained, given(faces, config, step, device.type), config)
    return trained.payload()


@pytest.mark.parametrize("family", ["tiny", "tiny_resnet"])
def test_in_fp32_a_gpu_has_the_weights_of_the_cpu(
    family: str, faces: np.ndarray, request: pytest.FixtureRequest
) -> None:
    config: Config = request.getfixturevalue(family)()
    ours, theirs = (after_steps(config, faces, device) for device in (CPU, GPU))
    for name in ("generator", "discriminator", "generator_ema"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("family", ["tiny", "tiny_resnet"])
def test_a_deterministic_run_has_the_same_bytes_twice(
    family: str, precision: str, faces: np.ndarray, request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(family)
    config: Config = make(train__deterministic=True, train__precision=precision)
    assert digest_of(after_steps(config, faces, GPU)) == digest_of(after_steps(config, faces, GPU))


def test_images_from_a_gpu_are_those_of_the_cpu(tiny: Callable[..., Config]) -> None:
    config = tiny()
    generator, _ = build_networks(config.model, config.data, random_stream(1, "init"))
    points = [Point(seed) for seed in range(8)]
    drawn = [
        next(draw(generator.to(device).eval(), points, batch_size=8, device=device)).images
        for device in (CPU, GPU)
    ]
    assert np.abs(drawn[0].astype(int) - drawn[1].astype(int)).max() <= 1
