"""What a step is given: the same sample by sample, however batches are cut and made ahead."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from conftest import inputs_of
from hypothesis import given as examples
from hypothesis import strategies as st
from torch import Tensor

from ganctl.runtime import random_normal, random_uniform, random_words
from ganctl.settings.config import Config
from ganctl.training.inputs import AHEAD, ahead, latents

WITH_ALL = {
    "data__flip": True, "data__dequantize": True, "loss__kind": "wasserstein",
    "loss__gradient_penalty": 10.0,
}  # fmt: skip


def tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def joined(parts: list[object]) -> list[Tensor]:
    return [torch.cat(same) for same in zip(*map(tensors, parts), strict=True)]


@pytest.mark.parametrize("network", ["d", "g"])
def test_sample_i_is_the_same_however_the_batch_is_cut(
    network: str, faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    """Real images, classes, mirroring, dequantisation, latents, generated classes, the mix."""
    inputs = inputs_of(faces, tiny_resnet(**WITH_ALL))
    at = inputs.d_at if network == "d" else inputs.g_at
    whole = list(tensors(at(40, 64)))
    assert len(whole) == (7 if network == "d" else 2)
    for cuts in ([32, 32], [1, 63], [16] * 4, [7, 50, 7]):
        firsts = np.cumsum([40, *cuts[:-1]]).tolist()
        parts = joined([at(first, count) for first, count in zip(firsts, cuts, strict=True)])
        assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True)), cuts


def test_a_step_in_parts_has_the_samples_of_the_whole_step(
    faces: np.ndarray, tiny_resnet: Callable[..., Config]
) -> None:
    """Steps go through the samples in order, none twice."""
    found = {}
    for parts in (1, 2, 4):
        changes = {"optim__d_steps_per_g": 2, "optim__g_batch_multiple": 3}
        inputs = inputs_of(
            faces, tiny_resnet(**WITH_ALL, **changes, optim__grad_accumulation=parts)
        )
        given = [inputs.of(step) for step in range(3)]
        d_parts = [part for step in given for update in step.d_updates for part in update]
        g_parts = [part for step in given for part in step.g_parts]
        assert (len(d_parts), len(g_parts)) == (6 * parts, 3 * parts)
        found[parts] = [*joined(list(d_parts)), *joined(list(g_parts))]
    whole = inputs_of(faces, tiny_resnet(**WITH_ALL))
    expected = [*tensors(whole.d_at(0, 24)), *tensors(whole.g_at(0, 36))]
    for parts, tensors_found in found.items():
        pairs = zip(expected, tensors_found, strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), parts


def test_the_networks_the_seeds_and_what_follows_a_roll_back_differ(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs = inputs_of(faces, tiny())
    drawn = [
        inputs.d_at(0, 4).latents.z, inputs.g_at(0, 4).latents.z, inputs.d_at(4, 4).latents.z,
        inputs.d_at(0, 4, rollbacks=1).latents.z, inputs.g_at(0, 4, rollbacks=1).latents.z,
        inputs_of(faces, tiny(train__seed=1)).d_at(0, 4).latents.z,
    ]  # fmt: skip
    assert len({tuple(z.flatten().tolist()) for z in drawn}) == len(drawn)
    real = [inputs.d_at(0, 4, rollbacks).real.pixels.levels for rollbacks in (0, 1)]
    assert torch.equal(*real)


def test_latents_are_standard_normal_and_classes_equally_likely(
    tiny: Callable[..., Config],
) -> None:
    z, labels = latents(tiny(), 5, "d/0", 0, 10_000)
    assert labels is not None
    assert z.shape == (10_000, 8)
    assert z.dtype == torch.float32
    assert abs(z.mean().item()) < 0.02
    assert z.std().item() == pytest.approx(1, abs=0.02)
    assert z.flatten().sort().values[[1587 * 8, 9772 * 8]].tolist() == pytest.approx(
        [-1, 2], abs=0.05
    )
    assert torch.corrcoef(z.T).fill_diagonal_(0).abs().max() < 0.06
    counts = torch.bincount(labels, minlength=5)
    assert (counts - 2000).abs().max() < 200


@examples(first=st.integers(0, 2**40), cut=st.integers(0, 9), width=st.integers(1, 13))
def test_the_random_table_can_be_entered_at_any_row(first: int, cut: int, width: int) -> None:
    for table in (random_words, random_uniform, random_normal):
        whole = table(3, "test", first, 9, width)
        parts = [table(3, "test", first, cut, width), table(3, "test", first + cut, 9 - cut, width)]
        assert whole.shape == (9, width)
        assert np.array_equal(whole, np.concatenate(parts))


def test_the_random_table_is_what_it_was() -> None:
    """Runs must go on with the numbers they began with: these are of the first version."""
    words, normal = [1060206934220689154, 11343262105567983258], [-0.258205, -0.2274062]
    assert random_words(0, "d/0 latents", 5, 1, 2).tolist() == [words]
    assert random_normal(0, "d/0 latents", 5, 1, 2)[0].tolist() == pytest.approx(normal, abs=1e-6)


def test_inputs_made_ahead_are_those_made_one_by_one(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs = inputs_of(faces, tiny(**WITH_ALL))
    with closing(ahead(inputs, range(3, 9), 1)) as prepared:
        for step, given in zip(range(3, 9), prepared, strict=True):
            pairs = zip(tensors(given), tensors(inputs.of(step, 1)), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def feeding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("inputs")]


def test_only_a_few_steps_are_made_ahead_and_the_thread_ends_however_it_ends(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs, made = inputs_of(faces, tiny()), []
    honest = inputs.of
    inputs.of = lambda step, rollbacks=0: (made.append(step), honest(step, rollbacks))[1]  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(RuntimeError, match="in a step"), closing(ahead(inputs, range(100), 0)) as prepared:  # fmt: skip
        next(prepared)
        next(prepared)
        assert len(feeding()) == 1
        raise RuntimeError("in a step")
    assert feeding() == []
    assert len(made) <= 2 + AHEAD
    with closing(ahead(inputs, range(100), 0)):
        pass
    assert feeding() == []


def test_what_goes_wrong_while_inputs_are_made_ends_the_step_that_needs_them(
    faces: np.ndarray, tiny: Callable[..., Config]
) -> None:
    inputs = inputs_of(faces, tiny())
    inputs.of = lambda step, rollbacks=0: 1 / (2 - step)  # type: ignore[method-assign,assignment,return-value]
    with closing(ahead(inputs, range(9), 0)) as prepared:
        assert [next(prepared), next(prepared)] == [0.5, 1.0]
        with pytest.raises(ZeroDivisionError):
            next(prepared)
    assert feeding() == []
