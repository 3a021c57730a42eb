"""Images that are held out: drawn once, stored by the checkpoint, never in a step."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Silent
from hypothesis import given
from hypothesis import settings as search
from hypothesis import strategies as st

from ganctl import resuming, session
from ganctl.data import held_out
from ganctl.data.images import Images
from ganctl.data.labels import Labels
from ganctl.data.packing import PackedImages
from ganctl.errors import CheckpointError, ConfigError, DataError
from ganctl.runtime import random_stream
from ganctl.settings import presets
from ganctl.settings.config import Config, replace
from ganctl.store import checkpoint, runs
from ganctl.training import places
from ganctl.training.inputs import Inputs, StepInputs

CPU = torch.device("cpu")
NO_CLASSES = np.empty(0, dtype=np.int64)


@pytest.mark.parametrize(
    ("share", "n", "count"),
    [
        (0.05, 100, 16), (0.05, 1_000, 50), (0.05, 6_000, 300), (0.05, 200_000, 512),
        (0.0, 1_000, 0), (0.05, 63, 0), (0.05, 64, 16), (0.5, 64, 32), (1e-9, 1_000, 16),
    ],
)  # fmt: skip
def test_how_many_are_held_out(share: float, n: int, count: int) -> None:
    assert len(held_out.draw(share, n, 0, "f", NO_CLASSES)) == count


def test_which_ones_depends_on_the_images_and_the_seed_alone() -> None:
    drawn = [held_out.draw(0.1, 500, seed, f, NO_CLASSES) for seed in (0, 1) for f in ("a", "b")]
    assert len({tuple(numbers) for numbers in drawn}) == 4
    again = held_out.draw(0.1, 500, 0, "a", NO_CLASSES)
    assert np.array_equal(again, drawn[0])
    assert np.array_equal(np.unique(again), again)
    assert again.dtype == np.int64
    assert 100 < again.mean() < 400
    assert again.tolist()[:3] == held_out.draw(0.1, 500, 0, "a", NO_CLASSES).tolist()[:3]


def test_no_class_loses_more_than_half_of_its_images() -> None:
    labels = np.array([0] * 90 + [1] * 7 + [2] * 2 + [3])
    for seed in range(20):
        chosen = labels[held_out.draw(0.5, 100, seed, "f", labels)]
        counts = np.bincount(chosen, minlength=4)
        assert (counts <= [45, 3, 1, 0]).all()
        assert counts.sum() == 49  # all that are left of 50


def images_of(n: int, chosen: np.ndarray, classes: int = 0) -> Images:
    """n images of one colour each: its number, in two bytes."""
    pixels = np.zeros((n, 32, 32, 3), np.uint8)
    pixels[:, :, :, 0], pixels[:, :, :, 1] = (
        part[:, None, None] for part in divmod(np.arange(n), 256)
    )
    labels = Labels(tuple(map(str, range(classes))), np.arange(n) % max(classes, 1))
    return Images(PackedImages(pixels, "f", []), labels, chosen)


def seen_by(given: StepInputs) -> list[int]:
    """The numbers of all real images in a step's updates."""
    parts = [part for update in given.d_updates for part in update] + list(given.g_parts)
    levels = [part.real.pixels.levels[:, 0, 0] for part in parts if part.real is not None]
    return (torch.cat(levels).long() @ torch.tensor([256, 1, 0])).tolist()


