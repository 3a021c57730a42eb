"""D and images it never saw: its scores of them, what they steer, and that looking changes nothing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_CLASSES, Silent, batches_of
from torch import Tensor

from ganctl.data.batches import Batches
from ganctl.data.faces import draw_face
from ganctl.errors import CheckpointError
from ganctl.settings.config import Config
from ganctl.store import checkpoint, runs
from ganctl.training import inputs as giving
from ganctl.training import memorising, state
from ganctl.training.inputs import Inputs, Trial
from ganctl.training.loop import train
from ganctl.training.memorising import CHANGE, TARGET, TrialScores, scores_of, steer
from ganctl.training.step import train_step
from ganctl.training.stopping import StopRequest
from tests.training.test_resume import sections
from tests.training.test_step import Reads

CPU = torch.device("cpu")
ADAPTIVE: dict[str, Any] = {
    "augment__policy": ["translation", "cutout"], "augment__probability": "adaptive",
}  # fmt: skip


def test_the_figures_by_hand() -> None:
    scores = TrialScores(
        torch.tensor([1.0, 3.0]), torch.tensor([0.0, 3.0]), torch.tensor([-1.0, -1.0])
    )
    assert scores.memorising().item() == pytest.approx((2 - 1.5) / (2 + 1))
    assert scores.auc().item() == pytest.approx((1 + 0 + 1 + 0.5) / 4)


def test_the_figures_at_their_ends() -> None:
    high, low = torch.tensor([1.0, 2.0]), torch.tensor([-2.0, -1.0])
    assert TrialScores(high, low, low).memorising() == 1
    assert TrialScores(high, low, low).auc() == 1
    assert TrialScores(high, high, low).memorising() == 0
    assert TrialScores(high, high, low).auc() == 0.5
    assert TrialScores(low, high, high).memorising().isnan()


@pytest.mark.parametrize(
    ("held_out", "fake", "pressure"),
    [
        (1.0 - 2 * TARGET + 0.1, -1.0, -1),
        (1.0 - 2 * TARGET - 0.1, -1.0, 1),
        (0.9, 2.0, 1),
        (1.1, 2.0, -1),
    ],
)
def test_the_pressure_is_up_where_d_memorises_too_much(
    held_out: float, fake: float, pressure: int
) -> None:
    """Also where D does not tell real from fake: then any gap counts."""
    scores = TrialScores(torch.ones(3), torch.full((3,), held_out), torch.full((3,), fake))
    assert scores.pressure() == pressure


@pytest.mark.parametrize(("gap", "pressure"), [(0.36, 1), (0.34, -1), (-1.0, -1)])
def test_a_gap_that_chance_may_make_is_no_pressure(gap: float, pressure: int) -> None:
    """Of 16 images each, with a deviation of 1: the standard error is the root of 2 / 16."""
    spread = torch.tensor([-1.0, 1.0]).repeat(8) * (15 / 16) ** 0.5
    scores = TrialScores(spread + gap, spread, spread + 9)  # D tells nothing from fakes
    assert scores.pressure() == pressure


def test_scores_that_are_not_finite_are_no_pressure() -> None:
    """p stays a number."""
    good, bad = torch.ones(4), torch.full((4,), torch.nan)
    assert TrialScores(bad, good, good).pressure() == -1


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """(80, 32, 32, 3) uint8: drawn faces."""
    return np.stack([np.asarray(draw_face(i, 32)) for i in range(80)])


def inputs_holding_out(images: np.ndarray, config: Config, count: int = 16) -> Inputs:
    """The first `count` of `images` are held out."""
    classes = N_CLASSES if config.model.conditional else 0
    everyone = batches_of(images, config)
    parts = [
        Batches(
            images, labels=everyone.labels, numbers=numbers, seed=0, flip=True, dequantize=False, device=CPU
        )
        for numbers in (np.arange(count, len(images)), np.arange(count))
    ]  # fmt: skip
    return Inputs(config, parts[0], classes, parts[1])


def trial_of(inputs: Inputs, step: int) -> Trial:
    trial = inputs.trial_after(step)
    assert trial is not None
    return trial


@pytest.mark.parametrize("family", ["tiny", "tiny_resnet"])
def test_trying_d_changes_nothing(
    family: str, request: pytest.FixtureRequest, crowd: np.ndarray
) -> None:
    config = request.getfixturevalue(family)(**ADAPTIVE, data__held_out=0.05)
    current = state.create(config, CPU, N_CLASSES)
    inputs = inputs_holding_out(crowd, config)
    before, randomness = copy.deepcopy(current.payload()), torch.get_rng_state()
    first = scores_of(current, trial_of(inputs, 7), config)
    again = scores_of(current, trial_of(inputs, 7), config)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert checkpoint.digest_of(current.payload()) == checkpoint.digest_of(before)
    assert torch.equal(torch.get_rng_state(), randomness)
    assert [len(scores) for scores in first] == [16, 16, 16]
    assert all(p.grad is None for p in current.discriminator.parameters())


def test_a_discriminator_that_knows_its_images_has_an_auc_of_1(
    tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    """A stand-in that scores an image by whether it is one of those trained on."""
    config = tiny(data__flip=False)
    current = state.create(config, CPU)
    inputs = inputs_holding_out(crowd, config)
    known = inputs.batches.at(0, 64).flatten(1)

    def score(images: Tensor, labels: Tensor | None = None) -> Tensor:
        flat, mirrored = images.flatten(1), images.flip(3).flatten(1)
        nearest = torch.minimum(torch.cdist(flat, known), torch.cdist(mirrored, known))
        return -nearest.min(1).values

    current.discriminator.forward = score  # type: ignore[method-assign]
    scores = scores_of(current, trial_of(inputs, 3), config)
    assert scores.auc() > 0.99
    assert 0 < scores.memorising() < 1


def test_p_goes_up_while_d_memorises_and_down_when_not_within_its_limits(
    tiny: Callable[..., Config], crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(**ADAPTIVE)
    current = state.create(config, CPU)
    assert current.augment_p is not None
    trial = trial_of(inputs_holding_out(crowd, config), 0)
    memorised = TrialScores(torch.ones(2), torch.zeros(2), torch.zeros(2))
    healthy = TrialScores(torch.ones(2), torch.ones(2), torch.zeros(2))
    seen = []
    for scores, times in ((healthy, 2), (memorised, 20), (healthy, 3)):
        monkeypatch.setattr(memorising, "scores_of", lambda *_, scores=scores: scores)
        for _ in range(times):
            steer(current, trial, config)
            seen.append(current.augment_p.item())
    assert seen[:2] == [0, 0]
    assert seen[2:5] == [CHANGE, 2 * CHANGE, 3 * CHANGE]
    assert seen[21] == 1
    assert seen[-1] == 1 - 3 * CHANGE


def trained_adaptively(
    run: runs.Run, config: Config, images: np.ndarray, resume: bool = False
) -> dict[str, object]:
    current = state.create(config, CPU)
    if resume:
        path = run.newest_checkpoint()
        current.load(checkpoint.read(path)[0], path)
    train(current, inputs_holding_out(images, config), config, run, {}, Silent(), StopRequest())
    return sections(run.newest_checkpoint())


@pytest.mark.parametrize("log_every", [1, 3, 8])
def test_an_interrupted_adaptive_run_equals_an_uninterrupted_one_however_it_is_logged(
    tiny: Callable[..., Config], crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    """p is steered every two steps here, and D memorises whatever it thinks."""
    monkeypatch.setattr(giving, "STEER_EVERY", 2)
    monkeypatch.setattr(TrialScores, "pressure", lambda _: torch.ones(()))
    whole, parts = (runs.create(Path(name), "x", tiny()) for name in ("whole", "parts"))
    settings: dict[str, Any] = {**ADAPTIVE, "train__checkpoint_every": 100}
    expected = trained_adaptively(
        whole, tiny(**settings, train__steps=8, train__log_every=2), crowd
    )
    for steps in (1, 3, 4, 8):
        config = tiny(**settings, train__steps=steps, train__log_every=log_every)
        found = trained_adaptively(parts, config, crowd, resume=steps > 1)
    for sums in (found, expected):  # since the last row, and rows come at other steps
        del sums["measured"]
    assert found == expected
    payload, _ = checkpoint.read(parts.newest_checkpoint())
    assert payload["augment_p"] == 4 * CHANGE
    assert parts.journal.rows()[-1]["augment_p"] == 4 * CHANGE


def test_a_step_that_steers_reads_nothing_back_and_runs_on_the_meta_device(
    tiny: Callable[..., Config], crowd: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving, "STEER_EVERY", 1)
    config = tiny(**ADAPTIVE)
    current, inputs = state.create(config, CPU), inputs_holding_out(crowd, config)
    given = inputs.of(0)
    assert given.trial is not None
    with Reads() as reads:
        train_step(current, given, config)
    assert reads.found == []
    elsewhere = state.create(config, torch.device("meta"))
    for stream in (inputs.batches, inputs.unseen):
        assert stream is not None
        stream.device = torch.device("meta")
    train_step(elsewhere, inputs.of(0), config)
    assert elsewhere.augment_p is not None
    assert elsewhere.augment_p.device.type == "meta"


def test_p_is_in_the_checkpoint_of_adaptive_runs_alone(
    tiny: Callable[..., Config],
) -> None:
    """An older checkpoint has none and is loaded; one that should have it is not."""
    plain, adaptive = state.create(tiny(), CPU), state.create(tiny(**ADAPTIVE), CPU)
    payload = plain.payload()
    assert payload["augment_p"] is None
    del payload["augment_p"]
    plain.load(payload, Path("x.pt"))
    payload = adaptive.payload()
    with pytest.raises(CheckpointError, match="augment_p is there, but"):
        plain.load(payload, Path("x.pt"))
    for bad in (
        None,
        0.5,
        torch.zeros(1),
        torch.tensor(torch.nan),
        torch.zeros((), dtype=torch.int64),
    ):
        with pytest.raises(CheckpointError, match="augment_p is not"):
            adaptive.load({**payload, "augment_p": bad}, Path("x.pt"))
    del payload["augment_p"]
    with pytest.raises(CheckpointError, match="augment_p is missing"):
        adaptive.load(payload, Path("x.pt"))


def test_rows_say_what_d_thinks_of_unseen_images(
    tiny: Callable[..., Config], crowd: np.ndarray
) -> None:
    run = runs.create(Path("run"), "x", tiny())
    trained_adaptively(run, tiny(**ADAPTIVE), crowd)
    row = run.journal.rows()[-1]
    assert 0 <= row["memorising_auc"] <= 1
    assert row["augment_p"] == 0