@given(
    n=st.integers(64, 700), share=st.floats(0.01, 0.5), seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6), batch=st.integers(1, 40), d_steps=st.integers(1, 3), conditional=st.booleans(),
)  # fmt: skip
@search(deadline=None, max_examples=60)
def test_no_image_held_out_ever_reaches_a_step(
    n: int, share: float, seed: int, step: int, batch: int, d_steps: int, conditional: bool
) -> None:
    """Whatever the step: only in what D is tried on. And all others do reach one in an epoch."""
    preset = "sagan-cifar10" if conditional else "faces32"
    config = replace(
        presets.load(preset),
        {
            "train.seed": seed, "optim.batch_size": batch, "optim.d_steps_per_g": d_steps,
            "optim.grad_accumulation": 1, "data.flip": False, "data.held_out": share,
            "augment.policy": ["cutout"],
        },
    )  # fmt: skip
    labels = np.arange(n) % 3 if conditional else NO_CLASSES
    chosen = held_out.draw(share, n, seed, "f", labels)
    images = images_of(n, chosen, 3 if conditional else 0)
    inputs = Inputs(config, images.batches(config, CPU), 0, images.unseen(config, CPU))
    assert not set(seen_by(inputs.of(step))) & set(chosen.tolist())
    trial = inputs.trial_after(step)
    assert trial is not None
    numbers = [
        (real.pixels.levels[:, 0, 0].long() @ torch.tensor([256, 1, 0])).tolist()
        for real in (trial.trained_on, trial.held_out)
    ]
    assert not set(numbers[0]) & set(chosen.tolist())
    assert set(numbers[1]) <= set(chosen.tolist())
    assert len(numbers[0]) == len(numbers[1]) == min(64, len(chosen))
    epoch = inputs.batches.drawn(0, n - len(chosen))[0]
    assert sorted([*epoch, *chosen]) == list(range(n))


def test_without_held_out_images_the_stream_is_what_it_was(tiny: Callable[..., Config]) -> None:
    images = images_of(50, NO_CLASSES)
    assert images.unseen(tiny(), CPU) is None
    order, _ = images.batches(tiny(), CPU).drawn(50, 50)
    assert (
        order.tolist() == torch.randperm(50, generator=random_stream(0, "data order", 1)).tolist()
    )


def faces_run(config: Config, name: str, steps: int) -> runs.Run:
    """A run on 70 drawn faces."""
    begun, run = session.start(
        replace(config, {"train.steps": steps, "data.source": "faces"}), "cpu", Path(name), "x"
    )
    session.train_run(begun, run, Silent())
    os.close(run._lock or 0)
    return run


@pytest.fixture
def seventy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganctl.data.sources.N_FACES", 70)


@pytest.mark.usefixtures("seventy")
def test_the_checkpoint_knows_them_and_a_resumed_run_goes_on_without_them(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if another version would draw others."""
    run = faces_run(tiny(), "r", 2)
    _, metadata = checkpoint.read(run.newest_checkpoint())
    stored = metadata["data"]["held_out"]
    assert len(stored) == 16
    monkeypatch.setattr(held_out, "draw", lambda *_: np.arange(16))
    resumed = resuming.resume(runs.find(Path("r")), "cpu", 4)
    assert resumed is not None
    assert resumed.images.held_out.tolist() == stored
    assert resumed.inputs.unseen is not None
    assert sorted(resumed.inputs.unseen.numbers) == stored


@pytest.mark.usefixtures("seventy")
def test_a_run_begun_without_them_goes_on_without_them(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that says nothing of them, as older ones do."""
    faces_run(tiny(data__held_out=0.0), "r", 2)
    resumed = resuming.resume(runs.find(Path("r")), "cpu", 4)
    assert resumed is not None
    assert len(resumed.inputs.batches) == 70
    assert resumed.inputs.unseen is None
    rows = [json.loads(row) for row in Path("r/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["memorising"] is None


@pytest.mark.parametrize("numbers", [[-1], [70], [3, 3], list(range(70))])
def test_numbers_of_no_images_are_refused(numbers: list[int]) -> None:
    class Data:
        n = 70
        held_out = numbers

    class Saved:
        data = Data

    saved: Any = Saved
    with pytest.raises(CheckpointError, match="its metadata is bad at data"):
        places.held_out(saved, Path("x.pt"))


def test_adaptive_augmentation_needs_them(tiny: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"is adaptive, but data[.]held_out is 0"):
        tiny(data__held_out=0.0, augment__policy=["cutout"], augment__probability="adaptive")


def test_adaptive_augmentation_of_a_handful_of_images_is_refused(
    tiny: Callable[..., Config], photos: Path
) -> None:
    config = tiny(
        data__source=str(photos), augment__policy=["cutout"], augment__probability="adaptive"
    )
    with pytest.raises(DataError, match="of 12 images too few can be held out") as caught:
        session.new(config, "cpu")
    assert "augment.probability=0.8" in (caught.value.hint or "")
